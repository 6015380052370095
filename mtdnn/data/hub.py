"""Files from the Hugging Face Hub: resolved once, verified, locked; offline after the first use.

The client library does the transfer and the caching (HF_ENDPOINT, HF_HOME and
HF_HUB_OFFLINE act as usual); here are the rules of what is accepted.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mtdnn.data import revisions
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256
from mtdnn.machine.progress import say

RepoType = Literal["model", "dataset"]


@dataclass(frozen=True)
class Repository:
    """A repository at a commit."""

    kind: RepoType
    name: str
    commit: str

    def __str__(self) -> str:
        return f"Hub {self.kind} {self.name} at {self.commit[:12]}"


@dataclass(frozen=True)
class Fetched:
    """Files on this machine, by their names in the repository."""

    commit: str
    paths: dict[str, Path]
    sha256: dict[str, str]


def fetch_model(
    name: str, revision: str, lock: Path, choose: Callable[[list[str], str], list[str]]
) -> Fetched:
    """A model repository's files as `choose(names, place)` picks them, as locked in `lock`.

    Raises:
        MtdnnError: not to be had, damaged, or not what is locked; the lock stays as it was.
    """
    key = f"models/{name}@{revision}"
    locked = revisions.read(lock, key)
    if locked:
        return fetch(Repository("model", name, locked.commit), list(locked.sha256), locked.sha256)
    repository = resolve("model", name, revision)
    fetched = fetch(repository, choose(list_files(repository), str(repository)), {})
    revisions.write(lock, key, revisions.Locked(commit=fetched.commit, sha256=fetched.sha256))
    return fetched


def resolve(kind: RepoType, name: str, revision: str) -> Repository:
    """The commit that a branch, tag or commit stands for today."""
    with translated(f"Hub {kind} {name} at {revision}"):
        info = huggingface_hub.HfApi().repo_info(name, repo_type=kind, revision=revision)
    return Repository(kind, name, info.sha)


def list_files(repository: Repository) -> list[str]:
    """Names of all files of a repository."""
    with translated(str(repository)):
        return huggingface_hub.HfApi().list_repo_files(
            repository.name, repo_type=repository.kind, revision=repository.commit
        )


def fetch(repository: Repository, names: list[str], locked: dict[str, str]) -> Fetched:
    """The files `names`, from the cache or the network, each verified.

    A file with a digest in `locked` must have it; any other must have the one that the
    Hub lists for it. A file in the cache that is damaged is fetched again once.
    """
    new = [name for name in names if name not in locked]
    listed = _listed(repository, new) if new else {}
    paths, digests = {}, {}
    for name in names:
        accepts = _is_locked(locked[name]) if name in locked else listed[name]
        paths[name] = _download(repository, name, accepts, locked=name in locked)
        digests[name] = sha256(paths[name])
    return Fetched(repository.commit, paths, digests)


def _download(
    repository: Repository, name: str, accepts: Callable[[Path], bool], *, locked: bool
) -> Path:
    where = f"{repository}: {name}"
    for again in (False, True):
        path = _from_cache_or_network(repository, name, again)
        if accepts(path):
            return path
    expected = "is locked" if locked else "the Hub lists"
    raise MtdnnError(f"{where}: its content is not what {expected}; refused")


def _from_cache_or_network(repository: Repository, name: str, again: bool) -> Path:
    wanted = {
        "repo_id": repository.name,
        "filename": name,
        "repo_type": repository.kind,
        "revision": repository.commit,
    }
    cached = huggingface_hub.try_to_load_from_cache(**wanted)
    if not isinstance(cached, str) or again:
        say(f"downloading {name} of {repository}")
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    with translated(f"{repository}: {name}"):
        return Path(huggingface_hub.hf_hub_download(**wanted, force_download=again))


def _is_locked(expected: str) -> Callable[[Path], bool]:
    return lambda path: sha256(path) == expected


def _listed(repository: Repository, names: list[str]) -> dict[str, Callable[[Path], bool]]:
    """For each file, whether a copy of it is what the Hub lists: by SHA-256 or git's SHA-1."""
    with translated(str(repository)):
        found = huggingface_hub.HfApi().get_paths_info(
            repository.name, names, repo_type=repository.kind, revision=repository.commit
        )
    infos = {info.path: info for info in found}
    missing = [name for name in names if name not in infos]
    if missing:
        raise MtdnnError(f"{repository}: has no file {missing[0]}")
    return {
        name: _is_locked(infos[name].lfs.sha256)
        if infos[name].lfs
        else _is_blob(infos[name].blob_id)
        for name in names
    }


def _is_blob(expected: str) -> Callable[[Path], bool]:
    def accepts(path: Path) -> bool:
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == expected

    return accepts


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn what the client libraries raise into one line about `place`."""
    try:
        yield
    except MtdnnError:
        raise
    except GatedRepoError:
        reason = "is gated; accept its terms on the Hub and set HF_TOKEN"
    except RepositoryNotFoundError:
        reason = "no such repository, or no access to it"
    except RevisionNotFoundError:
        reason = "no such revision"
    except (OfflineModeIsEnabled, huggingface_hub.errors.LocalEntryNotFoundError):
        reason = "not in the cache, and the Hub cannot be reached; run it once with a network"
    except Exception as error:  # which HTTP library raises depends on the client's version
        lines = str(error).strip().splitlines() or ["no reason given"]
        reason = f"not to be had: {type(error).__name__}: {lines[0]}"
    else:
        return
    raise MtdnnError(f"{place}: {reason}")
