"""Every fast path gives what the plain one gives, and can be switched off."""

import math

import numpy as np
import pytest
import torch

from mtdnn.errors import MtdnnError
from mtdnn.model import attention
from mtdnn.model.batches import batch_of
from mtdnn.model.fast import PATHS, fast
from mtdnn.model.layers import Dropout, dropout
from mtdnn.model.optimizer import DecoupledAdamax, clip_scale, learning_rate, optimizer_for
from mtdnn.training import loop
from mtdnn.training.schedule import Step
from mtdnn.training.stepper import stepper_for
from tests.support.packed import Prepared, packing, query_key_value

CPU = torch.device("cpu")


def test_the_switch_turns_off_what_it_names(monkeypatch):
    assert all(map(fast, PATHS))
    monkeypatch.setenv("MTDNN_PLAIN", "dropout, prefetch")
    assert [path for path in PATHS if not fast(path)] == ["dropout", "prefetch"]
    monkeypatch.setenv("MTDNN_PLAIN", "all")
    assert not any(map(fast, PATHS))
    monkeypatch.setenv("MTDNN_PLAIN", "droput")
    with pytest.raises(MtdnnError, match="MTDNN_PLAIN: unknown droput; use all, or some of dropout"):
        fast("dropout")


@pytest.fixture(scope="module")
def undropped(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("undropped"))


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_fast_and_plain_paths_give_the_same_losses_over_fifty_steps(
    undropped, monkeypatch, batching
):
    outcomes = []
    for switch, how in (("", "packed"), ("all", batching)):
        monkeypatch.setenv("MTDNN_PLAIN", switch)
        monkeypatch.setattr("mtdnn.model.optimizer.PORTION_ELEMENTS", 500)
        model = undropped.model(how).train()
        settings = undropped.run.training.model_copy(update={"learning_rate": 1e-3})
        optimizer, losses = optimizer_for(model, settings), []
        stepper = stepper_for(model, optimizer, settings, CPU)
        random = np.random.default_rng(1)
        for step in range(50):
            corpus = ("squad", "swag", "cola", "mnli")[step % 4]
            batch = batch_of(undropped.features[corpus], random.choice(12, 6, replace=False))
            rate = learning_rate(step, 50, settings)
            loss, _ = stepper.take(corpus, batch, rate)
            losses.append(loss.item())
        outcomes.append(losses)
    np.testing.assert_allclose(*outcomes, atol=1e-5, rtol=1e-5)


def test_a_scaled_step_is_torchs_clipping(monkeypatch):
    """In portions that cut tensors, and put small ones together."""
    monkeypatch.setattr("mtdnn.model.optimizer.PORTION_ELEMENTS", 7)
    torch.manual_seed(1)
    start = [torch.randn(5, 4), torch.randn(3), torch.randn(2)]
    gradients, outcomes = [torch.randn_like(x) for x in start], []
    for switch in ("optimizer", ""):
        monkeypatch.setenv("MTDNN_PLAIN", switch)
        parameters = [torch.nn.Parameter(x.clone()) for x in start]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer = DecoupledAdamax([{"params": parameters, "weight_decay": 0.1}], lr=0.1)
        if switch:
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
        else:
            optimizer.step(clip_scale(torch.nn.utils.get_total_norm(gradients), 0.5))
        outcomes.append(parameters)
    torch.testing.assert_close(*outcomes)


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


def test_short_sequences_together_equal_one_by_one(monkeypatch):
    inputs = [x[None] for x in query_key_value()]
    outputs = []
    for longest in (0, 100):
        monkeypatch.setattr(attention, "MAX_SHORT_TOKENS", longest)
        outputs.append(attention.packed_attention(None, *inputs, None, packing=packing())[0])
    torch.testing.assert_close(*outputs)


def test_flash_attention_is_asked_for_unpadded_sequences_and_dropout(monkeypatch):
    """No GPU here: the operator takes these arguments, on tensors without data."""
    inputs = [x.detach().to("meta", torch.bfloat16) for x in query_key_value(size=8)]
    asked = []
    operator = torch.ops.aten._flash_attention_forward

    def recording(*arguments, **options):
        asked.append(arguments)
        return operator(*arguments, **options)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", recording)
    batch = packing()
    output = attention._flash(*inputs, batch, 0.1, None)
    assert output.shape == (18, 3, 8)
    _, _, _, bounds, _, longest, _, rate = asked[0]
    assert (bounds.tolist(), bounds.dtype) == ([0, 5, 6, 15, 18], torch.int32)
    assert (longest, rate) == (9, 0.1)


@pytest.mark.parametrize("switch", ["", "prefetch"])
def test_batches_come_in_the_order_of_the_steps(undropped, monkeypatch, switch):
    monkeypatch.setenv("MTDNN_PLAIN", switch)
    steps = [Step(i, 0, "cola", np.array([i, i + 1])) for i in range(7)]
    batches = list(loop.batches_of(steps, undropped.features, lambda batch: batch))
    for step, batch in zip(steps, batches, strict=True):
        expected = batch_of(undropped.features["cola"], step.rows)
        assert torch.equal(batch.input_ids, expected.input_ids)


def test_a_batch_that_cannot_be_assembled_ends_the_training(undropped):
    steps = [Step(i, 0, "cola", np.array([10**6])) for i in range(4)]
    with pytest.raises(IndexError):
        list(loop.batches_of(steps, undropped.features, lambda batch: batch))
