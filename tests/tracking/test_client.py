"""The MLflow store: created once, restored, refused in one line."""

import json
import multiprocessing
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType

from mtdnn.cli.main import main
from mtdnn.config.layout import RunId
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import Busy, MtdnnError
from mtdnn.machine.files import read_json, write_text
from mtdnn.machine.locking import Lease
from mtdnn.tracking import client as tracking_client
from mtdnn.tracking.client import StoreUnavailable, create_store
from mtdnn.tracking.runs import log_run
from tests.support.factories import make_experiment, make_run
from tests.support.file_server import FileServer

RUN = RunId("base", "qa_sc", 0.8, "default", 1)


def test_deleted_experiment_is_restored(tmp_path):
    experiment = make_experiment(tmp_path)
    client = MlflowClient(experiment.store_uri)
    create_store(experiment)
    first = read_json(experiment.layout.root / "store.json")
    assert first["uri"] == experiment.store_uri
    client.delete_experiment(first["experiment_id"])
    create_store(experiment)
    assert read_json(experiment.layout.root / "store.json") == first
    known = client.get_experiment(first["experiment_id"])
    assert known.lifecycle_stage == "active"
    assert known.tags["mlflow.note.content"].endswith(experiment.notice)


def test_relative_sqlite_store_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = make_experiment(tmp_path, tracking_uri="sqlite:///somewhere/mlflow.db")
    assert experiment.store_uri == f"sqlite:///{tmp_path}/somewhere/mlflow.db"


def test_dead_server_is_one_line_and_quick(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}"
    experiment = make_experiment(tmp_path, tracking_uri=address)
    folder = make_run(experiment, RUN)
    start = time.monotonic()
    with pytest.raises(MtdnnError) as error:
        log_run(experiment, folder)
    assert time.monotonic() - start < 30
    assert len(str(error.value).splitlines()) == 1
    assert "secret" not in str(error.value)
    assert not (folder / "mlflow.json").exists()


EXPERIMENT = {"experiment_id": "1", "name": "small", "lifecycle_stage": "active"}


