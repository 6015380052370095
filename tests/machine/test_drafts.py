"""Drafts of dead processes are removed by whoever writes next, those of living ones never."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mtdnn.machine import drafts
from mtdnn.machine.drafts import clock, drafting, sweep
from mtdnn.machine.files import replacing, write_text

# Writes a draft of the file or the folder `argv[1]` and then kills itself or waits.
WRITER = """
import os, signal, sys, time
from mtdnn.machine.files import replacing
with replacing(sys.argv[1]) as draft:
    draft.write_text("half")
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
"""

# Replaces the folder `argv[1]` and kills itself at the n-th rename.
SWAPPER = """
import os, sys
from mtdnn.machine import files
from mtdnn.machine.files import replacing
from tests.support.kills import kill_at_call
files.exchange = lambda one, other: False  # as on a file system that cannot exchange folders
kill_at_call(int(sys.argv[2]), (os, "rename"), (os, "replace"))
with replacing(sys.argv[1]) as draft:
    draft.mkdir()
    (draft / "content").write_text("new")
"""


def start(script: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def litter(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


def foreign_draft(folder: Path, age: float = 0.0) -> Path:
    """A draft of a process on another machine that last changed `age` seconds ago."""
    draft = folder / ".file.draft-00000000-abcdefgh"
    draft.mkdir(parents=True)
    (draft / "file").write_text("half")
    for path in (draft / "file", draft):
        moment = clock(folder) - age
        os.utime(path, (moment, moment))
    return draft


def test_the_next_write_to_a_folder_removes_what_a_killed_process_left_there(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    assert start(WRITER, target, "killed").wait() == -signal.SIGKILL
    assert target.read_text() == "old" and len(litter(tmp_path)) == 1
    write_text(tmp_path / "another", "new")
    assert target.read_text() == "old" and not litter(tmp_path)


def test_a_living_writer_keeps_its_draft_even_while_it_is_stopped(tmp_path):
    with start(WRITER, tmp_path / "file", 1) as writer:
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGSTOP)
        write_text(tmp_path / "file", "other")
        write_text(tmp_path / "another", "other")
        assert len(litter(tmp_path)) == 1
        writer.send_signal(signal.SIGCONT)
        assert writer.wait(timeout=60) == 0
    assert (tmp_path / "file").read_text() == "half" and not litter(tmp_path)


@pytest.mark.parametrize(("age", "stays"), [(0, True), (80_000, True), (90_000, False)])
def test_a_draft_of_another_machine_stays_for_a_day_after_its_last_change(tmp_path, age, stays):
    draft = foreign_draft(tmp_path, age)
    write_text(tmp_path / "another", "new")
    assert draft.exists() == stays


@pytest.mark.parametrize("error", [-600.0, 600.0, -1e6, 1e6])
def test_a_wrong_clock_of_this_machine_makes_no_difference(tmp_path, monkeypatch, error):
    """Two machines whose clocks differ: ages are differences of the disk's own dates."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + error)
    young, old = foreign_draft(tmp_path / "a"), foreign_draft(tmp_path / "b", 90_000)
    for folder in "ab":
        write_text(tmp_path / folder / "another", "new")
    assert young.exists() and not old.exists()


def test_what_a_foreign_writer_still_fills_is_not_old(tmp_path):
    draft = foreign_draft(tmp_path, 90_000)
    with open(draft / "file", "a") as file:  # dates of the folders above stay old
        file.write("more")
    write_text(tmp_path / "another", "new")
    assert draft.exists()


def test_only_a_sole_writer_removes_every_draft(tmp_path):
    draft = foreign_draft(tmp_path)
    sweep(tmp_path, now=clock(tmp_path))
    assert draft.exists()
    sweep(tmp_path)
    assert not draft.exists()
    sweep(tmp_path / "missing")


@pytest.mark.parametrize("name", [".file.draft", ".file.draft-1", ".draft-00000000-x", ".hidden"])
def test_files_and_folders_of_a_user_stay(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / ".notes.draft-00000000-abcdefgh").write_text("a file")
    sweep(tmp_path)
    assert len(litter(tmp_path)) == 2


def test_a_disk_without_locks_keeps_young_drafts(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with replacing(tmp_path / "file") as draft:
        draft.write_text("slow")
        write_text(tmp_path / "another", "quick")
        assert draft.exists()
    assert (tmp_path / "file").read_text() == "slow" and not litter(tmp_path)


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_folder_that_was_being_replaced_is_never_lost(tmp_path, moment):
    """Even between the two renames: whoever writes next finishes what was ready."""
    target = tmp_path / "folder"
    target.mkdir()
    (target / "content").write_text("old")
    killed = start(SWAPPER, target, moment).wait() == -signal.SIGKILL
    assert killed == (moment < 3)
    write_text(tmp_path / "another", "x")
    assert (target / "content").read_text() == ("old" if moment == 1 else "new")
    assert not litter(tmp_path)


def test_writers_and_sweepers_of_one_folder_do_not_disturb_each_other(tmp_path):
    errors = []

    def write(name: str) -> None:
        try:
            for number in range(60):
                write_text(tmp_path / name, str(number))
                with drafting(tmp_path, name) as draft:
                    sweep(tmp_path, now=clock(tmp_path))
                    assert draft.exists()
        except BaseException as error:  # of any kind: the thread would swallow it
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert sorted(os.listdir(tmp_path)) == list("abcd")


def test_a_draft_that_was_swept_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    flock, count = fcntl.flock, [0]

    def swept_first(handle, operation):
        count[0] += 1
        if count[0] == 1:
            sweep(tmp_path)
        flock(handle, operation)

    monkeypatch.setattr(drafts.fcntl, "flock", swept_first)
    with replacing(tmp_path / "file") as draft:
        draft.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole" and not litter(tmp_path)
