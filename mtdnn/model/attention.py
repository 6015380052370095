"""Attention over packed batches, registered with Hugging Face's attention interface.

An encoder that runs with `attn_implementation="mtdnn_packed"` and gets a `packing` argument
attends within each sequence of the batch, although all sequences are end to end in one row.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from mtdnn.model.batches import PackedBatch
from mtdnn.model.fast import fast
from mtdnn.model.layers import dropout as drop

PACKED = "mtdnn_packed"

# Up to this length a CPU spends more time on calls than on the arithmetic of padding.
MAX_SHORT_TOKENS = 96


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    packing: PackedBatch,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend from each token to the tokens of its own sequence.

    Args:
        module: the attention layer; unused.
        query, key, value: (1, heads, T, head size), float, the sequences end to end.
        attention_mask: unused; the packing says which tokens belong together.
        dropout: probability of dropping an attention weight; 0 outside training.
        scaling: factor of the scores; 1/sqrt(head size) by default.
        packing: the batch, for the lengths of its sequences.
        sliding_window: attend only to tokens that are nearer than this; by default to all.

    Returns:
        The output, (1, T, heads, head size), and None in place of the weights.
    """
    # Many parameters because transformers calls every attention with these.
    if query.device.type == "cpu":
        short = packing.longest <= MAX_SHORT_TOKENS
        attend = side_by_side if short and fast("attention") else one_by_one
    else:
        half = query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] % 8 == 0
        attend = flash if half and fast("attention") else side_by_side
    reach = None if sliding_window is None else sliding_window - 1
    # The gradient of [0] would be a copy into zeros.
    q, k, v = (tensor.squeeze(0) for tensor in (query, key, value))
    return attend(q, k, v, packing, dropout, scaling, reach).unsqueeze(0), None


def one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: PackedBatch,
    dropout: float,
    scaling: float | None,
    reach: int | None = None,
) -> torch.Tensor:
    """Attend with one call for each sequence, without padding; for CPUs, where calls are cheap.

    Shapes as in `packed_attention` without the batch dimension; returns (T, heads, head size).
    With a `reach`, a token attends only to those at most so far away.
    """
    # Many parameters because the three ways to attend have the same.
    lengths = list(packing.lengths)
    parts = zip(
        *(torch.split(tensor, lengths, dim=1) for tensor in (query, key, value)), strict=True
    )
    attend = _by_products if dropout and fast("attention") else _as_a_batch
    reach = packing.longest if reach is None else reach
    near = _near(packing.longest, reach, query.device) if packing.longest > reach + 1 else None
    outputs = []
    for q, k, v in parts:
        n = q.shape[1]
        # A mask slows the kernel down, so none is given where all tokens are near each other.
        mask = near[:n, :n] if near is not None and n > reach + 1 else None
        outputs.append(attend(q, k, v, mask, dropout_p=dropout, scale=scaling))
    return torch.cat(outputs, dim=1).transpose(0, 1)


def _near(longest: int, reach: int, device: torch.device) -> torch.Tensor:
    """Whether tokens are at most `reach` apart, (longest, longest) bool."""
    places = torch.arange(longest, device=device)
    return (places[:, None] - places).abs() <= reach


def _as_a_batch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    dropout_p: float,
    scale: float | None,
) -> torch.Tensor:
    """One sequence as a batch of one, which torch's CPU kernel needs.

    Without the batch dimension a fallback writes out all scores: 1.7 ms instead of 0.9 ms at 180
    tokens and 12 heads.
    """
    q, k, v = query[None], key[None], value[None]
    output = scaled_dot_product_attention(
        q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, scale=scale
    )
    return output.squeeze(0)


def _by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    dropout_p: float,
    scale: float | None,
) -> torch.Tensor:
    """`scaled_dot_product_attention` with dropout, for which torch has no CPU kernel.

    Torch's fallback spends a sixth of its time on fully masked rows, which do not occur here.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    return drop(torch.softmax(scores, dim=-1), dropout_p) @ value


def side_by_side(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: PackedBatch,
    dropout: float,
    scaling: float | None,
    reach: int | None = None,
) -> torch.Tensor:
    """Attend with one call on padded sequences; for GPUs, where calls are expensive.

    Shapes and `reach` as in `one_by_one`.
    """
    # Many parameters because the three ways to attend have the same.
    q, k, v = (
        packing.pad(tensor.transpose(0, 1), 0.0).transpose(1, 2) for tensor in (query, key, value)
    )
    attend: Callable[..., torch.Tensor] = scaled_dot_product_attention
    if dropout and query.device.type == "cpu" and fast("attention"):
        attend = _by_products
    mask = packing.mask[:, None, None, :]
    if reach is not None and packing.longest > reach + 1:
        # Padding attends to the padding near it: without any key, its gradient would be no number.
        mask = (mask | ~mask.transpose(2, 3)) & _near(packing.longest, reach, query.device)
    output = attend(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return packing.unpad(output.transpose(1, 2))


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: PackedBatch,
    dropout: float,
    scaling: float | None,
    reach: int | None = None,
) -> torch.Tensor:
    """Attend with torch's own flash attention over sequences end to end; half precision only.

    This is the operator that nested tensors call: `varlen_attn` would fix dropout at 0. Shapes and
    `reach` as in `one_by_one`.
    """
    # Many parameters because the three ways to attend have the same.
    output: torch.Tensor = torch.ops.aten._flash_attention_forward(
        *(tensor.transpose(0, 1) for tensor in (query, key, value)),
        packing.bounds,
        packing.bounds,
        packing.longest,
        packing.longest,
        in_256ths(dropout),
        is_causal=False,
        return_debug_mask=False,
        scale=scaling,
        window_size_left=reach,
        window_size_right=reach,
    )[0]
    return output


def in_256ths(dropout: float) -> float:
    """Return the nearest probability of dropping that flash attention applies without a bias.

    It compares a random byte with floor(255 (1 - dropout)), but divides by 1 - dropout itself. At
    0.1 it drops 26 of 256 weights, and outputs were too small by 0.17 %.
    """
    return 1 - min(max(round(256 * (1 - dropout)), 1), 255) / 256 if dropout else 0.0


AttentionInterface.register(PACKED, packed_attention)
# Without a mask function of the same name the encoder would refuse the implementation.
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
