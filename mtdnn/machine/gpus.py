"""GPUs for each process: who needs some takes free ones, and waits while there are too few.

Each GPU has a lock file of this machine's, known by the GPU's UUID. The kernel releases it with
its process, however that ends. So parallel jobs share out the GPUs, also those of several
Snakemake calls. A list in CUDA_VISIBLE_DEVICES, as a cluster or a person sets it, is the choice.
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
# Tells the children of a process that has a GPU that it is theirs as well.
INHERITED = "MTDNN_GPU"

# Locks of this process; never closed, since the kernel does so when the process ends.
_held: list[int] = []


def take(
    installed: Callable[[], list[str]] | None = None, folder: Path | None = None, count: int = 1
) -> str | None:
    """Take free GPUs for this process and hide the others from it.

    To be called before CUDA is first used. A process keeps its GPUs, and its children share them.

    Args:
        installed: gives this machine's GPUs; the real ones when absent.
        folder: of the lock files; one of this user's when absent.
        count: how many; none is kept while there are fewer, so that nobody waits in a circle.

    Returns:
        What CUDA_VISIBLE_DEVICES now names; None where no GPU may be used.

    Raises:
        MtdnnError: there are some, but not so many.
    """
    allowed = os.environ.get(VARIABLE)
    if allowed and allowed == os.environ.get(INHERITED):
        return allowed
    choices = _choices((installed or installed_gpus)(), allowed)
    if not choices:
        return None
    if len(choices) < count:
        raise MtdnnError(
            f"training.gpus: {count}, but only {len(choices)} may be used here; lower it, or see "
            f"what {VARIABLE} names"
        )
    folder = folder or _own_folder()
    said = False
    while len(free := _lock_some(choices, folder, count)) < count:
        for lock in free.values():
            os.close(lock)
        if not said:
            print(f"mtdnn: {_taken(len(choices), count)}", file=sys.stderr, flush=True)
            said = True
        time.sleep(POLL_SECONDS)
    _held.extend(free.values())
    os.environ[VARIABLE] = os.environ[INHERITED] = ",".join(free)
    return os.environ[VARIABLE]


def _lock_some(choices: list[tuple[str, str]], folder: Path, count: int) -> dict[str, int]:
    """Locks of up to `count` GPUs that are free, by how these are shown to CUDA."""
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
    """UUIDs of the NVIDIA GPUs that this process may see, in the order of their numbers.

    Where the driver's own tool is missing, names of their device files.
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
    """For each GPU that may be used: how to show it to CUDA, and the name of its lock."""
    if allowed is None:
        return [
            (name if name.startswith("GPU-") else str(number), name)
            for number, name in enumerate(installed)
        ]
    choices = []
    for entry in filter(None, map(str.strip, allowed.split(","))):
        if entry.startswith("MIG-"):  # a part of a GPU is a device of its own
            choices.append((entry, entry))
            continue
        if entry.isdecimal():
            named = installed[int(entry) : int(entry) + 1]
        else:  # UUIDs may be shortened
            named = [name for name in installed if name.startswith(entry)]
        if len(named) != 1:
            break  # CUDA, too, reads up to the first entry that is none
        choices.append((entry, named[0]))
    return choices


def _own_folder() -> Path:
    # Not $TMPDIR: each job of a cluster may have its own, and they would not see each other.
    folder = Path(f"/tmp/mtdnn-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise MtdnnError(f"{folder}: belongs to somebody else; have it removed")
    return folder


def _lock(path: Path) -> int | None:
    """A handle that holds a lock file; None when another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def count_gpus() -> int:
    """NVIDIA GPUs that may be used, without the seconds that importing torch takes."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return present if allowed is None else min(present, len(allowed.split(",")) if allowed else 0)
