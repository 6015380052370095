"""The training log: one line for each step, and how it is read."""

import math

import numpy as np
import pytest
import torch

from mtdnn.errors import MtdnnError
from mtdnn.model.optimizer import learning_rate
from mtdnn.training.log import TrainingLog, read_training
from mtdnn.training.schedule import Step
from mtdnn.training.team import Team
from tests.support.trained import lines_of, schedule_of


def test_the_log_has_a_line_for_each_step_of_the_schedule(trained):
    run_dir, run = trained
    steps, lines = schedule_of(run_dir), lines_of(run_dir)
    keys = ["step", "epoch", "corpus", "loss", "lr", "grad_norm", "tokens", "seconds"]
    assert all(list(line)[:8] == keys for line in lines)
    assert all(set(list(line)[8:]) <= {"gradients", "dev_loss"} for line in lines)
    assert [(s.step, s.epoch, s.corpus) for s in steps] == [
        (line["step"], line["epoch"], line["corpus"]) for line in lines
    ]
    rates = [learning_rate(step, len(steps), run.training) for step in range(len(steps))]
    assert [line["lr"] for line in lines] == rates
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)


def test_a_missing_log_has_no_lines(tmp_path):
    assert read_training(tmp_path) == []


def test_a_half_written_last_line_is_left_out(tmp_path):
    (tmp_path / "training.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert read_training(tmp_path) == [{"step": 0}, {"step": 1}]


@pytest.mark.parametrize("content", [b'{"step": 0}\n{"st\n{"step": 2}\n', b"\xff\xfe\n"])
def test_a_damaged_log_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "training.jsonl").write_bytes(content)
    with pytest.raises(MtdnnError, match=r"training\.jsonl: .*train the run again") as error:
        read_training(tmp_path)
    assert "\n" not in str(error.value)


class RecordingJournal:
    """A journal that only remembers the lines that it gets."""

    def __init__(self):
        self.lines = []

    def add(self, lines):
        self.lines += lines


def add(log, number, loss, measured=None):
    step = Step(number, 0, "cola", np.array([3, 1]))
    loss = torch.tensor(loss)
    log.add(step, loss, torch.tensor(2.0), rate=0.5, tokens=7, measured=measured or {})


def test_numbers_are_read_together_and_passed_to_the_journal():
    journal = RecordingJournal()
    before = [{"step": 0, "seconds": 100.0}]
    log = TrainingLog(before, journal, Team(torch.device("cpu")))
    assert journal.lines == before and log.note == ""
    add(log, 1, 1.0)
    add(log, 2, 3.0)
    assert len(log.pending) == 2 and len(log.lines) == 1
    log.read()
    assert not log.pending and journal.lines == log.lines
    assert [line.get("loss") for line in log.lines] == [None, 1.0, 3.0]
    assert log.lines[1]["seconds"] >= 100  # the clock continues after a checkpoint
    assert log.note == "loss cola 2.000"


def test_numbers_read_late_come_with_the_next_ones_and_complete_at_the_end():
    journal = RecordingJournal()
    log = TrainingLog([], journal, Team(torch.device("cpu")))
    read = []
    for number in range(6):
        add(log, number, float(number), {"pull": torch.tensor(number / 8)})
        if number % 2:
            log.read(late=True)
            read.append(len(log.lines))
    assert read == [0, 2, 4] and not log.pending and journal.lines == log.lines
    log.read()
    log.read()
    assert [line["loss"] for line in journal.lines] == list(range(6))
    assert [line["pull"] for line in journal.lines] == [number / 8 for number in range(6)]


def test_nothing_waits_for_numbers_that_are_read_late(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "mtdnn.model.device.sent_to_host", lambda values: lambda: asked.append(1) or values.tolist()
    )
    log = TrainingLog([], None, Team(torch.device("cpu")))
    for number in range(3):
        add(log, number, 1.0)
        log.read(late=True)
        assert len(asked) == number


def test_a_loss_that_is_not_finite_names_its_step_and_items_and_keeps_the_lines_before():
    journal = RecordingJournal()
    log = TrainingLog([], journal, Team(torch.device("cpu")))
    add(log, 0, 1.0)
    add(log, 1, math.nan)
    with pytest.raises(MtdnnError, match=r"step 1 \(cola\): loss nan, .* training items 3, 1; "):
        log.read()
    assert [line["step"] for line in journal.lines] == [0]
