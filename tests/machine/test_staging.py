"""Files are replaced together or not at all, whatever happens at any moment."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtdnn.machine.staging import finish_publishing, is_half_published, publishing

OLD = {"a.txt": "old a", "model/w": "old w", "later.txt": "from the old a", "other.txt": "other"}
NEW = {"a.txt": "new a", "model/w": "new w", "other.txt": "other"}

# Publishes `NEW` and kills itself at the n-th call of a function of `os` or `shutil`.
KILLED = """
import os, shutil, sys
from pathlib import Path
from mtdnn.machine.staging import publishing
from tests.support.kills import kill_at_call
calls = [(os, name) for name in ("rename", "replace", "mkdir", "fsync")]
kill_at_call(int(sys.argv[2]), *calls, (shutil, "rmtree"), (Path, "unlink"))
with publishing(Path(sys.argv[1]), stale=["later.txt"]) as draft:
    (draft / "model").mkdir()
    (draft / "model" / "w").write_text("new w")
    (draft / "a.txt").write_text("new a")
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def files_of(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def publish(folder: Path) -> None:
    with publishing(folder, stale=["later.txt"]) as draft:
        write(draft, {name: NEW[name] for name in ("a.txt", "model/w")})


def test_new_files_replace_old_ones_and_what_followed_from_them(tmp_path):
    publish(write(tmp_path, OLD))
    assert files_of(tmp_path) == NEW


def test_the_first_files_of_a_folder(tmp_path):
    publish(tmp_path / "new")
    assert files_of(tmp_path / "new") == {"a.txt": "new a", "model/w": "new w"}


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_nothing_changes_when_the_work_fails(tmp_path, error):
    write(tmp_path, OLD)
    with pytest.raises(type(error)), publishing(tmp_path, stale=["later.txt"]) as draft:
        write(draft, {"a.txt": "half"})
        raise error
    assert files_of(tmp_path) == OLD


def test_nothing_changes_when_the_disk_is_full(tmp_path, monkeypatch):
    write(tmp_path, OLD)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mtdnn.machine.staging.flush", full)
    with pytest.raises(OSError, match="No space left") as raised:
        publish(tmp_path)
    assert raised.value.filename == str(tmp_path)
    assert files_of(tmp_path) == OLD


def test_a_kill_at_any_moment_leaves_all_old_or_all_new_files(tmp_path):
    outcomes = []
    for moment in range(1, 40):
        folder = write(tmp_path / str(moment), OLD)
        command = [sys.executable, "-c", KILLED, str(folder), str(moment)]
        killed = subprocess.run(command, check=False).returncode != 0
        finish_publishing(folder)
        assert files_of(folder) in (OLD, NEW), moment
        outcomes.append(files_of(folder) == NEW)
        # The next one succeeds whatever was left.
        publish(folder)
        assert files_of(folder) == NEW
        if not killed:
            break
    assert not killed and outcomes == sorted(outcomes) and not outcomes[0]


def test_what_a_killed_process_had_not_ready_is_removed_by_the_next_that_holds_the_folder(tmp_path):
    write(tmp_path, {**OLD, ".draft/a.txt": "half"})
    finish_publishing(tmp_path)
    assert files_of(tmp_path) == OLD and not (tmp_path / ".draft").exists()


def test_what_was_made_after_a_kill_is_not_removed_with_what_no_longer_held(tmp_path, monkeypatch):
    write(tmp_path, OLD)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mtdnn.machine.staging.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(tmp_path)
    assert is_half_published(tmp_path) and not (tmp_path / "later.txt").exists()
    write(tmp_path, {"later.txt": "made meanwhile"})
    assert finish_publishing(tmp_path) and not is_half_published(tmp_path)
    assert files_of(tmp_path) == {**NEW, "later.txt": "made meanwhile"}
