"""All weights of an encoder cast to bf16 at once, and all their gradients back.

Autocast casts each weight where a layer uses it, and its gradient by itself. One operation for all
of them launches far fewer kernels, and has the same results to the bit.
"""

import torch
from torch import nn
from torch.func import functional_call

from mtdnn.model.batches import PackedBatch
from mtdnn.model.multitask import MultiTaskModel


class Casts:
    """Copies in bf16 of the weights of a model's linear layers, with which it computes its loss.

    Heads, which compute in fp32, keep theirs, and so do adapters.

    Args:
        model: the model; between its steps it is left as it is.

    Attributes:
        copies: the copies, by the names of the weights in the model's loss.
        kept: whether an optimizer writes the copies with the weights, so that they are made anew
            only where anything else has changed a weight.
    """

    def __init__(self, model: MultiTaskModel):
        self._loss, self.kept = _Loss(model), False
        self._versions: list[int] = []
        self._weights = {
            f"model.{place}.{name}": weight
            for place, layer in model.named_modules()
            if isinstance(layer, nn.Linear)
            and not place.startswith("heads.")
            and ".lora_" not in place
            for name, weight in layer.named_parameters(recurse=False)
        }
        self.copies: dict[str, nn.Parameter] = {
            name: nn.Parameter(torch.empty_like(weight, dtype=torch.bfloat16))
            for name, weight in self._weights.items()
        }

    def by_weight(self) -> dict[nn.Parameter, nn.Parameter]:
        """Return the copies by their weights."""
        return {self._weights[name]: copy for name, copy in self.copies.items()}

    def refresh(self) -> None:
        """Make the copies anew, unless they are kept and fresh."""
        if not self.kept or self._versions != self._versions_now():
            with torch.no_grad():
                torch._foreach_copy_([*self.copies.values()], [*self._weights.values()])
            self.are_fresh()

    def are_fresh(self) -> None:
        """Say that the copies have just been written with the weights."""
        self._versions = self._versions_now() if self.kept else []

    def _versions_now(self) -> list[int]:
        # Torch counts what changes a tensor in place.
        return [weight._version for weight in self._weights.values()]

    def loss(self, corpus: str, batch: PackedBatch) -> torch.Tensor:
        """Return the model's loss, a scalar, as computed with fresh copies."""
        self.refresh()
        for name, copy in self.copies.items():
            copy.requires_grad_(self._weights[name].requires_grad)
            copy.grad = None  # of a recording that failed
        loss: torch.Tensor = functional_call(self._loss, {**self.copies}, (corpus, batch))
        return loss

    @torch.no_grad()
    def give_gradients(self) -> None:
        """Add the gradients of the copies to those of the weights."""
        used = [name for name, copy in self.copies.items() if copy.grad is not None]
        added = [name for name in used if self._weights[name].grad is not None]
        new = [name for name in used if self._weights[name].grad is None]
        for name in new:
            self._weights[name].grad = torch.empty_like(self._weights[name])
        if added:
            torch._foreach_add_(*self._gradients(added))
        if new:
            torch._foreach_copy_(*self._gradients(new))
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Forget the gradients of the copies."""
        for copy in self.copies.values():
            copy.grad = None

    def _gradients(self, names: list[str]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The gradients of some weights, and of their copies."""
        pairs = [(self._weights[name].grad, self.copies[name].grad) for name in names]
        mine, its = zip(*pairs, strict=True)
        return list(mine), list(its)


class _Loss(nn.Module):
    """A model as `functional_call` needs it."""

    def __init__(self, model: MultiTaskModel):
        super().__init__()
        self.model = model

    def forward(self, corpus: str, batch: PackedBatch) -> torch.Tensor:
        return self.model.loss(corpus, batch)
