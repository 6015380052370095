"""The training log, `training.jsonl`: one line for each step, written and read here."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError

if TYPE_CHECKING:  # tables and MLflow read the log, and do without torch
    import numpy as np
    import torch

    from mtdnn.training.journal import Journal
    from mtdnn.training.schedule import Step
    from mtdnn.training.team import Team


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
        raise MtdnnError(f"{path}: not UTF-8; train the run again") from None
    steps = []
    for number, line in enumerate(lines, start=1):
        try:
            steps.append(json.loads(line))
        except (ValueError, RecursionError):
            if number < len(lines):
                raise MtdnnError(f"{path}: line {number}: not JSON; train the run again") from None
    return steps


@dataclass
class _Pending:
    """A step whose loss and gradient norm are still on the device."""

    line: dict[str, Any]
    rows: np.ndarray
    loss: torch.Tensor
    norm: torch.Tensor


class TrainingLog:
    """Collects the lines of the training log, whose numbers it reads a few steps at a time.

    Args:
        lines: the lines of the steps before the checkpoint.
        journal: gets every line as soon as it is read; None in a process that does not lead.
        team: the processes that each know the loss of a part of the batch.

    Attributes:
        lines: the lines read so far.
        pending: the steps that are not yet read.
    """

    def __init__(self, lines: list[dict[str, Any]], journal: Journal | None, team: Team):
        self._journal, self._team = journal, team
        self._tell(lines)
        # The clock of a resumed run continues from its last line.
        self._clock = time.monotonic() - (lines[-1]["seconds"] if lines else 0.0)
        self.lines = lines
        self.pending: list[_Pending] = []
        self._recent: dict[str, deque[float]] = {}

    @property
    def seconds(self) -> float:
        """Seconds spent on training so far, earlier parts included."""
        return round(time.monotonic() - self._clock, 3)

    def add(
        self, step: Step, loss: torch.Tensor, norm: torch.Tensor, rate: float, tokens: int
    ) -> None:
        """Add a step whose loss and gradient norm, scalars, are still being computed."""
        line = {
            "step": step.step,
            "epoch": step.epoch,
            "corpus": step.corpus,
            "loss": None,
            "lr": rate,
            "grad_norm": None,
            "tokens": tokens,
            "seconds": self.seconds,
        }
        self.pending.append(_Pending(line, step.rows, loss, norm))

    def read(self) -> None:
        """Read the pending numbers from the device.

        Raises:
            MtdnnError: a loss or gradient is not finite.
        """
        known = len(self.lines)
        try:
            self._fetch()
        finally:
            self._tell(self.lines[known:])

    def _tell(self, lines: list[dict[str, Any]]) -> None:
        if self._journal:
            self._journal.add(lines)

    def _fetch(self) -> None:
        import torch

        if not self.pending:
            return
        losses = self._team.mean(torch.stack([pending.loss for pending in self.pending]))
        norms = torch.stack([pending.norm for pending in self.pending])
        values = torch.stack([losses, norms], dim=1).tolist()
        for pending, (loss, norm) in zip(self.pending, values, strict=True):
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
        self.pending.clear()

    @property
    def note(self) -> str:
        """The mean of the latest losses of each corpus, for the progress bar."""
        means = (f"{name} {sum(v) / len(v):.3f}" for name, v in self._recent.items())
        return "loss " + ", ".join(means) if self._recent else ""


def _listed(rows: np.ndarray, most: int = 16) -> str:
    """The first numbers, separated by commas."""
    return ", ".join(map(str, rows[:most].tolist())) + (", …" if len(rows) > most else "")
