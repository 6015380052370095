"""Answers side by side: questions that mixtures answer differently from the baseline.

Section 5 of the paper shows three questions that a mixture answers better. Here fixed rules
select questions in both directions, and a verdict needs several seeds that agree.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.scoring import normalise
from mtdnn.evaluation.slices import QUESTION_TYPES, answer_words, question_type
from mtdnn.machine.files import write_json, write_text
from mtdnn.reporting.answers import (
    Answered,
    Answers,
    Question,
    RowAnswers,
    read_answers,
    why_none,
)
from mtdnn.statistics.level import CONFIDENCE

MAX_CASES = 3
"""How many questions are shown for each kind of change and each direction."""

SMALL_GROUP = 30
"""A group with fewer questions says next to nothing, and is shown in grey."""

RESAMPLES = 2000
"""Number of bootstrap samples of the paragraphs."""

MIN_SEEDS = 3
"""With fewer seeds there is no verdict on a claim about training."""


@dataclass(frozen=True)
class Published:
    """One of the three questions in section 5 of the paper.

    Attributes:
        id: the question's id in SQuAD 2.0.
        claim: what the paper says about the answers, for readers.
        with_classification: the answer of mixtures with sequence classification.
        without: the answer of all other mixtures.
    """

    id: str
    claim: str
    with_classification: str
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

# Each kind of change: its title, and what it means when the mixture is better or worse.
_KINDS = {
    "found": (
        "Answerable questions: the right answer or none",
        "the mixture gives the right answer, the baseline none",
        "the baseline gives the right answer, the mixture none",
    ),
    "boundary": (
        "Answerable questions: overlapping answers with different boundaries",
        "the answers overlap, and the mixture's has the higher F1",
        "the answers overlap, and the baseline's has the higher F1",
    ),
    "withheld": (
        "Unanswerable questions: an answer or none",
        "the baseline gives an answer, the mixture correctly gives none",
        "the mixture gives an answer, the baseline correctly gives none",
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
    """Return the content of `cases.json`; without comparable runs, only the reason why."""
    head = {"experiment": experiment.experiment, "notice": experiment.notice}
    answers = read_answers(experiment)
    if answers is None:
        return {**head, "reason": why_none(experiment)}
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
        "mixture": row.result.row.mixture,
        "weight": row.result.row.weight,
        "seeds": list(row.seeds),
        "missing": list(row.missing),
    }


# --- changes between the baseline's and a mixture's answers ----------------------------------


def changes(
    kind: str, answerable: np.ndarray, before: Answered, after: Answered
) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks of the questions: which answers became better, and which worse.

    Args:
        kind: a key of `_KINDS`.
        answerable: (questions,) whether a question has a gold answer.
        before, after: the answers of the baseline and of the mixture.
    """
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
    """Count both directions for each mixture, and show the questions on which most runs agree."""
    balance = np.zeros(len(answers.questions))
    change = np.zeros(len(answers.questions))
    counts = []
    for row in answers.others:
        gains, losses = [], []
        for seed in row.common(answers.baseline):
            before, after = answers.baseline.seeds[seed], row.seeds[seed]
            gained, lost = changes(kind, answers.answerable, before, after)
            balance += gained.astype(int) - lost.astype(int)
            change += np.abs(after.f1 - before.f1)
            gains.append(int(gained.sum()))
            losses.append(int(lost.sum()))
        counts.append({"row": row.path, "label": row.label, "gained": gains, "lost": losses})
    title, better, worse = _KINDS[kind]
    return {
        "kind": kind,
        "title": title,
        "counts": counts,
        "directions": [
            {
                "title": text,
                "cases": [_case(answers, n) for n in _first(answers, sign * balance, change)],
            }
            for text, sign in ((better, 1), (worse, -1))
        ],
    }


