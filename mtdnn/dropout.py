"""Dropout for CPUs, where drawing the masks takes a fifth of a training step otherwise."""

import torch
from torch import nn

from mtdnn.fast import fast

_VALUES = 1 << 16


def mask(like: torch.Tensor, p: float) -> torch.Tensor:
    """A dropout mask of the shape and type of `like`: 0, or what keeps the mean.

    Torch's own Bernoulli draw takes a number of 53 bits for each element. 16 bits do:
    elements are dropped with the nearest multiple of 2^-16 to `p`, and the scale is that
    probability's own, so that the mean is exact. The bits come from torch's generator.
    """
    kept = _VALUES - round(_VALUES * p)
    count = like.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:count].view(like.shape)
    drawn = torch.empty(like.shape, dtype=like.dtype)
    torch.lt(bits, kept - _VALUES // 2, out=drawn)
    return drawn.mul_(_VALUES / kept if kept else 0.0)


def dropout(inputs: torch.Tensor, p: float) -> torch.Tensor:
    """Dropout as `torch.nn.functional.dropout` in training; faster on a CPU."""
    if not p:
        return inputs
    if inputs.device.type != "cpu" or p * _VALUES < 1 or not fast("dropout"):
        return nn.functional.dropout(inputs, p)
    return inputs * mask(inputs, p)


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return dropout(inputs, self.p) if self.training else inputs


def speed_up(module: nn.Module) -> nn.Module:
    """Let every dropout inside `module` draw its masks the fast way; returns the module."""
    for part in module.modules():
        if type(part) is nn.Dropout and not part.inplace:
            part.__class__ = Dropout
    return module
