"""Compares the tables with MLflow: recomputes every cell from MLflow's scores."""

import csv
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.results import read_rows
from mtdnn.machine.files import read_product, write_json
from mtdnn.reporting.escaping import csv_text
from mtdnn.reporting.tables import frame
from mtdnn.tracking import content
from mtdnn.tracking.runs import differences, logged_scores
from mtdnn.tracking.summary import log_summary


def write(experiment: Experiment) -> None:
    """Compare tables and scores with MLflow, log the summary, and write `agreement.json`.

    Raises:
        MtdnnError: a line for each difference, or the store does not answer.
    """
    layout = experiment.layout
    runs = [run for run in experiment.runs() if RunFolder(layout.run(run)).metrics.exists()]
    differing = differences(experiment, [layout.run(run) for run in runs])
    cells = 0
    for name in experiment.tables:
        # Not as text, whose reader changes line breaks within cells.
        shown = _parse(layout.table(name, "csv").read_bytes().decode("utf-8"))
        cells += sum(len(row) for row in shown)
        if not differing:
            differing += _differing_cells(experiment, name, shown)
    if differing:
        raise MtdnnError("\n".join(differing))
    run_id = log_summary(experiment)
    write_json(
        layout.agreement,
        {"runs": len(runs), "tables": list(experiment.tables), "cells": cells, "summary": run_id},
    )


def _differing_cells(
    experiment: Experiment, name: str, shown: list[dict[str, str]]
) -> Iterator[str]:
    """Yield a line for each cell of a table that differs from the cell that MLflow's scores give.

    Args:
        experiment: the experiment.
        name: the table.
        shown: its rows as the table's CSV file has them.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = experiment.model_copy(update={"results": folder})
        for row in experiment.tables[name].own_rows:
            for run in experiment.runs_of(row):
                _copy_as_logged(experiment, experiment.layout.run(run), copy.layout.run(run))
        text = csv_text(frame(copy, name, read_rows(copy, name)))
    path = experiment.layout.table(name, "csv")
    expected = _parse(text)
    if len(shown) != len(expected):
        yield f"{path}: has {len(shown)} rows, not {len(expected)}"
    for number, (cells, expected_cells) in enumerate(zip(shown, expected, strict=False), start=2):
        for key in {**cells, **expected_cells}:
            if cells.get(key) != expected_cells.get(key):
                yield (
                    f"{path}: line {number}: {key}: {cells.get(key)!r} in the table, "
                    f"{expected_cells.get(key)!r} from MLflow"
                )


def _copy_as_logged(experiment: Experiment, run: Path, target: Path) -> None:
    """Write a copy of a run's folder whose scores are those that MLflow holds."""
    if target.exists():
        return
    files = RunFolder(run)
    if not files.metrics.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(run.absolute(), target)
        return
    metrics = read_product(files.metrics)
    logged = logged_scores(experiment, run)
    names = content.scores(metrics).keys()
    for name, path in content.paths(metrics).items():
        if name not in names:
            continue
        *parents, last = path
        parent: Any = metrics
        for key in parents:
            parent = parent[key]
        is_whole = isinstance(parent[last], int)
        value = logged.get(name)
        parent[last] = int(value) if is_whole and value is not None else value
    write_json(RunFolder(target).metrics, metrics)
    if files.failure.exists():
        os.symlink(files.failure.absolute(), RunFolder(target).failure)


def _parse(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
