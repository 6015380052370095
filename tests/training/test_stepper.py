"""Recorded steps equal the steps that they replace; accumulation, clipping and precision.

Without a GPU, `tests.support.recorder` stands in for CUDA graphs.
"""

import math
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mtdnn.config.settings import TrainingSettings
from mtdnn.data.features import NO_TAG
from mtdnn.data.logits import ROWS
from mtdnn.model.batches import Lesson
from mtdnn.model.optimizer import learning_rate, optimizer_for
from mtdnn.training.loop import random_state
from mtdnn.training.stepper import (
    RecordedParts,
    RecordedSteps,
    Stepper,
    chosen_precision,
    cuda_recorder,
    parts_of,
    precision,
    stepper_for,
)
from tests.support.packed import WITHOUT_DROPOUT, Prepared
from tests.support.recorder import Recording, StandIn, state_of
from tests.support.tiny import FAMILIES

CPU = torch.device("cpu")
STEPS = 50
# Shifts that a softmax ignores: their gradients are rounding errors, which Adamax makes large.
IGNORED = ("heads.squad.linear.bias", "heads.swag.linear.bias")
# Heads reach equal and different numbers of steps.
ORDER = ("squad", "cola", "squad", "mnli", "swag", "squad", "cola", "cola")


def with_lesson(batch, corpus, step=0, share=None):
    """The batch with logits, and by default a share, that are others in each step."""
    by_token = ROWS[FAMILIES[corpus]] == "token"
    outputs = {"squad": 2, "swag": 1, "cola": 2, "mnli": 3, "stsb": 1, "ner": 3}[corpus]
    random = torch.Generator().manual_seed(step)
    rows = batch.tokens if by_token else len(batch.lengths)
    logits = 3 * torch.randn(rows, outputs, generator=random)
    share = torch.tensor(1 - step / STEPS if share is None else share)
    return replace(batch, lesson=Lesson(logits, share, 2.0, by_token))