def _first(answers: Answers, agreement: np.ndarray, change: np.ndarray) -> list[int]:
    """Select questions by how many pairs of runs agree, then by the change of F1, then by id."""
    places = np.flatnonzero(agreement > 0)
    order = sorted(places, key=lambda n: (-agreement[n], -change[n], answers.questions[n].id))
    return [int(place) for place in order[:MAX_CASES]]


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
    """The answer that most seeds of a row give; an empty answer has no span."""
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
    """Name the group of the question's shortest gold answer by its number of words."""
    if not question.golds:
        return "unanswerable"
    words = answer_words([text for text, _ in question.golds])
    return next(
        name
        for most, name in ((1, "1 word"), (2, "2 words"), (4, "3–4 words"), (10**9, "5 or more"))
        if words <= most
    )


def group_differences(answers: Answers) -> list[dict[str, Any]]:
    """Return F1 by question type, answer length and context length, for every row.

    Each grouping has a `title` and `groups`. A group has a `name`, the number of its `questions`,
    and `rows` with the mean `f1`, its `differences` from the baseline, one for each seed, and the
    ends `low` and `high` of the 95% interval of their mean, by bootstrap of paragraphs; None if
    the group has a single paragraph.
    """
    contexts = [question.context for question in answers.questions]
    paragraphs = np.unique(contexts, return_inverse=True)[1]
    counts = _resampled(int(paragraphs.max()) + 1)
    return [_group(answers, (paragraphs, counts), *each) for each in _groupings(answers)]


def _resampled(paragraphs: int) -> np.ndarray:
    """Return (RESAMPLES, paragraphs) how often each paragraph is in each bootstrap sample."""
    random = np.random.default_rng(paragraphs)
    return random.multinomial(paragraphs, np.full(paragraphs, 1 / paragraphs), RESAMPLES)


def _groupings(answers: Answers) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield a title, the group of each question, and the groups in the order of their display."""
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


Resampled = tuple[np.ndarray, np.ndarray]
"""(questions,) each question's paragraph, and (RESAMPLES, paragraphs) their bootstrap samples."""


def _group(
    answers: Answers, resampled: Resampled, title: str, groups: list[str], order: list[str]
) -> dict[str, Any]:
    """The scores of every row in each group."""
    return {
        "title": title,
        "groups": [
            {
                "name": name,
                "questions": len(members),
                "rows": [_group_score(answers, row, members, resampled) for row in answers.rows],
            }
            for name in order
            for members in [np.flatnonzero(np.array(groups) == name)]
        ],
    }


def _group_score(
    answers: Answers, row: RowAnswers, members: np.ndarray, resampled: Resampled
) -> dict[str, Any]:
    def score(answered: Answered) -> float:
        return 100.0 * float(answered.f1[members].mean())

    differences = [
        score(row.seeds[seed]) - score(answers.baseline.seeds[seed])
        for seed in row.common(answers.baseline)
    ]
    is_other = row is not answers.baseline
    low, high = None, None
    if is_other and differences:
        seeds = row.common(answers.baseline)
        gains = [row.seeds[seed].f1 - answers.baseline.seeds[seed].f1 for seed in seeds]
        low, high = bootstrap(100 * np.mean(gains, axis=0)[members], members, resampled)
    return {
        "row": row.path,
        "label": row.label,
        "f1": float(np.mean([score(each) for each in row.seeds.values()])) if row.seeds else None,
        "differences": differences if is_other else [],
        "low": low,
        "high": high,
    }


