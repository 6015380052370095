"""Trial paths in an encoder: they compute the same, and may be faster on a GPU.

Each is off unless MTDNN_TRIAL names it (`mtdnn.model.fast`). Parameters keep their names and
shapes, so files and checkpoints are the usual ones.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from mtdnn.model.attention import packed_attention
from mtdnn.model.fast import tried

COMPILER = "inductor"

USUAL_TOKENS = 1024
"""The number of tokens for which compiled functions are tuned, whatever batch comes first."""

LIKE_BERT = frozenset({"bert", "electra", "roberta", "xlm-roberta", "camembert"})
"""Types whose layers are built like BERT's; two of the paths leave those of others as they are."""


def try_out(encoder: PreTrainedModel) -> PreTrainedModel:
    """Change an encoder's modules to the trial paths that are turned on; return it."""
    if tried("tables"):
        _change_tables(encoder)
    layers: Any = ()
    if encoder.config.model_type in LIKE_BERT:
        layers = encoder.get_submodule("encoder.layer")
    if tried("layers") and layers:  # which have one product for query, key and value, too
        _join_layers(encoder.get_submodule("encoder"))
    elif tried("products"):
        for layer in layers:
            _join_projections(layer.attention.self)
    return encoder


# --- everything between two attentions, compiled ----------------------------------------------


class JoinedLayers(nn.Module):
    """Makes a stack of layers of packed batches compute what lies between two attentions at once.

    Everything from one attention to the projections of the next is one compiled function, which
    all layers share: few kernels, and no number is written just to be read by the next one. Layers
    with adapters or owners of weights, and those that compute twice to save memory, compute as
    usual.
    """

    layer: nn.ModuleList

    def forward(self, hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """Return the last hidden states, (1, T, hidden), from those of the embeddings."""
        packing = options.get("packing")
        layers: list[Any] = [*self.layer]
        if packing is None or not all(map(_is_plain, layers)):
            return super().forward(hidden_states, *arguments, **options)
        project, between, finish = _compiled()
        hidden, joint = hidden_states, project(layers[0], hidden_states)
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            attention = layer.attention.self
            query, key, value = (part.transpose(1, 2) for part in joint.unbind(-3))
            dropout = attention.dropout.p if self.training else 0.0
            attended, _ = packed_attention(
                attention, query, key, value, None, dropout, attention.scaling, packing=packing
            )
            attended = attended.flatten(-2)
            if following is None:
                hidden = finish(layer, attended, hidden)
            else:
                hidden, joint = between(layer, following, attended, hidden)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)


def _join_layers(stack: nn.Module) -> None:
    """Make a stack of layers like BERT's a `JoinedLayers`."""
    kind = type(stack)
    stack.__class__ = type(f"Joined{kind.__name__}", (JoinedLayers, kind), {})


def _is_plain(layer: Any) -> bool:
    attention = layer.attention
    projections = (attention.self.query, attention.self.key, attention.self.value)
    linears = (*projections, attention.output.dense, layer.intermediate.dense, layer.output.dense)
    checkpointing = layer.training and getattr(layer, "gradient_checkpointing", False)
    return not checkpointing and all(type(linear) is nn.Linear for linear in linears)


def _project(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return query, key and value, (1, T, 3, heads, head size), from (1, T, hidden)."""
    attention = layer.attention.self
    projections = (attention.query, attention.key, attention.value)
    weight = torch.cat([each.weight for each in projections])
    bias = torch.cat([each.bias for each in projections])
    joint = nn.functional.linear(hidden, weight, bias)
    return joint.view(*joint.shape[:-1], 3, -1, attention.attention_head_size)


def _finish(layer: Any, attended: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Return what a layer makes of its input and the output of its attention."""
    middle = layer.attention.output(attended, hidden)
    result: torch.Tensor = layer.output(layer.intermediate(middle), middle)
    return result


def _between(
    layer: Any, following: Any, attended: torch.Tensor, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Finish a layer and project for the following one."""
    result = _finish(layer, attended, hidden)
    return result, _project(following, result)


@cache
def _compiled() -> tuple[Callable[..., Any], ...]:
    return tuple(_of_any_length(function) for function in (_project, _between, _finish))


def _of_any_length(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of tensors of shape (1, T, …) once, for all T.

    How the compiler cuts sums into parts depends on the T that it is told. That is always the same
    one: a resumed run, whose first batch is another, has to compute the same bits.
    """
    # Its fused sums would be compiled anew from some T on, perhaps while a step is recorded.
    options: dict[str, Any] = {"triton.mix_order_reduction": False}
    compiled = torch.compile(
        function,
        backend=COMPILER,
        dynamic=True,
        options=options if COMPILER == "inductor" else None,
    )

    def call(*arguments: Any) -> Any:
        for each in arguments:
            if isinstance(each, torch.Tensor):
                torch._dynamo.mark_dynamic(each, 1, hint_override=USUAL_TOKENS)
        return compiled(*arguments)

    return call


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
