"""Commands for MLflow: their options reach the delivery."""

import os

import pytest

from mtdnn.cli.main import main
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.tracking import delivery
from tests.support.factories import make_experiment


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text(dump_yaml(make_experiment(tmp_path)), encoding="utf-8")
    return str(path)


def test_only_folders_of_runs_are_delivered(file, capsys):
    assert main(["sync", file, "base/qa/w1.0"]) == 2
    error = capsys.readouterr().err
    assert "base/qa/w1.0: not the folder of a run; it has no config.yaml" in error


@pytest.mark.parametrize(("count", "words"), [(1, "1 run\n"), (0, "0 runs\n"), (2, "2 runs\n")])
def test_sync_says_how_many_runs_there_are(monkeypatch, file, capsys, count, words):
    monkeypatch.setattr(delivery, "sync", lambda *_: count)
    assert main(["sync", file]) == 0
    assert capsys.readouterr().out == f"MLflow is up to date with {words}"


def test_sync_reaps_first_and_follows_at_low_priority(monkeypatch, file, capsys):
    called: list[object] = []
    monkeypatch.setattr(os, "nice", lambda by: called.append(("nice", by)))
    monkeypatch.setattr(delivery, "reap", lambda _: ["a run: its process was killed"])
    monkeypatch.setattr(delivery, "follow", lambda _, *options: called.append(options))
    assert main(["sync", file, "--reap", "--follow", "--parent", "7", "--every", "0.5"]) == 0
    assert called == [("nice", 10), ([], 7, 0.5)]
    assert capsys.readouterr().out == "a run: its process was killed\n"