@pytest.mark.parametrize(
    "answer",
    [
        "<html>log in</html>",
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        {"experiment": []},
        {"experiment": {"experiment_id": {"a": 1}}},
        {"experiment": EXPERIMENT, "runs": 3},
        {"experiment": EXPERIMENT, "runs": [{"info": {"run_id": 7}}]},
        {"experiment": EXPERIMENT, "run": {"info": {"run_id": "a", "status": float("inf")}}},
        {"experiment": EXPERIMENT, "run": {"data": {"metrics": [{"key": 1}]}}},
        {"experiment": EXPERIMENT, "next_page_token": []},
    ],
)
def test_an_answer_of_the_wrong_shape_is_one_line(tmp_path, answer):
    content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()

    def send(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    with FileServer(tmp_path) as server:
        server.answer = send
        experiment = make_experiment(tmp_path, tracking_uri=server.url)
        folder = make_run(experiment, RUN)
        with pytest.raises(StoreUnavailable, match="MLflow failed: ") as error:
            log_run(experiment, folder)
        assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 1_000
        assert not (folder / "mlflow.json").exists()
        if isinstance(answer, str) or answer["experiment"] != EXPERIMENT:
            with pytest.raises(StoreUnavailable, match="MLflow failed: "):
                create_store(experiment)
            assert not experiment.layout.store.exists()


def test_pages_without_an_end_are_not_read_for_ever():
    class Page(list):
        token = "next"

    class Endless:
        def search_runs(self, *_, **__):
            return Page()

    assert list(tracking_client.all_runs(Endless(), "1")) == []


def test_file_that_is_not_a_database_is_one_line(tmp_path):
    write_text(tmp_path / "results" / "mlflow.db", "these are not the tables of a database")
    with pytest.raises(MtdnnError, match="not a database"):
        create_store(make_experiment(tmp_path))


@pytest.mark.slow
def test_many_processes_on_a_fresh_store(tmp_path):
    """Twelve at once, all of which fail if MLflow alone creates the store."""
    experiment = make_experiment(tmp_path)
    folders = [make_run(experiment, run, steps=4) for run in experiment.runs()[:3]]
    path = tmp_path / "experiment.yaml"
    write_text(path, dump_yaml(experiment))
    commands = [["store", str(path)]] * 6
    # Two of them log the same run, and two more every run.
    commands += [["sync", str(path), str(folders[number % 3])] for number in range(4)]
    commands += [["sync", str(path)]] * 2
    # Imports take seconds. Forked from a process that has done them, all begin together.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mtdnn.cli.main", "mtdnn.tracking.runs"])
    with ProcessPoolExecutor(len(commands), mp_context=context) as processes:
        assert list(processes.map(main, commands)) == [0] * 12
    client = MlflowClient(experiment.store_uri)
    known = client.get_experiment_by_name(experiment.experiment)
    every = client.search_runs([known.experiment_id], run_view_type=ViewType.ALL)
    assert len(every) == 3


@pytest.mark.slow
def test_a_store_of_another_folder_is_refused(tmp_path):
    """Artifacts would be written to that folder."""
    experiment = make_experiment(tmp_path / "first")
    create_store(experiment)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    moved = make_experiment(tmp_path / "copy")
    folder = make_run(moved, RUN)
    with pytest.raises(MtdnnError, match=r"mlflow.db: was created for .*first.*; delete it"):
        log_run(moved, folder)
    (tmp_path / "copy" / "results" / "mlflow.db").unlink()
    write_text(tmp_path / "moved.yaml", dump_yaml(moved))
    command = [sys.executable, "-m", "mtdnn", "sync", str(tmp_path / "moved.yaml")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "MLflow is up to date with 1 run\n"


def test_a_failing_database_gives_its_own_reason_and_no_traceback(tmp_path, capfd):
    """MLflow would print a traceback, and sqlalchemy the statement with all its values."""
    experiment = make_experiment(tmp_path)
    create_store(experiment)
    database = experiment.store_uri.removeprefix("sqlite:///")
    with sqlite3.connect(database) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON runs "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    capfd.readouterr()
    with pytest.raises(MtdnnError, match="MLflow failed: database or disk is full; the files of"):
        log_run(experiment, make_run(experiment, RunId("base", "qa", 1.0, "default", 1)))
    assert "Traceback" not in "".join(capfd.readouterr())


class Batches:
    """Notes the calls of `log_batch`."""

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def log_batch(self, run_id: str, **entities: list) -> None:
        assert run_id == "the run"
        self.calls.append(entities)


@pytest.mark.parametrize(
    ("log", "kind", "limit", "entity"),
    [
        (tracking_client.log_metrics, "metrics", 1000, Metric("key", 1.0, 0, 0)),
        (tracking_client.log_params, "params", 100, Param("key", "value")),
        (tracking_client.log_tags, "tags", 100, RunTag("key", "value")),
    ],
)
def test_batches_stay_within_the_limits_of_mlflow(log, kind, limit, entity):
    for count, sizes in ((0, []), (limit, [limit]), (2 * limit + 1, [limit, limit, 1])):
        client = Batches()
        log(client, "the run", [entity] * count)
        assert [len(call[kind]) for call in client.calls] == sizes
        assert all(call.keys() == {kind} for call in client.calls)


def test_who_was_suspended_and_lost_its_turn_logs_nothing(tmp_path):
    client = Batches()
    with Lease(tmp_path / "delivery", "runs are being logged"):
        (tmp_path / "delivery" / "holder.json").write_text('{"process": 8, "host": "far"}')
        with pytest.raises(Busy, match="by process 8 on far, which took over"):
            tracking_client.log_metrics(client, "the run", [Metric("key", 1.0, 0, 0)])
    assert not client.calls
