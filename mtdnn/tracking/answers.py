"""A run's answers as a table of MLflow's evaluation view, which puts several runs side by side.

The view groups rows by the first column and compares the second: the question, and the answer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder
from mtdnn.config.settings import RunSettings
from mtdnn.evaluation.metrics import read_questions, select
from mtdnn.machine.files import read_columns, reading_parquet
from mtdnn.reporting.escaping import visible

FILE = "answers.json"
MAX_ROWS = 1000
"""Items in the table: the first of the slice. All answers are in `predictions.parquet` and
`auxiliary.parquet`."""

MAX_CELL_CHARACTERS = 500
_NONE = "(no answer)"
_HIDDEN = ("id", "label", "tags", "cluster")


@dataclass(frozen=True)
class Table:
    """The first items of a slice with a run's answers.

    Attributes:
        slice_label: the slice.
        total: the number of its items.
        columns: names of the columns.
        rows: texts and numbers, a row for each item.
    """

    slice_label: str
    total: int
    columns: list[str]
    rows: list[list[str | float]]

    def as_json(self) -> str:
        """Return the table as MLflow reads it."""
        return json.dumps({"columns": self.columns, "data": self.rows}, ensure_ascii=False)

    @property
    def note(self) -> str:
        """What it shows, in a sentence."""
        part = "all" if len(self.rows) == self.total else f"the first {len(self.rows)} of"
        return f"{FILE}: answers to {part} {self.total} items of {self.slice_label}."


def read(
    experiment: Experiment, folder: RunFolder, settings: RunSettings, metrics: Mapping[str, Any]
) -> Table | None:
    """Read a run's answers to the first slice on which it has scores.

    Returns:
        None if there is no such slice, or if the corpus or the answers are not here.

    Raises:
        MtdnnError: a file is damaged, or answers and corpus do not belong together.
    """
    found = [(name, each) for name, each in metrics.get("slices", {}).items() if each.get("corpus")]
    if not found or found[0][0] not in experiment.slices:
        return None
    name, numbers = found[0]
    corpus, split = numbers["corpus"], numbers["split"]
    family = settings.settings_of(corpus).family
    answers = folder.predictions if family == "question_answering" else folder.auxiliary
    if not (experiment.layout.corpus(corpus) / f"{split}.parquet").exists() or not answers.exists():
        return None
    if family == "question_answering":
        return _questions(experiment, folder, name, numbers)
    return _items(experiment, folder, settings, numbers)


def _questions(
    experiment: Experiment, folder: RunFolder, name: str, numbers: Mapping[str, Any]
) -> Table:
    corpus, split = numbers["corpus"], numbers["split"]
    entry = experiment.slices[name]
    questions = select(
        name, entry, read_questions(experiment.layout.corpus(corpus), split, folder.path)
    )
    given = read_columns(folder.predictions, ["corpus", "split", "id", "answer"]).to_pylist()
    texts = {row["id"]: row["answer"] for row in given if _place(row) == (corpus, split)}
    rows: list[list[str | float]] = []
    asked: set[str] = set()
    for n, item in enumerate(questions.ids[:MAX_ROWS]):
        question = _unlike(questions.texts[n], item, asked)
        is_null = questions.odds[n] > numbers["threshold"]
        golds, scores = list(dict.fromkeys(questions.answers[n])), questions.scores
        exact = float(not golds) if is_null else float(scores.exact[n])
        f1 = float(not golds) if is_null else float(scores.f1[n])
        answer = "" if is_null else texts[item]
        cells = [question, answer or _NONE, " | ".join(golds) or _NONE]
        numbered = (round(value, 4) for value in (exact, f1, questions.odds[n]))
        rows.append([*map(_cell, cells), *numbered, _cell(item)])
    columns = ["question", "answer", "gold", "exact", "f1", "null_odds", "id"]
    return Table(entry.label, len(questions), columns, rows)


def _items(
    experiment: Experiment,
    folder: RunFolder,
    settings: RunSettings,
    numbers: Mapping[str, Any],
) -> Table:
    corpus, split = numbers["corpus"], numbers["split"]
    labels = settings.settings_of(corpus).labels
    path = experiment.layout.corpus(corpus) / f"{split}.parquet"
    with reading_parquet(path):
        names = [name for name in pq.read_schema(path).names if name not in _HIDDEN]
    found = read_columns(path, ["id", *names]).to_pylist()
    columns = ["corpus", "split", "row", "label", "prediction", "tags", "predicted_tags"]
    given = read_columns(folder.auxiliary, columns).to_pylist()
    seen: set[str] = set()
    by_row = {row["row"]: row for row in given if _place(row) == (corpus, split)}
    rows: list[list[str | float]] = []
    for number, item in enumerate(found[:MAX_ROWS]):
        if (answer := by_row.get(number)) is None:
            continue
        tagged = answer["tags"] is not None
        pair = ("tags", "predicted_tags") if tagged else ("label", "prediction")
        gold, predicted = (_named(answer[key], labels) for key in pair)
        text = _unlike(" / ".join(_joined(item[name]) for name in names), item["id"], seen)
        cells = map(_cell, [text, predicted, gold])
        rows.append([*cells, float(gold == predicted), _cell(item["id"])])
    columns = ["item", "answer", "gold", "equal", "id"]
    return Table(str(numbers["label"]), len(found), columns, rows)


def _unlike(text: str, item: str, others: set[str]) -> str:
    """Return a text that none of the others is: MLflow takes rows of equal texts for one."""
    text = f"{text} [{item}]" if text in others else text
    others.add(text)
    return text


def _place(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["corpus"], row["split"]


def _named(value: Any, labels: list[str]) -> str:
    """A class or tags by name; a number as it is."""
    if isinstance(value, list):
        return " ".join(_named(each, labels) for each in value)
    known = labels and value is not None and 0 <= int(value) < len(labels)
    return labels[int(value)] if known else f"{value:g}" if value is not None else ""


def _joined(value: Any) -> str:
    return " | ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _cell(text: str) -> str:
    """Text of a corpus that MLflow can show: visible, and not too long."""
    shown = visible(text)
    return shown if len(shown) <= MAX_CELL_CHARACTERS else f"{shown[:MAX_CELL_CHARACTERS]}…"
