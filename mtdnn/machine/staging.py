"""Several files of a folder replaced as one, at the end, whatever interrupts it.

New files are built in a folder next to the old ones. When all of them are complete, that folder is
renamed, which marks it as ready; then its files take the places of the old ones. A process that is
killed before the rename has changed nothing. One that is killed after it has left everything that
the next process needs to finish: it calls `finish_publishing` before it looks at the folder.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mtdnn.machine.files import check_guards, flush

_DRAFT, _READY, _OLD = ".draft", ".ready", ".old"
_STALE = ".stale.json"


@contextmanager
def publishing(folder: Path, stale: Iterable[str] = ()) -> Iterator[Path]:
    """Yield an empty folder for new files; when the block succeeds, they replace the old ones.

    Only one process at a time may publish to a folder; its caller holds a lease.

    Args:
        folder: the folder in which files are replaced; files that the block does not write stay.
        stale: names of files in `folder` that no longer hold once the new ones are there.

    Raises:
        OSError: the disk is full or not writable; `folder` is unchanged.
        Busy: this process no longer holds what it held; `folder` is unchanged.
    """
    finish_publishing(folder)
    draft = folder / _DRAFT
    draft.mkdir(parents=True)
    try:
        yield draft
        (draft / _STALE).write_text(json.dumps(sorted(stale)), encoding="utf-8")
        flush(draft)
        check_guards()
        os.rename(draft, folder / _READY)
    except OSError as error:
        error.filename = error.filename or str(folder)  # a full disk is reported without a name
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    finish_publishing(folder)


def is_half_published(folder: Path) -> bool:
    """Return whether a killed process had files ready of which some may not be in their places."""
    return (folder / _READY).is_dir()


def finish_publishing(folder: Path) -> bool:
    """Finish what a killed process had ready and remove the rest; return whether there was any.

    Every step can be repeated, so being killed here as well loses nothing.
    """
    shutil.rmtree(folder / _DRAFT, ignore_errors=True)
    if not is_half_published(folder):
        return False
    ready = folder / _READY
    stale = ready / _STALE
    if stale.exists():
        for name in json.loads(stale.read_text(encoding="utf-8")):
            (folder / name).unlink(missing_ok=True)
        stale.unlink()  # what has these names from now on was made from the new files
    for path in sorted(ready.iterdir()):
        if path.name == _OLD:
            continue
        target = folder / path.name
        if target.is_dir():  # a folder cannot be renamed onto a full one
            shutil.rmtree(ready / _OLD, ignore_errors=True)
            os.rename(target, ready / _OLD)
        os.replace(path, target)
    shutil.rmtree(ready)
    return True
