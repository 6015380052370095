"""Journals reach MLflow whole and once, whatever becomes of the server or of the training."""

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mtdnn.cli.main import main
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import write_json, write_text
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.tracking import client, content, delivery
from mtdnn.tracking import runs as tracking
from mtdnn.tracking.content import Curves, Source
from mtdnn.training.journal import Journal, Record
from mtdnn.training.loop import train
from tests.support.mlflow_server import Proxy, Server
from tests.support.tiny import make_run_folder, make_tiny_experiment

MIXTURE = {"mixture": "squad_cola", "qa_weight": 0.5}
TABLES = {"t": {"title": "t", "rows": [{"encoder": "tiny", **MIXTURE}]}}
PATIENCE_SECONDS = 300


class Room:
    """An experiment of one run that is ready for training."""

    def __init__(self, folder: Path, uri: str, epochs: int = 2, rows: int = 40):
        settings = {"experiment": f"e-{folder.name}"[:50], "tracking_uri": uri, "tables": TABLES}
        settings["training"] = {"epochs": epochs, "batch_size": 4}
        self.experiment = make_tiny_experiment(folder, **settings)
        self.run_dir, self.run = make_run_folder(folder, rows=rows, **MIXTURE, **settings)
        self.config = folder / "experiment.yaml"
        write_text(self.config, dump_yaml(self.experiment))
        self.client = MlflowClient(self.experiment.store_uri)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mtdnn", *arguments]

    def begin_training(self, *options: str) -> subprocess.Popen:
        command = self.command("train", str(self.run_dir), "--threads", "1", *options)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def train(self) -> None:
        train(self.run_dir, self.run, threads=1)

    def sync(self) -> None:
        delivery.sync(self.experiment)

    @property
    def record(self) -> Record:
        record = Record(self.run_dir)
        record.read()
        return record

    def runs(self) -> list:
        known = self.client.get_experiment_by_name(self.experiment.experiment)
        return self.client.search_runs([known.experiment_id])

    def only_run(self):
        (run,) = self.runs()
        return run

    def history(self, key: str) -> list:
        return self.client.get_metric_history(self.only_run().info.run_id, key)

    def assert_exact(self) -> None:
        """MLflow holds each point of the finished training, once, in order."""
        lines = [json.loads(line) for line in (self.run_dir / "training.jsonl").open()]
        expected = Counter(f"loss/{line['corpus']}" for line in lines)
        expected |= dict.fromkeys(("learning_rate", "grad_norm"), len(lines))
        for key, steps in expected.items():
            assert len(self.history(key)) == min(steps, content.MAX_POINTS), key
        everything = [
            (key, point.value, point.timestamp, point.step)
            for key in self.only_run().data.metrics
            for point in self.history(key)
        ]
        source = Source(self.run_dir)
        assert sorted(everything) == sorted([*map(tuple, source.read()), *source.scores()])
        for key in expected:
            steps = [point.step for point in self.history(key)]
            assert steps == sorted(set(steps))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """A store that was made once: its migrations take seconds."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client.create_store(make_tiny_experiment(folder, tracking_uri=uri))
    return uri


@pytest.fixture(scope="module")
def server(store, tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server"), store) as running:
        yield running


@pytest.fixture
def proxy(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with Proxy(server) as running:
        yield running


def until(condition, what: str):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# --- the journal -----------------------------------------------------------------------------


def about(steps: int, fingerprint: str = "f") -> dict:
    started = "2026-01-02T03:04:05+00:00"
    return {"fingerprint": fingerprint, "started": started, "corpora": {"squad": steps}}


def line(step: int) -> dict:
    return {"step": step, "corpus": "squad", "loss": 1 / (step + 1), "lr": 0.1, "seconds": step}


def journal(folder: Path, steps: int = 20, **changes) -> Journal:
    return Journal(folder, {**about(steps), **changes}, lambda: {"memory_mib": 1.0})


@pytest.mark.parametrize("steps", [5, 10, 11, 29, 30, 101])
def test_curves_are_the_same_live_and_afterwards(monkeypatch, steps):
    monkeypatch.setattr(content, "MAX_POINTS", 10)
    draw = random.Random(steps)
    lines = [{**line(step), "corpus": draw.choice(["a", "b"])} for step in range(steps)]
    counts = Counter(each["corpus"] for each in lines)
    whole = list(Curves(counts, 0).add(lines))
    live, pieces = Curves(counts, 0), []
    while lines:
        size = draw.randint(1, 7)
        pieces += live.add(lines[:size])
        assert pieces == whole[: len(pieces)]
        lines = lines[size:]
    assert pieces == whole
    found = Counter(point.key for point in whole)
    expected = {f"loss/{name}": min(count, 10) for name, count in counts.items()}
    assert found == {**expected, "learning_rate": min(steps, 10)}


# --- how a training ends ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_training_is_killed_and_continues_the_same_run(store, tmp_path):
    room = Room(tmp_path, store, epochs=30)
    ids = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = room.begin_training("--checkpoint-minutes", "0.005")
        parts, steps = room.record.parts, room.record.steps
        until(lambda n=parts: room.record.parts > n, "no part")
        until(lambda n=steps: room.record.steps > n + 30, "no steps")
        room.sync()
        ids.append(room.only_run().info.run_id)
        assert room.only_run().info.status == "RUNNING"
        assert delivery.reap(room.experiment) == []  # it lives
        assert len(room.history("learning_rate")) >= 30
        process.send_signal(number)
        process.wait(timeout=60)
        room.sync()
        if number == signal.SIGKILL:
            assert room.only_run().info.status == "RUNNING"  # nobody could say otherwise
            (found,) = delivery.reap(room.experiment)
            assert f"process {process.pid} on" in found and "was killed" in found
        assert room.only_run().info.status == "KILLED"
    room.train()
    room.sync()
    assert room.only_run().info.status == "FINISHED"
    assert "failure" not in room.only_run().data.tags
    assert set(ids) == {room.only_run().info.run_id}
    room.assert_exact()
    assert delivery.reap(room.experiment) == []


def test_a_failed_training_is_failed_with_its_reason_and_can_be_mended(
    store, tmp_path, monkeypatch
):
    room, whole, count = Room(tmp_path, store), MultiTaskModel.loss, [0]

    def broken(self, name, batch):
        count[0] += 1
        return whole(self, name, batch) * (math.nan if count[0] == 6 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(MultiTaskModel, "loss", broken)
        with pytest.raises(MtdnnError, match="loss nan"):
            room.train()
    room.sync()
    failed = room.only_run()
    assert failed.info.status == "FAILED" and "loss nan" in failed.data.tags["failure"]
    assert len(room.history("learning_rate")) == 5  # what was before it is there
    room.train()
    room.sync()
    assert room.only_run().info.run_id == failed.info.run_id
    assert room.only_run().info.status == "FINISHED"
    room.assert_exact()


def test_a_training_without_a_journal_is_delivered_when_it_is_finished(store, tmp_path, capsys):
    room = Room(tmp_path, store)
    (room.run_dir / "journal.jsonl").mkdir()
    assert main(["train", str(room.run_dir), "--threads", "1"]) == 0
    assert "training continues without a journal" in capsys.readouterr().err
    write_json(room.run_dir / "metrics.json", {"em": 1.0, "f1": 2.0, "slices": {}})
    room.sync()
    room.assert_exact()
    assert room.only_run().info.status == "FINISHED"


def test_changed_settings_leave_the_run_that_was_logged_alone(store, tmp_path):
    """Between the first step under other settings and the training the old journal still lies."""
    room = Room(tmp_path, store)
    room.train()
    room.sync()
    before = room.only_run()
    other = room.run.model_copy(update={"seed": 2})
    write_text(room.run_dir / "config.yaml", dump_yaml(other))
    (room.run_dir / "model" / "run.json").unlink()
    room.sync()
    assert room.only_run().data.params == before.data.params
    train(room.run_dir, other, threads=1)
    room.sync()
    assert [run.data.params["seed"] for run in room.runs()] == ["2", "1"]
    assert all(run.info.status == "FINISHED" for run in room.runs())


def test_runs_whose_folder_is_gone_are_ended(store, tmp_path):
    room = Room(tmp_path, store)
    with pytest.raises(KeyboardInterrupt), journal(room.run_dir) as begun:
        begun.add([line(0)])
        room.sync()
        assert room.only_run().info.status == "RUNNING"
        raise KeyboardInterrupt
    moved = tmp_path / "elsewhere"
    shutil.move(room.run_dir, moved)
    (found,) = delivery.reap(room.experiment)
    assert "is no longer in" in found
    assert room.only_run().info.status == "KILLED"


# --- the server ------------------------------------------------------------------------------


@pytest.mark.slow
def test_lost_answers_make_no_point_twice(proxy, tmp_path):
    room = Room(tmp_path, proxy.address)
    room.train()
    for mood in ("lose", "500", "drop", "lose", 8.0):
        proxy.mood = mood
        with pytest.raises(client.Away):
            room.sync()
    proxy.mood = None
    room.sync()
    room.assert_exact()
    before = dict(proxy.writes)
    room.sync()
    searching = {name: count for name, count in proxy.writes.items() if name != "search"}
    assert searching == {name: count for name, count in before.items() if name != "search"}


@pytest.mark.slow
def test_a_training_goes_on_whatever_the_server_does(server, proxy, tmp_path):
    """Killed and restarted, slow, 500, answers that are lost: all of it under a real training."""
    room = Room(tmp_path, proxy.address, epochs=60, rows=60)
    training = room.begin_training()
    until(lambda: room.record.steps > 30, "no steps")
    training.send_signal(signal.SIGSTOP)  # until it is followed
    command = room.command("sync", str(room.config), "--follow", "--every", "0.2")
    follower = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: proxy.writes.get("log-batch"), "nothing was delivered")
        training.send_signal(signal.SIGCONT)
        for mood in (0.5, "lose", "500", "drop"):
            proxy.mood = mood
            steps = room.record.steps
            until(lambda n=steps: room.record.steps > n + 30, "training stands still")
            proxy.mood = None
        server.kill()
        steps = room.record.steps
        until(lambda: room.record.steps > steps + 100, "training stands still")
        server.start()
        assert training.wait(timeout=PATIENCE_SECONDS) == 0
        write_json(room.run_dir / "metrics.json", {"em": 1.0, "f1": 2.0, "slices": {}})
        said = follower.communicate(timeout=PATIENCE_SECONDS)[1]
    finally:
        for process in (training, follower):
            process.kill()
            process.wait()
    assert follower.returncode == 0
    assert "MLflow failed" in said and "answers again" in said and "Traceback" not in said
    assert room.only_run().info.status == "FINISHED"
    room.assert_exact()
    assert len(room.history("learning_rate")) == content.MAX_POINTS  # averaged, and still exact


def test_scores_that_come_during_a_delivery_are_delivered_next(store, tmp_path, monkeypatch):
    room = Room(tmp_path, store)
    room.train()
    log_artifacts = tracking._log_artifacts

    def scored_meanwhile(*arguments):
        log_artifacts(*arguments)
        write_json(room.run_dir / "metrics.json", {"em": 1.0, "f1": 2.0, "slices": {}})

    monkeypatch.setattr(tracking, "_log_artifacts", scored_meanwhile)
    room.sync()
    assert not room.history("em")
    room.sync()
    room.assert_exact()
    assert room.history("em")


@pytest.mark.slow
def test_deliverers_of_the_same_run_take_turns(server, tmp_path):
    room = Room(tmp_path, server.address)
    room.train()
    processes = [subprocess.Popen(room.command("sync", str(room.config))) for _ in range(3)]
    assert [process.wait(timeout=PATIENCE_SECONDS) for process in processes] == [0] * 3
    room.assert_exact()


@pytest.mark.slow
def test_following_ends_with_the_process_that_it_was_started_for(store, tmp_path):
    room = Room(tmp_path, store)
    parent = subprocess.Popen(["sleep", "600"])
    command = room.command("sync", str(room.config), "--follow", "--parent", str(parent.pid))
    follower = subprocess.Popen(command)
    try:
        time.sleep(0.2)
        assert follower.poll() is None
        room.train()
        parent.kill()
        parent.wait()
        assert follower.wait(timeout=60) == 0
    finally:
        for process in (parent, follower):
            process.kill()
            process.wait()
    room.assert_exact()  # the last pass
