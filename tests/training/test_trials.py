"""Trial paths train the same weights, recorded or not, and resume from each other's checkpoints."""

import numpy as np
import pytest
import torch

from mtdnn.model import owners, trials
from mtdnn.model.multitask import restrict
from mtdnn.model.optimizer import learning_rate, optimizer_for
from mtdnn.training.checkpoints import Checkpoints
from mtdnn.training.loop import random_state
from mtdnn.training.stepper import RecordedParts, RecordedSteps
from tests.support.packed import PACKABLE, WITHOUT_DROPOUT, Prepared
from tests.support.recorder import StandIn, state_of

CPU = torch.device("cpu")
STEPS = 16
CORPORA = ("squad", "cola", "squad", "mnli")
# A softmax ignores them: their gradients are rounding errors, which Adamax makes large.
IGNORED = ("heads.squad.linear.bias", "key.bias")
WAYS = [{"frozen_layers": 1}, {"lora": {"rank": 2, "dropout": 0, "per": "corpus"}}]
PATHS = ["casts", "layers", "products", "shadows", "tables", "all"]


@pytest.fixture(autouse=True)
def traced(like_a_gpu, monkeypatch):
    """Layers are traced as a compiler would, and their arithmetic is repeated."""
    monkeypatch.setattr(trials, "COMPILER", "aot_eager")


class Training:
    """Some steps of a run with the trial paths of its time."""

    def __init__(self, prepared, records=False, **changes):
        self.prepared = prepared
        self.settings = prepared.run.training.model_copy(update=changes)
        run = prepared.run.model_copy(update={"training": self.settings})
        self.model = prepared.model("packed").train()
        restrict(self.model, run)
        self.optimizer = optimizer_for(self.model, self.settings)
        self.recorder = StandIn()
        kind = RecordedSteps if self.settings.accumulation == 1 else RecordedParts
        self.stepper = self.recorder.stepper = kind(
            self.model, self.optimizer, self.settings, CPU, self.recorder
        )
        if not records:
            self.stepper._recorder = None

    def take(self, steps=range(STEPS)):
        """Take steps; return the loss and the norm of each."""
        results = []
        for step in steps:
            corpus = CORPORA[step % len(CORPORA)]
            items = np.random.default_rng(step).permutation(6)
            batch = self.stepper.prepare(self.prepared.batch(corpus, items))
            random_state(1, step)
            rate = learning_rate(step + 1, 2 * STEPS, self.settings)
            results.append(torch.stack(self.stepper.take(corpus, batch, rate, 1.0, 3 * rate)))
        return torch.stack(results)

    def assert_close(self, other):
        found = state_of(other.stepper)
        for name, value in state_of(self.stepper).items():
            if not any(ignored in name for ignored in IGNORED):
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("optimizer", ["adamax", "adamw"])
def test_weights_and_moments_are_the_same(undropped, monkeypatch, path, optimizer):
    usual = Training(undropped, optimizer=optimizer, weight_decay=0.1)
    expected = usual.take()
    monkeypatch.setenv("MTDNN_TRIAL", path)
    other = Training(undropped, optimizer=optimizer, weight_decay=0.1)
    torch.testing.assert_close(other.take(), expected, rtol=1e-5, atol=1e-5)
    usual.assert_close(other)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_recorded_steps_have_the_same_bits(undropped, monkeypatch, accumulation, precision):
    monkeypatch.setenv("MTDNN_TRIAL", "all")
    outcomes = []
    for records in (True, False):
        training = Training(undropped, records, accumulation=accumulation, precision=precision)
        outcomes.append((training.take(), state_of(training.stepper)))
        assert bool(training.recorder.recordings) == records
    (found, state), (expected, other) = outcomes
    assert torch.equal(found, expected)
    assert all(torch.equal(value, other[name]) for name, value in state.items())


@pytest.mark.parametrize("first", ["", "all"])
def test_a_checkpoint_opens_with_and_without_them(undropped, monkeypatch, tmp_path, first):
    whole = Training(undropped)
    expected = whole.take()
    monkeypatch.setenv("MTDNN_TRIAL", first)
    one = Training(undropped)
    found = [one.take(range(7))]
    checkpoints = Checkpoints(tmp_path, 0.0)
    checkpoints.save(7, one.model, one.optimizer, [])
    monkeypatch.setenv("MTDNN_TRIAL", "" if first else "all")
    other = Training(undropped)
    step, _ = checkpoints.restore(other.model, other.optimizer)
    found.append(other.take(range(step, STEPS)))
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-5, atol=1e-5)
    whole.assert_close(other)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_restricted_models_train_the_same(tmp_path, monkeypatch, way):
    prepared = Prepared(tmp_path, training={**WITHOUT_DROPOUT, **way})
    usual = Training(prepared)
    expected = usual.take()
    monkeypatch.setenv("MTDNN_TRIAL", "all")
    other = Training(prepared, records=True)
    torch.testing.assert_close(other.take(), expected, rtol=1e-5, atol=1e-5)
    usual.assert_close(other)
    assert other.recorder.recordings


# --- casts: the same bits as autocast --------------------------------------------------------


