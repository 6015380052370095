"""Made-up scored runs with targets of any task family, all from predictions by the real scorers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.evaluation import metrics
from mtdnn.evaluation.predictions import LABELS
from mtdnn.machine.files import digest, write_json
from mtdnn.statistics import records
from tests.support.factories import make_experiment, make_run

SOURCE = {"kind": "files", "format": "csv", "splits": {"train": ["train.csv"], "dev": ["dev.csv"]}}
TESTED = {**SOURCE, "splits": {**SOURCE["splits"], "test": ["test.csv"]}}
SQUAD = {**SOURCE, "format": "squad"}
NLI = ["entailment", "neutral", "contradiction"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC"]
CORPORA: dict[str, dict[str, Any]] = {
    "squad": {"label": "SQuAD", "family": "question_answering", "source": SQUAD},
    "swag": {"label": "SWAG", "family": "multiple_choice", "source": SOURCE},
    "mnli": {
        "label": "MNLI",
        "family": "sequence_classification",
        "labels": NLI,
        "metrics": ["accuracy", "f1"],
        "source": SOURCE,
    },
    "snli": {
        "label": "SNLI",
        "family": "sequence_classification",
        "labels": NLI,
        "source": TESTED,
    },
    "cola": {
        "label": "CoLA",
        "family": "sequence_classification",
        "labels": ["no", "yes"],
        "metrics": ["matthews", "accuracy"],
        "source": SOURCE,
    },
    "stsb": {"label": "STS-B", "family": "regression", "source": SOURCE},
    "wnut": {
        "label": "WNUT 2017",
        "family": "token_classification",
        "labels": TAGS,
        "source": {**SOURCE, "format": "conll"},
    },
}
CLASSIFIED_NOTE = "Others found <b>nothing</b>: 50% of_it & more."
"""A note below a table, with characters that every format must escape."""

ITEMS = 120
"""Number of items of each split that is scored; four of them are a cluster."""


def make_targets(
    folder: Path, rows: dict[str, list[tuple[str, list[str]]]], **changes: Any
) -> Experiment:
    """Write an experiment with scored runs and statistics.

    Args:
        folder: folder of the results.
        rows: for each table, the target of each row with the other corpora of its mixture.
        changes: new values of top-level keys of the YAML.
    """
    mixtures: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for table, members in rows.items():
        tables[table] = {"title": f"Table of {table}", "rows": []}
        for target, more in members:
            names = [target, *more]
            label = "+".join(CORPORA[name]["label"] for name in names)
            mixtures["_".join(names)] = {"label": label, "corpora": names, "target": target}
            row = {"encoder": "base", "mixture": "_".join(names), "weight": 0.8 if more else 1.0}
            tables[table]["rows"].append(row)
    used = dict.fromkeys(name for each in mixtures.values() for name in each["corpora"])
    used |= dict.fromkeys(changes.get("evaluate_on", []))
    values: dict[str, Any] = {
        "corpora": {name: CORPORA[name] for name in used},
        "mixtures": mixtures,
        "slices": {},
        "tables": tables,
        "seeds": [1, 2, 3],
        "figures": {
            f"figure_{table}": {"title": f"Figure of {table}", "table": table, "x": "mixture"}
            for table in rows
        },
    }
    experiment = make_experiment(folder, **{**values, **changes})
    for name in experiment.corpora:
        write_corpus(experiment, name)
    for number, run in enumerate(experiment.runs()):
        make_predictions(experiment, run, 0.6 + 0.03 * (number // len(experiment.seeds) % 10))
    records.write(experiment, experiment.tables)
    records.collect(experiment)
    return experiment


def write_corpus(experiment: Experiment, name: str) -> None:
    """Write the splits of a corpus, and its manifest with the digest of `make_run`."""
    corpus = experiment.corpora[name]
    folder = experiment.layout.corpus(name)
    folder.mkdir(parents=True, exist_ok=True)
    splits = [split for split in ("train", "dev", "test") if split in corpus.splits]
    for split in splits:
        rows = [_row(corpus.family, name, split, number) for number in range(ITEMS)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    sizes = {split: {"rows": ITEMS} for split in splits}
    write_json(folder / "manifest.json", {"digest": digest(name), "splits": sizes})


def _row(family: str, name: str, split: str, number: int) -> dict[str, Any]:
    """A row of a corpus; its texts are those of no other row."""
    text = f"{name} {split} {number}"
    if family == "question_answering":
        return {
            "id": text,
            "title": "An article",
            "paragraph": number // 4,
            "context": f"{name} {split} {number // 4}: yes.",
            "question": f"What is {number}?",
            "answer_texts": ["yes"] if number % 2 else [],
            "answer_starts": [0] if number % 2 else [],
        }
    return {"id": text, "sentence1": text, "cluster": f"{split} {number // 4}"}


def make_predictions(experiment: Experiment, run: RunId, skill: float) -> Path:
    """Write and score a finished run whose predictions are right with a probability of `skill`."""
    folder = make_run(experiment, run)
    settings = experiment.resolve(run)
    random = np.random.default_rng(run.seed)
    answers, others = [], []
    splits = {name: ["dev"] for name in settings.corpora}
    for name, more in settings.evaluated.items():
        splits.setdefault(name, []).extend(more)
    for name, each in splits.items():
        corpus = experiment.corpora[name]
        for split in each:
            right = random.random(ITEMS) < skill
            if corpus.family == "question_answering":
                answers += [_answer(name, split, n, bool(right[n])) for n in range(ITEMS)]
            else:
                classes = len(corpus.labels) or 4
                others += [
                    {"corpus": name, "split": split, "row": n}
                    | _prediction(corpus.family, n, bool(right[n]), classes)
                    for n in range(ITEMS)
                ]
    files = RunFolder(folder)
    if answers:
        pq.write_table(pa.Table.from_pylist(answers), files.predictions)
    pq.write_table(pa.Table.from_pylist(others, LABELS), files.auxiliary)
    metrics.write(folder, experiment)
    return folder


def _answer(corpus: str, split: str, number: int, right: bool) -> dict[str, Any]:
    given = right if number % 2 else not right
    return {
        "corpus": corpus,
        "split": split,
        "id": f"{corpus} {split} {number}",
        "answer": "yes",
        "answer_start": 0,
        "answer_end": 3,
        "score": 1.0,
        "null_score": 1.0,
        "null_odds": (-1.0 if given else 1.0) * (1 + number % 7),
    }


def _prediction(family: str, number: int, right: bool, classes: int) -> dict[str, Any]:
    if family == "token_classification":
        gold = [0, 1, 2, 3 * (number % 2)]
        return {"tags": gold, "predicted_tags": gold if right else [0, 1, 0, 0]}
    if family == "regression":
        gold = number % 11 / 2
        return {"label": gold, "prediction": gold if right else 5 - gold / 2}
    label = number % classes
    return {"label": label, "prediction": label if right else (number // 3) % classes}
