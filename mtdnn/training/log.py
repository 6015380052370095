"""`training.jsonl`: one line for each step, written and read here."""

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
    """The lines of `training.jsonl`; empty when there is none, without a half-written last line."""
    try:
        lines = RunFolder(folder).log.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except ValueError:
        raise MtdnnError(f"{RunFolder(folder).log}: not UTF-8; train the run again") from None
    steps = []
    for number, line in enumerate(lines, start=1):
        try:
            steps.append(json.loads(line))
        except (ValueError, RecursionError):
            if number < len(lines):
                raise MtdnnError(
                    f"{RunFolder(folder).log}: line {number}: not JSON; train the run again"
                ) from None
    return steps


@dataclass
class _Pending:
    line: dict[str, Any]
    rows: np.ndarray
    loss: torch.Tensor
    norm: torch.Tensor


class TrainingLog:
    """Lines of `training.jsonl`, read from the device a few steps at a time.

    Args:
        lines: those of the steps before a checkpoint.
        journal: is told of every line at once, where this process writes one.
        team: the processes that each know the loss of a part of the batch.
    """

    def __init__(self, lines: list[dict[str, Any]], journal: Journal | None, team: Team):
        self._journal, self._team = journal, team
        self._tell(lines)
        # The clock of a resumed training goes on from its last line.
        self._clock = time.monotonic() - (lines[-1]["seconds"] if lines else 0.0)
        self.lines = lines
        self.pending: list[_Pending] = []
        self._recent: dict[str, deque[float]] = {}

    @property
    def seconds(self) -> float:
        """Time spent on training so far, earlier parts included."""
        return round(time.monotonic() - self._clock, 3)

    def add(
        self, step: Step, loss: torch.Tensor, norm: torch.Tensor, rate: float, tokens: int
    ) -> None:
        """Note a step whose loss and norm are still being computed."""
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
        """Fetch what is pending.

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

        losses = self._team.mean(torch.stack([pending.loss for pending in self.pending]))
        norms = torch.stack([pending.norm for pending in self.pending])
        values = torch.stack([losses, norms], dim=1).tolist()
        for pending, (loss, norm) in zip(self.pending, values, strict=True):
            line = {**pending.line, "loss": loss, "grad_norm": norm}
            # Of several processes, which all see it, one says it.
            if self._team.leads and not (math.isfinite(loss) and math.isfinite(norm)):
                raise MtdnnError(
                    f"training: step {line['step']} ({line['corpus']}): loss {loss}, gradient norm "
                    f"{norm} in the batch of its training items {_some(pending.rows)}; what was "
                    "kept before is left; lower training.learning_rate, or use precision fp32"
                )
            self.lines.append(line)
            self._recent.setdefault(line["corpus"], deque(maxlen=20)).append(loss)
        self.pending.clear()

    @property
    def note(self) -> str:
        """Mean of the latest losses of each corpus."""
        means = (f"{name} {sum(v) / len(v):.3f}" for name, v in self._recent.items())
        return "loss " + ", ".join(means) if self._recent else ""


def _some(rows: np.ndarray, most: int = 16) -> str:
    """The first of some numbers."""
    return ", ".join(map(str, rows[:most].tolist())) + (", …" if len(rows) > most else "")
