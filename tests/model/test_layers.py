"""Dropout masks from 16 random bits are as good as torch's own."""

import math

import pytest
import torch

from mtdnn.model.layers import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_dropout_masks_are_unbiased_and_come_from_torchs_generator(p, kind):
    ones = torch.ones(1000, 1003, dtype=kind)
    torch.manual_seed(1)
    first = dropout(ones, p)
    torch.manual_seed(1)
    assert torch.equal(first, dropout(ones, p))
    assert not torch.equal(first, dropout(ones, p))
    dropped = (first == 0).double()
    error = math.sqrt(p * (1 - p) / 1003)
    for along in (0, 1):  # no row and no column is favoured
        assert ((dropped.mean(dim=along) - p).abs() < 6 * error).all()
    together = (dropped[:, 1:] * dropped[:, :-1]).mean().item()  # neighbours share a word of bits
    assert together == pytest.approx(p * p, abs=5e-3 * p)
    assert first.double().mean().item() == pytest.approx(1, abs=5e-3)


def test_dropout_passes_gradients_where_it_passes_values():
    inputs = torch.randn(200, 30, requires_grad=True)
    output = Dropout(0.4)(inputs)
    (gradient,) = torch.autograd.grad(output.sum(), inputs)
    torch.testing.assert_close(gradient * inputs, output)
    assert torch.equal(Dropout(0.4).eval()(inputs), inputs)
