"""Score a run's predictions on every slice and every auxiliary dev set: its metrics.json."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdnn.config.experiment import Experiment, Slice
from mtdnn.config.layout import MANIFEST, Layout, RunFolder
from mtdnn.config.loading import load_run
from mtdnn.config.settings import RunSettings
from mtdnn.data.corpora.overlap import Training, refusal
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import items
from mtdnn.evaluation.measures import measures_of
from mtdnn.evaluation.scoring import Scores, best, score_answers, summary
from mtdnn.evaluation.slices import belongs
from mtdnn.evaluation.thresholds import null_odds_auc, tune
from mtdnn.machine.files import read_columns, read_product, write_json
from mtdnn.machine.provenance import commit


@dataclass(frozen=True)
class Questions:
    """N questions of one split and a run's answers to them; each column has N entries.

    Attributes:
        ids: question ids.
        titles: titles of the questions' articles.
        contexts: contexts.
        texts: the questions themselves.
        answers: gold answers; an empty list for an unanswerable question.
        odds: null odds, in logits.
        scores: scores of the non-null answers.
    """

    ids: list[str]
    titles: list[str]
    contexts: list[str]
    texts: list[str]
    answers: list[list[str]]
    odds: list[float]
    scores: Scores

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: list[int]) -> "Questions":
        """Return the questions at `indices`, in that order."""
        return Questions(
            ids=[self.ids[index] for index in indices],
            titles=[self.titles[index] for index in indices],
            contexts=[self.contexts[index] for index in indices],
            texts=[self.texts[index] for index in indices],
            answers=[self.answers[index] for index in indices],
            odds=[self.odds[index] for index in indices],
            scores=self.scores.take(indices),
        )

    def overlap(self, ids: set[str], contexts: set[str]) -> list[bool]:
        """Return for each question whether its id is in `ids` or its context in `contexts`."""
        return [
            identifier in ids or context in contexts
            for identifier, context in zip(self.ids, self.contexts, strict=True)
        ]


def write(run_dir: Path, experiment: Experiment) -> None:
    """Score a run's predictions and write its `metrics.json`.

    All measures are times 100; EM and F1 of answers are as evaluate-v2.0.py gives them
    (`mtdnn.evaluation.scoring`), other measures are defined in `mtdnn.evaluation.measures`.
    A slice that shares too much with the run's training splits (`mtdnn.data.corpora.overlap`) is
    not measurable and gets no scores; nor does one on a corpus that is not of the target's kind.
    With `tune_threshold_on`, each slice is scored again at the null threshold
    that maximises F1 on another split or slice. Questions that the run was trained on are left
    out of the tuning, and a slice that shares questions or contexts with the remaining ones gets
    no tuned scores.

    Raises:
        MtdnnError: a slice names unknown articles or has unexpected counts, or the predictions
            or the corpora do not belong to the run.
    """
    files = RunFolder(Path(run_dir))
    run = load_run(files.config)
    layout = experiment.layout
    trained = read_product(files.description)
    for name in run.corpora:
        _check_corpus(name, trained, layout, files.path)

    slices = _score_slices(files.path, experiment, run, layout)
    first, target = next(iter(slices.values())), run.corpora[run.target]
    measures = measures_of(target)
    answers = target.family == "question_answering"
    top = {"em": "exact", "f1": "f1"} if answers else {each.key: each.key for each in measures}
    write_json(
        files.metrics,
        {
            "experiment": experiment.experiment,
            "notice": experiment.notice,
            "run": {
                "encoder": run.encoder_name,
                "mixture": run.mixture,
                "weight": run.weight,
                "variant": run.variant,
                "seed": run.seed,
                "target": run.target,
            },
            "measures": [measure.key for measure in measures],
            **{name: first.get(key) for name, key in top.items()},
            "slices": slices,
            "auxiliary": _score_auxiliary(files, run, layout),
            "fingerprint": trained["fingerprint"],
            "provenance": {
                **trained["provenance"],
                "scored": {"commit": commit()},
                "corpora": {
                    **trained["corpora"],
                    **{
                        name: read_product(layout.corpus(name) / MANIFEST)["digest"]
                        for name in run.scored
                    },
                },
            },
        },
    )


# --- slices ----------------------------------------------------------------------------------


def _score_slices(
    run_dir: Path, experiment: Experiment, run: RunSettings, layout: Layout
) -> dict[str, dict[str, Any]]:
    """Score every slice, in the experiment's order."""
    corpora = {name: experiment.scored_corpus(run.mixture, name) for name in experiment.slices}
    answered = {
        name: corpus
        for name, corpus in corpora.items()
        if corpus and run.settings_of(corpus).family == "question_answering"
    }
    scored = dict(_score_answers(run_dir, experiment, run, answered))
    results: dict[str, dict[str, Any]] = {}
    for name, entry in experiment.slices.items():
        corpus = corpora[name]
        if corpus is None:
            numbers = {"measurable": False, "reason": "another target"}
        elif name in scored:
            numbers = scored[name]
        else:
            numbers = _score_items(RunFolder(run_dir), (name, entry, corpus), run, layout)
        place = {"corpus": corpus, "split": entry.split} if numbers.get("measurable", True) else {}
        results[name] = {"label": entry.label, **place, **numbers}
    return results


