"""Digests of finished files: what changes later is named, what may change is left out."""

import pytest

from mtdnn.machine.files import read_json, sha256, write_json
from mtdnn.workflow import checksums
from tests.support.factories import make_experiment, make_run


@pytest.fixture
def finished(tmp_path):
    """An experiment with a run that was delivered to MLflow, and its digests."""
    experiment = make_experiment(tmp_path)
    make_run(experiment, experiment.runs()[0])
    layout = experiment.layout
    write_json(layout.run(experiment.runs()[0]) / "mlflow.json", {"run_id": "a", "uri": "here"})
    write_json(layout.store, {"uri": "here"})
    layout.table("table1", "md").parent.mkdir()
    layout.table("table1", "md").write_text("| EM |")
    (layout.root / "logs").mkdir()
    (layout.root / "logs" / "train.log").write_text("a line")
    checksums.write(experiment)
    return experiment


def test_a_changed_and_a_missing_file_are_named(finished):
    layout = finished.layout
    table, metrics = layout.table("table1", "md"), layout.run(finished.runs()[0]) / "metrics.json"
    recorded = read_json(layout.checksums)
    assert recorded["tables/table1.md"] == sha256(table)
    assert list(checksums.check(finished)) == []
    table.write_text("| F1 |")
    metrics.unlink()
    assert sorted(checksums.check(finished)) == [
        f"{metrics}: is missing; run snakemake again",
        f"{table}: has changed since it was written; delete it and run snakemake again",
    ]


def test_logs_and_another_delivery_to_mlflow_are_no_damage(finished):
    layout = finished.layout
    write_json(layout.run(finished.runs()[0]) / "mlflow.json", {"run_id": "b", "uri": "there"})
    write_json(layout.store, {"uri": "there"})
    (layout.root / "logs" / "train.log").write_text("another line")
    assert list(checksums.check(finished)) == []
