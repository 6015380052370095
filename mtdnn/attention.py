"""Attention over packed batches, given to Hugging Face's encoders through their own interface.

An encoder that runs with `attn_implementation="mtdnn_packed"` and gets a `packing` argument
treats every sequence of the batch by itself, although all lie end to end in one row.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from mtdnn.batches import PackedBatch

PACKED = "mtdnn_packed"

# Encoders that hand every attention to the interface, take explicit position ids as they
# are, and mix tokens nowhere else. The leak test holds each of them to it.
PACKABLE = ("bert", "electra")


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
    attend = _one_by_one if query.device.type == "cpu" else _side_by_side
    output = attend(query[0], key[0], value[0], packing, dropout, scaling)
    return output.unsqueeze(0), None


def _one_by_one(query, key, value, packing, dropout, scaling) -> torch.Tensor:
    """A call for each sequence: no arithmetic on padding. For CPUs, where calls are cheap."""
    parts = zip(
        *(tensor.split(packing.lengths, dim=1) for tensor in (query, key, value)), strict=True
    )
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling) for q, k, v in parts
    ]
    return torch.cat(outputs, dim=1).transpose(0, 1)


def _side_by_side(query, key, value, packing, dropout, scaling) -> torch.Tensor:
    """One call on sequences padded for the attention alone. For GPUs, where calls are dear."""
    q, k, v = (
        packing.pad(tensor.transpose(0, 1), 0.0).transpose(1, 2) for tensor in (query, key, value)
    )
    output = scaled_dot_product_attention(
        q, k, v, attn_mask=packing.mask[:, None, None, :], dropout_p=dropout, scale=scaling
    )
    return packing.unpad(output.transpose(1, 2))


AttentionInterface.register(PACKED, packed_attention)
# Without a mask function of the same name the encoder would refuse the implementation.
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
