"""The lock file next to an experiment: the commit and digests behind every Hub revision.

An entry is written when a revision is first used and enforced from then on.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from mtdnn.config.loading import validate
from mtdnn.config.settings import Closed, Commit, Sha256
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, write_json
from mtdnn.machine.locking import exclusive


class Locked(Closed):
    """The commit and files to which a repository, configuration and revision resolved."""

    commit: Commit
    sha256: dict[str, Sha256] = Field(description="digest of every file used")
    splits: dict[str, list[str]] = Field({}, description="a dataset's splits and the files of each")
    rows: dict[str, int] = Field({}, description="number of rows in each of these splits")


def read(lock: Path, key: str) -> Locked | None:
    """Return the entry `key` of the lock file, or None if there is none yet.

    Raises:
        MtdnnError: the lock file or the entry is damaged.
    """
    content = _content(lock)
    return validate(Locked, content[key], f"{lock}: {key}") if key in content else None


def write(lock: Path, key: str, entry: Locked) -> None:
    """Set the entry `key`; entries that other processes write meanwhile are kept."""
    with exclusive(lock):
        content = _content(lock)
        entries = {**content, key: entry.model_dump(exclude_defaults=True)}
        write_json(lock, dict(sorted(entries.items())))


def _content(lock: Path) -> dict[str, Any]:
    content = read_json(lock) if lock.exists() else {}
    if not isinstance(content, dict):
        raise MtdnnError(f"{lock}: must be a JSON object")
    return content
