"""Weights of several models put together: their mean, task arithmetic, TIES.

Wortsman et al.: "Model soups" (2022); Ilharco et al.: "Editing Models with Task Arithmetic" (2023);
Yadav et al.: "TIES-Merging" (2023). Sums are in double precision.
"""

from collections.abc import Mapping, Sequence

import torch

from mtdnn.config.settings import Average

Weights = Mapping[str, torch.Tensor]

_SCALES = {"task_arithmetic": 0.4, "ties": 1.0}
_DENSITY = 0.2


def combined(start: Weights, models: Sequence[Weights], settings: Average) -> Weights:
    """Return the combination of models that were trained from the same weights.

    Args:
        start: these weights by name, fp32.
        models: the trained weights, with the same names and shapes.
        settings: how they are combined.
    """
    if settings.method == "mean":
        return mean(models)
    scale = settings.scale or _SCALES[settings.method]
    if settings.method == "task_arithmetic":
        return {
            name: _moved(weights, scale * _stacked(weights, models, name).sum(dim=0))
            for name, weights in start.items()
        }
    return _ties(start, models, scale, settings.density or _DENSITY)


def mean(models: Sequence[Weights]) -> Weights:
    """Return the mean of the weights of some models."""
    return {
        name: torch.stack([model[name].double() for model in models]).mean(dim=0).to(weights.dtype)
        for name, weights in models[0].items()
    }


def _ties(
    start: Weights, models: Sequence[Weights], scale: float, density: float
) -> dict[str, torch.Tensor]:
    """Trim each model's changes, elect a sign for each weight, average the changes that have it."""
    least = torch.stack([_least_kept(start, model, density) for model in models])
    found = {}
    for name, weights in start.items():
        changes = _stacked(weights, models, name)
        kept = changes.abs() >= least.view(-1, *[1] * weights.ndim)
        changes = changes * kept
        elected = changes.sum(dim=0).sign()
        agrees = (changes.sign() == elected) & (changes != 0)
        average = (changes * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
        found[name] = _moved(weights, scale * average)
    return found


def _least_kept(start: Weights, model: Weights, density: float) -> torch.Tensor:
    """Return the smallest magnitude of a model's changes that is among the kept share of them."""
    sizes = torch.cat([(model[name] - start[name]).abs().flatten() for name in start])
    kept = max(1, round(density * len(sizes)))
    return sizes.kthvalue(len(sizes) - kept + 1).values


def _stacked(weights: torch.Tensor, models: Sequence[Weights], name: str) -> torch.Tensor:
    """Return the changes of a weight, one for each model, (models, …)."""
    return torch.stack([model[name] - weights for model in models]).double()


def _moved(weights: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return (weights.double() + change).to(weights.dtype)
