"""Linear layers whose weights have owners."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtdnn.model import owners


def owned(phases=3, size=(4, 6)):
    """A linear layer between others, and the module that has them."""
    torch.manual_seed(1)
    whole = nn.Sequential(nn.Embedding(5, size[1]), nn.Linear(size[1], size[0]), nn.LayerNorm(4))
    owners.add([whole], phases)
    (layer,) = owners.layers(whole).values()
    return whole, layer


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    owner=st.lists(st.integers(0, 3), min_size=40, max_size=40),
    fraction=st.floats(0.01, 0.99),
)
def test_the_smallest_weights_of_a_phase_lose_their_owner(values, owner, fraction):
    count = len(values)
    _, layer = owned(size=(1, count))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values, dtype=torch.float))
    layer.owner.copy_(torch.tensor(owner[:count]))
    layer.prune(2, fraction)
    expected, own = np.array(owner[:count]), [n for n in range(count) if owner[n] == 2]
    freed = sorted(own, key=lambda n: (abs(values[n]), n))[: round(fraction * len(own))]
    expected[freed] = 0
    weights = np.array(values, dtype=float)
    weights[freed] = 0
    assert layer.owner[0].tolist() == expected.tolist()
    assert layer.weight[0].tolist() == weights.tolist()


def test_a_phase_takes_what_nobody_owns():
    _, layer = owned()
    layer.owner[:2], layer.owner[2] = 1, 2
    layer.claim(3)
    assert layer.owner[:, 0].tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_a_phase_computes_with_its_weights_and_those_before(phase):
    whole, layer = owned()
    layer.owner.copy_(torch.arange(24).view(4, 6) % 4)
    tokens = torch.arange(5)
    expected = layer.weight.detach().clone()
    expected[layer.owner > phase] = 0
    owners.use(whole, phase)
    found = whole(tokens)
    alone = owners.alone(whole, phase)
    assert type(alone[1]) is nn.Linear and torch.equal(alone[1].weight, expected)
    assert alone.state_dict().keys() == {n for n in whole.state_dict() if "owner" not in n}
    assert torch.equal(found, alone(tokens))
    found.square().sum().backward()
    assert not layer.weight.grad[layer.owner > phase].any()
    assert layer.weight.grad[layer.owner == phase].all()


def test_what_a_phase_does_not_see_whole_is_stored_beside():
    whole, layer = owned()
    layer.owner.fill_(2)
    assert owners.names_beside(whole, 2) == {"1.owner"}
    assert owners.names_beside(whole, 1) == {"1.owner", "1.weight"}
