"""The Hub's client library, with limits on what a server may answer.

Whoever sets HF_ENDPOINT, or answers in the Hub's place, decides what the library reads. Its answers
are plain (a few bytes that unpack to gigabytes are refused), end in time and at a sensible size,
and name no place outside the library's cache.
"""

import re
from typing import Any

import huggingface_hub
from huggingface_hub.utils._http import default_client_factory  # only it knows its own hooks

from mtdnn.data.downloads import MAX_FILE_BYTES, TIMEOUT_SECONDS, limited
from mtdnn.errors import MtdnnError

# Listings, cards and the like, which are held in memory.
MAX_LISTING_BYTES = 256 << 20
# The library makes paths from these headers of an answer to the address of a file.
_FILE = re.compile("/resolve(-cache)?/")
_NAMES = ("X-Repo-Commit", "ETag", "X-Linked-ETag")
_PLACE = re.compile(r"\.\.|[/\\]")


def limit_answers() -> None:
    """Make the library use the limits from now on, in the whole process."""
    huggingface_hub.set_client_factory(_client)


def _client() -> Any:
    # The HTTP library, and so the type, depends on the version of the Hub's.
    client: Any = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], _prepare],
        "response": [*hooks["response"], _check],
    }
    return client


def _prepare(request: Any) -> None:
    request.headers["Accept-Encoding"] = "identity"
    timeouts = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {
        name: timeouts.get(name) or TIMEOUT_SECONDS for name in ("connect", "read", "write", "pool")
    }


def _check(response: Any) -> None:
    called = str(response.url.copy_with(query=None))
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise MtdnnError(f"{called}: the server compressed its answer unasked; refused")
    is_file = bool(_FILE.search(response.url.path))
    for name in _NAMES:
        value = response.headers.get(name, "")
        if is_file and _PLACE.search(value.removeprefix("W/")):
            raise MtdnnError(f"{called}: {name} must be a digest, not {value!r}; refused")
    length = response.headers.get("Content-Length", "0")
    if not length.isdecimal():
        raise MtdnnError(f"{called}: Content-Length must be a number, not {length!r}; refused")
    is_listing = "/api/" in response.url.path and not is_file
    limit = MAX_LISTING_BYTES if is_listing else MAX_FILE_BYTES
    chunks = response.iter_raw
    response.iter_raw = lambda *arguments: limited(chunks(*arguments), int(length), limit, called)
