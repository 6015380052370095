"""The lock file beside an experiment: what every Hub revision resolved to, enforced for ever."""

from pathlib import Path

from pydantic import Field, ValidationError

from mtdnn.config.settings import Closed, Sha256
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, write_json
from mtdnn.machine.locking import exclusive


class Locked(Closed):
    """What one repository, configuration and revision on the Hub resolved to."""

    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    sha256: dict[str, Sha256] = Field(description="digest of every file that was used")
    splits: dict[str, list[str]] = Field({}, description="a dataset's splits, each from its files")
    rows: dict[str, int] = Field({}, description="rows of each of these splits")


def read(lock: Path, key: str) -> Locked | None:
    """The entry `key` of the lock file, or None if it has none yet.

    Raises:
        MtdnnError: the lock file or the entry is damaged.
    """
    try:
        content = _content(lock)
        return Locked.model_validate(content[key]) if key in content else None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MtdnnError(f"{lock}: {key}: {place}: {first['msg']}") from None


def write(lock: Path, key: str, entry: Locked) -> None:
    """Set the entry `key`; others that are written at the same time stay."""
    with exclusive(Path(lock)):
        content = _content(lock)
        entries = {**content, key: entry.model_dump(exclude_defaults=True)}
        write_json(lock, dict(sorted(entries.items())))


def _content(lock: Path) -> dict:
    content = read_json(lock) if Path(lock).exists() else {}
    if not isinstance(content, dict):
        raise MtdnnError(f"{lock}: must be a JSON object")
    return content
