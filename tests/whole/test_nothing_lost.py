"""A finished run keeps its files until something better replaces them, all at once."""

import json
import shutil
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from mtdnn.config.layout import Layout, RunFolder
from mtdnn.machine.locking import Lease
from tests.support.forking import environment
from tests.support.processes import begin
from tests.support.tiny import make_run_folder

SETTINGS = {"weight": 0.5, "rows": 24, "training": {"epochs": 1, "batch_size": 8}}


def call(command: str, run_dir: Path, *options: str) -> subprocess.CompletedProcess:
    threads = () if command == "schedule" else ("--threads", "1")
    return subprocess.run(
        [sys.executable, "-m", "mtdnn", command, str(run_dir), *threads, *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def contents(run_dir: Path) -> dict[str, bytes]:
    """The run's files, without its journal, which training restarts, and a recorded failure."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(run_dir.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", "failure.json")
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run that is trained, evaluated, and (for these tests) scored."""
    run_dir, _ = make_run_folder(tmp_path_factory.mktemp("done"), **SETTINGS)
    for command in ("train", "evaluate"):
        answer = call(command, run_dir)
        assert answer.returncode == 0, answer.stderr
    RunFolder(run_dir).metrics.write_text('{"em": 1.0}')
    return run_dir


@pytest.fixture
def finished(done, tmp_path):
    root = Layout.of_run(done).root
    shutil.copytree(root, tmp_path / root.name)
    return tmp_path / root.name / done.relative_to(root)


def change_settings(run_dir: Path) -> None:
    """Another learning rate: the run is to be trained again."""
    config = RunFolder(run_dir).config
    text = config.read_text()
    assert "learning_rate: 3.0e-05" in text
    config.write_text(text.replace("learning_rate: 3.0e-05", "learning_rate: 0.001"))


@pytest.mark.parametrize("command", ["schedule", "train", "evaluate"])
def test_a_step_that_is_up_to_date_says_so_and_changes_nothing(finished, command):
    before = contents(finished)
    answer = call(command, finished)
    assert answer.returncode == 0, answer.stderr
    assert "up to date" in answer.stderr + answer.stdout
    assert contents(finished) == before


@pytest.mark.parametrize("command", ["schedule", "train", "evaluate"])
def test_a_refused_command_changes_nothing(finished, command):
    before = contents(finished)
    with Lease(Layout.of_run(finished).lease(finished), "the run is being trained"):
        answer = call(command, finished, "--force")
    assert answer.returncode == 2
    assert "the run is being trained by process" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert contents(finished) == before


def test_another_schedule_is_refused_while_the_old_model_exists(finished):
    config = RunFolder(finished).config
    config.write_text(config.read_text().replace("epochs: 1", "epochs: 2"))
    before = contents(finished)
    answer = call("schedule", finished)
    assert answer.returncode == 2 and "use --force to remove" in answer.stderr
    assert contents(finished) == before
    assert call("schedule", finished, "--force").returncode == 0
    left = contents(finished)
    assert left["schedule.parquet"] != before["schedule.parquet"]
    assert not {"model/run.json", "training.jsonl", "predictions.parquet", "metrics.json"} & {*left}


def test_retraining_replaces_model_log_and_schedule_and_removes_what_followed(finished):
    change_settings(finished)
    before = contents(finished)
    answer = call("train", finished)
    assert answer.returncode == 0, answer.stderr
    after = contents(finished)
    for name in ("model/model.safetensors", "model/run.json", "training.jsonl"):
        assert after[name] != before[name]
    assert {*before} - {*after} == {"predictions.parquet", "auxiliary.parquet", "metrics.json"}


def test_training_again_with_force_gives_the_same_and_keeps_its_scores(finished):
    before = contents(finished)
    assert call("train", finished, "--force").returncode == 0
    after = contents(finished)
    same = [name for name in before if name not in ("model/run.json", "training.jsonl")]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


FULL = """
import errno, os, sys
from mtdnn.machine import staging
def full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
staging.flush = full
from mtdnn.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_full_disk_leaves_the_finished_run(finished, command):
    change_settings(finished)
    if command == "evaluate":  # the settings of the predictions alone
        text = RunFolder(finished).config.read_text()
        RunFolder(finished).config.write_text(text.replace("n_best: 20", "n_best: 10"))
    before = contents(finished)
    arguments = [sys.executable, "-c", FULL, command, str(finished), "--threads", "1"]
    answer = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 2 and "No space left on device" in answer.stderr
    assert contents(finished) == before
    assert json.loads(RunFolder(finished).failure.read_text())["step"] == command
    assert call(command, finished).returncode == 0
    assert not RunFolder(finished).failure.exists()


@pytest.mark.parametrize("late", ["training.jsonl", ".old"])
def test_training_finishes_what_a_kill_left_half_done(finished, late):
    """The new model has its place, so the run must not pass for up to date."""
    change_settings(finished)
    old = contents(finished)
    assert call("train", finished).returncode == 0
    new = contents(finished)
    waiting = finished / ".ready" / late  # a file that waits, or an old one that is to be removed
    waiting.parent.mkdir()
    if late in new:
        (finished / late).rename(waiting)
        (finished / late).write_bytes(old[late])
    else:
        waiting.mkdir()
        (waiting / "model.safetensors").write_bytes(b"old")
    answer = call("train", finished)
    assert answer.returncode == 0, answer.stderr
    assert contents(finished) == new


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_run(finished):
    """The old one or the new one, never parts of both."""
    change_settings(finished)
    old = contents(finished)
    new = None

    def begin_training(folder: Path) -> BaseProcess:
        return begin("train", str(folder), "--threads", "1")

    whole = shutil.copytree(finished, finished.parent / "seed100")
    began = time.monotonic()
    begin_training(whole).join()
    seconds = time.monotonic() - began
    assert contents(whole) != old
    for moment in range(8):
        run_dir = shutil.copytree(finished, finished.parent / f"seed{101 + moment}")
        process = begin_training(run_dir)
        time.sleep(seconds * (moment + 0.5) / 8)
        process.kill()
        process.join()
        left = {
            k: v for k, v in contents(run_dir).items() if not k.startswith((".draft", ".ready"))
        }
        if left != old:
            new = left
            assert "metrics.json" not in left or left["model/run.json"] == old["model/run.json"]
        answer = call("train", run_dir)
        assert answer.returncode == 0, answer.stderr
        after = contents(run_dir)
        assert not any(name.startswith(".") for name in after)
        assert after["model/model.safetensors"] != old["model/model.safetensors"]
        assert "metrics.json" not in after
    assert new is None or new["model/model.safetensors"] != old["model/model.safetensors"]
