"""Downloads, verified before anything reads them, and the cache that holds them."""

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from mtdnn.errors import MtdnnError, disk_is_full
from mtdnn.machine.files import replacing, sha256
from mtdnn.machine.locking import exclusive
from mtdnn.machine.progress import say

MAX_ATTEMPTS = 3
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20
# More than any corpus or encoder file needs, and less than a disk.
MAX_FILE_BYTES = 16 << 30
# A server that sends less than this on average over a minute has stopped answering.
MIN_BYTES_PER_SECOND = 512


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
            "the file is damaged or was changed; get it again, or correct the expected digest"
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
            if disk_is_full(str(error)):
                raise MtdnnError(
                    f"{url}: download failed: no space left for {cache_folder('files')}; free "
                    "some, or set MTDNN_CACHE to a folder on a larger disk"
                ) from None
            if attempt == MAX_ATTEMPTS:
                raise MtdnnError(f"{url}: download failed: {error}") from None
        time.sleep(attempt)


def _transfer(url: str, draft: Path) -> None:
    with _opener().open(url, timeout=TIMEOUT_SECONDS) as reply, open(draft, "wb") as file:
        length = int(reply.headers.get("Content-Length") or 0)
        bar = tqdm(
            total=length or None,
            desc=draft.name,
            unit="B",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )
        chunks = iter(lambda: reply.read1(CHUNK_BYTES), b"")
        with bar:
            for chunk in limited(chunks, length, MAX_FILE_BYTES, url):
                file.write(chunk)
                bar.update(len(chunk))
    if length and draft.stat().st_size != length:
        raise OSError(f"connection broken after {draft.stat().st_size} of {length} bytes")


def limited(chunks: Iterable[bytes], declared: int, limit: int, called: str) -> Iterator[bytes]:
    """Yield the parts of a server's answer; refuse one that is too large or never ends.

    Args:
        chunks: the parts, as they arrive.
        declared: bytes that the server said it would send; 0 if it said nothing.
        limit: bytes that any such answer may have.
        called: what is downloaded, for messages.

    Raises:
        MtdnnError: there are more bytes than declared or allowed.
        TimeoutError: hardly anything arrives any more.
    """
    if declared > limit:
        raise MtdnnError(f"{called}: has {declared} bytes, more than {limit}; refused")
    total = recent = 0
    since = time.monotonic()
    for chunk in chunks:
        total, recent = total + len(chunk), recent + len(chunk)
        if total > (declared or limit):
            raise MtdnnError(
                f"{called}: the server sends more than {declared or limit} bytes; refused"
            )
        passed = time.monotonic() - since
        if passed >= TIMEOUT_SECONDS:
            if recent < MIN_BYTES_PER_SECOND * passed:
                raise TimeoutError(f"only {recent} bytes in {passed:.0f} s")
            recent, since = 0, time.monotonic()
        yield chunk


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener that speaks only HTTP and HTTPS, even when it is redirected."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPRedirectHandler(),
    ):
        opener.add_handler(handler)
    return opener
