"""Readings of processor, memory and GPU: true numbers, and none that the machine does not tell."""

import ctypes
import sys
import time

import pytest
import torch

from mtdnn.training.usage import Usage, gpu_readings, memory_mib

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the files of Linux")
def test_a_busy_process_is_seen_to_be_busy():
    usage = Usage(CPU)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    busy = usage()
    time.sleep(0.3)
    idle = usage()
    assert busy["process_cpu_percentage"] > 2 * idle["process_cpu_percentage"] >= 0
    for readings in (busy, idle):
        assert 0 <= readings["cpu_utilization_percentage"] <= 100
        assert 0 < readings["system_memory_usage_percentage"] < 100
        own = readings["process_memory_megabytes"]
        assert 10 < own < readings["system_memory_usage_megabytes"]
        assert own < 1.1 * readings["memory_mib"] * 2**20 / 1e6  # the peak


def test_numbers_follow_from_the_kernels_files(tmp_path):
    (tmp_path / "stat").write_text("cpu  100 0 100 700 100 0 0 0 9 9\ncpu0 1 2 3\n")
    usage = Usage(CPU, tmp_path)
    (tmp_path / "stat").write_text("cpu  150 0 110 720 110 5 5 0 9 9\n")
    (tmp_path / "meminfo").write_text("MemTotal: 4000 kB\nMemFree: 1 kB\nMemAvailable: 1000 kB\n")
    readings = usage()
    assert readings["cpu_utilization_percentage"] == pytest.approx(70)
    assert readings["system_memory_usage_percentage"] == 75
    assert readings["system_memory_usage_megabytes"] == pytest.approx(3.072)
    assert "process_memory_megabytes" not in readings


@pytest.mark.parametrize("content", [None, "", "cpu\n", "cpu a b c d e\n"])
def test_what_the_machine_does_not_tell_is_left_out(tmp_path, content):
    if content is not None:
        (tmp_path / "stat").write_text(content)
        (tmp_path / "meminfo").write_text(content)
    readings = Usage(CPU, tmp_path)()
    assert readings.keys() == {"memory_mib", "process_cpu_percentage"}


def test_the_memory_of_this_process_is_in_mib():
    assert 50 < memory_mib() < 64 * 1024


class Library:
    """Stands for NVIDIA's library; an answer other than 0 is a failure."""

    def __init__(self, known: bool = True, shares: int = 0):
        self._known, self._shares, self.asked = known, shares, []

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle) -> int:
        self.asked.append(name)
        return 0 if self._known else 6

    def nvmlDeviceGetUtilizationRates(self, handle: ctypes.c_void_p, shares) -> int:
        shares._obj.gpu, shares._obj.memory = 87, 40
        return self._shares

    def nvmlDeviceGetPowerUsage(self, handle: ctypes.c_void_p, milliwatts) -> int:
        milliwatts._obj.value = 312_500
        return 0


def test_load_and_power_of_a_gpu():
    library = Library()
    read = gpu_readings(library, "GPU-1234")
    assert library.asked == [b"GPU-1234"]
    assert read() == {"gpu_0_utilization_percentage": 87, "gpu_0_power_usage_watts": 312.5}
    assert gpu_readings(Library(known=False), "GPU-1234") is None
    # A part of a GPU does not tell its load.
    assert gpu_readings(Library(shares=3), "MIG-1")().keys() == {"gpu_0_power_usage_watts"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_real_gpu_tells_its_load_and_memory():
    readings = Usage(torch.device("cuda", 0))()
    assert 0 <= readings["gpu_0_utilization_percentage"] <= 100
    assert readings["gpu_0_memory_usage_megabytes"] > 0
