"""Answers side by side: where mixtures answer otherwise than the baseline, found by rule.

Section 5 of the paper shows three questions that a mixture answers better. Here both
directions are counted and shown alike, and several seeds must agree before a verdict is given.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.scoring import normalise
from mtdnn.evaluation.slices import QUESTION_TYPES, answer_words, question_type
from mtdnn.machine.files import write_json, write_text
from mtdnn.reporting.answers import Answered, Answers, Question, RowAnswers, read_answers

SHOWN = 3
"""Questions shown of each kind and direction."""

DECIDING_SEEDS = 3
"""With fewer seeds no verdict is given on a claim about training."""


@dataclass(frozen=True)
class Published:
    """One of the three questions of the paper's section 5."""

    id: str
    claim: str
    with_classification: str
    """Answer of the mixtures that hold sequence classification."""
    without: str


PUBLISHED = (
    Published(
        "56de0ffd4396321400ee258f",
        "With sequence classification the answer is “Alexius Komnenos”; without, none is given.",
        "Alexius Komnenos",
        "",
    ),
    Published(
        "56de1728cffd8e1900b4b5d7",
        "With sequence classification the answer is “Modern English”; without, none is given.",
        "Modern English",
        "",
    ),
    Published(
        "5725bad5271a42140099d0bf",
        "With sequence classification the answer is “ten times more”; without, “ten”.",
        "ten times more",
        "ten",
    ),
)

_KINDS = {
    "found": (
        "Answerable questions: no answer against the right one",
        "the baseline gives no answer, the mixture the right one",
        "the mixture gives no answer, the baseline the right one",
    ),
    "boundary": (
        "Answerable questions: the same place, another boundary",
        "both answers overlap, the mixture's has the higher F1",
        "both answers overlap, the baseline's has the higher F1",
    ),
    "withheld": (
        "Unanswerable questions: an answer against none",
        "the baseline gives an answer, the mixture rightly none",
        "the mixture gives an answer, the baseline rightly none",
    ),
}


def write(experiment: Experiment) -> None:
    """Write `cases.json`, and `cases.md` from it."""
    from mtdnn.reporting.templating import render

    found = find(experiment)
    layout = experiment.layout
    write_json(layout.cases("json"), found)
    write_text(layout.cases("md"), render("cases.md", experiment, cases=found))


def find(experiment: Experiment) -> dict[str, Any]:
    """Everything that `cases.json` holds; without comparable runs, the reason why not."""
    head = {"experiment": experiment.experiment, "notice": experiment.notice}
    answers = read_answers(experiment)
    if answers is None:
        reason = "No table compares a mixture with question answering alone on a scored slice."
        return {**head, "reason": reason}
    return {
        **head,
        "reason": None,
        "table": answers.table,
        "slice": answers.slice_name,
        "slice_label": answers.slice_label,
        "questions": len(answers.questions),
        "rows": [_described(row) for row in answers.rows],
        "claims": list(_claims(experiment, answers)),
        "published": [_case(answers, index) for index in _published_places(answers)],
        "kinds": [_kind(answers, kind) for kind in _KINDS],
        "groups": group_differences(answers),
    }


def _described(row: RowAnswers) -> dict[str, Any]:
    return {
        "path": row.path,
        "label": row.label,
        "mixture": row.row.row.mixture,
        "qa_weight": row.row.row.qa_weight,
        "seeds": list(row.seeds),
        "missing": list(row.missing),
    }


# --- changes between the baseline's and a mixture's answers ----------------------------------


def changes(
    kind: str, answerable: np.ndarray, before: Answered, after: Answered
) -> tuple[np.ndarray, np.ndarray]:
    """Which questions changed for the better and which for the worse, as two masks."""
    if kind == "found":
        gained = answerable & before.empty & (after.exact == 1)
        lost = answerable & after.empty & (before.exact == 1)
    elif kind == "boundary":
        both = answerable & ~before.empty & ~after.empty
        overlap = both & (before.start < after.end) & (after.start < before.end)
        gained, lost = overlap & (after.f1 > before.f1), overlap & (after.f1 < before.f1)
    else:
        gained = ~answerable & ~before.empty & after.empty
        lost = ~answerable & before.empty & ~after.empty
    return gained, lost


