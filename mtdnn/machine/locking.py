"""One writer at a time for a folder: also on other machines, and after a hard kill.

Two things together. A lock of the kernel (`flock`) covers the processes of one machine, and
of several where the network file system passes locks on; it is gone with its process. A lease
file covers the rest: its holder touches it every few seconds, and whoever sees it unmoved for
long enough, by a clock that never jumps, takes it over.
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from mtdnn.errors import Busy, MtdnnError
from mtdnn.machine.files import write_json

BEAT_SECONDS = 15.0
# Longer than a network file system may show an old date (NFS: a minute), and some beats.
STALE_SECONDS = 120.0
# Of two processes that take over at the same time, the later one holds the folder.
SETTLE_SECONDS = 3.0
POLL_SECONDS = 0.5


class Lease:
    """The right to write in a folder; held inside of a `with` block.

    Args:
        folder: the folder; made when missing.
        what: what the holder does there, for messages, for instance "the run is being trained".
        wait: wait for another holder to end, instead of leaving.

    Attributes:
        waited: whether another process had it first.

    Raises:
        Busy: on entering: another process holds it, and `wait` is false.
    """

    def __init__(self, folder: Path, what: str, wait: bool = False):
        self.waited = False
        self._folder, self._what, self._wait = folder, what, wait
        self._file = folder / "holder.json"
        self._token = uuid.uuid4().hex
        self._lock: int | None = None
        self._locks_work = True
        self._seen: tuple[Any, float] = (None, 0.0)
        self._released = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        try:
            while not self._attempt():
                if not self.waited:
                    what = "waiting for it" if self._wait else "looking whether it still lives"
                    print(f"mtdnn: {self._holder()}; {what}", file=sys.stderr, flush=True)
                self.waited = True
                time.sleep(POLL_SECONDS)
        except BaseException:
            self._unlock()
            raise
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._beats.join()
        if self._is_ours():
            self._file.unlink(missing_ok=True)
        self._unlock()

    def check(self) -> None:
        """Make sure that the folder is still held.

        Raises:
            MtdnnError: this process stood still for so long that another one took over.
        """
        if not self._is_ours():
            raise MtdnnError(
                f"{self._holder()}; this process stood still for too long and gives way to it"
            )

    def _attempt(self) -> bool:
        """Take the folder if nobody holds it, or nobody that lives."""
        if self._lock is None and not self._take_lock():
            self._refuse()
            return False
        lease, moved = self._read()
        if lease is None:
            return self._create()
        if lease.get("machine") == _machine() and self._locks_work:
            return self._replace()  # of this machine, and without its lock: it is dead
        now = time.monotonic()
        if self._seen[0] is None:
            self._seen = (moved, now)
        elif self._seen[0] != moved:
            self._seen = (moved, now)
            self._refuse()
        elif now - self._seen[1] >= STALE_SECONDS and self._replace():
            time.sleep(SETTLE_SECONDS)
            return self._is_ours()
        return False

    def _refuse(self) -> None:
        if not self._wait:
            raise Busy(f"{self._holder()}; wait for it, or stop it")

    def _holder(self) -> str:
        lease, _ = self._read()
        who = "another process"
        if lease:
            who = f"process {lease.get('process')} on {lease.get('host')}"
        return f"{self._folder}: {self._what} by {who}"

    # --- the lock of the kernel

    def _take_lock(self) -> bool:
        path = self._folder / "lock"
        while True:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            except OSError:
                self._locks_work = False  # a file system without locks: the lease decides alone
            if _is_at(handle, path):
                self._lock = handle
                return True
            os.close(handle)  # the last holder has just removed the folder: once more

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- the lease file

    def _read(self) -> tuple[dict[str, Any] | None, Any]:
        """The lease, and something that differs after every beat."""
        try:
            # Opened rather than looked up: network file systems then ask their server.
            with open(self._file, encoding="utf-8", errors="replace") as file:
                content, date = file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None, None
        try:
            lease = json.loads(content)
        except (ValueError, RecursionError):
            lease = {}
        return lease if isinstance(lease, dict) else {}, (content, date)

    def _content(self) -> dict[str, Any]:
        return {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "machine": _machine(),
            "token": self._token,
        }

    def _create(self) -> bool:
        try:
            with open(self._file, "x", encoding="utf-8") as file:
                json.dump(self._content(), file)
        except FileExistsError:
            return False
        except OSError:
            self._file.unlink(missing_ok=True)
            raise
        return True

    def _replace(self) -> bool:
        write_json(self._file, self._content())
        return True

    def _is_ours(self) -> bool:
        lease, _ = self._read()
        return lease is not None and lease.get("token") == self._token

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                if self._is_ours():
                    os.utime(self._file)  # needs no space on a full disk
            except OSError:
                continue  # it may come back; `check` decides


def _is_at(handle: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _machine() -> str:
    """This machine since it was started; host names are not unique."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Only one process at a time works on `target`; the others wait."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.guard")):
        yield
