"""The lines that Snakemake prints, and the estimate of the time that is left."""

import io
import logging
import time

import pytest
from snakemake.logging import ColorizingTextHandler, DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from mtdnn.workflow import terminal
from mtdnn.workflow.terminal import OneLine, Pace, duration


def record(event: LogEvent | None = None, text: str | None = None, **fields) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "event": event, "levelno": logging.INFO, **fields})


@pytest.fixture
def printed():
    """A handler of Snakemake with short lines, and what it has printed."""
    stream = io.StringIO()
    handler = ColorizingTextHandler(nocolor=True, stream=stream, formatter=DefaultFormatter())
    handler.setFormatter(OneLine(handler))

    def send(*records: logging.LogRecord) -> str:
        for each in records:
            handler.emit(each)
        return stream.getvalue()

    return send


def job(number: int, rule: str, message: str | None = None, log: str = "") -> logging.LogRecord:
    logs = [log] if log else []
    return record(LogEvent.JOB_INFO, jobid=number, rule_name=rule, rule_msg=message, log=logs)


def finished(number: int, done: int, total: int) -> list[logging.LogRecord]:
    return [
        record(LogEvent.JOB_FINISHED, f"Finished jobid: {number}", job_id=number),
        record(LogEvent.PROGRESS, done=done, total=total),
    ]


def test_a_job_is_a_line_and_training_says_where_to_follow_it(printed, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "12:00:00")
    text = printed(
        record(None, "Building DAG of jobs..."),
        record(LogEvent.RESOURCES_INFO, "Provided cores: 2"),
        record(LogEvent.RUN_INFO, "Job stats: …", stats={"corpus": 1, "train": 2, "total": 3}),
        record(None, "Select jobs to execute..."),
        record(LogEvent.JOB_STARTED, "Execute 1 jobs..."),
        job(1, "corpus", "Fetching corpus squad"),
        *finished(1, 1, 3),
        job(2, "train", "Training a", log="logs/a.log"),
        record(None, "something that Snakemake says"),
    )
    assert text.splitlines() == [
        "3 steps: corpus, 2 × train",
        "12:00:00 1/3 Fetching corpus squad",
        "12:00:00 Training a · tail -f logs/a.log",
        "something that Snakemake says",
    ]


def test_the_time_that_is_left_follows_from_finished_jobs_of_each_rule():
    pace = Pace()
    pace.waiting.update({"train": 4, "metrics": 4})
    pace.started = 0.0
    pace.finish("metrics", 1.0)
    assert pace.left(10.0) is None, "no training is finished yet"
    pace.finish("train", 100.0)
    pace.finish("train", 100.0)
    # Two trainings ran at once: 201 seconds of work in 100.5.
    assert pace.left(100.5) == pytest.approx((2 * 100 + 3 * 1) / 2)
    pace.finish("train", 100.0)
    pace.finish("train", 100.0)
    assert pace.left(200.0) == pytest.approx(3 / (401 / 200))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (5400, "1 h 30 min")],
)
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


def test_a_dry_run_and_a_chosen_plugin_keep_their_own_lines(monkeypatch):
    other = logging.StreamHandler()
    dry = ColorizingTextHandler(nocolor=True, formatter=DefaultFormatter())
    dry.addFilter(type("Filter", (), {"dryrun": True, "filter": lambda *_: True})())
    wet = ColorizingTextHandler(nocolor=True, formatter=DefaultFormatter())
    monkeypatch.setattr(terminal.logger, "handlers", [other, dry, wet])
    terminal.print_short_lines()
    assert isinstance(wet.formatter, OneLine)
    assert type(dry.formatter) is DefaultFormatter and other.formatter is None