def _kind(answers: Answers, kind: str) -> dict[str, Any]:
    """Counts of both directions for each mixture, and the questions on which most runs agree."""
    balance = np.zeros(len(answers.questions))
    size = np.zeros(len(answers.questions))
    counts = []
    for row in answers.others:
        gains, losses = [], []
        for seed in row.common(answers.baseline):
            before, after = answers.baseline.seeds[seed], row.seeds[seed]
            gained, lost = changes(kind, answers.answerable, before, after)
            balance += gained.astype(int) - lost.astype(int)
            size += np.abs(after.f1 - before.f1)
            gains.append(int(gained.sum()))
            losses.append(int(lost.sum()))
        counts.append({"row": row.path, "label": row.label, "gained": gains, "lost": losses})
    title, gained, lost = _KINDS[kind]
    return {
        "kind": kind,
        "title": title,
        "counts": counts,
        "directions": [
            {
                "title": text,
                "cases": [_case(answers, n) for n in _first(answers, sign * balance, size)],
            }
            for text, sign in ((gained, 1), (lost, -1))
        ],
    }


def _first(answers: Answers, agreement: np.ndarray, size: np.ndarray) -> list[int]:
    """Questions in which most pairs of runs agree, then the largest change, then the id."""
    places = np.flatnonzero(agreement > 0)
    order = sorted(places, key=lambda n: (-agreement[n], -size[n], answers.questions[n].id))
    return [int(place) for place in order[:SHOWN]]


# --- one question ----------------------------------------------------------------------------


def _case(answers: Answers, index: int) -> dict[str, Any]:
    question = answers.questions[index]
    return {
        "id": question.id,
        "title": question.title,
        "question": question.question,
        "context": question.context,
        "golds": [{"text": text, "start": start} for text, start in question.golds],
        "answers": [_answer(row, index) for row in answers.rows if row.seeds],
    }


def _answer(row: RowAnswers, index: int) -> dict[str, Any]:
    """The answer that most seeds of a row give; its span is absent when it is empty."""
    run, agreeing = row.usual(index)
    given = bool(run.text[index])
    return {
        "row": row.path,
        "label": row.label,
        "text": run.text[index],
        "start": int(run.start[index]) if given else None,
        "end": int(run.end[index]) if given else None,
        "agreeing": agreeing,
        "seeds": len(row.seeds),
        "em": 100.0 * float(np.mean([each.exact[index] for each in row.seeds.values()])),
        "f1": 100.0 * float(np.mean([each.f1[index] for each in row.seeds.values()])),
    }


def _published_places(answers: Answers) -> list[int]:
    places = {question.id: index for index, question in enumerate(answers.questions)}
    return [places[each.id] for each in PUBLISHED if each.id in places]


# --- groups of questions ---------------------------------------------------------------------


def _answer_length(question: Question) -> str:
    """Words of the shortest gold answer, as a class."""
    if not question.golds:
        return "unanswerable"
    words = answer_words([text for text, _ in question.golds])
    return next(
        name
        for most, name in ((1, "1 word"), (2, "2 words"), (4, "3–4 words"), (10**9, "5 or more"))
        if words <= most
    )


def group_differences(answers: Answers) -> list[dict[str, Any]]:
    """Scores by question type, answer length and context length; see `_group`."""
    return [_group(answers, *each) for each in _groupings(answers)]


def _groupings(answers: Answers) -> Iterator[tuple[str, list[str], list[str]]]:
    """Title, group of each question, and all groups in the order in which they are shown."""
    types = [question_type(question.question) for question in answers.questions]
    yield "Question type", types, sorted(set(types), key=QUESTION_TYPES.index)
    lengths = [_answer_length(question) for question in answers.questions]
    order = ["unanswerable", "1 word", "2 words", "3–4 words", "5 or more"]
    yield "Answer length", lengths, sorted(set(lengths), key=order.index)
    words = np.array([len(question.context.split()) for question in answers.questions])
    bounds = np.unique(np.quantile(words, [0.25, 0.5, 0.75], method="lower"))
    places = np.searchsorted(bounds, words)
    highest = [*bounds, words.max()]
    names = [f"up to {bounds[0]} words"]
    names += [
        f"{high} words" if low + 1 == high else f"{low + 1}–{high} words"
        for low, high in itertools.pairwise(highest)
    ]
    yield "Context length", [names[n] for n in places], [names[n] for n in np.unique(places)]


def _group(answers: Answers, title: str, groups: list[str], order: list[str]) -> dict[str, Any]:
    """Mean F1 of every row in each group, and its difference from the baseline seed by seed."""
    return {
        "title": title,
        "groups": [
            {
                "name": name,
                "questions": len(members),
                "rows": [_group_score(answers, row, members) for row in answers.rows],
            }
            for name in order
            for members in [np.array([n for n, group in enumerate(groups) if group == name])]
        ],
    }


