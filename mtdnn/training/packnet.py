"""PackNet (Mallya and Lazebnik 2018): phases of a run own weights that later ones cannot change.

A phase trains those weights of matrices that no earlier phase owns. After two thirds of its steps
the smallest of them become zero and free for later phases; the last third retrains the others.
Each matrix is pruned by itself, and biases and normalisations stay as the first phase that trains
them leaves them, as in the paper; so do embeddings here.

The owners are in the model (`mtdnn.model.owners`), so checkpoints hold them; all else follows from
them and from the number of the step.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from mtdnn.config.phases import phases_of_run
from mtdnn.config.settings import RunSettings
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.owners import OwnedLinear, layers
from mtdnn.training.schedule import Step


class Packing:
    """Prunes the phases of a run, and keeps the weights that a step may not change.

    `hide` and `restore` happen on the device and in fixed memory, so their steps can be recorded.

    Args:
        model: the model, before its first step or as a checkpoint left it.
        run: the run's settings.
        steps: its whole schedule.

    Attributes:
        kept: for each layer, which of its weights a step may not change, and what they are.
        phase: the phase of the step, from 1.
    """

    def __init__(self, model: MultiTaskModel, run: RunSettings, steps: Sequence[Step]):
        self._phases = phases_of_run(run)
        self._firsts, self._cuts = _moments(steps)
        self._every = list(layers(model).values())
        matrices = {layer.weight for layer in self._every}
        shared = {*model.encoder.parameters(), *model.pooler.parameters()}
        # Of each phase: the layers whose weights it trains, and what else of the shared weights.
        self._layers: list[list[OwnedLinear]] = []
        self._others: list[set[nn.Parameter]] = []
        for phase in self._phases:
            trained = {weight for name in phase.corpora for weight in model.trained_by(name)}
            self._layers.append([layer for layer in self._every if layer.weight in trained])
            self._others.append(trained & shared - matrices)
        self.kept: dict[OwnedLinear, tuple[torch.Tensor, torch.Tensor]] = {}
        self.phase = 0

    def before(self, step: Step) -> None:
        """Do what is due before a step: begin its phase, or prune."""
        phase, number = self._phases[step.phase], step.phase + 1
        begins = step.step == self._firsts[step.phase]
        if begins:
            for layer in self._layers[step.phase]:
                layer.claim(number)
        fraction = phase.prune if step.step == self._cuts[step.phase] else None
        if fraction:
            for layer in self._layers[step.phase]:
                layer.prune(number, fraction)
        if begins or fraction or not self.kept:
            self._enter(number)

    def _enter(self, phase: int) -> None:
        """Note what a step of a phase may not change."""
        for earlier in self._others[: phase - 1]:
            for weight in earlier:
                weight.requires_grad_(False)
        self.phase = phase
        for layer in self._every:
            layer.newest = phase
            if not layer.weight.requires_grad:
                continue
            fixed, held = layer.owner != phase, layer.weight.detach().clone()
            if layer in self.kept:  # where recorded steps find them
                self.kept[layer][0].copy_(fixed)
                self.kept[layer][1].copy_(held)
            else:
                self.kept[layer] = fixed, held

    @torch.no_grad()
    def hide(self) -> None:
        """Set the gradients of the weights that a step may not change to zero."""
        for layer, (fixed, _) in self.kept.items():
            if layer.weight.grad is not None:
                layer.weight.grad.masked_fill_(fixed, 0.0)

    @torch.no_grad()
    def restore(self) -> None:
        """Bring the weights that a step may not change back; decay and momentum move them."""
        for layer, (fixed, held) in self.kept.items():
            if layer.weight.grad is not None:
                layer.weight.copy_(torch.where(fixed, held, layer.weight))


def _moments(steps: Sequence[Step]) -> tuple[dict[int, int], dict[int, int]]:
    """The numbers of the steps before which each phase begins, and before which it is pruned."""
    firsts: dict[int, int] = {}
    lengths: Counter[int] = Counter()
    for step in steps:
        firsts.setdefault(step.phase, step.step)
        lengths[step.phase] += 1
    # A phase of one step is pruned before it.
    cuts = {
        n: first + min(lengths[n] - 1, round(2 * lengths[n] / 3)) for n, first in firsts.items()
    }
    return firsts, cuts


def packing_for(model: MultiTaskModel, run: RunSettings, steps: Sequence[Step]) -> Packing | None:
    """Return what prunes the phases of a run; None if none of them is."""
    return Packing(model, run, steps) if run.prunes else None
