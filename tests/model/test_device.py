"""The device that a process chooses, and how it describes it."""

import subprocess
import sys

import pytest
import torch

from mtdnn.model import device


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_gpu_the_cpu_uses_the_requested_threads(no_gpu):
    before = torch.get_num_threads()
    try:
        assert device.use_device(3) == torch.device("cpu")
        assert torch.get_num_threads() == 3
        assert device.use_device(None) == torch.device("cpu")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_each_process_of_torchrun_selects_its_own_gpu(monkeypatch):
    selected = []
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("RANK", raising=False)
    device.select_own_gpu()
    assert selected == [] and not device.started_by_torchrun()
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        device.select_own_gpu()
    assert selected == [0, 1, 0] and device.started_by_torchrun()


def test_a_cpu_has_a_name_of_one_line():
    name = device.device_name(torch.device("cpu"))
    assert name and "\n" not in name and name == name.strip()


# Blocks too small to be mapped by themselves, each followed by one that stays.
HOLES = """
import os
from pathlib import Path
from mtdnn.model.device import return_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

blocks = [bytearray(60_000) for _ in range(4000)]
kept = blocks[-1:]
del blocks
before = resident()
return_memory()
print(resident() < before - 10_000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc returns memory on request")
@pytest.mark.parametrize(("switch", "returned"), [("", "True"), ("memory", "False")])
def test_freed_memory_goes_back_to_the_system_unless_switched_off(switch, returned):
    import os

    environment = {**os.environ, "MTDNN_PLAIN": switch}
    command = [sys.executable, "-c", HOLES]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == returned, done.stderr
