"""Assign GPUs to processes: each process takes free ones and waits while there are too few.

Each GPU has a lock file on this machine, named after the GPU's UUID. The kernel releases the lock
when its process ends, for whatever reason. Parallel jobs, even those of several Snakemake calls,
thus use different GPUs. If a cluster or a person sets CUDA_VISIBLE_DEVICES, only those are used.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mtdnn.errors import MtdnnError

POLL_SECONDS = 0.5
VARIABLE = "CUDA_VISIBLE_DEVICES"
# Tells child processes which GPUs they inherit from their parent.
INHERITED = "MTDNN_GPU"

# This process's locks. They are never closed: the kernel does that when the process ends.
_held: list[int] = []


def take(
    installed: Callable[[], list[str]] | None = None, folder: Path | None = None, count: int = 1
) -> str | None:
    """Take free GPUs for this process and hide the others from it.

    Call it before CUDA is first used. The process keeps its GPUs; its children share them.

    Args:
        installed: returns the names of this machine's GPUs; by default the real ones.
        folder: folder of the lock files; by default one that belongs to this user.
        count: number of GPUs. A process that waits for all of them holds none, so that two
            waiting processes cannot block each other.

    Returns:
        The new value of CUDA_VISIBLE_DEVICES, or None if no GPU may be used.

    Raises:
        MtdnnError: fewer than `count` GPUs may be used, but at least one.
    """
    allowed = os.environ.get(VARIABLE)
    if allowed and allowed == os.environ.get(INHERITED):
        return allowed
    choices = _choices((installed or installed_gpus)(), allowed)
    if not choices:
        return None
    if len(choices) < count:
        raise MtdnnError(
            f"training.gpus: {count}, but only {len(choices)} may be used here; lower it, or check "
            f"{VARIABLE}"
        )
    folder = folder or _own_folder()
    announced = False
    while len(free := _lock_some(choices, folder, count)) < count:
        for lock in free.values():
            os.close(lock)
        if not announced:
            print(f"mtdnn: {_taken(len(choices), count)}", file=sys.stderr, flush=True)
            announced = True
        time.sleep(POLL_SECONDS)
    _held.extend(free.values())
    os.environ[VARIABLE] = os.environ[INHERITED] = ",".join(free)
    return os.environ[VARIABLE]


def _lock_some(choices: list[tuple[str, str]], folder: Path, count: int) -> dict[str, int]:
    """Lock up to `count` free GPUs; return the locks by the names that CUDA sees."""
    free: dict[str, int] = {}
    for shown, name in choices:
        if len(free) < count and (lock := _lock(folder / f"{name}.lock")) is not None:
            free[shown] = lock
    return free


def _taken(present: int, count: int) -> str:
    if count > 1:
        return f"fewer than {count} of {present} GPUs are free; waiting for them"
    which = "the GPU is" if present == 1 else f"all {present} GPUs are"
    return f"{which} taken; waiting for one"


def installed_gpus() -> list[str]:
    """Return the UUIDs of the visible NVIDIA GPUs in the order of their numbers.

    Without `nvidia-smi`, these are the names of their device files instead.
    """
    files = sorted(Path("/dev").glob("nvidia[0-9]*"), key=lambda path: int(path.name[6:]))
    if not files:
        return []
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return [path.name for path in files]
    found = [line.strip() for line in answer.stdout.splitlines() if line.startswith("GPU-")]
    return found or [path.name for path in files]


def _choices(installed: list[str], allowed: str | None) -> list[tuple[str, str]]:
    """Return, for each GPU that may be used, its name for CUDA and the name of its lock."""
    if allowed is None:
        return [
            (name if name.startswith("GPU-") else str(number), name)
            for number, name in enumerate(installed)
        ]
    choices = []
    # Of a part of a GPU, or without the driver's tool, there is no other name to compare with.
    known = any(name.startswith("GPU-") for name in installed)
    taken_as_given = "MIG-" if known or not installed else ("MIG-", "GPU-")
    for entry in filter(None, map(str.strip, allowed.split(","))):
        if entry.startswith(taken_as_given):
            choices.append((entry, entry))
            continue
        if entry.isdecimal():
            named = installed[int(entry) : int(entry) + 1]
        else:  # UUIDs may be abbreviated
            named = [name for name in installed if name.startswith(entry)]
        if len(named) != 1:
            break  # like CUDA, ignore everything from the first invalid entry
        choices.append((entry, named[0]))
    return choices


def _own_folder() -> Path:
    # Not $TMPDIR: each job of a cluster may have its own and would not see the others' locks.
    folder = Path(f"/tmp/mtdnn-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise MtdnnError(f"{folder}: belongs to another user; ask them to remove it")
    return folder


def _lock(path: Path) -> int | None:
    """Return a handle that holds a lock file, or None if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def count_gpus() -> int:
    """Return the number of usable NVIDIA GPUs, without importing torch, which takes seconds."""
    return len(_choices(installed_gpus(), os.environ.get(VARIABLE)))
