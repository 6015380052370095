"""Loss balancing: the papers' formulas, and runs that resume."""

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mtdnn.config.settings import DynamicAverage, TrainingSettings
from mtdnn.model.optimizer import optimizer_for
from mtdnn.training.balancing import LossRatios, balancing_for
from mtdnn.training.loop import train
from mtdnn.training.stepper import Stepper
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.tiny import make_run_folder

RATIOS = {"kind": "dynamic_average", "steps": 2}


def log_of(*lines):
    """A log of lines: step, corpus, loss."""
    written = [{"step": step, "corpus": corpus, "loss": loss} for step, corpus, loss in lines]
    return SimpleNamespace(lines=written, read=lambda: None)


def test_ratios_of_losses_give_the_factors_of_the_paper():
    settings = DynamicAverage(kind="dynamic_average", steps=2, temperature=1.5)
    ratios = LossRatios(["a", "b", "c"], settings)
    lines = [(0, "a", 4.0), (0, "b", 2.0), (1, "a", 2.0), (2, "a", 1.5), (3, "b", 1.8)]
    for step in range(4):
        ratios.begin(step, log_of(*lines[: step + 1]))
        assert [ratios.factor(name) for name in "abc"] == [1, 1, 1]
    ratios.begin(4, log_of(*lines))
    powers = [math.exp(ratio / 1.5) for ratio in (1.5 / 3, 1.8 / 2, 1)]  # c was never drawn
    for name, power in zip("abc", powers, strict=True):
        assert ratios.factor(name) == pytest.approx(3 * power / sum(powers))
    before = ratios.factor("a")
    ratios.begin(5, log_of(*lines, (4, "a", 9.0)))
    assert ratios.factor("a") == before  # until the window ends
    resumed = LossRatios(["a", "b", "c"], settings)
    resumed.begin(5, log_of(*lines, (4, "a", 9.0)))
    assert resumed.factor("a") == before


@pytest.mark.parametrize("corpus", ["cola", "stsb"])
def test_learned_variances_have_the_gradient_of_the_paper_s_loss(undropped, corpus):
    given = {"loss_balancing": "uncertainty", "learning_rate": 1e-3, "clip_norm": 1e6}
    training = TrainingSettings.model_validate({**undropped.run.training.model_dump(), **given})
    run = undropped.run.model_copy(update={"training": training})
    model = undropped.model("packed").train()
    optimizer = optimizer_for(model, training)
    balancing = balancing_for(run, optimizer)
    place = list(run.corpora).index(corpus)
    with torch.no_grad():
        balancing.values[place].fill_(0.7)
    stepper = Stepper(model, optimizer, training, torch.device("cpu"), None, {corpus: 3.0})
    stepper.balancing = balancing
    batch = undropped.batch(corpus)
    loss = stepper.backward(corpus, batch)
    logarithm = torch.tensor([0.7], requires_grad=True)
    half = 0.5 if corpus == "stsb" else 1.0
    reference = undropped.model("packed").train()
    plain = reference.loss(corpus, batch)
    (half * torch.exp(-logarithm) * 3 * plain + logarithm / 2).sum().backward()
    torch.testing.assert_close(loss, plain.detach())
    torch.testing.assert_close(balancing.values[place].grad, logarithm.grad)
    found, expected = (
        {name: p.grad.to_dense() for name, p in each.named_parameters() if p.grad is not None}
        for each in (model, reference)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    before = balancing.values[place].item()
    stepper.update(5e-4)  # half of the peak, and so half of 1e-3, by Adamax's first step
    moved = before - balancing.values[place].item()
    assert abs(moved) == pytest.approx(5e-4, rel=1e-3)
    assert math.copysign(1, moved) == math.copysign(1, logarithm.grad.item())
    others = [value for number, value in enumerate(balancing.values) if number != place]
    assert all(value.item() == 0 for value in others)


# --- runs ------------------------------------------------------------------------------------


def make(folder, balancing, joint=False, mixture="squad_cola_mnli"):
    return make_run_folder(
        folder,
        mixture,
        0.5 if "_" in mixture else 1.0,
        rows=20,
        encoder={"num_hidden_layers": 1},
        schedule={"joint": joint},
        training={
            **{"batch_size": 8, "head_dropout": 0.3, "encoder_dropout": 0.1},
            "loss_balancing": balancing,
        },
    )


def trained(folder, *given, **options):
    run_dir, run = make(folder, *given, **options)
    train(run_dir, run, threads=1)
    return run_dir


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("balancing", ["uncertainty", RATIOS], ids=str)
def test_a_stopped_run_ends_like_an_undisturbed_one(tmp_path, balancing, joint):
    undisturbed = trained(tmp_path / "undisturbed", balancing, joint=joint)
    usual = trained(tmp_path / "usual", "none", joint=joint)
    weights, lines = outcome(undisturbed)
    # Nothing is learned in the first windows, or before the first variance has moved.
    assert lines[0] == outcome(usual)[1][0] and lines[-1] != outcome(usual)[1][-1]
    heads = load_file(undisturbed / "model" / "heads.safetensors")
    assert heads.keys() == load_file(usual / "model" / "heads.safetensors").keys()

    run_dir, run = make(tmp_path / "stopped", balancing, joint=joint)
    train_with_stops(run_dir, run, (3, 4))
    assert_same(outcome(run_dir), (weights, lines))


def test_a_corpus_alone_has_no_ratio_to_others(tmp_path):
    balanced = trained(tmp_path / "ratios", RATIOS, mixture="squad")
    assert_same(outcome(balanced), outcome(trained(tmp_path / "usual", "none", mixture="squad")))
