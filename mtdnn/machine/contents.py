"""Digests of files by content, computed once for as long as a file stays as it is."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mtdnn.errors import MtdnnError
from mtdnn.machine.drafts import clock
from mtdnn.machine.files import read_json, sha256, write_json

# A file that changed this recently may change again without a new date: its digest is not kept.
UNSETTLED_SECONDS = 2.0


def content_digests(files: Iterable[Path], cache: Path) -> dict[Path, str]:
    """Return the hexadecimal SHA-256 of each file.

    A digest is reused while size, inode and both dates of the file are unchanged. The date of the
    inode moves with every write, even when a tool restores the date of the file.

    Args:
        files: existing files.
        cache: JSON file in which digests are kept; failing to write it is not an error.

    Raises:
        OSError: a file cannot be read.
    """
    kept = _read(cache)
    known, now = dict(kept), None
    digests = {}
    for file in files:
        stat = file.stat()
        state = f"{stat.st_size} {stat.st_ino} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        before, _, digest = known.get(str(file.absolute()), "").rpartition(" ")
        if before == state:
            digests[file] = digest
            continue
        digests[file] = sha256(file)
        now = _now(cache.parent) if now is None else now
        if now - max(stat.st_mtime, stat.st_ctime) > UNSETTLED_SECONDS:
            known[str(file.absolute())] = f"{state} {digests[file]}"
    if known != kept:
        with suppress(OSError):
            write_json(cache, {name: known[name] for name in known if os.path.exists(name)})
    return digests


def _now(folder: Path) -> float:
    """The time by this machine's clock or by the disk's, whichever is slower.

    Dates of files on a network are those of its server.
    """
    try:
        return min(time.time(), clock(folder))
    except OSError:
        return 0.0  # nothing can be kept there anyway


def _read(cache: Path) -> dict[str, str]:
    """The cache; empty where it is missing or damaged, since it can be computed again."""
    try:
        kept = read_json(cache)
    except MtdnnError:
        return {}
    is_valid = isinstance(kept, dict) and all(isinstance(entry, str) for entry in kept.values())
    return kept if is_valid else {}
