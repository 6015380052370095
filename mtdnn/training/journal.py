"""The journal of a run: its progress, line by line, which other processes deliver to MLflow.

Training never talks to a server. `journal.jsonl` gets a few lines of JSON a second, written when
losses are read from the device anyway:

    {"part": 1, "fingerprint", "config_digest", "started", "device", "commit", "corpora", "steps",
     "host", "process"}
    {"step", "epoch", "corpus", "loss", "lr", "grad_norm", "tokens", "seconds"}    for each batch
    {"readings": {name: number}, "step", "seconds"}                                now and then
    {"end": "FINISHED" | "FAILED" | "KILLED", "reason", "seconds"}

A resumed run appends a part. `corpora` holds the number of batches of each corpus and `steps` that
of all steps, so readers know from the beginning which steps make up a point of a curve. A step has
one batch, a joint step one of each of its corpora. A part without an end is being trained, or its
process was killed.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from mtdnn.config.layout import RunFolder
from mtdnn.errors import Busy
from mtdnn.machine.files import check_guards

MAX_MEMORY_READINGS = 200
"""Number of lines with memory readings in the journal of a run, at most."""

Line = dict[str, Any]


class _Place:
    """How far lines have come that were written or read in order, some of them repeatedly."""

    def __init__(self) -> None:
        self.step = -1
        self._corpora: set[str] = set()

    def passes(self, line: Line) -> bool:
        """Whether the line of a batch comes after all before it; it then belongs to them."""
        step, corpus = line["step"], line["corpus"]
        if step < self.step or (step == self.step and corpus in self._corpora):
            return False
        self._corpora = {corpus} | (self._corpora if step == self.step else set())
        self.step = step
        return True


class Journal:
    """Writes the journal of a run, in the one process that leads its training.

    A journal that cannot be written never stops training: one line on stderr says so. Only a
    process that no longer holds the run is stopped (`Busy`), before it writes into the journal of
    the next holder.

    Args:
        folder: the run's folder.
        about: what the run is; `fingerprint`, `started` (ISO 8601), `corpora` (batches of each)
            and `steps`.
        readings: returns what is in use, by name; see `mtdnn.training.usage`.
    """

    def __init__(self, folder: Path, about: Line, readings: Callable[[], dict[str, float]]):
        self._path, self._about, self._readings = RunFolder(folder).journal, about, readings
        self._file: TextIO | None = None
        self._steps_between_readings = max(1, steps_of(about) // MAX_MEMORY_READINGS)
        self._seconds = 0.0
        self._place, self._next_reading = _Place(), 0

    def __enter__(self) -> "Journal":
        try:
            self._open()
        except OSError as error:
            self._give_up(error)
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        if isinstance(error, Busy):  # another process writes the journal now
            self._file = self._file and self._file.close()
            return
        status, reason = _status(error)
        end = {"end": status, "reason": reason, "seconds": self._seconds}
        self._write([end])
        if self._file:
            self._file.close()

    def add(self, lines: list[Line]) -> None:
        """Write lines of finished steps, except those that the journal already has.

        A resumed run repeats the steps after its last checkpoint, with the same values.
        """
        new = [line for line in lines if self._place.passes(line)]
        if not new:
            return
        step, self._seconds = new[-1]["step"], new[-1]["seconds"]
        if step >= self._next_reading:
            self._next_reading = step + self._steps_between_readings
            new.append({"readings": self._readings(), "step": step, "seconds": self._seconds})
        self._write(new)

    def _open(self) -> None:
        before = Record(self._path.parent)
        before.read()
        # A finished run that is trained again starts a new journal, not a new part.
        is_new = before.about.get("fingerprint") != self._about["fingerprint"]
        is_new |= before.status == "FINISHED"
        if is_new:
            self._path.unlink(missing_ok=True)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        if not is_new and not before.whole:
            self._file.write("\n")  # after a line that a killed process left incomplete
        if not is_new:
            self._place, self._next_reading = before.place, before.place.step + 1
            self._seconds = before.seconds
        part = 1 if is_new else before.parts + 1
        where = {"host": socket.gethostname(), "process": os.getpid()}
        self._write([{"part": part, **self._about, **where}])

    def _write(self, lines: list[Line]) -> None:
        if not self._file:
            return
        check_guards()
        try:
            self._file.write("".join(json.dumps(line) + "\n" for line in lines))
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        file, self._file = self._file, None
        reason = error.strerror or type(error).__name__
        print(
            f"mtdnn: {self._path}: {reason}; training continues without a journal, and its curves "
            "reach MLflow when it has finished",
            file=sys.stderr,
            flush=True,
        )
        with suppress(OSError):  # closing writes the rest of the buffer, which fails again
            if file:
                file.close()


def _status(error: BaseException | None) -> tuple[str, str | None]:
    if error is None:
        return "FINISHED", None
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    killed = isinstance(error, KeyboardInterrupt) or getattr(error, "status", 0) > 128
    return "KILLED" if killed else "FAILED", reason


class Record:
    """Reads the journal of a run, which may be growing meanwhile.

    Attributes:
        about: its first line, with host and process of the last part; empty without a journal.
        parts: how often training was started or resumed.
        steps: number of lines of steps read so far.
        place: the last step read.
        seconds: the training clock at the last line.
        status: how the last part ended; None while it has not.
        reason: why it failed or was killed; else None.
        whole: whether the file ends with a complete line.
        replaced: whether the journal of another training run has taken its place meanwhile.
    """

    def __init__(self, folder: Path):
        self._path = RunFolder(folder).journal
        self._offset, self._head = 0, b""
        self.about: Line = {}
        self.parts = self.steps = 0
        self.place = _Place()
        self.seconds = 0.0
        self.status: str | None = None
        self.reason: str | None = None
        self.whole, self.replaced = True, False
        self._next_reading = 0

    def read(self) -> list[Line]:
        """Return the lines of steps and readings added since the last call, in order.

        An incomplete line at the end is left for a later call.
        """
        try:
            with open(self._path, "rb") as file:
                self.replaced |= file.read(len(self._head)) != self._head
                file.seek(self._offset)
                content = file.read()
        except OSError:
            self.replaced |= bool(self._head)
            return []
        if not self._offset and b"\n" in content:
            self._head = content[: content.index(b"\n")]
        end = content.rfind(b"\n") + 1
        self._offset += end
        self.whole = end == len(content)
        return [line for text in content[:end].splitlines() if (line := self._parsed(text))]

    def _parsed(self, text: bytes) -> Line | None:
        try:
            line = json.loads(text)
            return self._counted(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # torn by a killed process, a full disk or a power failure

    def _counted(self, line: Line) -> Line | None:
        """Update the attributes; return the line if it is a new step or reading."""
        if "part" in line:
            who = {key: line[key] for key in ("host", "process")}
            self.about = {**(self.about or _checked(line)), **who}
            self.parts, self.status, self.reason = line["part"], None, None
        elif "end" in line:
            self.status, self.reason = line["end"], line.get("reason")
        elif "readings" in line:
            if line["step"] >= self._next_reading:
                self._next_reading = line["step"] + 1
                return line
        elif "loss" in line and self.place.passes(line):
            self.seconds = line["seconds"]
            self.steps += 1
            return line
        return None

    @property
    def complete(self) -> bool:
        """Whether it holds every step of the run."""
        return bool(self.about) and self.steps == sum(self.about["corpora"].values())


def steps_of(about: Line) -> int:
    """Return the number of steps of the whole run from the first line of its journal."""
    return int(about.get("steps") or sum(about["corpora"].values()))


def _checked(about: Line) -> Line:
    """The first line of a journal, with the types that its readers rely on."""
    datetime.fromisoformat(about["started"])
    return {**about, "corpora": {name: int(count) for name, count in about["corpora"].items()}}


def mark_killed(folder: Path, reason: str) -> None:
    """End the journal of a run whose process was killed before it could do so itself."""
    record = Record(folder)
    record.read()
    end = {"end": "KILLED", "reason": reason, "seconds": record.seconds}
    with open(RunFolder(folder).journal, "a", encoding="utf-8") as file:
        file.write(("" if record.whole else "\n") + json.dumps(end) + "\n")
