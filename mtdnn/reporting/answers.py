"""The answers that the rows of a table give to the questions of a slice, side by side.

A final answer is a run's best non-null answer, or "" if its null odds exceed the threshold.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mtdnn.config.experiment import Experiment, Row
from mtdnn.config.layout import RunFolder
from mtdnn.evaluation.metrics import Questions, read_questions, select
from mtdnn.evaluation.results import Result, RowResult, read_rows, tell_apart
from mtdnn.machine.files import read_columns
from mtdnn.reporting.wording import ANSWERING, has_answers, is_answering

NO_ANSWERS = "No table compares a mixture with question answering alone on a scored slice."
NO_QUESTIONS = "No run of this experiment has question answering as its target."
"""Why `read_answers` finds nothing, for readers."""


@dataclass(frozen=True)
class Question:
    """A question of the corpus.

    Attributes:
        golds: text and start (in characters of the context) of each distinct gold answer; empty
            if the question is unanswerable.
    """

    id: str
    title: str
    context: str
    question: str
    golds: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Answered:
    """The final answers of one run, an entry for each question.

    Attributes:
        seed: the run's seed.
        text: the final answer; empty where none is given.
        start, end: the span of the best non-null answer, in characters of the context.
        exact: exact match of the final answer, 0 or 1.
        f1: F1 of the final answer, 0 to 1.
        odds: the null odds.
        empty: whether the final answer is the empty string.
        questions: the scores of the best non-null answers, before any threshold.
    """

    seed: int
    text: tuple[str, ...]
    start: np.ndarray
    end: np.ndarray
    exact: np.ndarray
    f1: np.ndarray
    odds: np.ndarray
    empty: np.ndarray
    questions: Questions


@dataclass(frozen=True)
class RowAnswers:
    """A row of a table with its final answers.

    Attributes:
        result: the row and the scores of its runs.
        label: its name among the rows.
        seeds: the answers of each seed that was scored on the slice.
        missing: why seeds have no answers.
    """

    result: RowResult
    label: str
    seeds: dict[int, Answered]
    missing: tuple[str, ...]

    @property
    def path(self) -> str:
        return self.result.path

    def common(self, other: "RowAnswers") -> list[int]:
        """The seeds that both rows have."""
        return [seed for seed in self.seeds if seed in other.seeds]

    def usual(self, index: int) -> tuple[Answered, int]:
        """Return a run with the most frequent answer to a question, and how many seeds give it.

        If several answers are equally frequent, the first seed's counts.
        """
        counts = Counter(each.text[index] for each in self.seeds.values())
        text, agreeing = counts.most_common(1)[0]
        run = next(each for each in self.seeds.values() if each.text[index] == text)
        return run, agreeing


@dataclass(frozen=True)
class Answers:
    """The rows of one table on the questions of one slice; the first row is the baseline."""

    table: str
    slice_name: str
    slice_label: str
    questions: tuple[Question, ...]
    rows: tuple[RowAnswers, ...]

    @property
    def baseline(self) -> RowAnswers:
        return self.rows[0]

    @property
    def others(self) -> tuple[RowAnswers, ...]:
        return self.rows[1:]

    @cached_property
    def answerable(self) -> np.ndarray:
        """(questions,) whether a question has a gold answer."""
        return np.array([bool(question.golds) for question in self.questions])


def why_none(experiment: Experiment) -> str:
    """Return a sentence on why there are no answers to read."""
    return NO_ANSWERS if has_answers(experiment) else NO_QUESTIONS


def table_of_mixtures(experiment: Experiment) -> str | None:
    """Return the table that compares the most mixtures with question answering alone.

    If several tables show as many, it is the first; None if no table has such a comparison.
    """

    def mixtures(name: str) -> set[str]:
        rows = [row for row in experiment.tables[name].own_rows if _answers(experiment, row)]
        used = {row.mixture for row in rows if row.variant == "default"}
        return used if any(experiment.mixtures[mixture].is_alone for mixture in used) else set()

    best = max(experiment.tables, key=lambda name: len(mixtures(name)))
    return best if len(mixtures(best)) > 1 else None


def read_answers(experiment: Experiment) -> Answers | None:
    """Read the answers of the table of mixtures on the first slice that its baseline has.

    Only rows with the baseline's target and encoder and the default variant are compared.

    Returns:
        None if no table compares mixtures, or if no run of the baseline has been scored.
    """
    table = table_of_mixtures(experiment)
    if table is None:
        return None
    rows = [
        row
        for row in read_rows(experiment, table)
        if is_answering(row) and row.row.variant == "default" and not row.row.origin
    ]
    alone = next(row for row in rows if experiment.mixtures[row.row.mixture].is_alone)
    same = (alone.row.encoder, alone.target)
    rows = [alone] + [
        row for row in rows if row is not alone and (row.row.encoder, row.target) == same
    ]
    name = _scored_slice(experiment, alone)
    if name is None:
        return None
    entry = experiment.slices[name]
    labels = tell_apart(
        [row.label for row in rows],
        [row.path for row in rows],
        [f"w {row.row.weight:g}" for row in rows],
        [row.path for row in rows],
    )
    answered = [_row(experiment, name, row, label) for row, label in zip(rows, labels, strict=True)]
    first = next(iter(answered[0].seeds.values()))
    columns = ["id", "title", "context", "question", "answer_texts", "answer_starts"]
    path = experiment.layout.corpus(_corpus(alone, name)) / f"{entry.split}.parquet"
    table_rows = read_columns(path, columns).to_pylist()
    by_id = {row["id"]: row for row in table_rows}
    questions = tuple(_question(by_id[each]) for each in first.questions.ids)
    return Answers(table, name, entry.label, questions, tuple(answered))


def _answers(experiment: Experiment, row: Row) -> bool:
    """Whether the target of a row is question answering, told without reading its runs."""
    target = experiment.mixtures[row.mixture].target_among(experiment.corpora)
    return target is not None and experiment.corpora[target].family == ANSWERING


def _scored_slice(experiment: Experiment, row: RowResult) -> str | None:
    """The first slice on which a run of the row has scores."""
    for name in experiment.slices:
        if any(not result.values(name)[1] for result in row.present):
            return name
    return None


def _corpus(row: RowResult, slice_name: str) -> str:
    """The name of the corpus whose questions a slice has."""
    return row.corpus(slice_name) or row.target


def _row(experiment: Experiment, slice_name: str, row: RowResult, label: str) -> RowAnswers:
    corpus = _corpus(row, slice_name)
    seeds = {
        result.run.seed: _answered(experiment, slice_name, corpus, result)
        for result in row.present
        if not result.values(slice_name)[1]
    }
    return RowAnswers(row, label, seeds, row.score(slice_name, "exact").reasons)


def _answered(experiment: Experiment, slice_name: str, corpus: str, result: Result) -> Answered:
    """Read one run's predictions, and apply its threshold to them and to their scores."""
    entry = experiment.slices[slice_name]
    folder = experiment.layout.corpus(corpus)
    questions = select(slice_name, entry, read_questions(folder, entry.split, result.folder))
    threshold = result.values(slice_name)[0]["threshold"]
    columns = ["corpus", "split", "id", "answer", "answer_start", "answer_end"]
    rows = read_columns(RunFolder(result.folder).predictions, columns).to_pylist()
    own = (corpus, entry.split)
    by_id = {row["id"]: row for row in rows if (row["corpus"], row["split"]) == own}
    ordered = [by_id[each] for each in questions.ids]
    odds = np.array(questions.odds)
    null = odds > threshold
    unanswerable = ~np.array(questions.scores.answerable)
    return Answered(
        seed=result.run.seed,
        text=tuple("" if null[n] else row["answer"] for n, row in enumerate(ordered)),
        start=np.array([row["answer_start"] for row in ordered]),
        end=np.array([row["answer_end"] for row in ordered]),
        exact=np.where(null, unanswerable, np.array(questions.scores.exact, float)),
        f1=np.where(null, unanswerable, np.array(questions.scores.f1, float)),
        odds=odds,
        empty=null | ~np.array(questions.scores.answered),
        questions=questions,
    )


def _question(row: dict[str, Any]) -> Question:
    golds = tuple(dict.fromkeys(zip(row["answer_texts"], row["answer_starts"], strict=True)))
    return Question(row["id"], row["title"], row["context"], row["question"], golds)
