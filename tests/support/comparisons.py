"""Made-up runs whose rows can be compared: questions, answers and published scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.machine.files import write_text
from tests.support.factories import QA, WEIGHTS, make_experiment, make_run

PUBLISHED = """\
table,encoder,mixture,qa_weight,split,em,f1
table2,bert-base-cased,qa,1.0,dev,73.544,76.18
table2,bert-base-cased,qa_mcc,0.8,dev,73.988,76.754
table2,bert-base-cased,qa_sc,0.8,dev,73.56,76.435
table2,bert-base-cased,qa_mcc_sc,0.8,dev,74.58,77.15
"""
SLICES = {"paper_dev": {"label": "paper dev"}, "first": {"label": "one", "titles": ["Article 1"]}}
PARAGRAPHS, PER_PARAGRAPH = 40, 5


def make_mixtures(folder: Path) -> Experiment:
    """An experiment of three seeds with published scores; table2 compares four mixtures."""
    write_text(folder / "published.csv", PUBLISHED)
    return make_experiment(
        folder, seeds=[1, 2, 3], published=str(folder / "published.csv"), slices=SLICES
    )


def make_variants(folder: Path) -> Experiment:
    """An experiment of three seeds whose table `s` has two mixtures, each with and without `v`."""
    rows = [QA, WEIGHTS[2], {**QA, "variant": "v"}, {**WEIGHTS[2], "variant": "v"}]
    return make_experiment(
        folder,
        seeds=[1, 2, 3],
        variants={"v": {"label": "other", "training": {"span_loss": "mean"}}},
        tables={"s": {"title": "Sensitivity", "rows": rows}},
        figures={},
    )


def make_questions(
    experiment: Experiment, paragraphs: int = PARAGRAPHS, per_paragraph: int = PER_PARAGRAPH
) -> list[dict[str, Any]]:
    """Write the dev split of a made-up SQuAD; every second question is answered "yes"."""
    rows = [
        {
            "id": f"q{paragraph}-{number}",
            "title": f"Article {paragraph % 7}",
            "context": f"Context {paragraph}",
            "question": f"What is number {number}?",
            "answer_texts": ["yes"] if number % 2 else [],
        }
        for paragraph in range(paragraphs)
        for number in range(per_paragraph)
    ]
    path = experiment.layout.corpus("squad") / "dev.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return rows


def answer(experiment: Experiment, run: RunId, rows: list[dict[str, Any]], right: Any) -> Path:
    """Write a finished run that answers a question correctly where `right` is true."""
    folder = make_run(experiment, run, em=100 * float(np.mean(right)))
    predictions = [
        {
            "corpus": "squad",
            "split": "dev",
            "id": row["id"],
            "answer": "yes" if good else "no",
            "null_odds": 1.0 if good and not row["answer_texts"] else -1.0,
        }
        for row, good in zip(rows, right, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(predictions[::-1]), RunFolder(folder).predictions)
    return folder


def make_runs(
    experiment: Experiment, table: str, effects: list[float], seed: int = 0
) -> dict[RunId, Any]:
    """Write the runs of a table's rows; `effects` are their probabilities of a correct answer.

    Returns:
        For each run, which questions it answers correctly.
    """
    rows, random = make_questions(experiment), np.random.default_rng(seed)
    luck, right = random.random(len(rows)), {}
    for row, effect in zip(experiment.tables[table].rows, effects, strict=True):
        for run in experiment.runs_of(row):
            own = np.where(random.random(len(rows)) < 0.2, random.random(len(rows)), luck)
            right[run] = own < effect
            answer(experiment, run, rows, right[run])
    return right


def comparison(
    entry: dict[str, Any], kind: str, end: str, slice_name: str = "paper_dev"
) -> dict[str, Any]:
    """The one comparison of this kind whose second row trains on the mixture `end`."""
    (found,) = [
        each
        for each in entry["comparisons"]
        if each["kind"] == kind and f"/{end}/" in each["to"] and each["slice"] == slice_name
    ]
    return found
