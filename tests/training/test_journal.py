"""The journal of a run: whole lines, each step once, whatever interrupts it."""

import json
import os
import socket
from pathlib import Path

import pytest

from mtdnn.training.journal import MAX_MEMORY_READINGS, Record, mark_killed
from tests.support.journals import journal_line, make_journal


def read(folder: Path) -> Record:
    """The record of a journal, read to its end."""
    record = Record(folder)
    record.read()
    return record


def test_a_resumed_run_continues_its_journal_without_repetition(tmp_path):
    with pytest.raises(KeyboardInterrupt), make_journal(tmp_path) as first:
        first.add([journal_line(step) for step in range(10)])
        raise KeyboardInterrupt
    assert read(tmp_path).steps == 10 and read(tmp_path).status == "KILLED"
    with open(tmp_path / "journal.jsonl", "a") as file:
        file.write('{"step": 10, "corp')  # half a line, as after a power failure
    with make_journal(tmp_path) as second:
        assert not read(tmp_path).status
        second.add([journal_line(step) for step in range(5)])  # from a checkpoint
        second.add([journal_line(step) for step in range(5, 20)])
    record = Record(tmp_path)
    steps = [each["step"] for each in record.read() if "loss" in each]
    assert steps == list(range(20))
    assert (record.parts, record.status, record.complete) == (2, "FINISHED", True)


def test_another_training_run_begins_a_journal_of_its_own(tmp_path):
    reader = Record(tmp_path)
    for number, fingerprint in enumerate("abb"):  # the last one repeats a finished run
        started = f"2026-01-0{number + 1}"
        with make_journal(tmp_path, fingerprint=fingerprint, started=started) as new:
            new.add([journal_line(step) for step in range(20)])
        assert Record(tmp_path).read()[0]["step"] == 0
        assert reader.read() is not None and reader.replaced == (number > 0)
        assert len((tmp_path / "journal.jsonl").read_text().splitlines()) < 50
        reader = Record(tmp_path)
        reader.read()


def test_a_growing_journal_is_read_by_whole_lines(tmp_path):
    reader = Record(tmp_path)
    assert reader.read() == []
    with make_journal(tmp_path, steps=3) as growing:
        growing.add([journal_line(0)])
        assert [each["step"] for each in reader.read() if "loss" in each] == [0]
        text = json.dumps(journal_line(1)) + "\n"
        with open(tmp_path / "journal.jsonl", "a") as file:
            file.write(text[:20])
            file.flush()
            assert reader.read() == [] and not reader.whole
            file.write(text[20:])
        assert reader.read() == [journal_line(1)] and reader.whole


@pytest.mark.parametrize(
    "torn", [b'{"step": 1, "cor\n', b"\xff\xfe\n", b"[1]\n", b"{}\n", b'{"step": "1"}\n', b"\n"]
)
def test_a_torn_line_in_the_middle_is_left_out(tmp_path, torn):
    with make_journal(tmp_path, steps=2) as journal:
        journal.add([journal_line(0)])
        with open(tmp_path / "journal.jsonl", "ab") as file:
            file.write(torn)
        journal.add([journal_line(1)])
    record = Record(tmp_path)
    assert [each["step"] for each in record.read() if "loss" in each] == [0, 1]
    assert record.complete and record.status == "FINISHED"


def test_a_journal_that_cannot_be_opened_is_a_warning_and_not_an_error(tmp_path, capsys):
    (tmp_path / "journal.jsonl").mkdir()
    with make_journal(tmp_path) as blocked:
        for step in range(20):
            blocked.add([journal_line(step)])
    (warning,) = capsys.readouterr().err.splitlines()
    assert "journal.jsonl: Is a directory; training continues without a journal" in warning


def test_a_full_disk_is_one_warning_and_leaves_the_lines_before_it(tmp_path, capsys):
    with make_journal(tmp_path) as full:
        full.add([journal_line(0)])
        full._file.close()
        full._file = open("/dev/full", "w")  # noqa: SIM115
        for step in range(1, 20):
            full.add([journal_line(step)])
    (warning,) = capsys.readouterr().err.splitlines()
    assert "No space left on device; training continues without a journal" in warning
    record = read(tmp_path)
    assert (record.steps, record.status, record.complete) == (1, None, False)


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (KeyboardInterrupt(), "KILLED"), (ValueError("no\nuse"), "FAILED")],
)
def test_its_end_says_how_training_ended(tmp_path, error, status):
    try:
        with make_journal(tmp_path):
            if error:
                raise error
    except (KeyboardInterrupt, ValueError):
        pass
    record = read(tmp_path)
    assert record.status == status
    assert record.reason == {"FAILED": "no", "KILLED": "KeyboardInterrupt"}.get(status)


@pytest.mark.parametrize("torn", ["", '{"step": 1, "cor'])
def test_the_journal_of_a_killed_process_can_be_ended_by_another(tmp_path, torn):
    killed = make_journal(tmp_path, steps=2)
    killed.__enter__()
    killed.add([journal_line(0)])
    with open(tmp_path / "journal.jsonl", "a") as file:
        file.write(torn)
    assert read(tmp_path).status is None
    assert read(tmp_path).about["process"] == os.getpid()
    assert read(tmp_path).about["host"] == socket.gethostname()
    mark_killed(tmp_path, "process 1 was killed")
    record = read(tmp_path)
    assert (record.status, record.reason) == ("KILLED", "process 1 was killed")
    assert record.whole and record.seconds == 0
    with make_journal(tmp_path, steps=2) as resumed:
        assert read(tmp_path).status is None and read(tmp_path).reason is None
        resumed.add([journal_line(1)])
    assert read(tmp_path).complete and read(tmp_path).parts == 2


@pytest.mark.parametrize(("steps", "expected"), [(3, 3), (MAX_MEMORY_READINGS * 5, None)])
def test_memory_is_read_now_and_then(tmp_path, steps, expected):
    with make_journal(tmp_path, steps=steps) as journal:
        for step in range(steps):
            journal.add([journal_line(step)])
    readings = [each for each in Record(tmp_path).read() if "readings" in each]
    assert len(readings) == (expected or MAX_MEMORY_READINGS)
    assert all(each["readings"] == {"memory_mib": 1.0} for each in readings)


def test_lines_of_an_unknown_kind_are_not_steps(tmp_path):
    with make_journal(tmp_path, steps=2) as journal:
        journal.add([journal_line(0)])
        with open(tmp_path / "journal.jsonl", "a") as file:
            file.write('{"other": {}, "step": 1, "seconds": 1}\n')
    record = read(tmp_path)
    assert record.steps == 1 and not record.complete


def joint_lines(*steps: int) -> list[dict]:
    return [
        {**journal_line(step), "corpus": corpus} for step in steps for corpus in ("squad", "cola")
    ]


def test_a_step_that_was_half_written_is_completed(tmp_path):
    about = {"corpora": {"squad": 4, "cola": 4}}
    with pytest.raises(KeyboardInterrupt), make_journal(tmp_path, **about) as first:
        first.add(joint_lines(0, 1))
        raise KeyboardInterrupt
    path = tmp_path / "journal.jsonl"
    text = path.read_text()
    place = text.rindex('{"step": 1')
    path.write_text(text[: place + 20])  # the second batch of step 1 is torn, as is the end
    with make_journal(tmp_path, **about) as second:
        second.add(joint_lines(0, 1, 2))
        second.add(joint_lines(3))
    record = Record(tmp_path)
    lines = [(line["step"], line["corpus"]) for line in record.read() if "loss" in line]
    assert lines == [(step, name) for step in range(4) for name in ("squad", "cola")]
    assert record.complete
