"""Loss balancing: factors of the losses of corpora that follow from the losses themselves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mtdnn.config.settings import DynamicAverage, Family, RunSettings, Uncertainty
from mtdnn.model.optimizer import MomentOptimizer
from mtdnn.training.log import TrainingLog


def balancing_for(run: RunSettings, optimizer: MomentOptimizer) -> "Balancing | None":
    """Return what balances the losses of a run, or None.

    Args:
        run: the run's settings.
        optimizer: gets the parameters that it learns, if any.
    """
    match run.training.loss_balancing:
        case Uncertainty() as settings:
            families = {name: corpus.family for name, corpus in run.corpora.items()}
            variances = LogVariances(families, optimizer.param_groups[0]["params"][0].device)
            optimizer.add_param_group(
                {
                    "params": list(variances.parameters()),
                    "weight_decay": 0.0,
                    "head": False,
                    "rate_factor": settings.learning_rate / run.training.learning_rate,
                }
            )
            return variances
        case DynamicAverage() as settings:
            return LossRatios(list(run.corpora), settings)
    return None


class Balancing(nn.Module):
    """Gives the factors of losses; what it learns is beside the model in checkpoints."""

    def begin(self, step: int, log: TrainingLog) -> None:
        """Prepare for a step, from the log of all steps before it."""

    def factor(self, corpus: str) -> float:
        """Return the factor of the loss of a corpus in this step."""
        raise NotImplementedError

    def learn(self, corpus: str, loss: torch.Tensor) -> None:
        """Set the gradients of what is learned.

        Args:
            corpus: the corpus of a batch.
            loss: its loss with all factors, a scalar.
        """


class LogVariances(Balancing):
    """A learned log-variance s of each corpus (Kendall, Gal and Cipolla 2018).

    A step's loss is exp(-s)·loss + s/2, for regression exp(-s)·loss/2 + s/2.

    Args:
        families: the corpora of the run with their task families.
        device: the device of the model.
    """

    def __init__(self, families: Mapping[str, Family], device: torch.device):
        super().__init__()
        self._families = dict(families)
        self._places = {name: place for place, name in enumerate(families)}
        # One parameter for each, so that the optimizer counts the steps of each corpus.
        self.values = nn.ParameterList(
            nn.Parameter(torch.zeros((1,), device=device)) for _ in families
        )

    def factor(self, corpus: str) -> float:
        half = 0.5 if self._families[corpus] == "regression" else 1.0
        return half * math.exp(-self.values[self._places[corpus]].item())

    def learn(self, corpus: str, loss: torch.Tensor) -> None:
        self.values[self._places[corpus]].grad = (0.5 - loss.detach()).reshape(1)


class LossRatios(Balancing):
    """Dynamic weight average (Liu, Johns and Davison 2019).

    Steps are cut into windows. The factor of a corpus in a window is K·softmax(r/T), where r is the
    ratio of its mean losses in the two windows before, or 1 where one of them has none.

    Args:
        corpora: the K corpora of the run.
        settings: length of a window and temperature T.
    """

    def __init__(self, corpora: Sequence[str], settings: DynamicAverage):
        super().__init__()
        self._corpora, self._settings = list(corpora), settings
        self._window = -1
        self._factors: dict[str, float] = {}

    def begin(self, step: int, log: TrainingLog) -> None:
        window = step // self._settings.steps
        if window != self._window:
            log.read()
            self._window = window
            self._factors = self._of(window, log.lines)

    def factor(self, corpus: str) -> float:
        return self._factors[corpus]

    def _of(self, window: int, lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The factors in a window, from the log of all steps before it."""
        length = self._settings.steps
        losses: dict[tuple[str, int], list[float]] = {}
        for line in lines:
            losses.setdefault((line["corpus"], line["step"] // length), []).append(line["loss"])

        def mean(name: str, number: int) -> float | None:
            values = losses.get((name, number))
            return sum(values) / len(values) if values else None

        powers = {}
        for name in self._corpora:
            last, before = mean(name, window - 1), mean(name, window - 2)
            ratio = last / before if last is not None and before else 1.0
            powers[name] = math.exp(min(ratio / self._settings.temperature, 500.0))
        total = sum(powers.values())
        return {name: len(powers) * power / total for name, power in powers.items()}
