"""One writer at a time: on one machine, after a hard kill, and across machines."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mtdnn.errors import Busy, MtdnnError
from mtdnn.machine import locking
from mtdnn.machine.files import write_json
from mtdnn.machine.locking import Lease, exclusive
from mtdnn.machine.staging import publishing
from tests.support.journals import journal_line, make_journal

WHAT = "the run is being trained"
HOLD = """
import sys, time
from pathlib import Path
from mtdnn.machine.locking import Lease
with Lease(Path(sys.argv[1]), "the run is being trained"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def quick(monkeypatch):
    """Short intervals between beats and until a lease is stale."""
    monkeypatch.setattr(locking, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(locking, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(locking, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(locking, "POLL_SECONDS", 0.02)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def leave_lease_of_another_machine(folder) -> None:
    """Write the lease that a killed process on another machine leaves behind."""
    folder.mkdir()
    lease = {"process": 7, "host": "far", "machine": "another", "token": "its"}
    (folder / "holder.json").write_text(json.dumps(lease))


def test_a_second_process_is_refused_with_a_message_that_names_the_first(tmp_path, holder):
    message = (
        rf"run: the run is being trained by process {holder.pid} on \S+; wait for it or stop it"
    )
    with pytest.raises(Busy, match=message), Lease(tmp_path / "run", WHAT):
        pass
    assert holder.poll() is None


def test_the_folder_of_a_killed_process_is_free_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / "holder.json").exists()
    began = time.monotonic()
    with Lease(tmp_path / "run", WHAT) as lease:
        lease.check()
    assert time.monotonic() - began < 1
    assert not (tmp_path / "run" / "holder.json").exists()


def test_a_second_process_waits_if_told_to(tmp_path, holder, capsys):
    threading.Timer(0.7, holder.kill).start()
    with Lease(tmp_path / "run", WHAT, wait=True) as lease:
        assert lease.waited
    assert capsys.readouterr().err.count(f"by process {holder.pid}") == 1


def test_a_dead_holder_on_another_machine_is_replaced_after_a_while(tmp_path, quick):
    leave_lease_of_another_machine(tmp_path / "run")
    began = time.monotonic()
    with Lease(tmp_path / "run", WHAT) as lease:
        lease.check()
    assert time.monotonic() - began > 0.5


@pytest.mark.parametrize("date", [0, 2**33])  # clocks of 1970 and of 2242
def test_a_living_holder_on_another_machine_is_respected_whatever_its_clock_says(
    tmp_path, quick, date
):
    leave_lease_of_another_machine(tmp_path / "run")
    ended = threading.Event()

    def beat():
        for number in range(1000):
            os.utime(tmp_path / "run" / "holder.json", (date, date - number % 7))
            if ended.wait(0.05):
                return

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(Busy, match="process 7 on far"), Lease(tmp_path / "run", WHAT):
            pass
    finally:
        ended.set()
        beating.join()


def test_a_holder_keeps_the_folder_when_the_clock_jumps(tmp_path, quick, monkeypatch):
    with Lease(tmp_path / "run", WHAT) as lease:
        for moment in (0.0, 1e12):
            monkeypatch.setattr(time, "time", lambda moment=moment: moment)
            time.sleep(0.2)
            lease.check()
            with pytest.raises(Busy), Lease(tmp_path / "run", WHAT):
                pass


def test_without_kernel_locks_the_lease_decides(tmp_path, quick, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        Lease(tmp_path / "run", WHAT),
        pytest.raises(Busy, match=f"process {os.getpid()} on"),
        Lease(tmp_path / "run", WHAT),
    ):
        pass
    leave_lease_of_another_machine(tmp_path / "other")
    with Lease(tmp_path / "other", WHAT) as lease:
        lease.check()


def test_a_process_that_was_suspended_for_too_long_loses_the_folder(tmp_path, quick):
    with Lease(tmp_path / "run", WHAT) as lease:
        other = {"process": 8, "host": "far", "machine": "another", "token": "its"}
        (tmp_path / "run" / "holder.json").write_text(json.dumps(other))
        with pytest.raises(MtdnnError, match="by process 8 on far, which took over"):
            lease.check()
    assert json.loads((tmp_path / "run" / "holder.json").read_text()) == other


def with_json(folder):
    write_json(folder / "a", 1)


def with_staging(folder):
    with publishing(folder) as draft:
        (draft / "a").write_text("1")


def with_a_journal(folder):
    with make_journal(folder) as journal:
        take_over(folder)
        journal.add([journal_line(0)])


def take_over(folder) -> None:
    other = {"process": 8, "host": "far", "machine": "another", "token": "its"}
    (folder.parent / "lease" / "holder.json").write_text(json.dumps(other))


@pytest.mark.parametrize("write", [with_json, with_staging, with_a_journal])
def test_a_process_that_lost_what_it_held_writes_nothing(tmp_path, quick, write):
    folder = tmp_path / "results"
    folder.mkdir()
    with Lease(tmp_path / "lease", WHAT):
        write_json(folder / "b", "while it is held")
        if write is not with_a_journal:
            take_over(folder)
        with pytest.raises(Busy, match="by process 8 on far, which took over"):
            write(folder)
        left = {path.name: path.read_text() for path in folder.iterdir()}
        journal = left.pop("journal.jsonl", "")
        assert left == {"b": '"while it is held"\n'}
        assert "loss" not in journal and "end" not in journal
    write_json(folder / "a", "afterwards")


def test_one_of_many_threads_holds_the_folder_at_a_time(tmp_path):
    inside, counts, done = [], [], []

    def work():
        with Lease(tmp_path / "run", WHAT, wait=True):
            inside.append(1)
            counts.append(len(inside))
            time.sleep(0.01)
            inside.pop()
        done.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(done) == 6 and max(counts) == 1


def test_a_damaged_lease_is_replaced_after_a_while(tmp_path, quick):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holder.json").write_text("[" * 100_000)
    with Lease(tmp_path / "run", WHAT) as lease:
        lease.check()


def test_exclusive_work_on_one_target_happens_in_turn(tmp_path):
    events = []

    def work(name):
        with exclusive(tmp_path / "new" / "target"):
            events.append(name)
            time.sleep(0.05)
            events.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(events) == 6 and events[::2] == events[1::2]
