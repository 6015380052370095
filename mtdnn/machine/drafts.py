"""Folders for unfinished work, and the removal of those that killed processes left behind.

A draft is locked by the process that writes it; the kernel releases the lock when the process
ends, for whatever reason. Whoever writes next to a draft whose lock is free removes it. Locks say
nothing about processes on other machines: their drafts are only removed when nothing in them has
changed for a day, by the clock of the disk, since no two machines agree on the time.
"""

import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

ABANDONED_SECONDS = 86_400.0
_NAME = re.compile(r"\.(?P<target>.+)\.draft-(?P<machine>[0-9a-f]{8})-\w+")


@contextmanager
def drafting(folder: Path, name: str) -> Iterator[Path]:
    """Yield an empty folder inside `folder`, for what is to become its file or folder `name`.

    It is removed at the end, or by a later call for the same folder if this process is killed.

    Raises:
        OSError: the folder cannot be written; the error names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        draft, lock = _create(folder, name)
    except OSError as error:
        error.filename = str(folder)  # what the user can change
        raise
    try:
        sweep(folder, now=draft.stat().st_mtime)
        yield draft
    finally:
        _remove(draft, lock)


def sweep(folder: Path, now: float | None = None) -> None:
    """Remove the drafts in `folder` whose processes are dead.

    Args:
        folder: the folder; may be missing.
        now: the time by the clock of its disk; None if no other process writes there, so that all
            drafts are dead.
    """
    for draft in folder.glob(".*.draft-*"):
        if (found := _NAME.fullmatch(draft.name)) and draft.is_dir():
            lock, is_free = _lock_of(draft, found)
            if is_free or now is None or now - _last_change(draft) > ABANDONED_SECONDS:
                _finish(draft, folder / found["target"])
                _remove(draft, lock)


def old_place(draft: Path) -> Path:
    """Return where in a draft's folder the old target waits until the new one has its place."""
    return draft.with_name(f"{draft.name}.old")


def clock(folder: Path) -> float:
    """Return the time by the clock of the disk that holds `folder`, which may be a server's."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime


@cache
def machine() -> str:
    """Return an id of this machine since its last boot; host names are not unique."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"


def is_at(handle: int, path: Path) -> bool:
    """Return whether `path` is still the file that was opened as `handle`."""
    try:
        current = os.stat(path)
    except FileNotFoundError:
        return False
    opened = os.fstat(handle)
    return (opened.st_dev, opened.st_ino) == (current.st_dev, current.st_ino)


def _create(folder: Path, name: str) -> tuple[Path, int | None]:
    """Create a locked draft; return it with its lock, None where the disk has no locks."""
    while True:
        draft = Path(tempfile.mkdtemp(prefix=f".{name}.draft-{_short_machine()}-", dir=folder))
        try:
            lock = os.open(_lock_path(draft), os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # it was swept, since it was empty
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            os.close(lock)
            return draft, None
        if is_at(lock, _lock_path(draft)):
            return draft, lock
        os.close(lock)  # it was swept before it was locked


def _lock_of(draft: Path, name: re.Match[str]) -> tuple[int | None, bool]:
    """Take the lock of another process's draft; return it, and whether that process is dead."""
    if name["machine"] != _short_machine():
        return None, False
    try:
        lock = os.open(_lock_path(draft), os.O_RDWR)
    except OSError:
        with suppress(OSError):
            draft.rmdir()  # its process was killed while removing it, or else creates another
        return None, False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None, False
    return lock, True


def _remove(draft: Path, lock: int | None) -> None:
    """Remove a draft, its lock last: one without a lock is empty, so that anybody may remove it."""
    with suppress(OSError):
        for path in draft.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != _lock_path(draft):
                path.unlink()
        _lock_path(draft).unlink()  # before the lock is released to a late writer
    if lock is not None:
        os.close(lock)
    with suppress(OSError):
        draft.rmdir()


def _finish(draft: Path, target: Path) -> None:
    """Put a new folder in its place if its process was killed after it moved the old one away."""
    new = draft / target.name
    if old_place(new).exists() and new.exists() and not target.exists():
        with suppress(OSError):
            os.rename(new, target)


def _last_change(draft: Path) -> float:
    """Return the newest date of a draft and of all in it."""
    dates = [0.0]
    for folder, _, files in os.walk(draft):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            with suppress(OSError):  # removed meanwhile
                dates.append(os.lstat(path).st_mtime)
    return max(dates)


def _lock_path(draft: Path) -> Path:
    return draft / ".lock"


def _short_machine() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:8]