def _group_score(answers: Answers, row: RowAnswers, members: np.ndarray) -> dict[str, Any]:
    def score(answered: Answered) -> float:
        return 100.0 * float(answered.f1[members].mean())

    differences = [
        score(row.seeds[seed]) - score(answers.baseline.seeds[seed])
        for seed in row.common(answers.baseline)
    ]
    return {
        "row": row.path,
        "label": row.label,
        "f1": float(np.mean([score(each) for each in row.seeds.values()])) if row.seeds else None,
        "differences": differences if row is not answers.baseline else [],
    }


# --- the claims of section 5 -----------------------------------------------------------------


def _claims(experiment: Experiment, answers: Answers) -> Iterator[dict[str, Any]]:
    places = {question.id: index for index, question in enumerate(answers.questions)}
    for each in PUBLISHED:
        if each.id in places:
            yield _verdict_on_answer(experiment, answers, each, places[each.id])
    yield _verdict_on_empty_answers(experiment, answers)
    for corpus, effect in (("mrpc", "recognition"), ("cola", "grammar")):
        yield _verdict_on_corpus(experiment, corpus, effect)


def _verdict_on_answer(
    experiment: Experiment, answers: Answers, published: Published, index: int
) -> dict[str, Any]:
    """In how many seeds do all rows answer as the paper says?"""
    shared = [s for s in answers.baseline.seeds if all(s in row.seeds for row in answers.rows)]
    holding = 0
    for seed in shared:
        holding += all(
            normalise(row.seeds[seed].text[index])
            == normalise(
                published.with_classification if _classifies(experiment, row) else published.without
            )
            for row in answers.rows
        )
    return {
        "claim": published.claim,
        "id": published.id,
        "verdict": verdict(holding, len(shared)),
        "text": f"All rows answer so in {holding} of {_seeds(len(shared))}.",
    }


def verdict(holding: int, seeds: int) -> str:
    """A verdict in words on a claim that holds in `holding` of `seeds` seeds."""
    if seeds >= DECIDING_SEEDS and holding == seeds:
        return "supported"
    if seeds >= DECIDING_SEEDS and holding == 0:
        return "contradicted"
    return "not decidable"


def _verdict_on_empty_answers(experiment: Experiment, answers: Answers) -> dict[str, Any]:
    """Do mixtures with sequence classification find more answers than they lose?"""
    nets: dict[int, int] = {}
    for row in answers.others:
        if _classifies(experiment, row):
            for seed in row.common(answers.baseline):
                before, after = answers.baseline.seeds[seed], row.seeds[seed]
                gained, lost = changes("found", answers.answerable, before, after)
                nets[seed] = nets.get(seed, 0) + int(gained.sum()) - int(lost.sum())
    low, high = interval(list(nets.values()))
    listed = ", ".join(f"{net:+d}" for net in nets.values()).replace("-", "−")
    text = (
        "Right answers found minus right answers lost, summed over the mixtures with sequence "
        f"classification: {listed} in {_seeds(len(nets))}"
    )
    text += (
        f"; 95 % interval of the mean over seeds {low:+.1f} to {high:+.1f}.".replace("-", "−")
        if len(nets) > 1
        else "; one seed says nothing of others."
    )
    return {
        "claim": "Sequence classification finds answers where the baseline gives none.",
        "id": None,
        "verdict": "supported" if low > 0 else "contradicted" if high < 0 else "not decidable",
        "text": text if nets else "No such mixture has a seed in common with the baseline.",
    }


def interval(values: list[float]) -> tuple[float, float]:
    """Student's 95 % interval of a mean; without end below two values."""
    from scipy import stats

    if len(values) < 2:
        return -np.inf, np.inf
    margin = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - margin), float(np.mean(values) + margin)


def _verdict_on_corpus(experiment: Experiment, corpus: str, effect: str) -> dict[str, Any]:
    """Only a run that adds this corpus alone can tell; how it compares is told by statistics."""
    claim = f"{corpus.upper()} is credited with better {effect}."
    arms = [
        mixture
        for mixture, entry in experiment.mixtures.items()
        if corpus in entry.corpora
        and len(entry.corpora) == 2
        and any(run.mixture == mixture for run in experiment.runs())
    ]
    text = (
        f"The comparison of {experiment.mixtures[arms[0]].label} with QA alone in the tables "
        "shows the effect of this corpus; which ability it changes, no score here measures."
        if arms
        else f"No run of this experiment has {corpus.upper()} as its only auxiliary corpus."
    )
    return {"claim": claim, "id": None, "verdict": "not decidable", "text": text}


def _classifies(experiment: Experiment, row: RowAnswers) -> bool:
    corpora = experiment.mixtures[row.row.row.mixture].corpora
    return any(experiment.corpora[name].family == "sequence_classification" for name in corpora)


def _seeds(number: int) -> str:
    return f"{number} seed" + ("" if number == 1 else "s")
