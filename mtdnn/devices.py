"""One GPU for each process of a machine: found, and shared by a lock file for each."""

import fcntl
import os
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

POLL_SECONDS = 0.5


def visible() -> list[str]:
    """Names of the NVIDIA GPUs that may be used, as CUDA_VISIBLE_DEVICES has them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    if allowed is None:
        return present
    return [name for name in allowed.split(",") if name][: len(present)]


@cache
def take_one() -> int | None:
    """Let this process see one GPU that no other process of this user holds, until it ends.

    Waits while all are held. With a single one, as in a job of a cluster, nothing is done, nor
    after the first call. To be called before CUDA is used.

    Returns:
        The open lock file, for tests; None where there is nothing to share.
    """
    names = visible()
    if len(names) < 2:
        return None
    folder = Path(tempfile.gettempdir(), f"mtdnn-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    waits = False
    while True:
        for name in names:
            handle = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return handle
        if not waits:
            print("mtdnn: every GPU is in use; waiting for one", file=sys.stderr, flush=True)
            waits = True
        time.sleep(POLL_SECONDS)