def both(prepared, monkeypatch, change=lambda model: None, path="casts", **changes):
    """Losses and state of six steps in bf16, with casts and without."""
    outcomes = []
    for each in ("", path):
        monkeypatch.setenv("MTDNN_TRIAL", each)
        training = Training(prepared, precision="bf16", **changes)
        change(training.model)
        outcomes.append((training.take(range(6)), state_of(training.stepper)))
        assert bool(training.stepper._casts) == bool(each)
    return outcomes


def assert_same_bits(outcomes):
    (losses, state), (others, found) = outcomes
    assert torch.equal(losses, others)
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", PACKABLE)
def test_casts_have_the_bits_of_autocast(tmp_path, monkeypatch, kind, accumulation):
    prepared = Prepared(tmp_path, kind, {"batch_size": 8}, hidden_dropout_prob=0.1)
    assert_same_bits(both(prepared, monkeypatch, accumulation=accumulation))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_casts_have_the_bits_of_autocast_in_restricted_models(tmp_path, monkeypatch, way):
    assert_same_bits(both(Prepared(tmp_path, training={"batch_size": 8, **way}), monkeypatch))


def test_casts_have_the_bits_of_autocast_where_weights_have_owners(undropped, monkeypatch):
    def owned(model):
        owners.add((model.encoder, model.pooler), 2)
        for layer in owners.layers(model).values():
            layer.owner[::2] = 2
            layer.seen = 1

    assert_same_bits(both(undropped, monkeypatch, owned))


def test_casts_are_of_linear_layers_in_encoder_and_pooler(undropped, monkeypatch):
    monkeypatch.setenv("MTDNN_TRIAL", "casts")
    copies = Training(undropped, precision="bf16").stepper._casts.copies
    named = dict(undropped.model().named_parameters())
    expected = {
        f"model.{name}"
        for name, weight in named.items()
        if not name.startswith(("heads.", "encoder.embeddings.")) and "LayerNorm" not in name
    }
    assert copies.keys() == expected
    assert Training(undropped, precision="fp32").stepper._casts is None


class FailsInside(StandIn):
    """A recorder whose recordings fail between the backward pass and the end of casts."""

    def __call__(self, work):
        casts = self.stepper._casts
        casts.give_gradients = fail
        try:
            return super().__call__(work)
        finally:
            del casts.give_gradients


def fail():
    raise RuntimeError("made up")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_failed_recording_leaves_no_gradient_behind(undropped, monkeypatch, accumulation):
    monkeypatch.setenv("MTDNN_TRIAL", "casts")
    outcomes = []
    for records in (True, False):
        training = Training(undropped, precision="bf16", accumulation=accumulation)
        if records:
            training.stepper._recorder = recorder = FailsInside()
            recorder.stepper = training.stepper
        outcomes.append((training.take(), state_of(training.stepper)))
        assert training.stepper._recorder is None
    assert_same_bits(outcomes)


# --- shadows: casts that the update writes ---------------------------------------------------

UNCLIPPED = 1e9  # norms are added up in another order


@pytest.mark.parametrize("optimizer", ["adamax", "adam", "adamw"])
@pytest.mark.parametrize("kind", PACKABLE)
def test_shadows_have_the_bits_of_autocast(tmp_path, monkeypatch, kind, optimizer):
    training = {"batch_size": 8, "clip_norm": UNCLIPPED, "optimizer": optimizer}
    prepared = Prepared(tmp_path, kind, training, hidden_dropout_prob=0.1)
    (losses, state), (others, found) = both(prepared, monkeypatch, path="shadows")
    assert torch.equal(losses[:, 0], others[:, 0])
    torch.testing.assert_close(losses[:, 1], others[:, 1], rtol=1e-5, atol=0)
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_shadows_have_the_bits_of_autocast_in_restricted_models(tmp_path, monkeypatch, way):
    training = {"batch_size": 8, "clip_norm": UNCLIPPED, **way}
    (losses, state), (others, found) = both(
        Prepared(tmp_path, training=training), monkeypatch, path="shadows"
    )
    assert torch.equal(losses[:, 0], others[:, 0])
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("records", [False, True])
def test_shadows_follow_weights_that_are_changed_between_steps(
    undropped, monkeypatch, tmp_path, records
):
    outcomes = []
    for path in ("casts", "shadows"):
        monkeypatch.setenv("MTDNN_TRIAL", path)
        training = Training(undropped, records, precision="bf16", clip_norm=UNCLIPPED)
        losses = [training.take(range(9))]
        with torch.no_grad():
            for weight in training.model.encoder.parameters():
                weight.mul_(0.9)
        losses.append(training.take(range(9, STEPS)))
        outcomes.append((torch.cat(losses)[:, 0], state_of(training.stepper)))
        assert bool(training.recorder.recordings) == records
    assert_same_bits(outcomes)


def test_the_update_writes_shadows_and_casts_nothing(undropped, monkeypatch):
    monkeypatch.setenv("MTDNN_TRIAL", "shadows")
    training = Training(undropped, precision="bf16")
    training.take(range(3))
    casts = training.stepper._casts
    monkeypatch.setattr(casts, "give_gradients", fail)
    fresh = [copy.clone() for copy in casts.copies.values()]
    training.take(range(3, 4))
    weights = [weight.bfloat16() for weight in casts.by_weight()]
    copies = [*casts.copies.values()]
    assert all(map(torch.equal, copies, weights)) and not all(map(torch.equal, copies, fresh))
    assert all(copy.grad is None for copy in copies)
