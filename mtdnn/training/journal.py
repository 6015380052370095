"""What a training says while it goes on: lines beside the run, which others deliver to MLflow.

Training never talks to a server. `journal.jsonl` is a few lines of JSON a second, written at the
moments at which losses are read from the device anyway:

    {"part": 1, "fingerprint", "config_digest", "started", "device", "commit", "corpora",
     "host", "process"}
    {"step", "epoch", "corpus", "loss", "lr", "grad_norm", "tokens", "seconds"}    for each step
    {"figures": {name: value}, "step", "seconds"}                                  now and then
    {"end": "FINISHED" | "FAILED" | "KILLED", "reason", "seconds"}

A resumed training appends a part. `corpora` has the number of steps of each corpus, so that it is
known from the beginning which steps make up a point of a curve. A part without an end is being
trained, or its process was killed.
"""

import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from mtdnn.config.layout import RunFolder

MOST_FIGURES = 200
"""How often, at most, memory and the like are noted in a run."""

Line = dict[str, Any]


class Journal:
    """The journal of a run that is being trained; entered by the one process that trains it.

    Whatever happens to it never stops a training: where it cannot be written, one line on stderr
    says so.

    Args:
        folder: the run's folder.
        about: what the run is; `fingerprint`, `started` (ISO 8601) and `corpora` (steps of each).
        figures: gives figures of this process and its device by name.
    """

    def __init__(self, folder: Path, about: Line, figures: Callable[[], dict[str, float]]):
        self._path, self._about, self._figures = RunFolder(folder).journal, about, figures
        self._file: TextIO | None = None
        self._due = max(1, sum(about["corpora"].values()) // MOST_FIGURES)
        self._seconds = 0.0
        self._next = self._next_figures = 0

    def __enter__(self) -> "Journal":
        try:
            self._open()
        except OSError as error:
            self._give_up(error)
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        status, reason = _status(error)
        end = {"end": status, "reason": reason, "seconds": self._seconds}
        self._write([end])
        if self._file:
            self._file.close()

    def add(self, lines: list[Line]) -> None:
        """Note steps that were done; those that stand there already are passed over.

        A resumed training repeats the steps after its last checkpoint, with the same values.
        """
        new = [line for line in lines if line["step"] >= self._next]
        if not new:
            return
        step, self._seconds = new[-1]["step"], new[-1]["seconds"]
        self._next = step + 1
        if step >= self._next_figures:
            self._next_figures = step + self._due
            new.append({"figures": self._figures(), "step": step, "seconds": self._seconds})
        self._write(new)

    def _open(self) -> None:
        before = Record(self._path.parent)
        before.read()
        # A training that had ended well is done again: that is another one, not its next part.
        anew = before.about.get("fingerprint") != self._about["fingerprint"]
        anew |= before.status == "FINISHED"
        if anew:
            self._path.unlink(missing_ok=True)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        if not anew and not before.whole:
            self._file.write("\n")  # after a line that a killed process left half written
        if not anew:
            self._next = self._next_figures = before.following
            self._seconds = before.seconds
        part = 1 if anew else before.parts + 1
        where = {"host": socket.gethostname(), "process": os.getpid()}
        self._write([{"part": part, **self._about, **where}])

    def _write(self, lines: list[Line]) -> None:
        if not self._file:
            return
        try:
            self._file.write("".join(json.dumps(line) + "\n" for line in lines))
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        file, self._file = self._file, None
        reason = error.strerror or type(error).__name__
        print(
            f"mtdnn: {self._path}: {reason}; the training goes on without a journal, its curves "
            "reach MLflow when it is finished",
            file=sys.stderr,
            flush=True,
        )
        with suppress(OSError):  # what was left in its buffer has nowhere to go
            if file:
                file.close()


def _status(error: BaseException | None) -> tuple[str, str | None]:
    if error is None:
        return "FINISHED", None
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    killed = isinstance(error, KeyboardInterrupt) or getattr(error, "status", 0) > 128
    return "KILLED" if killed else "FAILED", reason


def memory_mb() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Record:
    """A journal as far as it was read; it may be growing meanwhile.

    Attributes:
        about: its first line, with host and process of the last part; empty without a journal.
        parts: how often the training was begun or taken up again.
        steps: how many steps were read so far; `following` is the number of the next one.
        seconds: the training's clock at the last line.
        status, reason: how the last part ended; None while it has not.
        whole: whether the file ends with a whole line.
        replaced: whether another training's journal has taken its place meanwhile.
    """

    def __init__(self, folder: Path):
        self._path = RunFolder(folder).journal
        self._offset, self._head = 0, b""
        self.about: Line = {}
        self.parts = self.steps = self.following = 0
        self.seconds = 0.0
        self.status: str | None = None
        self.reason: str | None = None
        self.whole, self.replaced = True, False
        self._next_figures = 0

    def read(self) -> list[Line]:
        """The lines of steps and figures that were added since the last call, in order.

        A half-written line at the end is left for later.
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
        return [line for text in content[:end].splitlines() if (line := self._understood(text))]

    def _understood(self, text: bytes) -> Line | None:
        try:
            line = json.loads(text)
            return self._counted(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # torn by a killed process, a full disk, a power failure

    def _counted(self, line: Line) -> Line | None:
        """The line, if it says something of a step that is new."""
        if "part" in line:
            who = {key: line[key] for key in ("host", "process")}
            self.about = {**(self.about or _checked(line)), **who}
            self.parts, self.status, self.reason = line["part"], None, None
        elif "end" in line:
            self.status, self.reason = line["end"], line.get("reason")
        elif "figures" in line:
            if line["step"] >= self._next_figures:
                self._next_figures = line["step"] + 1
                return line
        elif line["step"] >= self.following:
            self.following, self.seconds = line["step"] + 1, line["seconds"]
            self.steps += 1
            return line
        return None

    @property
    def complete(self) -> bool:
        """Whether it holds every step of the training."""
        return bool(self.about) and self.steps == sum(self.about["corpora"].values())


def _checked(about: Line) -> Line:
    """The first line of a journal, for those who count with it."""
    datetime.fromisoformat(about["started"])
    return {**about, "corpora": {name: int(count) for name, count in about["corpora"].items()}}


def mark_killed(folder: Path, reason: str) -> None:
    """End the journal of a training whose process was killed and could not."""
    record = Record(folder)
    record.read()
    end = {"end": "KILLED", "reason": reason, "seconds": record.seconds}
    with open(RunFolder(folder).journal, "a", encoding="utf-8") as file:
        file.write(("" if record.whole else "\n") + json.dumps(end) + "\n")
