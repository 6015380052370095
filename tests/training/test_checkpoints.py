"""Interrupted runs end like undisturbed ones."""

import os
import random
import signal
import time
from multiprocessing.process import BaseProcess

import pytest

from mtdnn.errors import Busy
from mtdnn.machine.files import read_json
from mtdnn.machine.locking import Lease
from mtdnn.training import loop
from mtdnn.training.checkpoints import CHECKPOINTS_KEPT, Checkpoints
from mtdnn.training.loop import train
from mtdnn.training.stopping import Stopped
from tests.support.interrupted import assert_same, fresh, outcome, states, stop_after
from tests.support.processes import begin


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir, run = fresh(tmp_path_factory.mktemp("undisturbed"))
    train(run_dir, run, threads=1)
    return outcome(run_dir)


def test_a_run_stopped_several_times_ends_like_an_undisturbed_one(
    tmp_path, undisturbed, monkeypatch
):
    run_dir, run = fresh(tmp_path)
    saved, moment = [], None
    save = Checkpoints.save

    def save_and_stop(self, step, *rest):
        save(self, step, *rest)
        saved.append(step)
        if step == moment:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    for moment in (3, 4, 11):  # noqa: B007 - read by save_and_stop
        with pytest.raises(Stopped, match=r"stopped by signal 15 after \d+ of") as stopped:
            train(run_dir, run, threads=1, checkpoint_seconds=0)
        assert stopped.value.status == 143
        assert not (run_dir / "model").exists()
        assert len(states(run_dir)) == CHECKPOINTS_KEPT
    moment = None
    train(run_dir, run, threads=1)
    assert saved == list(range(1, 12))  # no step was taken twice
    assert_same(outcome(run_dir), undisturbed)
    assert states(run_dir) == []


def test_a_damaged_newest_checkpoint_is_skipped(tmp_path, undisturbed, capsys):
    run_dir, run = fresh(tmp_path)
    stop_after(run_dir, run, 6, signal.SIGUSR1)
    newest = states(run_dir)[-1] / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    train(run_dir, run, threads=1)
    assert "checkpoint skipped: the weights are damaged" in capsys.readouterr().out
    assert_same(outcome(run_dir), undisturbed)


@pytest.mark.parametrize("package", [None, "torch", "transformers"])
def test_a_run_says_where_it_was_resumed_with_other_versions(
    tmp_path, monkeypatch, capsys, package
):
    run_dir, run = fresh(tmp_path)
    stop_after(run_dir, run, 4)
    versions = loop.environment()
    if package:
        monkeypatch.setattr(loop, "environment", lambda: {**versions, package: "0.0"})
    train(run_dir, run, threads=1)
    said = capsys.readouterr().out
    assert ("resumes on another machine or version" in said) == bool(package)
    parts = read_json(run_dir / "model" / "run.json")["provenance"]["parts"]
    assert [part["from_step"] for part in parts] == ([0, 4] if package else [0])
    assert not package or (parts[1][package], parts[0][package]) == ("0.0", versions[package])


def test_two_processes_never_train_the_same_run(tmp_path):
    def hold(number: int):
        lease = Lease(tmp_path / "run", "the run is being trained")
        return Checkpoints(tmp_path / f"state{number}", 1).sole_writer(lease)

    with (
        hold(1),
        pytest.raises(Busy, match=f"being trained by process {os.getpid()} on "),
        hold(2),
    ):
        pass
    with hold(2):
        pass  # released
    assert not (tmp_path / "run").exists()


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path, undisturbed):
    """SIGKILL and SIGTERM at random moments, in a real process, until it finishes."""
    run_dir, _ = fresh(tmp_path)
    command = ["train", str(run_dir), "--threads", "1", "--checkpoint-minutes", "0"]
    draw = random.Random(5)
    for end in (BaseProcess.kill, BaseProcess.terminate, BaseProcess.kill):
        newest = states(run_dir)[-1:]
        process = begin(*command)
        deadline = time.monotonic() + 600
        while states(run_dir)[-1:] == newest and process.is_alive():  # it has not started training
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.1))
        end(process)
        process.join(600)
        assert process.exitcode is not None
    process = begin(*command)
    process.join(600)
    assert process.exitcode == 0
    assert_same(outcome(run_dir), undisturbed)