def bootstrap(
    gains: np.ndarray, members: np.ndarray, resampled: Resampled
) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile interval of a mean over questions, by bootstrap of their paragraphs.

    Args:
        gains: (members,) the value of each question, averaged over seeds.
        members: (members,) the places of these questions among all.
        resampled: the paragraph of every question, and bootstrap samples of the paragraphs.

    Returns:
        The ends of the 95% interval; None if all questions are about one paragraph.
    """
    paragraphs, counts = resampled
    own = paragraphs[members]
    if len(np.unique(own)) < 2:
        return None, None
    sums = counts @ np.bincount(own, gains, counts.shape[1])
    sizes = counts @ np.bincount(own, minlength=counts.shape[1])
    means = sums[sizes > 0] / sizes[sizes > 0]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


# --- the claims of section 5 -----------------------------------------------------------------


def _claims(experiment: Experiment, answers: Answers) -> Iterator[dict[str, Any]]:
    """Yield the verdicts on the paper's claims, if the experiment is the paper's."""
    if not experiment.published:
        return
    places = {question.id: index for index, question in enumerate(answers.questions)}
    for each in PUBLISHED:
        if each.id in places:
            yield _verdict_on_answer(experiment, answers, each, places[each.id])
    yield _verdict_on_empty_answers(experiment, answers)
    yield _verdict_on_corpus(experiment, "mrpc", "MRPC", "recognition")
    yield _verdict_on_corpus(experiment, "cola", "CoLA", "grammar")


def _verdict_on_answer(
    experiment: Experiment, answers: Answers, published: Published, index: int
) -> dict[str, Any]:
    """Count the seeds in which all rows answer as the paper says."""
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
        "text": f"All rows answer as claimed in {holding} of {_seeds(len(shared))}.",
    }


def verdict(holding: int, seeds: int) -> str:
    """Return the verdict on a claim that holds in `holding` of `seeds` seeds."""
    if seeds >= MIN_SEEDS and holding == seeds:
        return "supported"
    if seeds >= MIN_SEEDS and holding == 0:
        return "contradicted"
    return "not decidable"


def _verdict_on_empty_answers(experiment: Experiment, answers: Answers) -> dict[str, Any]:
    """Compare how many right answers mixtures with sequence classification gain and lose."""
    rows = [row for row in answers.others if _classifies(experiment, row)]
    nets = []
    for seed, before in answers.baseline.seeds.items():
        # A seed that one of the rows lacks would be a sum over fewer rows.
        if rows and all(seed in row.seeds for row in rows):
            masks = [changes("found", answers.answerable, before, row.seeds[seed]) for row in rows]
            nets.append(sum(int(gained.sum()) - int(lost.sum()) for gained, lost in masks))
    low, high = interval(nets)
    listed = ", ".join(f"{net:+d}" for net in nets).replace("-", "−")
    text = (
        "Right answers gained minus right answers lost, summed over the mixtures with sequence "
        f"classification: {listed} in {_seeds(len(nets))}"
    )
    text += (
        f"; 95% interval of the mean over seeds {low:+.1f} to {high:+.1f}.".replace("-", "−")
        if len(nets) > 1
        else "; one seed says nothing about other seeds."
    )
    word = "supported" if low > 0 else "contradicted" if high < 0 else "not decidable"
    if len(nets) < MIN_SEEDS:
        word = "not decidable"
    return {
        "claim": "Sequence classification finds answers to questions that the baseline leaves "
        "unanswered.",
        "id": None,
        "verdict": word,
        "text": text if nets else "These mixtures share no seed with the baseline.",
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's 95% interval of a mean; it is unbounded with fewer than two values."""
    from scipy import stats

    if len(values) < 2:
        return -np.inf, np.inf
    margin = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - margin), float(np.mean(values) + margin)


def _verdict_on_corpus(
    experiment: Experiment, corpus: str, label: str, effect: str
) -> dict[str, Any]:
    """Say where the effect of one corpus can be seen; no score here can decide the claim."""
    claim = f"The paper credits {label} with better {effect}."
    arms = [
        mixture
        for mixture, entry in experiment.mixtures.items()
        if corpus in entry.corpora
        and len(entry.corpora) == 2
        and entry.target_among(experiment.corpora) != corpus
        and any(run.mixture == mixture for run in experiment.runs())
    ]
    text = (
        f"The tables compare {experiment.mixtures[arms[0]].label} with QA alone, which shows the "
        "effect of this corpus; no score here measures which ability it changes."
        if arms
        else f"No run of this experiment has {label} as its only auxiliary corpus."
    )
    return {"claim": claim, "id": None, "verdict": "not decidable", "text": text}


def _classifies(experiment: Experiment, row: RowAnswers) -> bool:
    corpora = experiment.mixtures[row.result.row.mixture].corpora
    return any(experiment.corpora[name].family == "sequence_classification" for name in corpora)


def _seeds(number: int) -> str:
    return f"{number} seed" + ("" if number == 1 else "s")
