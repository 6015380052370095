"""Linear layers whose weights belong to the phases of a run (PackNet, Mallya and Lazebnik 2018).

Each weight of a matrix has an owner: a phase, numbered from 1, or 0 while it has none. A phase
computes with its own weights and those of earlier phases; those of later phases are zero to it.
"""

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

Part = TypeVar("Part", bound=nn.Module)


class OwnedLinear(nn.Linear):
    """A linear layer whose weights have owners.

    Attributes:
        owner: the owner of each weight, int8 of the shape of `weight`.
        newest: the newest phase that owns weights.
        seen: the phase that computes.
    """

    owner: torch.Tensor
    newest: int
    seen: int

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.weight if self.seen >= self.newest else self.weight_of(self.seen)
        return nn.functional.linear(inputs, weight, self.bias)

    def weight_of(self, phase: int) -> torch.Tensor:
        """Return the matrix as a phase sees it."""
        return torch.where(self.owner <= phase, self.weight, 0.0)

    @torch.no_grad()
    def claim(self, phase: int) -> None:
        """Give the weights without an owner to a phase."""
        self.owner.masked_fill_(self.owner == 0, phase)

    @torch.no_grad()
    def prune(self, phase: int, fraction: float) -> None:
        """Set the smallest weights of a phase to zero and take them away from it.

        Args:
            phase: the phase.
            fraction: share of its weights, rounded to whole ones; of equal ones the first.
        """
        own = (self.owner.view(-1) == phase).nonzero().squeeze(1)
        order = self.weight.view(-1)[own].abs().argsort(stable=True)
        freed = own[order[: round(fraction * len(own))]]
        self.weight.view(-1)[freed] = 0.0
        self.owner.view(-1)[freed] = 0


def add(parts: Iterable[nn.Module], phases: int) -> None:
    """Give owners to the weights of all linear layers of some modules; at first they have none.

    Args:
        parts: the modules.
        phases: number of the phases of the run.
    """
    for part in parts:
        for layer in part.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = OwnedLinear
                assert isinstance(layer, OwnedLinear)
                layer.register_buffer("owner", torch.zeros_like(layer.weight, dtype=torch.int8))
                layer.newest = layer.seen = phases


def layers(part: nn.Module) -> dict[str, OwnedLinear]:
    """Return the layers of a module whose weights have owners, by their names."""
    return {name: layer for name, layer in part.named_modules() if isinstance(layer, OwnedLinear)}


def use(part: nn.Module, phase: int) -> None:
    """Compute as a phase does from now on."""
    for layer in layers(part).values():
        layer.seen = phase


def alone(part: Part, phase: int) -> Part:
    """Return a copy of a module that computes what a phase sees, without owners."""
    part = copy.deepcopy(part)
    for layer in layers(part).values():
        with torch.no_grad():
            layer.weight.copy_(layer.weight_of(phase))
        del layer.owner
        layer.__class__ = nn.Linear  # type: ignore[assignment] # as it was
    return part


def names_beside(model: nn.Module, phase: int) -> set[str]:
    """Return the names of a model's owners, and of its matrices that a phase does not see whole."""
    found = layers(model)
    hidden = {name for name, layer in found.items() if bool((layer.owner > phase).any())}
    return {f"{name}.owner" for name in found} | {f"{name}.weight" for name in hidden}
