"""Trial paths in an encoder: they compute the same, and may be faster on a GPU.

Each is off unless MTDNN_TRIAL names it (`mtdnn.model.fast`). Parameters keep their names and
shapes, so files and checkpoints are the usual ones.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mtdnn.model.attention import packed_attention
from mtdnn.model.fast import tried

COMPILER = "inductor"

LIKE_BERT = frozenset({"bert", "electra", "roberta", "xlm-roberta", "camembert"})
"""Types whose layers are built like BERT's; two of the paths leave those of others as they are."""


def try_out(encoder: PreTrainedModel) -> PreTrainedModel:
    """Change an encoder's modules to the trial paths that are turned on; return it."""
    if tried("tables"):
        _change_tables(encoder)
    layers: Any = ()
    if encoder.config.model_type in LIKE_BERT:
        layers = encoder.get_submodule("encoder.layer")
    for layer in layers:
        if tried("products"):
            _join_projections(layer.attention.self)
        if tried("layers"):
            # Only lengths differ from batch to batch; all layers share one compilation.
            for part in (layer.attention.output, layer.intermediate, layer.output):
                part.compile(backend=COMPILER, dynamic=True)
    return encoder


# --- one product for query, key and value ----------------------------------------------------


class JointProjections(nn.Module):
    """Makes an attention layer of packed batches compute its three projections in one product.

    Layers with adapters or owners of weights compute as usual.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    dropout: nn.Dropout
    attention_head_size: int
    scaling: float

    def forward(
        self, hidden_states: torch.Tensor, *arguments: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        """Return the attention's output, (1, T, hidden), from (1, T, hidden)."""
        projections = (self.query, self.key, self.value)
        if "packing" not in options or any(type(each) is not nn.Linear for each in projections):
            usual: tuple[torch.Tensor, None] = super().forward(hidden_states, *arguments, **options)
            return usual
        weight = torch.cat([each.weight for each in projections])
        bias = torch.cat([each.bias for each in projections])
        joint = nn.functional.linear(hidden_states, weight, bias)
        parts = joint.view(*joint.shape[:-1], 3, -1, self.attention_head_size).unbind(-3)
        query, key, value = (part.transpose(1, 2) for part in parts)
        dropout = self.dropout.p if self.training else 0.0
        packing = options["packing"]
        output, _ = packed_attention(
            self, query, key, value, None, dropout, self.scaling, packing=packing
        )
        return output.flatten(-2), None


def _join_projections(attention: nn.Module) -> None:
    kind = type(attention)
    attention.__class__ = type(f"Joint{kind.__name__}", (JointProjections, kind), {})


# --- gradients of small tables ---------------------------------------------------------------


class Table(nn.Embedding):
    """`nn.Embedding` of a few rows, whose gradient is a product with ones and zeros.

    Many tokens have the same row, so adding them one by one takes a deterministic GPU long.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = _Rows.apply(self.weight, inputs, self.padding_idx)  # type: ignore[no-untyped-call] # torch's
        return rows


class _Rows(torch.autograd.Function):
    """Rows of a matrix, by their numbers."""

    @staticmethod
    def forward(
        ctx: Any, matrix: torch.Tensor, numbers: torch.Tensor, padding: int | None
    ) -> torch.Tensor:
        ctx.save_for_backward(numbers)
        ctx.count, ctx.padding = len(matrix), padding
        return nn.functional.embedding(numbers, matrix)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (numbers,) = ctx.saved_tensors
        rows = torch.arange(ctx.count, device=numbers.device)
        chosen = (rows[:, None] == numbers.flatten()).to(gradient.dtype)
        total = chosen @ gradient.flatten(0, -2)
        if ctx.padding is not None:
            total[ctx.padding].zero_()
        return total, None, None


def _change_tables(encoder: PreTrainedModel) -> None:
    """Change all embeddings but those of words."""
    words = encoder.get_input_embeddings()
    for part in encoder.modules():
        if type(part) is nn.Embedding and part is not words and part.max_norm is None:
            part.__class__ = Table
