"""The journal of a training: whole lines, each step once, whatever interrupts it."""

import json
from pathlib import Path

import pytest

from mtdnn.training.journal import Record
from tests.support.journals import journal_line, make_journal


def read(folder: Path) -> Record:
    """The record of a journal, read to its end."""
    record = Record(folder)
    record.read()
    return record


def test_a_resumed_training_continues_its_journal_without_repetition(tmp_path):
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


def test_another_training_begins_a_journal_of_its_own(tmp_path):
    reader = Record(tmp_path)
    for number, fingerprint in enumerate("abb"):  # the last one repeats a finished training
        with make_journal(
            tmp_path, fingerprint=fingerprint, started=f"2026-01-0{number + 1}"
        ) as new:
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


def test_a_journal_that_cannot_be_written_is_one_warning_and_no_error(tmp_path, capsys):
    (tmp_path / "journal.jsonl").mkdir()
    with make_journal(tmp_path) as blocked:
        for step in range(20):
            blocked.add([journal_line(step)])
    (tmp_path / "journal.jsonl").rmdir()
    with make_journal(tmp_path) as full:
        full._file.close()
        full._file = open("/dev/full", "w")  # noqa: SIM115
        for step in range(20):
            full.add([journal_line(step)])
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 2 and "No space left on device; " in warned[1]
    assert not read(tmp_path).complete
