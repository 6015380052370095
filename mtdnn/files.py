"""Files that are either whole or absent: write beside, then rename."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtdnn.errors import MtdnnError


@contextmanager
def replacing(target: Path | str) -> Iterator[Path]:
    """Yield a path beside `target`; rename it to `target` when the block succeeds.

    Works for files and for folders (the block creates whichever it needs). When
    the block fails, what stood at `target` is untouched.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    draft = room / target.name
    try:
        yield draft
        if draft.is_dir() and target.exists():
            # A folder cannot be renamed onto a full one: move the old one aside first.
            os.rename(target, room / f"{target.name}.old")
        os.replace(draft, target)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def write_text(target: Path | str, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(target) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(target: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or broken one is an `MtdnnError` naming it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MtdnnError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MtdnnError(f"{path}: not readable as JSON: {error}") from None


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
