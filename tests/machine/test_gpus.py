"""GPUs are assigned by lock files; here the processes are real and the GPUs only names."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtdnn.errors import MtdnnError
from mtdnn.machine import gpus

INSTALLED = ["GPU-aaaa-1", "GPU-abbb-2", "GPU-cccc-3"]

# Takes GPUs, prints their names, and keeps them until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from mtdnn.machine import gpus
installed = sys.argv[2].split()
print(gpus.take(lambda: installed, Path(sys.argv[1]), int(sys.argv[3])), flush=True)
sys.stdin.read()
"""


class Holders:
    """Processes that take GPUs."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._started: list[subprocess.Popen] = []

    def start(
        self, allowed: str | None = None, installed: list[str] = INSTALLED, count: int = 1
    ) -> subprocess.Popen:
        environment = {k: v for k, v in os.environ.items() if k != gpus.VARIABLE}
        if allowed is not None:
            environment[gpus.VARIABLE] = allowed
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", HOLDER, str(self._folder), " ".join(installed), str(count)]
        process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def holders(tmp_path):
    started = Holders(tmp_path)
    yield started
    started.stop()


def taken(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def test_parallel_processes_take_different_gpus(holders):
    assert sorted(map(taken, [holders.start() for _ in INSTALLED])) == INSTALLED


def test_a_waiting_process_says_so_once_and_takes_the_gpu_of_a_killed_one(holders):
    first = [holders.start() for _ in INSTALLED]
    before = {taken(process): process for process in first}
    waiting = holders.start()
    assert waiting.stderr.readline() == "mtdnn: all 3 GPUs are taken; waiting for one\n"
    time.sleep(2 * gpus.POLL_SECONDS)
    assert waiting.poll() is None
    before[INSTALLED[1]].send_signal(signal.SIGKILL)
    assert taken(waiting) == INSTALLED[1]
    assert waiting.communicate("")[1] == ""


def test_several_gpus_are_taken_together_or_not_at_all(holders):
    """Two processes that each need two of three GPUs never hold one each and wait forever."""
    both = [holders.start(count=2) for _ in range(2)]
    message = "mtdnn: fewer than 2 of 3 GPUs are free; waiting for them\n"
    ready, _, _ = select.select([process.stdout for process in both], [], [], 60)
    first = next(process for process in both if process.stdout in ready)
    second = both[both[0] is first]
    # Which two depends on what the other process holds while it tries.
    pair = taken(first)
    (left,) = set(INSTALLED) - set(pair.split(","))
    assert second.stderr.readline() == message
    assert taken(holders.start()) == left  # the waiting process holds none
    first.communicate("")
    assert taken(second) == pair


def test_more_gpus_than_installed_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    with pytest.raises(MtdnnError, match=r"training\.gpus: 4, but only 3 may be used here"):
        gpus.take(lambda: INSTALLED, tmp_path, 4)
    assert gpus.take(list, tmp_path, 4) is None  # without a GPU, the processes share the CPU


def test_an_earlier_choice_is_respected(holders):
    """By number or by the beginning of a UUID, one or a list; each GPU is still locked."""
    assert taken(holders.start("2")) == "2"
    assert taken(holders.start("1,2")) == "1"
    assert taken(holders.start()) == INSTALLED[0]  # the other two are taken, under any name
    waiting = holders.start("GPU-aa")
    assert waiting.stderr.readline() == "mtdnn: the GPU is taken; waiting for one\n"


@pytest.mark.parametrize("allowed", ["", "-1", "3", "GPU-a", "NoDevFiles"])
def test_no_gpu_is_taken_if_none_may_be_used(holders, allowed):
    assert taken(holders.start(allowed)) == "None"
    assert taken(holders.start(installed=[])) == "None"


def test_parts_of_a_gpu_and_gpus_without_a_uuid_are_taken(holders):
    assert taken(holders.start("MIG-x,MIG-y")) == "MIG-x"
    assert taken(holders.start("MIG-x,MIG-y")) == "MIG-y"
    files = ["nvidia0", "nvidia1"]
    assert taken(holders.start("GPU-aaaa-1", installed=files)) == "GPU-aaaa-1"
    assert sorted(taken(holders.start(installed=files)) for _ in files) == ["0", "1"]


def test_a_process_keeps_its_gpu_and_shares_it_with_its_children(tmp_path, monkeypatch, holders):
    monkeypatch.setattr(gpus, "_held", [])
    monkeypatch.setenv(gpus.VARIABLE, "1,0")
    monkeypatch.setenv(gpus.INHERITED, "")
    assert [gpus.take(lambda: INSTALLED, tmp_path) for _ in range(2)] == ["1", "1"]
    assert taken(holders.start(os.environ[gpus.VARIABLE])) == "1"
    monkeypatch.delenv(gpus.INHERITED)
    assert "the GPU is taken" in holders.start("1").stderr.readline()
    os.close(gpus._held[0])


def test_training_takes_its_gpu_before_it_asks_cuda(monkeypatch):
    import torch

    from mtdnn.model import device

    calls = []
    monkeypatch.setattr(gpus, "take", lambda: calls.append("lock"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: calls.append("cuda") or False)
    assert device.use_device(1).type == "cpu"
    assert calls == ["lock", "cuda"]


def test_gpus_are_named_by_device_files_without_the_driver_s_tool(monkeypatch):
    devices = [Path(f"/dev/nvidia{number}") for number in (10, 9)]
    monkeypatch.setattr(Path, "glob", lambda *_: devices)
    monkeypatch.setenv("PATH", "")
    assert gpus.installed_gpus() == ["nvidia9", "nvidia10"]


@pytest.mark.parametrize(
    ("allowed", "count"),
    [
        *((None, 3), ("", 0), ("1", 1), ("0,1,2,3", 3), ("-1", 0), ("NoDevFiles", 0)),
        *(("0,-1,2", 1), ("GPU-aa,GPU-c", 2), ("MIG-x,MIG-y,MIG-z,MIG-w", 4)),
    ],
)
def test_gpus_are_counted_as_they_are_taken(monkeypatch, allowed, count):
    """CUDA takes -1 for none, and parts of a GPU count like whole ones."""
    monkeypatch.setattr(gpus, "installed_gpus", lambda: INSTALLED)
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    if allowed is not None:
        monkeypatch.setenv(gpus.VARIABLE, allowed)
    assert gpus.count_gpus() == count