def _score_items(
    files: RunFolder, named: tuple[str, Slice, str], run: RunSettings, layout: Layout
) -> dict[str, Any]:
    """Score a slice of items that are not questions, given by its name, settings and corpus."""
    name, entry, corpus = named
    settings = run.settings_of(corpus)
    path = layout.corpus(corpus) / f"{entry.split}.parquet"
    seen = Training(run.corpora, layout).seen(settings.family, path)
    if entry.questions not in (None, len(seen)):
        raise MtdnnError(f"slices.{name}: has {len(seen)} items, {entry.questions} are expected")
    return items.score(
        items.read_items(files.auxiliary, corpus, entry.split, settings, len(seen)),
        measures_of(run.corpora[run.target]),
        seen=sum(seen),
        clusters=len(set(items.clusters_of(path).tolist())),
    )


# --- question answering ----------------------------------------------------------------------


def _score_answers(
    run_dir: Path, experiment: Experiment, run: RunSettings, corpora: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Score the slices of questions, whose corpora are given; yield their names and numbers."""
    layout = experiment.layout
    entries = {name: experiment.slices[name] for name in corpora}
    tuned_on = experiment.tune_threshold_on
    places = {(corpora[name], entry.split) for name, entry in entries.items()}
    if tuned_on and corpora and run.corpora[run.target].family == "question_answering":
        places.add((run.target, tuned_on))
    splits = {
        (corpus, split): read_questions(layout.corpus(corpus), split, run_dir)
        for corpus, split in sorted(places)
    }
    training = Training(run.corpora, layout)
    measured = {
        name: select(name, entry, splits[corpora[name], entry.split])
        for name, entry in entries.items()
    }
    tunable = {n: (questions, corpora[n]) for n, questions in measured.items()}
    tunable |= {
        n: (questions, run.target) for (c, n), questions in splits.items() if c == run.target
    }
    tuning = {
        name: _tune(tunable[name][0], training.questions(tunable[name][1]))
        for name in {entry.tune_threshold_on or tuned_on for entry in entries.values()}
        if name in tunable
    }
    for name, entry in entries.items():
        questions = measured[name]
        seen = sum(questions.overlap(*training.questions(corpora[name])))
        if why := refusal(seen, len(questions), questions=True):
            yield name, {"measurable": False, "reason": why}
            continue
        numbers = _numbers(questions, run.decoding.null_threshold)
        other = entry.tune_threshold_on or tuned_on
        outcome = tuning.get(other) if other else None
        if outcome:
            tuned, others = outcome
            if not any(questions.overlap(set(others.ids), set(others.contexts))):
                numbers["tuned"] = {
                    "threshold": tuned,
                    "tuned_on": other,
                    **summary(questions.scores, questions.odds, tuned),
                }
        yield name, numbers


def _numbers(questions: Questions, threshold: float) -> dict[str, Any]:
    """Return the scores of questions at the run's threshold, and at the best ones."""
    return {
        "questions": len(questions),
        "clusters": len(set(questions.contexts)),
        "threshold": threshold,
        **summary(questions.scores, questions.odds, threshold),
        **best(questions.scores, questions.odds),
        "null_odds_auc": null_odds_auc(questions.odds, questions.scores.answerable),
        "tuned": None,
    }


def _tune(
    questions: Questions, trained_on: tuple[set[str], set[str]]
) -> tuple[float, Questions] | None:
    """Find the threshold with the best F1 on the questions that the run was not trained on.

    Args:
        questions: the questions to tune on.
        trained_on: ids and contexts of the training split.

    Returns:
        The threshold, and the questions that it was tuned on; None if there are none.
    """
    unseen = [index for index, seen in enumerate(questions.overlap(*trained_on)) if not seen]
    if not unseen:
        return None
    remaining = questions.take(unseen)
    scores = remaining.scores
    return tune(scores.f1, scores.answerable, scores.answered, remaining.odds), remaining


def select(name: str, entry: Slice, questions: Questions) -> Questions:
    """Return the questions that belong to a slice.

    Args:
        name: the slice's name, for messages.
        entry: the slice's conditions and expected counts.
        questions: all questions of the slice's split.

    Raises:
        MtdnnError: the slice names an unknown article, has other counts than expected, or has no
            questions.
    """
    titles = set(questions.titles)
    for title in [*entry.titles, *entry.exclude_titles]:
        if title not in titles:
            raise MtdnnError(f"slices.{name}: the split {entry.split} has no article {title!r}")
    columns = (questions.titles, questions.contexts, questions.texts, questions.answers)
    rows = enumerate(zip(*columns, strict=True))
    selected = questions.take([index for index, row in rows if belongs(entry, *row)])
    answerable = sum(selected.scores.answerable)
    for what, found, expected in (
        ("questions", len(selected), entry.questions),
        ("answerable questions", answerable, entry.answerable),
    ):
        if expected is not None and found != expected:
            raise MtdnnError(f"slices.{name}: has {found} {what}, {expected} are expected")
    if not len(selected):
        raise MtdnnError(
            f"slices.{name}: has no questions: none of the split {entry.split} meets all of its "
            "conditions; change them, or remove the slice"
        )
    return selected


def read_questions(corpus: Path, split: str, run_dir: Path) -> Questions:
    """Read all questions of a split and the run's predictions, in the order of the corpus.

    Args:
        corpus: the corpus's folder.
        split: `dev`, `held_out` or `test`.
        run_dir: the run's folder.

    Raises:
        MtdnnError: a file is missing or not readable, or a question has no prediction.
    """
    path = RunFolder(run_dir).predictions
    columns = ["id", "title", "context", "question", "answer_texts"]
    table = read_columns(corpus / f"{split}.parquet", columns)
    ids, titles, contexts, texts, golds = (table[column].to_pylist() for column in columns)
    given = read_columns(path, ["corpus", "split", "id", "answer", "null_odds"])
    predictions = {
        row["id"]: row
        for row in given.to_pylist()
        if (row["corpus"], row["split"]) == (corpus.name, split)
    }
    missing = [identifier for identifier in ids if identifier not in predictions]
    if missing:
        raise MtdnnError(
            f"{path}: {len(missing)} of the {len(ids)} questions of {corpus.name} {split} are "
            f"missing, the first is {missing[0]!r}; evaluate the run again"
        )
    answers = [predictions[identifier]["answer"] for identifier in ids]
    return Questions(
        ids=ids,
        titles=titles,
        contexts=contexts,
        texts=texts,
        answers=golds,
        odds=[predictions[identifier]["null_odds"] for identifier in ids],
        scores=score_answers(golds, answers),
    )


# --- auxiliary corpora -----------------------------------------------------------------------


def _score_auxiliary(
    files: RunFolder, run: RunSettings, layout: Layout
) -> dict[str, dict[str, Any]]:
    """Score every corpus but the target on its own dev set, by its own measures, times 100.

    Answers are scored at threshold 0. `majority` is the accuracy of the most frequent label;
    `floor` is the first measure without any signal, for questions that of answering none.
    """
    results = {}
    for name, corpus in run.corpora.items():
        if name == run.target:
            continue
        measures = measures_of(corpus)
        rows = read_product(layout.corpus(name) / MANIFEST)["splits"]["dev"]["rows"]
        if corpus.family == "question_answering":
            questions = read_questions(layout.corpus(name), "dev", files.path)
            totals = summary(questions.scores, questions.odds, 0.0)
            scores = {measure.key: totals[measure.key] for measure in measures}
            unanswerable = len(questions) - sum(questions.scores.answerable)
            scores |= {"floor": 100.0 * unanswerable / len(questions)}
        else:
            found = items.read_items(files.auxiliary, name, "dev", corpus, rows)
            scores = {measure.key: 100.0 * measure.value(found) for measure in measures}
            scores |= items.floor(found, corpus.family)
        keys = [measure.key for measure in measures]
        results[name] = {"label": corpus.label, "measures": keys, **scores, "rows": rows}
    return results


# --- input -----------------------------------------------------------------------------------


def _check_corpus(name: str, trained: Mapping[str, Any], layout: Layout, run_dir: Path) -> None:
    """Make sure that a corpus still has the rows that the run was trained and evaluated on."""
    path = layout.corpus(name) / MANIFEST
    if read_product(path)["digest"] != trained["corpora"].get(name):
        raise MtdnnError(
            f"{path}: digest: differs from the {name} that {run_dir} was trained on; "
            "run snakemake again, or by hand `mtdnn features`, then "
            f"`mtdnn train {run_dir}` and `mtdnn evaluate {run_dir}`"
        )
