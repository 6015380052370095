"""A pull of the shared encoder towards earlier weights θ*, its anchor: a term added to the loss.

    penalty = λ/2 · Σ_i F_i (θ_i − θ*_i)²        its gradient: λ F_i (θ_i − θ*_i)

With F = 1 it is L2-SP (Li et al. 2018) or successive regularisation (Hashimoto et al. 2017); with
Fisher information (`mtdnn.training.fisher`) elastic weight consolidation (Kirkpatrick et al. 2017).

Anchor and Fisher information are in the optimizer's state, next to the moments of each weight:
checkpoints hold them, so a run that is resumed within a phase still has the anchor of its start.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mtdnn.config.settings import TrainingSettings
from mtdnn.model.multitask import MultiTaskModel

_ANCHOR, _FISHER = "anchor", "fisher"


class Pull:
    """Pulls the weights of an encoder towards an anchor, once `hold` has set one.

    Everything happens on the device and in fixed memory, so a step with a pull can be recorded.

    Args:
        model: the model; its pooler and heads are left alone.
        optimizer: its optimizer, whose state keeps the anchor.
        strength: λ.

    Attributes:
        penalty: that of the last step, a scalar that stays in its place on the device.
    """

    def __init__(self, model: MultiTaskModel, optimizer: torch.optim.Optimizer, strength: float):
        self.model, self._state, self._strength = model, optimizer.state, strength
        self._weights = trained_weights(model)
        self.penalty = torch.zeros((), device=self._weights[0].device)

    @property
    def active(self) -> bool:
        """Whether there is an anchor."""
        return _ANCHOR in self._state[self._weights[0]]

    @torch.no_grad()
    def hold(self, fisher: Sequence[torch.Tensor] | None = None) -> None:
        """Make the present weights the anchor.

        Args:
            fisher: F of each of the `trained_weights`, of the same shapes; by default 1.
        """
        for number, weight in enumerate(self._weights):
            self._keep(weight, _ANCHOR, weight)
            if fisher is not None:
                self._keep(weight, _FISHER, fisher[number])

    def _keep(self, weight: nn.Parameter, name: str, value: torch.Tensor) -> None:
        state = self._state[weight]
        if name in state:
            state[name].copy_(value)  # where recorded steps find it
        else:
            state[name] = value.detach().clone()

    @torch.no_grad()
    def apply(self) -> None:
        """Add the gradient of the penalty to those that the weights have; note the penalty."""
        if not self.active:
            return
        weights: list[torch.Tensor] = [w for w in self._weights if w.grad is not None]
        gradients = [_dense_gradient(weight) for weight in weights]
        states = [self._state[weight] for weight in weights]
        moves = list(torch._foreach_sub(weights, [state[_ANCHOR] for state in states]))
        pulls = moves
        if _FISHER in states[0]:
            pulls = list(torch._foreach_mul(moves, [state[_FISHER] for state in states]))
        torch._foreach_add_(gradients, pulls, alpha=self._strength)
        torch._foreach_mul_(pulls, moves)  # nothing is negative, so the 1-norm is the sum
        total = nn.utils.get_total_norm(pulls, norm_type=1.0, foreach=True)
        self.penalty.copy_(total * (self._strength / 2))

    def measured(self) -> dict[str, torch.Tensor]:
        """Return what the last step's line of the log says about the pull, on the device."""
        return {"penalty": self.penalty.clone()} if self.active else {}


def _dense_gradient(weight: torch.Tensor) -> torch.Tensor:
    """The gradient of a weight; a sparse one is made dense, since every row is pulled."""
    assert weight.grad is not None
    if weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()
    return weight.grad


def pull_for(
    model: MultiTaskModel, optimizer: torch.optim.Optimizer, settings: TrainingSettings
) -> Pull | None:
    """Return what pulls a model towards the anchor of its run.

    Returns:
        The pull; None without an anchor, at λ = 0, or where no weight of the encoder is trained.
    """
    anchor = settings.anchor
    if not anchor or not anchor.strength or not trained_weights(model):
        return None
    return Pull(model, optimizer, anchor.strength)


def trained_weights(model: MultiTaskModel) -> list[nn.Parameter]:
    """Return the weights of a model's encoder that are trained, in their order."""
    return [weight for weight in model.encoder.parameters() if weight.requires_grad]


def anchor_record(model: MultiTaskModel, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what a run's record says about its last anchor; empty without one.

    `anchor` has the digest of the weights, `fisher` that of their Fisher information, its mean and
    its largest value.
    """
    states = [optimizer.state[weight] for weight in trained_weights(model)]
    held = {
        name: [state[name].cpu() for state in states if name in state]
        for name in (_ANCHOR, _FISHER)
    }
    record: dict[str, Any] = {
        name: {"sha256": _digest(values)} for name, values in held.items() if values
    }
    if values := held[_FISHER]:
        every = torch.cat([value.flatten() for value in values])
        record[_FISHER] |= {"mean": every.mean().item(), "largest": every.max().item()}
    return record


def _digest(tensors: Sequence[torch.Tensor]) -> str:
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(tensor.contiguous().numpy().data)
    return content.hexdigest()
