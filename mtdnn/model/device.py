"""The device that a process computes on, and its memory."""

import ctypes
import os
from pathlib import Path

import pyarrow as pa
import torch

from mtdnn.machine import gpus
from mtdnn.model.fast import fast


def is_started() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ


def own_device() -> None:
    """Let this process use its own one of the GPUs that it sees."""
    if is_started():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def use_device(threads: int | None, deterministic: bool = True) -> torch.device:
    """A free GPU if there is one, else the CPU with `threads` threads.

    Where every GPU is taken by another process of ours, this waits for one.

    Args:
        threads: CPU threads; all cores when absent.
        deterministic: a GPU computes the same bits each time, somewhat slower; a CPU does so
            anyway, with the same number of threads.
    """
    if threads:
        torch.set_num_threads(threads)
        pa.set_cpu_count(threads)
    gpus.take()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Read by cuBLAS when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    own_device()
    torch.use_deterministic_algorithms(deterministic)
    # Nothing here reads memory before it is written; filling it first would be a kernel for each
    # new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False
    return torch.device("cuda")


def return_memory() -> None:
    """Give freed memory back to the system, where the C library can.

    Batches of ever new sizes leave holes in glibc's heap, and a process would grow for hours.
    """
    if fast("memory") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def device_name(device: torch.device) -> str:
    """The device's name as its maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "CPU"
    model = next((line for line in lines if line.startswith("model name")), "model name : CPU")
    return model.split(":", 1)[1].strip()
