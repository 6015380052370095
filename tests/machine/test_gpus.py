"""GPUs are shared out by lock files: real processes, GPUs that are only names."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtdnn.errors import MtdnnError
from mtdnn.machine import gpus as devices

GPUS = ["GPU-aaaa-1", "GPU-abbb-2", "GPU-cccc-3"]

# Takes GPUs, says which, and keeps them until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from mtdnn.machine import gpus as devices
names = sys.argv[2].split()
print(devices.take(lambda: names, Path(sys.argv[1]), int(sys.argv[3])), flush=True)
sys.stdin.read()
"""


class Holders:
    """Processes that take GPUs."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._started: list[subprocess.Popen] = []

    def start(
        self, allowed: str | None = None, gpus: list[str] = GPUS, count: int = 1
    ) -> subprocess.Popen:
        environment = {k: v for k, v in os.environ.items() if k != devices.VARIABLE}
        if allowed is not None:
            environment[devices.VARIABLE] = allowed
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", HOLDER, str(self._folder), " ".join(gpus), str(count)]
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
    assert sorted(map(taken, [holders.start() for _ in GPUS])) == GPUS


def test_who_finds_none_free_says_so_once_and_gets_that_of_a_killed_process(holders):
    first = [holders.start() for _ in GPUS]
    before = {taken(process): process for process in first}
    waiting = holders.start()
    assert waiting.stderr.readline() == "mtdnn: all 3 GPUs are taken; waiting for one\n"
    time.sleep(2 * devices.POLL_SECONDS)
    assert waiting.poll() is None
    before[GPUS[1]].send_signal(signal.SIGKILL)
    assert taken(waiting) == GPUS[1]
    assert waiting.communicate("")[1] == ""


def test_several_are_taken_together_or_none(holders):
    """Two processes that want two of three each never hold one each and wait for ever."""
    both = [holders.start(count=2) for _ in range(2)]
    said = "mtdnn: fewer than 2 of 3 GPUs are free; waiting for them\n"
    ready, _, _ = select.select([process.stdout for process in both], [], [], 60)
    first = next(process for process in both if process.stdout in ready)
    second = both[both[0] is first]
    assert taken(first) == ",".join(GPUS[:2])
    assert second.stderr.readline() == said
    assert taken(holders.start()) == GPUS[2]  # the one that is not enough was left
    first.communicate("")
    assert taken(second) == ",".join(GPUS[:2])


def test_more_than_there_are_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    with pytest.raises(MtdnnError, match=r"training\.gpus: 4, but only 3 may be used here"):
        devices.take(lambda: GPUS, tmp_path, 4)
    assert devices.take(list, tmp_path, 4) is None  # without any, processes share the CPU


def test_what_is_already_chosen_is_respected(holders):
    """By number, by the beginning of a UUID, one by one or as a list; each is still locked."""
    assert taken(holders.start("2")) == "2"
    assert taken(holders.start("1,2")) == "1"
    assert taken(holders.start()) == GPUS[0]  # those two are taken, by whatever name
    waiting = holders.start("GPU-aa")
    assert waiting.stderr.readline() == "mtdnn: the GPU is taken; waiting for one\n"


@pytest.mark.parametrize("allowed", ["", "-1", "3", "GPU-a", "NoDevFiles"])
def test_none_is_taken_where_none_may_be_used(holders, allowed):
    assert taken(holders.start(allowed)) == "None"
    assert taken(holders.start(gpus=[])) == "None"


def test_parts_of_a_gpu_and_gpus_without_a_known_uuid(holders):
    assert taken(holders.start("MIG-x,MIG-y")) == "MIG-x"
    assert taken(holders.start("MIG-x,MIG-y")) == "MIG-y"
    files = ["nvidia0", "nvidia1"]
    assert sorted(taken(holders.start(gpus=files)) for _ in files) == ["0", "1"]


def test_a_process_keeps_what_it_has_and_its_children_share_it(tmp_path, monkeypatch, holders):
    monkeypatch.setattr(devices, "_held", [])
    monkeypatch.setenv(devices.VARIABLE, "1,0")
    monkeypatch.setenv(devices.INHERITED, "")
    assert [devices.take(lambda: GPUS, tmp_path) for _ in range(2)] == ["1", "1"]
    assert taken(holders.start(os.environ[devices.VARIABLE])) == "1"
    monkeypatch.delenv(devices.INHERITED)
    assert "the GPU is taken" in holders.start("1").stderr.readline()
    os.close(devices._held[0])


def test_training_takes_its_gpu_before_cuda_is_asked(monkeypatch):
    import torch

    from mtdnn.model import device

    asked = []
    monkeypatch.setattr(devices, "take", lambda: asked.append("lock"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: asked.append("cuda") or False)
    assert device.use_device(1).type == "cpu"
    assert asked == ["lock", "cuda"]
