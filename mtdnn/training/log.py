"""The training log, `training.jsonl`: one line for each step, written and read here.

The lines of some steps also have what `mtdnn.training.conflict` measured after them.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError

if TYPE_CHECKING:  # tables and MLflow read the log, and do without torch
    import numpy as np
    import torch

    from mtdnn.training.journal import Journal
    from mtdnn.training.schedule import Step
    from mtdnn.training.team import Team

WHOLE = "encoder"
"""Name of the whole encoder among the parts whose gradients were compared."""


def read_training(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's training log; none if it is missing.

    A half-written last line is left out.

    Raises:
        MtdnnError: the log is damaged.
    """
    path = RunFolder(folder).log
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except ValueError:
        raise MtdnnError(f"{path}: not UTF-8; delete it and train the run again") from None
    steps = []
    for number, line in enumerate(lines, start=1):
        try:
            steps.append(json.loads(line))
        except (ValueError, RecursionError):
            if number < len(lines):
                raise MtdnnError(
                    f"{path}: line {number}: not JSON; delete it and train the run again"
                ) from None
    return steps


def cosines(line: Mapping[str, Any], part: str = WHOLE) -> dict[tuple[str, str], float]:
    """Return the cosines of gradients measured after a step, by pair of corpora.

    Most steps have none. A target is the first of each pair in which it is.

    Args:
        line: the step's line.
        part: the part of the encoder, as in `mtdnn.training.conflict`.
    """
    measured = (line.get("gradients") or {}).get("cosine", {}).get(part, {})
    pairs = {tuple(pair.split("/", 1)): value for pair, value in measured.items()}
    return {(a, b): value for (a, b), value in pairs.items() if value is not None}


def cosines_with_target(line: Mapping[str, Any], part: str = WHOLE) -> dict[str, float]:
    """Return the cosine of each auxiliary corpus's gradient with the target's; see `cosines`."""
    target = next(iter((line.get("gradients") or {}).get("norm", {})), None)
    return {other: value for (a, other), value in cosines(line, part).items() if a == target}


def dev_losses(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the dev loss of each corpus measured after a step; most steps have none."""
    measured = line.get("dev_loss") or {}
    return {corpus: loss for corpus, loss in measured.items() if loss is not None}


@dataclass
class _Pending:
    """A step whose loss and gradient norm are still on the device."""

    line: dict[str, Any]
    rows: np.ndarray
    loss: torch.Tensor
    norm: torch.Tensor


@dataclass
class _Sent:
    """Steps whose numbers are on their way to the host.

    Attributes:
        steps: the steps.
        measured: the places of what else was measured on the device: lines and keys.
        values: waits for the numbers and returns them: losses, gradient norms, what was measured.
    """

    steps: list[_Pending]
    measured: list[tuple[dict[str, Any], str]]
    values: Callable[[], list[float]]


class TrainingLog:
    """Collects the lines of the training log, whose numbers it reads a few steps at a time.

    Args:
        lines: the lines of the steps before the checkpoint.
        journal: gets every line as soon as it is read; None in a process that does not lead.
        team: the processes that each know the loss of a part of the batch.

    Attributes:
        lines: the lines read so far.
        pending: the steps whose numbers are not yet asked for.
    """

    def __init__(self, lines: list[dict[str, Any]], journal: Journal | None, team: Team):
        self._journal, self._team = journal, team
        self._tell(lines)
        # The clock of a resumed run continues from its last line.
        self._clock = time.monotonic() - (lines[-1]["seconds"] if lines else 0.0)
        self.lines = lines
        self.pending: list[_Pending] = []
        self._sent: list[_Sent] = []
        self._recent: dict[str, deque[float]] = {}

    @property
    def seconds(self) -> float:
        """Seconds spent on training so far, earlier parts included."""
        return round(time.monotonic() - self._clock, 3)

    def add(
        self,
        step: Step,
        loss: torch.Tensor,
        norm: torch.Tensor,
        rate: float,
        tokens: int,
        measured: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Add a step whose loss and gradient norm, scalars, are still being computed.

        What was measured after it, if anything, is added to its line; it may also be a scalar on
        the device, the same in every process.
        """
        line = {
            "step": step.step,
            "epoch": step.epoch,
            "corpus": step.corpus,
            "loss": None,
            "lr": rate,
            "grad_norm": None,
            "tokens": tokens,
            "seconds": self.seconds,
            **measured,
        }
        self.pending.append(_Pending(line, step.rows, loss, norm))

    def read(self, late: bool = False) -> None:
        """Read the pending numbers from the device.

        Args:
            late: leave them to the next call, so that nothing waits for the device.

        Raises:
            MtdnnError: a loss or gradient is not finite.
        """
        known, ready = len(self.lines), self._sent
        self._sent = [self._send()] if self.pending else []
        if not late:
            ready, self._sent = ready + self._sent, []
        try:
            for sent in ready:
                self._take(sent)
        finally:
            self._tell(self.lines[known:])

    def _tell(self, lines: list[dict[str, Any]]) -> None:
        if self._journal:
            self._journal.add(lines)

    def _send(self) -> _Sent:
        """Begin to copy the pending numbers to the host; none are pending then."""
        import torch

        from mtdnn.model.device import sent_to_host

        steps, self.pending = self.pending, []
        measured = [
            (step.line, key)
            for step in steps
            for key, value in step.line.items()
            if isinstance(value, torch.Tensor)
        ]
        numbers = [
            self._team.mean(torch.stack([step.loss for step in steps])),
            torch.stack([step.norm for step in steps]),
            *(line[key].reshape(1) for line, key in measured),
        ]
        return _Sent(steps, measured, sent_to_host(torch.cat(numbers)))

    def _take(self, sent: _Sent) -> None:
        """Add the lines of steps whose numbers were sent."""
        values, count = sent.values(), len(sent.steps)
        losses, norms = values[:count], values[count : 2 * count]
        for (line, key), value in zip(sent.measured, values[2 * count :], strict=True):
            line[key] = value
        for pending, loss, norm in zip(sent.steps, losses, norms, strict=True):
            line = {**pending.line, "loss": loss, "grad_norm": norm}
            # All processes see it, but only one of them says so.
            if self._team.leads and not (math.isfinite(loss) and math.isfinite(norm)):
                raise MtdnnError(
                    f"training: step {line['step']} ({line['corpus']}): loss {loss}, gradient norm "
                    f"{norm} in the batch of its training items {_listed(pending.rows)}; the last "
                    "checkpoint is kept; lower training.learning_rate, or use precision fp32"
                )
            self.lines.append(line)
            self._recent.setdefault(line["corpus"], deque(maxlen=20)).append(loss)

    @property
    def note(self) -> str:
        """The mean of the latest losses of each corpus, for the progress bar."""
        means = (f"{name} {sum(v) / len(v):.3f}" for name, v in self._recent.items())
        return "loss " + ", ".join(means) if self._recent else ""


def _listed(rows: np.ndarray, most: int = 16) -> str:
    """The first numbers, separated by commas."""
    return ", ".join(map(str, rows[:most].tolist())) + (", …" if len(rows) > most else "")
