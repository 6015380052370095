"""What Snakemake prints: a line for each job, and how long the rest will take."""

import time
from collections import Counter
from dataclasses import dataclass, field
from logging import Handler, LogRecord
from pathlib import Path
from typing import Any

from snakemake.logging import ColorizingTextHandler, DefaultFormatter, logger
from snakemake_interface_logger_plugins.common import LogEvent

FOLLOWED = ("train",)
"""Rules whose jobs take so long that a line says where to follow them."""
_NOISE = (
    *("Select jobs to execute", "Using shell", "Assuming unrestricted shared", "Building DAG"),
    *("Rules claiming more", "Conda env", "Singularity containers"),
    "Touching output file",
)


def print_short_lines() -> None:
    """Make Snakemake print a line for each job from now on, unless it only says what it would do.

    A logger plugin that the user has chosen, such as `--logger rich`, stays as it is.
    """
    for handler in logger.handlers:
        if isinstance(handler, ColorizingTextHandler) and not _is_dry(handler):
            handler.setFormatter(OneLine(handler))


def is_dry_run() -> bool:
    """Return whether Snakemake only says what it would do."""
    return any(map(_is_dry, logger.handlers))


def _is_dry(handler: Handler) -> bool:
    return any(getattr(filter_, "dryrun", False) for filter_ in handler.filters)


@dataclass
class _Job:
    """A job that was started."""

    rule: str
    message: str
    started: float


@dataclass
class Pace:
    """How fast jobs were so far, and so how long the others will take.

    Attributes:
        waiting: number of unfinished jobs of each rule.
        spent: seconds that each rule's finished jobs took.
        started: when the first job started, by `time.monotonic`.
    """

    waiting: Counter[str] = field(default_factory=Counter)
    spent: dict[str, list[float]] = field(default_factory=dict)
    started: float | None = None

    def finish(self, rule: str, seconds: float) -> None:
        """Count a finished job."""
        self.waiting[rule] -= 1
        self.spent.setdefault(rule, []).append(seconds)

    def left(self, now: float) -> float | None:
        """Return the seconds that the unfinished jobs will take; None before that is known.

        They take as long as finished ones of their rule, and as many run at once as did so far.
        """
        unknown = [rule for rule in FOLLOWED if self.waiting[rule] > 0 and rule not in self.spent]
        if self.started is None or unknown or not self.spent:
            return None
        means = {rule: sum(times) / len(times) for rule, times in self.spent.items()}
        work = sum(means.get(rule, 0.0) * max(0, n) for rule, n in self.waiting.items())
        done = sum(map(sum, self.spent.values()))
        at_once = max(1.0, done / max(now - self.started, 1e-9))
        return work / at_once


class OneLine(DefaultFormatter):  # type: ignore[misc] # Snakemake has no types
    """One line for each job, when it is finished; one more at its start if it takes long.

    Args:
        handler: what prints the lines, with the formatter whose place this one takes.
    """

    def __init__(self, handler: ColorizingTextHandler):
        former = handler.formatter
        super().__init__(getattr(former, "quiet", None), getattr(former, "show_failed_logs", False))
        self._handler = handler
        self._jobs: dict[int, _Job] = {}
        self._pace = Pace()
        self._finished: _Job | None = None

    def format(self, record: LogRecord) -> str:
        """Return the line of a message, or nothing."""
        self._handler.last_msg_was_job_info = True  # else it prints an empty line before a job
        event = getattr(record, "event", None)
        if event in (LogEvent.RESOURCES_INFO, LogEvent.JOB_STARTED):
            return ""
        if event is None and str(record.msg).startswith(_NOISE):
            return ""
        return str(super().format(record))

    def format_run_info(self, msg: dict[str, Any]) -> str:
        """Return what there is to do, in the order in which it will be done."""
        counts = {rule: n for rule, n in msg["stats"].items() if rule != "total"}
        self._pace.waiting = Counter(counts)
        several = [f"{n} × {rule}" if n > 1 else rule for rule, n in counts.items()]
        total = sum(counts.values())
        return f"{total} step{'s' * (total != 1)}: {', '.join(several)}"

    def format_job_info(self, msg: dict[str, Any]) -> str:
        """Note that a job starts; say so if it takes long."""
        now = time.monotonic()
        self._pace.started = self._pace.started or now
        message = msg["rule_msg"] or msg["rule_name"]
        self._jobs[msg["jobid"]] = _Job(msg["rule_name"], message, now)
        if msg["rule_name"] not in FOLLOWED:
            return ""
        logs = [_relative(log) for log in msg["log"]]
        return f"{_clock()} {message}" + "".join(f" · tail -f {log}" for log in logs)

    def format_job_finished(self, msg: dict[str, Any]) -> str:
        """Note that a job is finished; the line follows with the number of finished jobs."""
        self._finished = self._jobs.pop(msg["job_id"], None)
        if self._finished:
            self._pace.finish(self._finished.rule, time.monotonic() - self._finished.started)
        return ""

    def format_progress(self, msg: dict[str, Any]) -> str:
        """Return the line of a finished job."""
        job, now = self._finished, time.monotonic()
        if job is None:
            return ""
        left = self._pace.left(now)
        parts, took = [job.message], now - job.started
        parts += [f"took {duration(took)}"] if took >= 1 else []
        parts += [f"about {duration(left)} left"] if left and left >= 1 else []
        return f"{_clock()} {msg['done']}/{msg['total']} " + " · ".join(parts)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as `3 min 20 s`."""
    whole = round(seconds)
    for size, unit, part, smaller in ((3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _relative(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
