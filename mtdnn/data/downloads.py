"""Downloads that are verified before anything reads them, and the cache where they stay."""

import os
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from mtdnn.errors import MtdnnError
from mtdnn.machine.files import replacing, sha256
from mtdnn.machine.locking import exclusive
from mtdnn.machine.progress import say

ATTEMPTS = 3
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20


def cache_folder(kind: str) -> Path:
    """Folder of downloads of one kind: below MTDNN_CACHE, or else the user's cache folder."""
    home = os.environ.get("MTDNN_CACHE")
    if not home:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtdnn"
    return Path(home) / kind


def check_digest(path: Path, expected: str, called: str) -> None:
    """Refuse a file whose SHA-256 is not `expected`; `called` names it in the message."""
    found = sha256(path)
    if found != expected:
        raise MtdnnError(
            f"{called}: its sha256 is {found}, expected {expected}; "
            "the file is damaged or was changed"
        )


def download(url: str, expected: str) -> Path:
    """The file at `url`, from the cache or the network, with SHA-256 `expected`.

    Raises:
        MtdnnError: it cannot be had, or its digest differs; nothing is kept then.
    """
    target = cache_folder("files") / expected / url.rsplit("/", 1)[-1]
    with exclusive(target):
        if target.is_file() and sha256(target) == expected:
            return target
        say(f"downloading {url}")
        with replacing(target) as draft:
            _retrying(url, draft)
            check_digest(draft, expected, url)
    return target


def _retrying(url: str, draft: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _transfer(url, draft)
        except urllib.error.HTTPError as error:
            # The server answered: asking again helps only where the fault is its own.
            if error.code < 500 or attempt == ATTEMPTS:
                raise MtdnnError(f"{url}: the server says {error.code} {error.reason}") from None
        except (OSError, HTTPException, ValueError) as error:
            if attempt == ATTEMPTS:
                raise MtdnnError(f"{url}: not downloaded: {error}") from None
        time.sleep(attempt)


def _transfer(url: str, draft: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as reply, open(draft, "wb") as file:
        length = int(reply.headers.get("Content-Length") or 0)
        bar = tqdm(
            total=length or None,
            desc=draft.name,
            unit="B",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )
        with bar:
            while chunk := reply.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    if length and draft.stat().st_size != length:
        raise OSError(f"cut off after {draft.stat().st_size} of {length} bytes")
