"""Allow one writer at a time in a folder, across machines and after a hard kill.

Two mechanisms work together. A kernel lock (`flock`) covers the processes of one machine, and of
several if the network file system forwards locks; it disappears with its process. A lease file
covers the rest: its holder touches it every few seconds, and a process that sees it unchanged for
long enough, by a monotonic clock, takes it over.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from mtdnn.errors import Busy
from mtdnn.machine.drafts import is_at, machine
from mtdnn.machine.files import guards, write_json

BEAT_SECONDS = 15.0
# Longer than the time for which a network file system may report an old date (NFS: a minute),
# plus several beats.
STALE_SECONDS = 120.0
# When two processes take over at the same time, the one that writes last holds the folder.
SETTLE_SECONDS = 3.0
POLL_SECONDS = 0.5

# The content and date of a lease file, which differ after every beat.
_Beat = tuple[str, int]


class Lease:
    """The exclusive right to write in a folder, held inside a `with` block.

    Args:
        folder: the folder; created if missing.
        what: what the holder does, for messages; for instance "the run is being trained".
        wait: wait until another holder has finished instead of raising `Busy`.

    Attributes:
        waited: whether another process held the folder first.

    Raises:
        Busy: on entry, if another process holds the folder and `wait` is false.
    """

    def __init__(self, folder: Path, what: str, wait: bool = False):
        self.waited = False
        self._folder, self._what, self._wait = folder, what, wait
        self._file = folder / "holder.json"
        self._token = uuid.uuid4().hex
        self._lock: int | None = None
        self._locks_work = True
        self._seen: tuple[_Beat | None, float] = (None, 0.0)
        self._released = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        try:
            while not self._attempt():
                if not self.waited:
                    action = (
                        "waiting for it" if self._wait else "checking whether it is still running"
                    )
                    print(f"mtdnn: {self._holder()}; {action}", file=sys.stderr, flush=True)
                self.waited = True
                time.sleep(POLL_SECONDS)
        except BaseException:
            self._unlock()
            raise
        guards.append(self.check)
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        guards.remove(self.check)
        self._released.set()
        self._beats.join()
        if self._is_ours():
            self._file.unlink(missing_ok=True)
            if self._lock is not None:  # waiting processes open the lock file anew each time
                (self._folder / "lock").unlink(missing_ok=True)
                with suppress(OSError):  # checkpoints are in it
                    self._folder.rmdir()
        self._unlock()

    def check(self) -> None:
        """Check that this process still holds the folder.

        Inside the `with` block, it is called before any file of this process takes its place.

        Raises:
            Busy: this process was suspended for so long that another one took over.
        """
        if not self._is_ours():
            raise Busy(
                f"{self._holder()}, which took over because this process was suspended for too "
                "long; leave the work to it"
            )

    def _attempt(self) -> bool:
        """Take the folder if nobody holds it or its holder is dead; return whether we have it."""
        if self._lock is None and not self._take_lock():
            self._refuse()
            return False
        lease, beat = self._read()
        if lease is None:
            return self._create()
        if lease.get("machine") == machine() and self._locks_work:
            return self._replace()  # its process ran here and has lost its lock: it is dead
        now = time.monotonic()
        if self._seen[0] is None:
            self._seen = (beat, now)
        elif self._seen[0] != beat:
            self._seen = (beat, now)
            self._refuse()
        elif now - self._seen[1] >= STALE_SECONDS and self._replace():
            time.sleep(SETTLE_SECONDS)
            return self._is_ours()
        return False

    def _refuse(self) -> None:
        if not self._wait:
            raise Busy(f"{self._holder()}; wait for it or stop it")

    def _holder(self) -> str:
        lease, _ = self._read()
        who, what = "another process", self._what
        if lease:
            who = f"process {lease.get('process')} on {lease.get('host')}"
            what = lease.get("what", what)
        return f"{self._folder}: {what} by {who}"

    # --- the kernel lock

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
                self._locks_work = False  # the file system has no locks: only the lease counts
            if is_at(handle, path):
                self._lock = handle
                return True
            os.close(handle)  # the last holder has just removed the folder: try again

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- the lease file

    def _read(self) -> tuple[dict[str, Any] | None, _Beat | None]:
        """Return the lease and its last beat; None twice if there is no lease."""
        try:
            # Opening the file makes a network file system ask its server for the current state.
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
            "machine": machine(),
            "token": self._token,
            "what": self._what,
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
                    os.utime(self._file)  # works on a full disk, unlike writing
            except OSError:
                continue  # the file system may recover; `check` decides


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Let one process at a time work on `target`; the others wait."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.guard")):
        yield
