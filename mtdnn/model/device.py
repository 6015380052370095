"""The device that a process computes on, and its memory."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import torch

from mtdnn.machine import gpus
from mtdnn.model.fast import fast


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "RANK" in os.environ


def select_own_gpu() -> None:
    """Select the GPU that is this process's own among those that it sees."""
    if started_by_torchrun():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def use_device(threads: int | None, deterministic: bool = True) -> torch.device:
    """Return a free GPU if the machine has GPUs, else the CPU with `threads` threads.

    Waits for a GPU while other processes of ours hold all of them.

    Args:
        threads: CPU threads; all cores by default.
        deterministic: make a GPU compute the same bits each time, somewhat slower. A CPU does so
            anyway with the same number of threads.
    """
    if threads:
        torch.set_num_threads(threads)
        pa.set_cpu_count(threads)
    gpus.take()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # cuBLAS reads it at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    select_own_gpu()
    torch.use_deterministic_algorithms(deterministic)
    # Nothing here reads memory before it is written, so filling it would cost a kernel for each
    # new tensor and change nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a property of the module's class
    return torch.device("cuda")


def sent_to_host(values: torch.Tensor) -> Callable[[], list[float]]:
    """Begin to copy a vector to the host; return a function that waits for it and returns it.

    Meanwhile a GPU keeps working.
    """
    if values.device.type != "cuda":
        return values.tolist
    place = torch.empty_like(values, device="cpu", pin_memory=True)
    place.copy_(values, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch's
    copied.record()

    def numbers() -> list[float]:
        copied.synchronize()
        return place.tolist()

    return numbers


def return_memory() -> None:
    """Return freed memory to the system, where the C library can.

    Batches of varying size leave holes in glibc's heap, and a process would grow for hours.
    """
    if fast("memory") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def device_name(device: torch.device) -> str:
    """Return the device's name as given by its maker."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "CPU"
    model = next((line for line in lines if line.startswith("model name")), "model name : CPU")
    return model.split(":", 1)[1].strip()
