"""Attention over packed batches, given to Hugging Face's encoders through their own interface.

An encoder that runs with `attn_implementation="mtdnn_packed"` and gets a `packing` argument
treats every sequence of the batch by itself, although all lie end to end in one row.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from mtdnn.model.batches import PackedBatch
from mtdnn.model.fast import fast
from mtdnn.model.layers import dropout as drop

PACKED = "mtdnn_packed"

# Encoders that hand every attention to the interface, take explicit position ids as they
# are, and mix tokens nowhere else. The leak test holds each of them to it.
PACKABLE = ("bert", "electra")

# Up to this length a CPU spends more time on calls than on the arithmetic of padding.
SHORT = 96


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
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of each token to the tokens of its own sequence.

    Args:
        query, key, value: (1, heads, T, head size), the sequences end to end.
        dropout: of the attention weights; 0 outside training.
        scaling: of the scores; 1/sqrt(head size) when absent.
        packing: the batch, for its lengths.

    Returns:
        (1, T, heads, head size), and no weights.
    """
    if query.device.type == "cpu":
        short = packing.longest <= SHORT
        attend = _side_by_side if short and fast("attention") else _one_by_one
    else:
        half = query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] % 8 == 0
        attend = _flash if half and fast("attention") else _side_by_side
    output = attend(query[0], key[0], value[0], packing, dropout, scaling)
    return output.unsqueeze(0), None


def _one_by_one(query, key, value, packing, dropout, scaling) -> torch.Tensor:
    """A call for each sequence: no arithmetic on padding. For CPUs, where calls are cheap."""
    parts = zip(
        *(tensor.split(packing.lengths, dim=1) for tensor in (query, key, value)), strict=True
    )
    attend = _by_products if dropout and fast("attention") else _as_a_batch
    outputs = [attend(q, k, v, dropout_p=dropout, scale=scaling) for q, k, v in parts]
    return torch.cat(outputs, dim=1).transpose(0, 1)


def _as_a_batch(query, key, value, *, dropout_p, scale) -> torch.Tensor:
    """One sequence by itself, with a batch dimension: torch's CPU kernel wants one.

    Without it a fallback writes out all scores: 1.7 ms instead of 0.9 at 180 tokens, 12 heads.
    """
    q, k, v = query[None], key[None], value[None]
    return scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=scale)[0]


def _by_products(query, key, value, attn_mask=None, *, dropout_p, scale) -> torch.Tensor:
    """`scaled_dot_product_attention` with dropout, for which torch has no CPU kernel.

    Its fallback spends a sixth of its time on rows that are masked as a whole; here are none.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    return drop(torch.softmax(scores, dim=-1), dropout_p) @ value


def _side_by_side(query, key, value, packing, dropout, scaling) -> torch.Tensor:
    """One call on sequences padded for the attention alone. Where calls are dear."""
    q, k, v = (
        packing.pad(tensor.transpose(0, 1), 0.0).transpose(1, 2) for tensor in (query, key, value)
    )
    attend = scaled_dot_product_attention
    if dropout and query.device.type == "cpu" and fast("attention"):
        attend = _by_products
    mask = packing.mask[:, None, None, :]
    output = attend(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return packing.unpad(output.transpose(1, 2))


def _flash(query, key, value, packing, dropout, scaling) -> torch.Tensor:
    """Torch's own flash attention over sequences end to end; it knows half precision only.

    The operator that nested tensors call: `varlen_attn` would hard-code dropout 0.
    """
    return torch.ops.aten._flash_attention_forward(
        *(tensor.transpose(0, 1).contiguous() for tensor in (query, key, value)),
        packing.bounds,
        packing.bounds,
        packing.longest,
        packing.longest,
        dropout,
        is_causal=False,
        return_debug_mask=False,
        scale=scaling,
    )[0]


AttentionInterface.register(PACKED, packed_attention)
# Without a mask function of the same name the encoder would refuse the implementation.
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