class RecordedTraining:
    """A run whose steps are recorded, with a list of the recordings."""

    def __init__(self, prepared, loss_weights=None, **changes):
        self.settings = prepared.run.training.model_copy(update={"learning_rate": 3e-3, **changes})
        self.prepared = prepared
        self.model = prepared.model("packed").train()
        self.optimizer = optimizer_for(self.model, self.settings)
        self.recorder = StandIn()
        kind = RecordedSteps if self.settings.accumulation == 1 else RecordedParts
        self.stepper = self.recorder.stepper = kind(
            self.model, self.optimizer, self.settings, CPU, self.recorder, loss_weights or {}
        )

    @property
    def recordings(self):
        return self.recorder.recordings

    def state(self):
        return state_of(self.stepper)

    def run(self, stepper=None, steps=range(STEPS), head_factor=1, restart=None, taught=False):
        stepper, losses = stepper or self.stepper, []
        for step in steps:
            if step == restart:
                self.optimizer.forget()
            corpus = ORDER[step % len(ORDER)]
            draw = np.random.default_rng(step // 2 % 5)  # shapes that occur again, in another order
            items = draw.choice(12, (6, 9)[step // 8 % 2], replace=False)
            items = np.random.default_rng(step).permutation(items)
            batch = self.prepared.batch(corpus, items)
            batch = stepper.prepare(with_lesson(batch, corpus, step) if taught else batch)
            random_state(1, step)
            rate = learning_rate(step, STEPS, self.settings)
            loss, norm = stepper.take(corpus, batch, rate, 1.0, head_factor * rate)
            losses.append((loss.item(), norm.item()))
        return losses


# --- tails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("corpus", FAMILIES)
def test_a_tail_does_not_change_losses_and_gradients(undropped, like_a_gpu, corpus, pooling):
    results = []
    for tail in (False, True):
        model = undropped.model("packed").train()
        model.pooling = pooling
        batch = undropped.batch(corpus)
        loss = model.loss(corpus, batch.with_tail() if tail else batch)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients))
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("corpus", FAMILIES)
def test_labels_and_teachers_share_the_loss_in_parts_and_with_a_tail(undropped, like_a_gpu, corpus):
    model, batch = undropped.model("packed").eval(), undropped.batch(corpus)
    labels = model.loss(corpus, batch).item()
    alone = model.loss(corpus, with_lesson(batch, corpus, share=1.0)).item()
    assert alone != pytest.approx(labels)
    both = with_lesson(batch, corpus, share=0.3)
    expected = pytest.approx(0.3 * alone + 0.7 * labels, rel=1e-5)
    assert model.loss(corpus, both).item() == expected
    assert model.loss(corpus, both.with_tail()).item() == expected
    parts = parts_of(both, 3)
    assert len(parts) == 3
    assert sum(share * model.loss(corpus, part).item() for part, share in parts) == expected


# --- recordings ------------------------------------------------------------------------------


def test_recorded_steps_read_what_teachers_say_from_their_batches(undropped, like_a_gpu):
    outcomes = []
    for recorded in (True, False):
        training = RecordedTraining(undropped)
        if recorded:
            losses = training.run(taught=True)
            assert len(training.recordings) > 8
        else:
            training.optimizer._factors = None
            plain = Stepper(training.model, training.optimizer, training.settings, CPU)
            losses = training.run(plain, taught=True)
        outcomes.append(losses)
    np.testing.assert_allclose(*outcomes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamax", "adamax_legacy", "adamw", "adam"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_recorded_steps_equal_unrecorded_ones(undropped, like_a_gpu, pooling, optimizer):
    outcomes = []
    for recorded in (True, False):
        training = RecordedTraining(undropped, optimizer=optimizer, weight_decay=0.1)
        training.model.pooling = pooling
        if recorded:
            losses = training.run()
            assert 8 < len(training.recordings) < 25  # the other shapes occurred once
        else:
            training.optimizer._factors = None  # rate and decay as Python numbers
            losses = training.run(
                Stepper(training.model, training.optimizer, training.settings, CPU)
            )
        outcomes.append(
            (losses, training.state(), [s["step"] for s in training.optimizer.state.values()])
        )
    (losses, state, ages), (expected, plain, others) = outcomes
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    for name in state:
        if not name.startswith(IGNORED) and "key.bias" not in name:
            torch.testing.assert_close(state[name], plain[name], rtol=1e-4, atol=1e-5)
    assert ages == others and len(set(ages)) > 3


@pytest.mark.parametrize("optimizer", ["adamax", "adamax_legacy"])
def test_recorded_steps_know_loss_weights_head_rates_and_restarts(undropped, like_a_gpu, optimizer):
    weights, outcomes = {"squad": 0.2, "mnli": 3.0}, []
    for kind in ("recorded", "unrecorded", "plain"):
        own = {} if kind == "plain" else weights
        training = RecordedTraining(undropped, own, optimizer=optimizer, weight_decay=0.1)
        stepper = Stepper(training.model, training.optimizer, training.settings, CPU, None, own)
        if kind != "recorded":
            training.optimizer._factors = None
        options = {} if kind == "plain" else {"head_factor": 10, "restart": 37}
        losses = training.run(training.stepper if kind == "recorded" else stepper, **options)
        outcomes.append((losses, training.state()))
    (losses, state), (expected, unrecorded), (others, _) = outcomes
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    for name in state:
        if not name.startswith(IGNORED) and "key.bias" not in name:
            torch.testing.assert_close(state[name], unrecorded[name], rtol=1e-3, atol=1e-4)
    assert losses[0][0] == pytest.approx(others[0][0])  # the loss without its factor
    assert losses[0][1] == pytest.approx(0.2 * others[0][1], rel=1e-4)


def test_the_largest_batch_of_a_corpus_is_recorded_first(undropped, like_a_gpu):
    training = RecordedTraining(undropped)
    batches = {
        corpus: [
            training.stepper.prepare(undropped.batch(corpus, range(items))) for items in (1, 12, 6)
        ]
        for corpus in ("squad", "mnli")
    }
    training.stepper.largest = {corpus: largest for corpus, (_, largest, _) in batches.items()}
    for corpus, (small, largest, middle) in batches.items():
        for batch in (small, middle, middle, small, largest):
            training.stepper.take(corpus, batch, 1e-3)
    expected = [batch for _, *others in batches.values() for batch in others]
    expected[2:2], expected[5:5] = [batches["squad"][0]], [batches["mnli"][0]]
    assert [b.shape for b in training.recorder.batches] == [b.shape for b in expected]


@pytest.mark.parametrize("optimizer", ["adamax", "adamw", "adam"])
def test_it_makes_no_difference_when_a_step_is_recorded(undropped, like_a_gpu, optimizer):
    """A resumed run, which records later, has a bit-identical result, with dropout."""
    outcomes = []
    for known in ("again", "never"):
        weights = {"squad": 0.2, "mnli": 3.0}
        training = RecordedTraining(undropped, weights, optimizer=optimizer, head_dropout=0.3)
        for head in training.model.heads.values():
            head.dropout.p = 0.3
        if known == "never":
            training.stepper._recorder = None
        outcomes.append((training.run(head_factor=10, restart=37), training.state()))
    assert outcomes[0][0] == outcomes[1][0]
    assert all(torch.equal(outcomes[0][1][name], outcomes[1][1][name]) for name in training.state())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_recomputed_activations_equal_recorded_steps(tmp_path, like_a_gpu, accumulation):
    """They are never recorded, but have the same tails, and so the same dropout masks."""
    outcomes = []
    for saving in (False, True):
        settings = {**WITHOUT_DROPOUT, "encoder_dropout": 0.3, "activation_checkpointing": saving}
        prepared = Prepared(tmp_path / str(saving), training=settings)
        training = RecordedTraining(prepared, accumulation=accumulation)
        if saving:
            training.stepper._recorder = None
        outcomes.append((training.run(), training.state()))
        assert bool(training.recordings) != saving
    (losses, state), (others, again) = outcomes
    assert losses == others
    assert all(torch.equal(state[name], again[name]) for name in state)


@pytest.mark.parametrize(("accumulation", "optimizer"), [(2, "adamax"), (4, "adamw")])
def test_recorded_parts_equal_unrecorded_ones(undropped, like_a_gpu, accumulation, optimizer):
    outcomes, weights = [], {"squad": 0.2, "mnli": 3.0}
    for recorded in (True, False):
        changes = {"optimizer": optimizer, "weight_decay": 0.1, "accumulation": accumulation}
        training = RecordedTraining(undropped, weights, **changes)
        stepper = training.stepper
        if not recorded:
            training.optimizer._factors = None
            stepper = Stepper(
                training.model, training.optimizer, training.settings, CPU, None, weights
            )
        losses = training.run(stepper, steps=range(40), head_factor=10)
        outcomes.append((losses, training.state()))
        updates = [batch for batch in training.recorder.batches if batch is None]
        assert bool(updates) == recorded
        assert len(training.recordings) > 3 * len(updates) or not recorded
    (losses, state), (expected, plain) = outcomes
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    for name in state:
        if not name.startswith(IGNORED) and "key.bias" not in name:
            torch.testing.assert_close(state[name], plain[name], rtol=1e-3, atol=1e-4)


def test_it_makes_no_difference_when_parts_are_recorded(undropped, like_a_gpu):
    outcomes = []
    for known in ("again", "never"):
        training = RecordedTraining(undropped, {"squad": 0.2}, head_dropout=0.3, accumulation=3)
        for head in training.model.heads.values():
            head.dropout.p = 0.3
        if known == "never":
            training.stepper._recorder = None
        outcomes.append((training.run(steps=range(30), restart=17), training.state()))
        assert bool(training.recordings) == (known == "again")
    assert outcomes[0][0] == outcomes[1][0]
    assert all(torch.equal(outcomes[0][1][name], outcomes[1][1][name]) for name in training.state())


def test_parts_of_equal_shape_have_shares_of_their_own(undropped, like_a_gpu):
    """Tags are in some parts more than in others, which no shape says."""
    training = RecordedTraining(undropped, accumulation=2)
    model, batch = training.model, undropped.batch("ner")
    others = batch.targets["tags"].clone()
    others[: batch.lengths[0]] = NO_TAG
    prepare = training.stepper.prepare
    for tags in (batch.targets["tags"], batch.targets["tags"], others):
        given = replace(batch, targets={"tags": tags})
        expected = model.loss("ner", given.with_tail()).item()
        loss, _ = training.stepper.take("ner", prepare(given), 1e-3)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert len(training.recordings) == 2  # both parts, and the update


def test_the_largest_part_of_a_corpus_is_recorded_first(undropped, like_a_gpu):
    training = RecordedTraining(undropped, accumulation=2)
    small, largest = (training.stepper.prepare(undropped.batch("squad", range(n))) for n in (2, 12))
    training.stepper.largest = {"squad": largest}
    for _ in range(2):
        training.stepper.take("squad", small, 1e-3)
    shapes = [batch.shape for batch in training.recorder.batches if batch]
    assert shapes[0] == max((part for part, _ in largest.parts), key=lambda p: p.tokens).shape
    assert {part.shape for part, _ in small.parts} <= set(shapes[1:])


def test_replays_draw_new_dropout_masks(undropped, like_a_gpu):
    training = RecordedTraining(undropped, learning_rate=1e-12)
    training.model.heads["cola"].dropout.p = 0.5
    torch.nn.init.normal_(training.model.heads["cola"].linear.weight)
    batch, losses = training.stepper.prepare(undropped.batch("cola")), []
    for seed in (1, 1, 1, 2, 1):
        random_state(seed, 0)
        losses.append(training.stepper.take("cola", batch, 1e-12)[0].item())
    assert len(training.recordings) == 1
    assert losses[0] == losses[1] == losses[2] == losses[4] != losses[3]


@pytest.mark.parametrize("recorded", [0, 3])
def test_steps_continue_where_recording_fails(undropped, like_a_gpu, capsys, recorded):
    """After recordings that worked, too: these read a random state that is no longer renewed."""
    outcomes = []
    for fails in (True, False):
        training = RecordedTraining(undropped)
        for head in training.model.heads.values():
            head.dropout.p = 0.3
        if fails:
            training.stepper._recorder = FailsAfter(training.recorder, recorded)
        else:
            training.stepper._recorder = None
        outcomes.append((training.run(steps=range(30)), training.state()))
        assert not any(training.stepper._recordings.values())
        assert len(training.recordings) == (recorded if fails else 0)
    (losses, state), (expected, unrecorded) = outcomes
    assert losses == expected
    assert all(torch.equal(state[name], unrecorded[name]) for name in state)
    said = capsys.readouterr().out
    assert said.count("continuing without CUDA graphs: out of memory") == 1


class FailsAfter:
    """A recorder that fails after some recordings, which cannot be replayed any more then."""

    def __init__(self, recorder, count):
        self.recorder, self.left, self.failed = recorder, count, False

    def __call__(self, work):
        if not self.left:
            self.failed = True
            refuse(work)
        self.left -= 1
        replay = self.recorder(work)

        def replay_unless_failed():
            assert not self.failed, "its random state is gone"
            replay()

        return replay_unless_failed


def refuse(work):
    raise torch.OutOfMemoryError("out of memory")


class Cuda:
    """The parts of torch.cuda that recording uses; an invalid recording spoils a random state."""

    def __init__(self, monkeypatch):
        self.stream, self.fails = "own", False
        self.default_generators = [self, self.Generator("cuda")]
        for name in ("graph_pool_handle", "CUDAGraph", "graph", "current_stream", "set_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "default_generators", self.default_generators)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: self.default_generators[1].state)
        monkeypatch.setattr(torch, "Generator", self.Generator)

    class Generator:
        def __init__(self, device):
            self.state, self.in_capture = torch.zeros(16, dtype=torch.uint8), False

        def set_state(self, state):
            self.state = state

        def graphsafe_set_state(self, other):
            self.state, self.in_capture = other.state, other.in_capture

    class CUDAGraph:
        replay = None

    def graph_pool_handle(self):
        return (0, 1)

    def current_stream(self):
        return self.stream

    def set_stream(self, stream):
        self.stream = stream

    @contextmanager
    def graph(self, graph, pool, capture_error_mode):
        generator = self.default_generators[1]
        generator.in_capture, before, self.stream = True, self.stream, "recording"
        yield
        if self.fails:
            raise RuntimeError("operation failed due to a previous error during capture")
        generator.in_capture, self.stream = False, before


@pytest.mark.parametrize("fails", [False, True])
def test_a_failed_recording_leaves_stream_and_random_state_usable(monkeypatch, fails):
    cuda = Cuda(monkeypatch)
    generator = cuda.default_generators[1]
    generator.state = torch.arange(16, dtype=torch.uint8)
    record, cuda.fails = cuda_recorder(), fails
    with pytest.raises(RuntimeError, match="previous error") if fails else nullcontext():
        record(lambda: None)
    assert not generator.in_capture and cuda.stream == "own"
    assert generator.state.tolist() == list(range(16))


def test_the_stand_in_refuses_what_a_gpu_cannot_record():
    here, index = torch.arange(4.0), np.array([0, 2])
    for work, reason in (
        (lambda: here.sum().item(), "host would wait"),
        (lambda: here[here > 1], "host would wait"),
        (lambda: here.index_put_((here.long(),), here), "host would wait"),
        (lambda: here[index], "tensor of the host"),
        (lambda: here + torch.tensor([1.0, 2.0, 3.0, 4.0]), "tensor of the host"),
    ):
        with pytest.raises(AssertionError, match=reason), Recording([here]):
            work()


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulation": 2},
        {"activation_checkpointing": True},
        {"accumulation": 2, "activation_checkpointing": True},
        {},
    ],
    ids=str,
)
def test_steps_are_recorded_on_a_gpu_where_possible(undropped, monkeypatch, changes):
    training = RecordedTraining(undropped, **changes)
    monkeypatch.setattr("mtdnn.training.stepper.cuda_recorder", lambda: refuse)
    monkeypatch.setattr(training.optimizer, "keep_factors_on", lambda device: None)
    zeros = torch.zeros
    monkeypatch.setattr("mtdnn.training.stepper.torch.zeros", lambda *size, device: zeros(*size))

    def kind(device):
        given = training.model, training.optimizer, training.settings, torch.device(device)
        stepper = stepper_for(*given)
        recorder = getattr(stepper, "_recorder", None)
        assert (recorder is None) == (type(stepper) is Stepper or training.settings == saving)
        return type(stepper)

    saving = training.settings.model_copy(update={"activation_checkpointing": True})
    assert kind("cpu") is Stepper
    assert kind("cuda") is (Stepper if "accumulation" in changes else RecordedSteps)
    monkeypatch.setenv("MTDNN_TRIAL", "parts")
    assert kind("cuda") is (RecordedParts if "accumulation" in changes else RecordedSteps)
    monkeypatch.setenv("MTDNN_PLAIN", "graphs")
    assert kind("cuda") is Stepper


# --- on a GPU --------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: nothing to record on")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_graphs_equal_unrecorded_steps(tmp_path, precision):
    device, outcomes = torch.device("cuda"), []
    prepared = Prepared(tmp_path, training={"head_dropout": 0.3}, hidden_dropout_prob=0.1)
    for recorded in (True, False):
        settings = prepared.run.training.model_copy(update={"precision": precision})
        model = prepared.model("packed").to(device).train()
        optimizer = optimizer_for(model, settings)
        stepper = RecordedSteps(model, optimizer, settings, device, cuda_recorder())
        if not recorded:
            stepper._recorder = None
        losses = []
        for step in range(STEPS):
            corpus = ORDER[step % len(ORDER)]
            batch = stepper.prepare(prepared.batch(corpus, np.arange(6) + step % 3))
            random_state(1, step)
            losses.append(stepper.take(corpus, batch, 1e-3)[0])
        assert any(stepper._recordings.values()) == recorded
        outcomes.append(torch.stack(losses))
    torch.testing.assert_close(*outcomes, rtol=1e-6, atol=1e-6)


# --- steps without recordings ----------------------------------------------------------------


class GradientRecorder:
    """An optimizer that only keeps the scaled gradients that it gets."""

    def __init__(self, model):
        self.model, self.param_groups, self.gradients = model, [{"lr": None}], {}

    def zero_grad(self, set_to_none):
        self.model.zero_grad(set_to_none=set_to_none)

    def step(self, scale):
        named = self.model.named_parameters()
        self.gradients = {n: p.grad.to_dense() * scale for n, p in named if p.grad is not None}


@pytest.mark.parametrize("corpus", FAMILIES)
@pytest.mark.parametrize("accumulation", [2, 3, 7, 50])
def test_accumulation_gives_the_gradients_of_one_batch(tmp_path, corpus, accumulation):
    prepared = Prepared(tmp_path)
    model, batch = prepared.model().train(), prepared.batch(corpus, range(7))
    recorded, results = GradientRecorder(model), []
    for parts in (1, accumulation):
        settings = prepared.run.training.model_copy(
            update={"accumulation": parts, "clip_norm": 1e9}
        )
        loss, norm = Stepper(model, recorded, settings, CPU).take(corpus, batch, 0.5)
        results.append((loss, norm, recorded.gradients))
    torch.testing.assert_close(results[1], results[0], atol=1e-6, rtol=1e-4)
    assert recorded.param_groups[0]["lr"] == 0.5
    shares = [share for _, share in parts_of(batch, accumulation)]
    assert len(shares) == min(accumulation, 7) and sum(shares) == pytest.approx(1)
    assert sum(part.tokens for part, _ in parts_of(batch, accumulation)) == batch.tokens


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_loss_weight_scales_gradients_and_not_the_loss(tmp_path, accumulation):
    prepared = Prepared(tmp_path)
    model, recorded, results = prepared.model().train(), None, []
    settings = prepared.run.training.model_copy(
        update={"accumulation": accumulation, "clip_norm": 1e9}
    )
    for weights in ({}, {"swag": 4.0, "cola": 2.0}):
        recorded = GradientRecorder(model)
        stepper = Stepper(model, recorded, settings, CPU, None, weights)
        loss, norm = stepper.take("swag", prepared.batch("swag", range(7)), 0.1)
        results.append((loss, norm / weights.get("swag", 1), recorded.gradients))
    (_, _, plain), (_, _, scaled) = results
    torch.testing.assert_close(results[0][:2], results[1][:2])
    for name, gradient in plain.items():
        torch.testing.assert_close(scaled[name], 4 * gradient, rtol=1e-4, atol=1e-7)


def test_a_head_has_a_rate_of_its_own(tmp_path):
    """The first step of Adamax has the size of the rate, whatever the gradient is."""
    prepared = Prepared(tmp_path, training={**WITHOUT_DROPOUT, "weight_decay": 0})
    model = prepared.model().train()
    optimizer = optimizer_for(model, prepared.run.training)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stepper = Stepper(model, optimizer, prepared.run.training, CPU)
    stepper.take("mnli", prepared.batch("mnli"), 1e-4, head_rate=1e-2)
    steps = {n: (p - before[n]).abs().max().item() for n, p in model.named_parameters()}
    moved = {name: step for name, step in steps.items() if step and "key.bias" not in name}
    for name, step in moved.items():
        expected = 1e-2 if name.startswith("heads.mnli.") else 1e-4
        assert step == pytest.approx(expected, rel=0.02), name
    assert {name.split(".")[0] for name in moved} == {"encoder", "pooler", "heads"}


def test_clipping_is_global(tmp_path):
    prepared = Prepared(tmp_path)
    model, batch = prepared.model().train(), prepared.batch("swag")
    recorded, results = GradientRecorder(model), []
    for largest in (1e9, 0.01):
        settings = prepared.run.training.model_copy(update={"clip_norm": largest})
        _, norm = Stepper(model, recorded, settings, CPU).take("swag", batch, 0.1)
        results.append((norm.item(), recorded.gradients))
    (norm, whole), (same_norm, clipped) = results
    squares = sum(gradient.double().square().sum() for gradient in whole.values())
    assert norm == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert same_norm == pytest.approx(norm)  # the norm before clipping is what is logged
    for name, gradient in clipped.items():
        torch.testing.assert_close(gradient, whole[name] * 0.01 / norm, rtol=1e-3, atol=1e-9)


def test_a_step_touches_only_the_encoder_and_its_own_head(tmp_path):
    prepared = Prepared(tmp_path)
    model = prepared.model().train()
    optimizer = optimizer_for(model, prepared.run.training)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = prepared.batch("squad")
    Stepper(model, optimizer, prepared.run.training, CPU).take("squad", batch, 1e-3)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {name.split(".")[0] for name in moved} == {"encoder", "heads"}
    assert {name for name in moved if name.startswith("heads")} == {
        "heads.squad.linear.weight",
        "heads.squad.linear.bias",
    }


def test_bf16_is_near_fp32_and_keeps_weights_in_fp32(tmp_path):
    prepared = Prepared(tmp_path)
    half = prepared.run.training.model_copy(update={"precision": "bf16"})
    model = prepared.model().train()
    for corpus in FAMILIES:
        nn.init.normal_(model.heads[corpus].linear.weight, std=0.2)
        batch = prepared.batch(corpus)
        full = model.loss(corpus, batch)
        with precision(half, CPU):
            loss, logits = model.loss(corpus, batch), model(corpus, batch)
        loss.backward()
        assert not torch.equal(logits, logits.bfloat16().float())  # rounded ones would tie
        assert loss.dtype == torch.float32 and loss.item() != full.item()
        assert loss.item() == pytest.approx(full.item(), rel=0.05)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("chosen", ["auto", "fp32", "bf16"])
def test_precision_is_bf16_on_a_gpu_and_fp32_on_a_cpu_unless_chosen(chosen):
    settings = TrainingSettings(precision=chosen)
    on = {kind: chosen_precision(settings, torch.device(kind)) for kind in ("cuda", "cpu")}
    automatic = {"cuda": "bf16", "cpu": "fp32"}
    assert on == (automatic if chosen == "auto" else dict.fromkeys(on, chosen))
    with precision(settings, CPU):
        assert torch.is_autocast_enabled("cpu") == (chosen == "bf16")
    assert TrainingSettings().precision == "auto"
