"""A process is stopped for longer than any time-out, and then continued: never two writers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mtdnn.config.layout import Layout
from mtdnn.training.journal import Record
from mtdnn.training.loop import train
from tests.support.interrupted import assert_same, fresh, outcome
from tests.support.tracked_run import PATIENCE_SECONDS, wait_until

# `mtdnn` on a machine of its own (no kernel lock reaches another one), with quick beats and steps
# that take a while.
ELSEWHERE = """
import errno, fcntl, sys, time
from mtdnn.machine import locking
machine, pause = sys.argv[1], float(sys.argv[2])
locking.machine = lambda: machine
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
locking.BEAT_SECONDS, locking.STALE_SECONDS = 0.1, 1.5
locking.SETTLE_SECONDS, locking.POLL_SECONDS = 0.2, 0.05
from mtdnn.cli.main import main
from mtdnn.evaluation import predictions
from mtdnn.training import loop
slow, answer = loop.random_state, predictions.answer
def random_state(*arguments):
    time.sleep(pause)
    slow(*arguments)
loop.random_state = random_state
def slowly(*arguments):
    print("answering", flush=True)
    time.sleep(pause)
    return answer(*arguments)
predictions.answer = slowly
sys.exit(main(sys.argv[3:]))
"""


def begin(machine: str, pause: float, *command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, machine, str(pause), *command, "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def record(run_dir: Path) -> Record:
    found = Record(run_dir)
    found.read()
    return found


def contents(run_dir: Path) -> dict[str, bytes]:
    root = Layout.of_run(run_dir).root
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refused(process: subprocess.Popen) -> None:
    said = process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert process.returncode == 2, said
    assert "which took over because this process was suspended" in said.splitlines()[-1]
    assert "Traceback" not in said


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir, run = fresh(tmp_path_factory.mktemp("undisturbed"))
    train(run_dir, run, threads=1)
    return run_dir


@pytest.mark.parametrize("continued", ["during", "after"])
def test_a_training_process_that_was_suspended_leaves_the_run_to_the_next(
    tmp_path, undisturbed, continued
):
    run_dir, _ = fresh(tmp_path)
    command = ("train", str(run_dir), "--checkpoint-minutes", "0")
    first = begin("one", 0.05, *command)
    second = None
    try:
        wait_until(lambda: record(run_dir).steps >= 10, "training does not begin")
        first.send_signal(signal.SIGSTOP)
        second = begin("two", 0.05 if continued == "during" else 0.0, *command)
        if continued == "during":
            wait_until(lambda: record(run_dir).parts == 2, "nobody takes the run over")
        else:
            said = second.communicate(timeout=PATIENCE_SECONDS)[1]
            assert second.returncode == 0, said
        before = contents(run_dir)
        first.send_signal(signal.SIGCONT)
        refused(first)
        if continued == "during":
            said = second.communicate(timeout=PATIENCE_SECONDS)[1]
            assert second.returncode == 0, said
        else:
            assert contents(run_dir) == before
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.wait()
    assert_same(outcome(run_dir), outcome(undisturbed))
    found = record(run_dir)
    assert (found.parts, found.status, found.complete) == (2, "FINISHED", True)
    numbers = [json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines()]
    assert [line["part"] for line in numbers if "part" in line] == [1, 2]
    assert not (run_dir / "failure.json").exists()


def test_a_suspended_evaluation_does_not_replace_what_came_after_it(undisturbed):
    first = begin("one", 3.0, "evaluate", str(undisturbed))
    second = None
    try:
        assert first.stdout.readline() == "answering\n"
        first.send_signal(signal.SIGSTOP)
        second = begin("two", 0.0, "evaluate", str(undisturbed))
        said = second.communicate(timeout=PATIENCE_SECONDS)[1]
        assert second.returncode == 0, said
        before = contents(undisturbed)
        os.kill(first.pid, signal.SIGCONT)
        refused(first)
        after = {k: v for k, v in contents(undisturbed).items() if "/.draft/" not in k}
        assert after == before
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.wait()
