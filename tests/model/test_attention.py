"""Packed attention: no sequence attends to another, and dropout acts where it should."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtdnn.model import attention
from mtdnn.model.attention import one_by_one, packed_attention, side_by_side
from mtdnn.model.batches import PackedBatch
from mtdnn.training.loop import random_state
from tests.support.packed import LENGTHS, PACKABLE, Prepared, packing, query_key_value


def by_hand(query, key, value, lengths, scale, reach=1000):
    """Softmax attention inside each sequence, from its definition, token by token."""
    outputs, start = [], 0
    for n in lengths:
        q, k, v = (x[:, start : start + n] for x in (query, key, value))
        for i in range(n):
            near = slice(max(0, i - reach), i + reach + 1)
            scores = q[:, i : i + 1] @ k[:, near].transpose(1, 2) * scale
            outputs.append(scores.softmax(dim=2) @ v[:, near])
        start += n
    return torch.cat(outputs, dim=1).transpose(0, 1)


@pytest.mark.parametrize("attend", [one_by_one, side_by_side])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_both_ways_equal_the_definition(attend, scaling):
    inputs = query_key_value()
    expected = by_hand(*inputs, LENGTHS, scaling or 1 / math.sqrt(4))
    output = attend(*inputs, packing(), 0.0, scaling)
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-5)

    pull = torch.randn_like(output)
    wanted = torch.autograd.grad(expected, inputs, pull)
    gradients = torch.autograd.grad(output, inputs, pull)
    torch.testing.assert_close(gradients, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("attend", [one_by_one, side_by_side])
@pytest.mark.parametrize("reach", [0, 1, 3, 7, 8, 20])
@pytest.mark.parametrize("dropout", [0.0, 1e-9])  # with dropout other kernels run
def test_near_tokens_alone_are_attended_to(attend, reach, dropout):
    inputs = query_key_value()
    expected = by_hand(*inputs, LENGTHS, 0.5, reach)
    output = attend(*inputs, packing(), dropout, 0.5, reach)
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-5)
    pull = torch.randn_like(output)
    wanted = torch.autograd.grad(expected, inputs, pull)
    gradients = torch.autograd.grad(output, inputs, pull)
    torch.testing.assert_close(gradients, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("attend", [one_by_one, side_by_side])
def test_attention_dropout_is_unbiased_and_independent(attend):
    """Each weight is dropped by itself, the rest grows by 1/(1 - p): the mean is undropped."""
    with torch.no_grad():
        inputs, rate, draws = query_key_value(), 0.3, 3000
        undropped = attend(*inputs, packing(), 0.0, None)
        torch.manual_seed(2)
        outputs = torch.stack([attend(*inputs, packing(), rate, None) for _ in range(draws)])
        error = (outputs.mean(dim=0) - undropped) / (outputs.std(dim=0) / math.sqrt(draws))
        assert error.abs().max() < 5
        # The sequence of one token keeps its only weight or loses it.
        alone = outputs[:, LENGTHS[0], 0, 0] / undropped[LENGTHS[0], 0, 0]
        kept = torch.isclose(alone, torch.tensor(1 / (1 - rate)))
        assert ((alone == 0) | kept).all()
        assert kept.float().mean().item() == pytest.approx(1 - rate, abs=0.04)


def test_the_interface_takes_and_gives_what_transformers_expects():
    inputs = [x[None] for x in query_key_value()]
    output, weights = packed_attention(nn.Module(), *inputs, None, packing=packing(), other=1)
    assert output.shape == (1, sum(LENGTHS), 3, 4) and weights is None


@pytest.mark.parametrize("kind", PACKABLE)
@pytest.mark.parametrize("longest", [0, attention.MAX_SHORT_TOKENS])  # one by one; side by side
def test_no_sequence_sees_another(tmp_path, monkeypatch, kind, longest):
    """The leak test: when one sequence changes, the outputs of the others do not."""
    monkeypatch.setattr(attention, "MAX_SHORT_TOKENS", longest)
    prepared = Prepared(tmp_path, kind)
    model, batch = prepared.model("packed").eval(), prepared.batch("squad", range(4))
    ends = [sum(batch.lengths[: i + 1]) for i in range(4)]
    with torch.no_grad():
        before = model.encode(batch).split(batch.lengths)
        for changed in range(4):
            ids = batch.input_ids.clone()
            ids[ends[changed] - batch.lengths[changed] : ends[changed]] = 7
            other = PackedBatch(**{**vars_of(batch), "input_ids": ids})
            after = model.encode(other).split(batch.lengths)
            for number in range(4):
                assert torch.equal(before[number], after[number]) == (number != changed)
        for number in range(4):  # nor do the other sequences of its batch matter
            alone = model.encode(batch.slice(number, number + 1))
            torch.testing.assert_close(alone, before[number], atol=1e-5, rtol=1e-4)


def vars_of(batch):
    names = ("input_ids", "token_type_ids", "position_ids", "lengths", "items", "targets")
    return {name: getattr(batch, name) for name in names}


# --- dropout in training, on the packed path -------------------------------------------------

KINDS = {
    "attention": ({"attention_probs_dropout_prob": 0.2, "hidden_dropout_prob": 0}, 0),
    "hidden": ({"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0.2}, 0),
    "head": ({"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0}, 0.2),
    "none": ({"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0}, 0),
}


@pytest.fixture(scope="module", params=KINDS)
def dropping(request, tmp_path_factory):
    encoder, head = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    prepared = Prepared(folder, training={"head_dropout": head}, **encoder)
    model = prepared.model("packed")
    for head_of_corpus in model.heads.values():
        nn.init.normal_(head_of_corpus.linear.weight, std=0.3)
    return request.param, model, prepared


@pytest.mark.parametrize("corpus", ["squad", "swag", "cola"])
def test_each_dropout_acts_by_itself_in_training_only(dropping, corpus):
    kind, model, prepared = dropping
    batch = prepared.batch(corpus)

    def loss(seed, step):
        random_state(seed, step)
        return model.loss(corpus, batch).item()

    with torch.no_grad():
        model.eval()
        undropped = loss(1, 0)
        assert undropped == loss(1, 1)

        model.train()
        assert loss(1, 0) == loss(1, 0)  # bit for bit, as a resumed run needs
        different = {loss(1, 0), loss(1, 1), loss(2, 0), undropped}
        assert len(different) == (1 if kind == "none" else 4)

        if kind == "head":  # linear in the head's inputs: the mean of the logits is undropped
            model.eval()
            expected = model(corpus, batch)
            model.train()
            draws = torch.stack([model(corpus, batch) for _ in range(100)])
            error = (draws.mean(dim=0) - expected) / (draws.std(dim=0) / 10)
            assert error.abs().max() < 5


def test_attention_dropout_differs_from_sequence_to_sequence(tmp_path):
    model = Prepared(tmp_path, **KINDS["attention"][0], training={}).model("packed")
    ids = torch.tensor([2, 8, 9, 10, 3] * 2)
    twins = PackedBatch(
        ids, torch.zeros_like(ids), torch.arange(10) % 5, (5, 5), torch.tensor([0, 1, 2]), {}
    )
    with torch.no_grad():
        first, second = model.train().encode(twins).split(5)
        assert not torch.allclose(first, second, atol=1e-4)
        first, second = model.eval().encode(twins).split(5)
        torch.testing.assert_close(first, second)


# --- fast paths ------------------------------------------------------------------------------


def test_short_sequences_in_one_call_equal_one_by_one(monkeypatch):
    inputs = [x[None] for x in query_key_value()]
    outputs = []
    for longest in (0, 100):
        monkeypatch.setattr(attention, "MAX_SHORT_TOKENS", longest)
        outputs.append(attention.packed_attention(None, *inputs, None, packing=packing())[0])
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("reach", [None, 4])
def test_flash_attention_gets_unpadded_sequences_and_dropout(monkeypatch, reach):
    """Without a GPU: the operator takes these arguments, on tensors without data."""
    inputs = [x.detach().to("meta", torch.bfloat16) for x in query_key_value(size=8)]
    asked = []
    operator = torch.ops.aten._flash_attention_forward

    def recording(*arguments, **options):
        asked.append((arguments, options))
        return operator(*arguments, **options)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", recording)
    batch = packing()
    output = attention.flash(*inputs, batch, 0.1, None, reach)
    assert output.shape == (18, 3, 8)
    (_, _, _, bounds, _, longest, _, rate), options = asked[0]
    assert options["window_size_left"] == options["window_size_right"] == reach
    assert (bounds.tolist(), bounds.dtype) == ([0, 5, 6, 15, 18], torch.int32)
    assert (longest, rate) == (9, 26 / 256)


@given(st.floats(0.001, 0.999))
def test_dropout_of_flash_attention_has_no_bias(dropout):
    """Its kernel keeps a weight whose random byte is at most floor(255 (1 - dropout))."""
    rate = attention.in_256ths(dropout)
    kept = (math.floor(255 * (1 - rate)) + 1) / 256
    assert kept / (1 - rate) == 1
    assert abs(rate - dropout) <= 1 / 256
    assert attention.in_256ths(0.0) == 0


def test_flash_attention_takes_parts_of_one_product_as_they_are(monkeypatch):
    """On tensors without data: the kernel needs neighbouring numbers of a head, no more."""
    product = torch.empty(18, 3, 3, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
    asked, operator = [], torch.ops.aten._flash_attention_forward

    def recording(*arguments, **options):
        asked.extend(arguments[:3])
        return operator(*arguments, **options)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", recording)
    parts = [part.transpose(0, 1) for part in product.unbind(1)]
    output = attention.flash(*parts, packing(), 0.1, None)
    assert output.shape == (18, 3, 8)
    assert [each.stride() for each in asked] == [(72, 8, 1)] * 3
    output.sum().backward()
    assert product.grad.shape == product.shape
