"""SIGKILL at many points of an import and of a download: both can be repeated, nothing is half."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mtdnn.config.dependencies import RunSteps
from mtdnn.config.layout import RunFolder
from mtdnn.data import downloads, offline
from mtdnn.machine.files import sha256
from mtdnn.training.loop import train
from mtdnn.workflow.importing import import_run
from tests.support.file_server import FileServer
from tests.support.kills import kill_at_call
from tests.support.tiny import make_encoder, make_run_folder, make_tiny_experiment

MIXTURE = {"mixture": "squad_cola", "weight": 0.5}
CHANGES = {
    "training": {"epochs": 1, "batch_size": 8},
    "tables": {"t": {"title": "t", "rows": [{"encoder": "tiny", **MIXTURE}]}},
}
# Where a process may be killed: before each change of a folder.
CHANGING = [
    *((os, name) for name in ("mkdir", "rename", "replace", "utime", "unlink", "rmdir")),
    *((shutil, name) for name in ("copyfile", "rmtree")),
]


pytestmark = pytest.mark.slow


def is_killed(work: Callable[[], object], moment: int, *functions: tuple[object, str]) -> bool:
    """Do some work in a process that kills itself at the n-th call of one of these functions."""
    child = os.fork()
    if child == 0:
        try:
            kill_at_call(moment, *(functions or CHANGING))
            work()
            os._exit(0)
        except BaseException as error:  # never return into pytest
            os.write(2, repr(error).encode())
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"moment {moment} ended with {status}"
    return status != 0


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def litter(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if not path.name.endswith((".guard", ".lock"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run_dir, run = make_run_folder(folder, rows=8, **MIXTURE, **CHANGES)
    train(run_dir, run, threads=1)
    return run_dir


def test_an_import_that_was_killed_is_no_run_and_can_be_repeated(finished, tmp_path):
    whole = files_of(import_run(make_tiny_experiment(tmp_path / "whole", **CHANGES), finished))
    outcomes = []
    for moment in range(1, 200):
        here = make_tiny_experiment(tmp_path / str(moment), **CHANGES)
        run = here.runs()[0]
        target = here.layout.run(run)
        killed = is_killed(lambda here=here: import_run(here, finished), moment)
        is_there = RunFolder(target).description.exists()
        outcomes.append(is_there)
        if is_there:
            assert {n: c for n, c in files_of(target).items() if n in whole} == whole
        assert RunSteps(here).imported(run) == (["train"] if is_there else [])
        import_run(here, finished)
        assert files_of(target) == whole
        # Nothing is written, and so nothing swept, where the run is there already.
        assert is_there or not litter(target.parent)
        if not killed:
            break
    assert not killed and moment > 20
    assert outcomes == sorted(outcomes) and not outcomes[0]


def test_a_download_that_was_killed_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "cache"))
    published = tmp_path / "data" / "corpus.txt"
    published.parent.mkdir()
    published.write_bytes(os.urandom(200_000))
    digest = sha256(published)
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 20_000)
    with FileServer(published.parent) as server:
        url = f"{server.url}/corpus.txt"
        for moment in range(1, 30):
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            places = [*CHANGING, (downloads.time, "monotonic")]  # asked for each chunk
            killed = is_killed(lambda: downloads.download(url, digest), moment, *places)
            for path in (tmp_path / "cache").rglob("corpus.txt"):
                is_draft = any(part.startswith(".") for part in path.parts)
                assert is_draft or sha256(path) == digest
            assert sha256(downloads.download(url, digest)) == digest
            if not killed:
                break
    assert not killed and moment > 10
    # The last process was not killed; a draft that one of them left would still be there.
    assert not litter(tmp_path / "cache")


def test_a_fetch_that_was_killed_leaves_nothing_after_the_next(tmp_path, monkeypatch):
    for name in ("MTDNN_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, "before")
    encoder = make_encoder(tmp_path / "encoder")
    encoders = {"tiny": {"label": "t", "source": {"kind": "files", "path": str(encoder)}}}
    small = make_tiny_experiment(tmp_path / "results", encoders=encoders)
    small = small.model_copy(update={"lock": str(tmp_path / "lock.json")})
    folder = tmp_path / "downloads"
    for moment in range(1, 200, 4):
        killed = is_killed(lambda: offline.fetch(small, folder), moment)
        if not killed:
            break
        offline.fetch(small, folder)
        assert not list(folder.iterdir()) and not (tmp_path / "results").exists()
    assert not killed and moment > 20
