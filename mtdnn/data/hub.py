"""Files from the Hugging Face Hub: resolved once, locked, verified, then usable offline.

The client library transfers and caches them (HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE act as
usual); this module decides which files are accepted.
"""

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from mtdnn.data import revisions
from mtdnn.data.hub_client import limit_answers
from mtdnn.errors import MtdnnError, disk_is_full
from mtdnn.machine.files import sha256
from mtdnn.machine.progress import say

RepoType = Literal["model", "dataset"]

limit_answers()


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
    """Verified files of a repository.

    Attributes:
        commit: the commit they come from.
        paths: where each is on this machine, by its name in the repository.
        sha256: their digests, by the same names.
    """

    commit: str
    paths: dict[str, Path]
    sha256: dict[str, str]


def fetch_model(
    name: str,
    revision: str,
    lock: Path,
    choose: Callable[[list[str], str], list[str]],
    check: Callable[[Path], None],
) -> Fetched:
    """Return the files of a model repository, as locked in the file `lock`.

    Args:
        name: owner/name on the Hub.
        revision: branch, tag or commit.
        lock: the lock file; it gets an entry when it has none for this revision.
        choose: picks the needed names from those of all files; its second argument names
            the repository in messages.
        check: called with the first of these files before the others are downloaded; raises a
            `MtdnnError` if they are of no use.

    Raises:
        MtdnnError: a file is not available, damaged, or differs from what is locked; the lock
            file is left as it was.
    """
    key = f"models/{name}@{revision}"
    locked = revisions.read(lock, key)
    if locked:
        repository, digests = Repository("model", name, locked.commit), locked.sha256
    else:
        repository, digests = resolve("model", name, revision), {}
    names = choose(list(digests) or list_files(repository), str(repository))
    check(fetch(repository, names[:1], digests).paths[names[0]])
    fetched = fetch(repository, names, digests)
    if locked:
        return fetched
    revisions.write(lock, key, revisions.Locked(commit=fetched.commit, sha256=fetched.sha256))
    return fetched


def resolve(kind: RepoType, name: str, revision: str) -> Repository:
    """Return the repository at the commit to which a branch, tag or commit points today."""
    with translated(f"Hub {kind} {name} at {revision}"):
        info = huggingface_hub.HfApi().repo_info(name, repo_type=kind, revision=revision)
    if not re.fullmatch("[0-9a-f]{40}", str(info.sha)):
        raise MtdnnError(f"Hub {kind} {name} at {revision}: the Hub names no commit")
    return Repository(kind, name, str(info.sha))


def list_files(repository: Repository) -> list[str]:
    """Return the names of all files of a repository."""
    with translated(str(repository)):
        return huggingface_hub.HfApi().list_repo_files(
            repository.name, repo_type=repository.kind, revision=repository.commit
        )


def fetch(repository: Repository, names: list[str], locked: dict[str, str]) -> Fetched:
    """Return the files `names`, from the cache or the network, each verified.

    A file must have the digest that `locked` gives for its name or else the one that the Hub
    lists. A damaged file in the cache is downloaded again.

    Raises:
        MtdnnError: a file is not available or has another digest, or its name leaves the
            repository.
    """
    for name in names:
        if not _is_inside(name):
            raise MtdnnError(f"{repository}: contains a path that leaves it: {name!r}")
    new = [name for name in names if name not in locked]
    listed = _listed(repository, new) if new else {}
    paths: dict[str, Path] = {}
    digests: dict[str, str] = {}
    for name in names:
        accepts = _has_sha256(locked[name]) if name in locked else listed[name]
        paths[name] = _download(repository, name, accepts, locked=name in locked)
        digests[name] = sha256(paths[name])
    return Fetched(repository.commit, paths, digests)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name)


def _download(
    repository: Repository, name: str, accepts: Callable[[Path], bool], *, locked: bool
) -> Path:
    for force in (False, True):
        path = _from_cache_or_network(repository, name, force)
        if accepts(path):
            return path
    expected = "is locked" if locked else "the Hub lists"
    raise MtdnnError(f"{repository}: {name}: its content differs from what {expected}; refused")


def _from_cache_or_network(repository: Repository, name: str, force: bool) -> Path:
    """Return the client's copy of a file; `force` downloads it even when it is in the cache."""
    kind, commit = repository.kind, repository.commit
    cached = huggingface_hub.try_to_load_from_cache(
        repository.name, name, repo_type=kind, revision=commit
    )
    if not isinstance(cached, str) or force:
        say(f"downloading {name} of {repository}")
    if not sys.stderr.isatty():
        disable_progress_bars()
    with translated(f"{repository}: {name}"):
        path = huggingface_hub.hf_hub_download(
            repository.name, name, repo_type=kind, revision=commit, force_download=force
        )
    return Path(path)


def _has_sha256(expected: str) -> Callable[[Path], bool]:
    return lambda path: sha256(path) == expected


def _listed(repository: Repository, names: list[str]) -> dict[str, Callable[[Path], bool]]:
    """Return for each file a check that a copy is what the Hub lists.

    The Hub lists the SHA-256 of files in git-lfs and git's own SHA-1 of all others.
    """
    with translated(str(repository)):
        found = huggingface_hub.HfApi().get_paths_info(
            repository.name, names, repo_type=repository.kind, revision=repository.commit
        )
    infos = {info.path: info for info in found if isinstance(info, huggingface_hub.RepoFile)}
    missing = [name for name in names if name not in infos]
    if missing:
        raise MtdnnError(f"{repository}: has no file {missing[0]}")
    return {
        name: _has_sha256(info.lfs.sha256) if info.lfs else _is_blob(info.blob_id)
        for name, info in infos.items()
    }


def _is_blob(expected: str) -> Callable[[Path], bool]:
    def accepts(path: Path) -> bool:
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == expected

    return accepts


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn errors of the client libraries into a one-line `MtdnnError` about `place`."""
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
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        reason = (
            "not in the cache, and the Hub cannot be reached; run this once with network access"
        )
    except (
        Exception
    ) as error:  # the client's HTTP library, and so its errors, depend on its version
        lines = str(error).strip().splitlines() or ["no reason given"]
        reason = f"not available: {type(error).__name__}: {lines[0]}"
        if disk_is_full(str(error)):
            reason = (
                f"no space left for {constants.HF_HUB_CACHE}; free some, or set HF_HUB_CACHE "
                "to a folder on a larger disk"
            )
    else:
        return
    raise MtdnnError(f"{place}: {reason}")
