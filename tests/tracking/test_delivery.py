"""Runs are delivered whole and once, however their training ends."""

import math
import os
import shutil
import subprocess

import pytest

from mtdnn.cli.main import main
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import write_json, write_text
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.tracking import delivery, runs
from mtdnn.tracking.client import StoreUnavailable
from mtdnn.training.loop import train
from tests.support.factories import make_experiment, make_run
from tests.support.journals import journal_line, make_journal
from tests.support.tracked_run import TrackedRun, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return make_store(tmp_path_factory.mktemp("store"))


def test_a_failed_run_is_marked_failed_with_its_reason_and_can_be_resumed(
    store, tmp_path, monkeypatch
):
    tracked, whole, count = TrackedRun(tmp_path, store), MultiTaskModel.loss, [0]

    def broken(self, name, batch):
        count[0] += 1
        return whole(self, name, batch) * (math.nan if count[0] == 6 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(MultiTaskModel, "loss", broken)
        with pytest.raises(MtdnnError, match="loss nan"):
            tracked.train()
    tracked.sync()
    failed = tracked.only_run()
    assert failed.info.status == "FAILED" and "loss nan" in failed.data.tags["failure"]
    assert len(tracked.history("learning_rate")) == 5  # those before the failure
    tracked.train()
    tracked.sync()
    assert tracked.only_run().info.run_id == failed.info.run_id
    assert tracked.only_run().info.status == "FINISHED"
    tracked.assert_exact()


def test_a_run_without_a_journal_is_delivered_when_it_is_finished(store, tmp_path, capsys):
    tracked = TrackedRun(tmp_path, store)
    (tracked.run_dir / "journal.jsonl").mkdir()
    assert main(["train", str(tracked.run_dir), "--threads", "1"]) == 0
    assert "without a journal" in capsys.readouterr().err
    write_json(tracked.run_dir / "metrics.json", {"em": 1.0, "f1": 2.0, "slices": {}})
    tracked.sync()
    tracked.assert_exact()
    assert tracked.only_run().info.status == "FINISHED"


def test_changed_settings_leave_the_run_that_was_logged_alone(store, tmp_path):
    """Until training under other settings begins, the journal is still the old one."""
    tracked = TrackedRun(tmp_path, store)
    tracked.train()
    tracked.sync()
    before = tracked.only_run()
    other = tracked.run.model_copy(update={"seed": 2})
    write_text(tracked.run_dir / "config.yaml", dump_yaml(other))
    (tracked.run_dir / "model" / "run.json").unlink()
    tracked.sync()
    assert tracked.only_run().data.params == before.data.params
    train(tracked.run_dir, other, threads=1)
    tracked.sync()
    assert [run.data.params["seed"] for run in tracked.logged_runs()] == ["2", "1"]
    assert all(run.info.status == "FINISHED" for run in tracked.logged_runs())


def test_runs_whose_folder_is_missing_are_ended(store, tmp_path):
    tracked = TrackedRun(tmp_path, store)
    with pytest.raises(KeyboardInterrupt), make_journal(tracked.run_dir) as begun:
        begun.add([journal_line(0)])
        tracked.sync()
        assert tracked.only_run().info.status == "RUNNING"
        raise KeyboardInterrupt
    moved = tmp_path / "elsewhere"
    shutil.move(tracked.run_dir, moved)
    (found,) = delivery.reap(tracked.experiment)
    assert "is no longer in" in found
    assert tracked.only_run().info.status == "KILLED"


def test_a_damaged_run_does_not_keep_others_from_being_ended(store, tmp_path):
    tracked = TrackedRun(tmp_path, store)
    shutil.copytree(tracked.run_dir, damaged := tracked.run_dir.with_name("seed0"))
    write_text(damaged / "metrics.json", "{")
    with make_journal(tracked.run_dir, steps=3) as journal:
        journal.add([journal_line(0)])
        running = (tracked.run_dir / "journal.jsonl").read_text()
    write_text(tracked.run_dir / "journal.jsonl", running)  # as if its process had been killed
    first, second = delivery.reap(tracked.experiment)
    assert first.startswith(f"{damaged / 'metrics.json'}: not readable as JSON")
    assert second.startswith(f"{tracked.run_dir}: process ") and second.endswith("was killed")


def test_scores_written_during_a_delivery_come_with_the_next_one(store, tmp_path, monkeypatch):
    tracked = TrackedRun(tmp_path, store)
    tracked.train()
    log_artifacts = runs._log_artifacts

    def scored_meanwhile(*arguments):
        log_artifacts(*arguments)
        write_json(tracked.run_dir / "metrics.json", {"em": 1.0, "f1": 2.0, "slices": {}})

    monkeypatch.setattr(runs, "_log_artifacts", scored_meanwhile)
    tracked.sync()
    assert not tracked.history("em")
    tracked.sync()
    tracked.assert_exact()
    assert tracked.history("em")


# --- following -------------------------------------------------------------------------------


class Passes:
    """Replaces the passes of a delivery; each fails or succeeds as told."""

    def __init__(self, monkeypatch, *errors: Exception | None):
        self._errors = list(errors)
        self.pauses: list[float] = []
        self.damaged: list[str] = []
        monkeypatch.setattr(delivery, "_Delivery", lambda *_: self)
        monkeypatch.setattr(delivery, "_ends_within", self._pause)

    def once(self) -> None:
        if error := self._errors.pop(0):
            raise error

    @property
    def is_done(self) -> bool:
        return not self._errors

    def _pause(self, seconds: float, _: int | None) -> bool:
        self.pauses.append(seconds)
        return False


def test_a_store_that_does_not_answer_is_asked_less_often(monkeypatch, capsys):
    down = StoreUnavailable("the store is down")
    passes = Passes(monkeypatch, None, down, down, down, None, down, None)
    delivery.follow(None, None, None, every=50.0)
    assert passes.pauses == [50, 100, 120, 120, 50, 100]
    said = ["mtdnn: the store is down", "mtdnn: the store answers again"]
    assert capsys.readouterr().err.splitlines() == 2 * said


def test_following_waits_for_a_store_even_if_all_runs_are_scored(monkeypatch):
    down = StoreUnavailable("the store is down")
    passes = Passes(monkeypatch, down, None)
    monkeypatch.setattr(Passes, "is_done", True)
    delivery.follow(None, None, None, every=1.0)
    assert passes.pauses == [2]


def test_the_end_of_a_process_is_noticed():
    process = subprocess.Popen(["sleep", "600"])
    try:
        assert not delivery._ends_within(0.01, process.pid)
    finally:
        process.kill()
    assert delivery._ends_within(60, process.pid)  # a zombie, as nobody has requested its status
    process.wait()
    assert delivery._ends_within(60, process.pid)
    assert not delivery._ends_within(0.01, None)
    assert not delivery._ends_within(0.01, os.getpid())


# --- passes over several runs ----------------------------------------------------------------


def test_a_damaged_run_does_not_stop_the_others(tmp_path):
    experiment = make_experiment(tmp_path)
    folders = [make_run(experiment, run, steps=4) for run in experiment.runs()[:3]]
    write_text(folders[1] / "config.yaml", "encoder: [")
    with pytest.raises(MtdnnError) as error:
        delivery.sync(experiment, folders)
    assert str(folders[1]) in str(error.value)
    assert [(folder / "mlflow.json").exists() for folder in folders] == [True, False, True]


def test_a_pass_ends_when_the_store_fails_twice(tmp_path, monkeypatch):
    experiment = make_experiment(tmp_path)
    for run in experiment.runs()[:4]:
        make_run(experiment, run, steps=4)
    asked = []

    def fail(_, folder, __):
        asked.append(folder)
        raise StoreUnavailable("the store is down")

    monkeypatch.setattr(delivery._Delivery, "_deliver", fail)
    with pytest.raises(StoreUnavailable):
        delivery.sync(experiment)
    assert len(asked) == 2


def test_runs_that_have_not_begun_are_not_counted(tmp_path):
    assert delivery.sync(make_experiment(tmp_path)) == 0
    assert not (tmp_path / "results" / "mlflow.db").exists()
