"""How much of the processor, the memory and the GPU is in use while a run is trained.

The journal takes these readings between two steps, at most `journal.MAX_MEMORY_READINGS` times in a
run. They come from files of the kernel and from NVIDIA's library, without starting a process, and
never change what is trained. What a machine does not report is left out. Readings that MLflow takes
itself have MLflow's names and units.
"""

import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

_PROC = Path("/proc")
_LIBRARY = "libnvidia-ml.so.1"


class Usage:
    """Reads what is in use; shares of time are those since the reading before.

    Args:
        device: the run's own device.
        proc: the kernel's folder of processes, on Linux.
    """

    def __init__(self, device: torch.device, proc: Path = _PROC):
        self._device, self._proc = device, proc
        self._busy = self._processor_times()
        self._own = time.process_time(), time.monotonic()
        self._gpu = _gpu(device) if device.type == "cuda" else None

    def __call__(self) -> dict[str, float]:
        """Return the readings by name.

        `memory_mib` is the peak memory of this process; `process_cpu_percentage` is 100 for each
        core that it keeps busy; `gpu_memory_mib` is what this process has reserved, `gpu_used_mib`
        what all have.
        """
        readings = {"memory_mib": memory_mib(), **self._processor(), **self._memory()}
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            readings["gpu_memory_mib"] = torch.cuda.memory_reserved(self._device) / 2**20
            readings["gpu_used_mib"] = (total - free) / 2**20
            readings["gpu_0_memory_usage_megabytes"] = (total - free) / 1e6
            readings["gpu_0_memory_usage_percentage"] = 100 * (total - free) / total
        return readings | (self._gpu() if self._gpu else {})

    def _processor(self) -> dict[str, float]:
        readings = {}
        (used, then), self._own = self._own, (time.process_time(), time.monotonic())
        if (seconds := self._own[1] - then) > 0:
            readings["process_cpu_percentage"] = 100 * (self._own[0] - used) / seconds
        before, self._busy = self._busy, self._processor_times()
        if before and self._busy and (passed := self._busy[1] - before[1]) > 0:
            share = 100 * (self._busy[0] - before[0]) / passed
            readings["cpu_utilization_percentage"] = min(100.0, max(0.0, share))
        return readings

    def _processor_times(self) -> tuple[int, int] | None:
        """Busy and whole time of all cores, in the kernel's ticks."""
        with suppress(OSError, ValueError, IndexError):
            line = (self._proc / "stat").read_text().splitlines()[0].split()[1:9]
            user, nice, system, idle, waiting, *others = map(int, line)
            busy = user + nice + system + sum(others)
            return busy, busy + idle + waiting
        return None

    def _memory(self) -> dict[str, float]:
        readings = {}
        with suppress(OSError, ValueError, IndexError):
            pages = int((self._proc / "self" / "statm").read_text().split()[1])
            readings["process_memory_megabytes"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        with suppress(OSError, ValueError, KeyError):
            lines = (self._proc / "meminfo").read_text().splitlines()
            kilobytes = {name: value for name, _, value in (line.partition(":") for line in lines)}
            total, free = (int(kilobytes[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
            readings["system_memory_usage_megabytes"] = (total - free) * 1024 / 1e6
            readings["system_memory_usage_percentage"] = 100 * (total - free) / total
        return readings


def memory_mib() -> float:
    """Return the peak resident memory of this process, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class _Shares(ctypes.Structure):
    """`nvmlUtilization_t`: percent of the last sample period in which each was busy."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


def _gpu(device: torch.device) -> Callable[[], dict[str, float]] | None:
    """Return what reads the load of a GPU; None if NVIDIA's library is missing or cannot."""
    with suppress(OSError, AttributeError):
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return gpu_readings(ctypes.CDLL(_LIBRARY), name)
    return None


def gpu_readings(library: ctypes.CDLL, name: str) -> Callable[[], dict[str, float]] | None:
    """Return what reads the load and the power of a GPU; None if the library does not know it.

    Args:
        library: NVIDIA's management library (NVML).
        name: the GPU's identifier, which does not depend on `CUDA_VISIBLE_DEVICES`.
    """
    handle = ctypes.c_void_p()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(
        name.encode(), ctypes.byref(handle)
    ):
        return None

    def read() -> dict[str, float]:
        shares, milliwatts = _Shares(), ctypes.c_uint()
        readings = {}
        if not library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(shares)):
            readings["gpu_0_utilization_percentage"] = float(shares.gpu)
        if not library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(milliwatts)):
            readings["gpu_0_power_usage_watts"] = milliwatts.value / 1000
        return readings

    return read
