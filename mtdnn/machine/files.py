"""Files and folders that are either complete or absent: written to a draft, then renamed."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdnn.errors import MtdnnError, first_line
from mtdnn.machine.drafts import drafting, old_place
from mtdnn.machine.exchange import exchange

if TYPE_CHECKING:
    import pyarrow as pa
    import torch


# Called before anything takes its place; each may raise an error that prevents it.
guards: list[Callable[[], None]] = []


def check_guards() -> None:
    """Check that this process may still write: it has lost nothing that it held.

    Raises:
        Busy: another process has taken over what this one held; see `locking.Lease`.
    """
    for guard in tuple(guards):
        guard()


@contextmanager
def replacing(target: Path | str) -> Iterator[Path]:
    """Yield the path of a draft next to `target`; rename it to `target` when the block succeeds.

    The block creates the draft as a file or as a folder. When it fails, `target` stays as it was.
    """
    target = Path(target)
    try:
        with drafting(target.parent, target.name) as folder:
            draft = folder / target.name
            yield draft
            check_guards()
            _take_place(draft, target)
    except OSError as error:
        check_guards()  # a process that took over may have removed the draft
        error.filename = error.filename or str(target)  # a full disk is reported without one
        raise


def _take_place(draft: Path, target: Path) -> None:
    if not (draft.is_dir() and target.is_dir()):
        os.replace(draft, target)
        return
    if exchange(draft, target):
        return
    old = old_place(draft)
    os.rename(target, old)
    try:
        os.rename(draft, target)
    except BaseException:
        os.rename(old, target)
        raise


def flush(path: Path) -> None:
    """Wait until a file, or every file in a folder and its folders, has reached the disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def write_text(target: Path | str, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(target) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(target: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically.

    Raises:
        ValueError: `value` contains NaN or infinity, which JSON does not have.
    """
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        MtdnnError: the file is missing or broken; the message names it.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MtdnnError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MtdnnError(f"{path}: not readable as JSON: {error}") from None


def read_product(path: Path | str) -> dict[str, Any]:
    """Read the JSON object in a file that a step wrote, which can therefore be made again.

    Raises:
        MtdnnError: the file is missing or broken; the message names it and says what to do.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise MtdnnError(f"{path}: not readable: must be a JSON object")
        return content
    except MtdnnError as error:
        first = "delete it and " if Path(path).exists() else ""
        raise MtdnnError(f"{error}; {first}repeat the step that writes it") from None


def read_columns(path: Path | str, columns: list[str]) -> "pa.Table":
    """Read some columns of a Parquet file.

    Raises:
        MtdnnError: the file or a column is missing, or the file is broken; the message names it.
    """
    import pyarrow.parquet as pq

    with reading_parquet(path):
        return pq.read_table(path, columns=columns)


def read_portions(
    path: Path | str, rows: int, columns: list[str] | None = None
) -> "Iterator[pa.RecordBatch]":
    """Read a Parquet file a portion at a time, for files that may not fit in memory.

    Args:
        path: the file.
        rows: the number of rows of a portion; the last one may have fewer.
        columns: the columns to read; all by default.

    Raises:
        MtdnnError: the file or a column is missing, or the file is broken; the message names it.
    """
    import pyarrow.parquet as pq

    with reading_parquet(path), pq.ParquetFile(path) as file:
        for name in set(columns or ()).difference(file.schema_arrow.names):  # else ignored
            raise MtdnnError(f"{path}: has no column {name}")
        yield from file.iter_batches(rows, columns=columns)


@contextmanager
def reading_parquet(path: Path | str) -> Iterator[None]:
    """Turn errors of reading a Parquet file into one that names the file.

    Raises:
        MtdnnError: what the context read from the file was missing or broken.
    """
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise MtdnnError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise MtdnnError(f"{path}: not readable: {first_line(error)}") from None


def save_tensors(
    tensors: dict[str, "torch.Tensor"], target: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, with the permissions that any new file gets here.

    Raises:
        OSError: the disk is full or cannot be written, as for any other file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            target,
            metadata,
        )
        share(target)
    except SafetensorError as error:
        reported = re.search(r"os error (\d+)", str(error))
        if not reported:
            raise
        number = int(reported[1])
        raise OSError(number, os.strerror(number), str(target)) from None


def share(path: Path) -> None:
    """Give a file the permissions that any new file gets in its folder.

    The library of safetensors creates its files for their owner alone.
    """
    probe = path.with_name(f"{path.name}.mode")
    probe.touch()
    path.chmod(stat.S_IMODE(probe.stat().st_mode))
    probe.unlink()


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's JSON, in hexadecimal; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
