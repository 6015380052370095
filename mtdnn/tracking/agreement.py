"""Does MLflow hold what the tables show? Every cell is computed once more from its scores."""

import copy
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
from mtdnn.machine.files import read_json, write_json
from mtdnn.reporting.tables import frame
from mtdnn.tracking import content
from mtdnn.tracking.runs import differences, logged_scores
from mtdnn.tracking.summary import log_summary


def write(experiment: Experiment) -> None:
    """Compare tables and scores with MLflow, log the summary, and write `agreement.json`.

    Raises:
        MtdnnError: a line for each difference, or MLflow does not answer.
    """
    layout = experiment.layout
    runs = [run for run in experiment.runs() if RunFolder(layout.run(run)).metrics.exists()]
    differing = differences(experiment, [layout.run(run) for run in runs])
    cells = 0
    for name in experiment.tables:
        found = _rows(layout.table(name, "csv").read_text(encoding="utf-8"))
        cells += sum(len(row) for row in found)
        if not differing:
            differing += _in_table(experiment, name, found)
    if differing:
        raise MtdnnError("\n".join(differing))
    run_id = log_summary(experiment)
    write_json(
        layout.agreement,
        {"runs": len(runs), "tables": list(experiment.tables), "cells": cells, "summary": run_id},
    )


def _in_table(experiment: Experiment, name: str, found: list[dict[str, str]]) -> Iterator[str]:
    """Where a table differs from the one that MLflow's scores give."""
    with tempfile.TemporaryDirectory() as room:
        other = experiment.model_copy(update={"results": room})
        for row in experiment.tables[name].rows:
            for run in experiment.runs_of(row):
                _as_in_mlflow(experiment, experiment.layout.run(run), other.layout.run(run))
        text = frame(other, name, read_rows(other, name)).to_csv(index=False)
    place = experiment.layout.table(name, "csv")
    expected = _rows(text)
    if len(found) != len(expected):
        yield f"{place}: has {len(found)} rows, not {len(expected)}"
    for number, (row, wanted) in enumerate(zip(found, expected, strict=False), start=2):
        for key in {**row, **wanted}:
            if row.get(key) != wanted.get(key):
                yield (
                    f"{place}: line {number}: {key}: {row.get(key)!r} in the table, "
                    f"{wanted.get(key)!r} from MLflow"
                )


def _as_in_mlflow(experiment: Experiment, run: Path, target: Path) -> None:
    """A run's folder whose scores are those that MLflow holds."""
    if target.exists():
        return
    if not RunFolder(run).metrics.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(run.absolute(), target)
        return
    metrics = copy.deepcopy(read_json(RunFolder(run).metrics))
    logged = logged_scores(experiment, run)
    for name, path in content.paths(metrics).items():
        *parents, last = path
        place: Any = metrics
        for key in parents:
            place = place.get(key) or {}
        if name in content.scores(metrics):
            whole = isinstance(place[last], int)
            value = logged.get(name)
            place[last] = int(value) if whole and value is not None else value
    write_json(RunFolder(target).metrics, metrics)
    if RunFolder(run).failure.exists():
        os.symlink(RunFolder(run).failure.absolute(), RunFolder(target).failure)


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))
