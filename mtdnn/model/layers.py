"""Drop-in layers for CPUs, where torch's dropout masks take a fifth of a step."""

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from mtdnn.model.fast import fast

# Values of the 16 random bits that decide about one element.
_VALUES = 1 << 16


def mask(like: torch.Tensor, p: float) -> torch.Tensor:
    """Return a dropout mask of the shape and dtype of `like`: 0 or the scale 1/(1 − p).

    Torch's Bernoulli draw takes a 53-bit number for each element; 16 bits are enough. Elements are
    dropped with the multiple of 2^-16 nearest to `p`, and the scale uses that probability, so the
    mean is exact. The bits come from torch's generator.
    """
    kept = _VALUES - round(_VALUES * p)
    count = like.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:count].view(like.shape)
    drawn = torch.empty(like.shape, dtype=like.dtype)
    torch.lt(bits, kept - _VALUES // 2, out=drawn)
    return drawn.mul_(_VALUES / kept if kept else 0.0)


def dropout(inputs: torch.Tensor, p: float) -> torch.Tensor:
    """Apply dropout as `torch.nn.functional.dropout` does in training; faster on a CPU."""
    if not p:
        return inputs
    if inputs.device.type != "cpu" or p * _VALUES < 1 or not fast("dropout"):
        return nn.functional.dropout(inputs, p)
    return inputs * mask(inputs, p)


class Dropout(nn.Dropout):
    """`nn.Dropout` that uses `dropout`."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return dropout(inputs, self.p) if self.training else inputs


class Embedding(nn.Embedding):
    """`nn.Embedding` whose gradient is sparse: it holds only the rows that were looked up.

    A batch looks up a few hundred of tens of thousands of rows. The gradient is dense on a GPU,
    which fills memory fast enough, and in processes that train together, which exchange whole
    gradients.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        alone = not (dist.is_available() and dist.is_initialized())
        sparse = inputs.device.type == "cpu" and fast("embedding") and alone
        return nn.functional.embedding(inputs, self.weight, self.padding_idx, sparse=sparse)


def speed_up(encoder: PreTrainedModel) -> PreTrainedModel:
    """Replace the dropouts and word embeddings of an encoder with the fast ones; return it."""
    for part in encoder.modules():
        if type(part) is nn.Dropout and not part.inplace:
            part.__class__ = Dropout
    words = encoder.get_input_embeddings()
    if type(words) is nn.Embedding and words.max_norm is None and not words.scale_grad_by_freq:
        words.__class__ = Embedding
    return encoder
