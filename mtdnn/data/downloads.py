"""Downloads, verified before anything reads them, and the cache that holds them."""

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

MAX_ATTEMPTS = 3
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20


def cache_folder(kind: str) -> Path:
    """Return the cache folder of one kind of download.

    The cache is MTDNN_CACHE or, when that is unset, `mtdnn` in the user's cache folder.
    """
    if chosen := os.environ.get("MTDNN_CACHE"):
        return Path(chosen) / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtdnn" / kind


def check_digest(path: Path, expected: str, called: str) -> None:
    """Refuse a file whose SHA-256 is not `expected`; `called` names it in the message."""
    found = sha256(path)
    if found != expected:
        raise MtdnnError(
            f"{called}: its sha256 is {found}, expected {expected}; "
            "the file is damaged or was changed"
        )


def download(url: str, expected: str) -> Path:
    """Return the file at `url`, from the cache or the network, with SHA-256 `expected`.

    Raises:
        MtdnnError: the download failed, or its digest differs; nothing is kept then.
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
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return _transfer(url, draft)
        except urllib.error.HTTPError as error:
            # A retry helps only where the fault is the server's own.
            if error.code < 500 or attempt == MAX_ATTEMPTS:
                raise MtdnnError(
                    f"{url}: the server answered {error.code} {error.reason}"
                ) from None
        except (OSError, HTTPException, ValueError) as error:
            if attempt == MAX_ATTEMPTS:
                raise MtdnnError(f"{url}: download failed: {error}") from None
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
        raise OSError(f"connection broken after {draft.stat().st_size} of {length} bytes")
