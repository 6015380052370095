"""Joint steps: combinations against plain implementations of their papers, and steps of a model."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.optimize import minimize, nnls
from torch import nn

from mtdnn.config import joint
from mtdnn.config.settings import TrainingSettings
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json
from mtdnn.model.optimizer import optimizer_for
from mtdnn.training.combining import Combiner, JointStepper, combine, share_factors
from mtdnn.training.journal import Record
from mtdnn.training.loop import random_state, train
from mtdnn.training.stepper import Stepper
from tests.support.interrupted import assert_same, outcome, states, train_with_stops
from tests.support.packed import WITHOUT_DROPOUT, Prepared
from tests.support.processes import begin
from tests.support.tiny import FAMILIES, make_run_folder
from tests.support.tracked_run import wait_until
from tests.support.trained import lines_of, schedule_of

CPU = torch.device("cpu")
KINDS = ["mean", "pcgrad", "gradvac", "cagrad", "upgrad", "nash_mtl"]
CORPORA = ["squad", "swag", "cola", "mnli"]


def combiner(kind, corpora=CORPORA):
    return Combiner(TrainingSettings(combine=kind), corpora)


def some_gradients(seed, count, conflict=True):
    """Gradients of `count` corpora, (count, 30); with conflict some inner products are negative."""
    gradients = torch.randn(count, 30, generator=torch.Generator().manual_seed(seed)).double()
    gradients = gradients * torch.tensor([1.0, 3.0, 0.2, 2.0])[:count, None]
    return gradients if conflict else gradients.abs()


def combined(kind, gradients, seed=0):
    """The combined gradient of a step whose random state begins with a seed."""
    products = gradients @ gradients.T
    torch.manual_seed(seed)
    return combiner(kind).weights(CORPORA[: len(gradients)], products) @ gradients


# --- the papers' algorithms ------------------------------------------------------------------


def pcgrad(gradients):
    """Algorithm 1 of Yu et al. (2020), on the gradients themselves."""
    projected = []
    for own, gradient in enumerate(gradients):
        gradient = gradient.clone()
        for other in torch.randperm(len(gradients)).tolist():
            product = gradient @ gradients[other]
            if other != own and product < 0:
                gradient -= product / gradients[other].square().sum() * gradients[other]
        projected.append(gradient)
    return sum(projected)


def cagrad(gradients, c):
    """Algorithm 1 of Liu et al. (2021), its dual problem solved by a general method."""
    rows = gradients.numpy()
    mean = rows.mean(axis=0)
    radius = c * np.linalg.norm(mean)

    def objective(weights):
        return weights @ rows @ mean + radius * np.linalg.norm(weights @ rows)

    count = len(rows)
    found = minimize(
        objective,
        np.full(count, 1 / count),
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    worst = found.x @ rows
    return torch.from_numpy(mean + radius / np.linalg.norm(worst) * worst)


def gradvac(gradients, cosines, beta):
    """Algorithm 1 of Wang et al. (2021); `cosines`, the moving averages, are changed."""
    total = torch.zeros_like(gradients[0])
    for own, gradient in enumerate(gradients):
        others = [other for other in range(len(gradients)) if other != own]
        for place in torch.randperm(len(others)).tolist():
            other = gradients[others[place]]
            norms = gradient.norm(), other.norm()
            cosine = gradient @ other / (norms[0] * norms[1])
            goal = cosines[own, others[place]].clone()
            if cosine < goal:
                sines = (1 - cosine**2).sqrt(), (1 - goal**2).sqrt()
                factor = norms[0] * (goal * sines[0] - cosine * sines[1]) / (norms[1] * sines[1])
                gradient = gradient + factor * other
            cosines[own, others[place]] = (1 - beta) * goal + beta * cosine
        total += gradient
    return total


def upgrad(gradients):
    """Quinton and Rey (2024), equation 3: the mean of projections onto the dual cone."""
    rows = gradients.numpy()
    projected = [row + nnls(rows.T, -row)[0] @ rows for row in rows]
    return torch.from_numpy(np.mean(projected, axis=0))


seeds = st.integers(0, 2**31)
counts = st.integers(2, 4)


@given(seed=seeds, count=counts, order=seeds)
@settings(max_examples=60, deadline=None)
def test_pcgrad_is_the_paper_s(seed, count, order):
    gradients = some_gradients(seed, count)
    found = combined("pcgrad", gradients, order)
    torch.manual_seed(order)
    torch.testing.assert_close(found, pcgrad(gradients))


@given(seed=seeds, count=counts)
@settings(max_examples=30, deadline=None)
def test_conflict_free_gradients_are_left_alone_by_pcgrad(seed, count):
    gradients = some_gradients(seed, count, conflict=False)
    torch.testing.assert_close(combined("pcgrad", gradients), gradients.sum(0))


@given(seed=seeds, count=counts, c=st.floats(0, 0.9))
@settings(max_examples=30, deadline=None)
def test_cagrad_is_the_paper_s(seed, count, c):
    gradients = some_gradients(seed, count)
    found = combined({"kind": "cagrad", "c": c}, gradients)
    expected = cagrad(gradients, c)
    assert (found - expected).norm() < 0.01 * expected.norm()


@given(seed=seeds, count=counts, beta=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_gradvac_is_the_paper_s_and_remembers_cosines(seed, count, beta):
    ours, cosines = combiner({"kind": "gradvac", "beta": beta}), torch.zeros(4, 4).double()
    for step in range(4):
        gradients = some_gradients(seed + step, count)
        torch.manual_seed(step)
        found = ours.weights(CORPORA[:count], gradients @ gradients.T) @ gradients
        torch.manual_seed(step)
        expected = gradvac(gradients, cosines, beta)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.cosines, cosines, rtol=1e-5, atol=1e-6)


@given(seed=seeds, count=counts)
@settings(max_examples=30, deadline=None)
def test_upgrad_is_the_paper_s(seed, count):
    gradients = some_gradients(seed, count)
    expected = upgrad(gradients)
    # torchjd adds 1e-4 to the diagonal of the normalised products.
    assert (combined("upgrad", gradients) - expected).norm() < 1e-6 * expected.norm()


def test_nash_mtl_bargains():
    for seed, count in itertools.product(range(5), (2, 3, 4)):
        gradients = some_gradients(seed, count)
        products = gradients @ gradients.T
        weights = combiner("nash_mtl").weights(CORPORA[:count], products)
        # Navon et al. (2022), claim 3.1.
        bargain = weights * (products @ weights)
        torch.testing.assert_close(bargain, torch.ones(count).double(), rtol=0.01, atol=0)


@given(seed=seeds, count=counts)
@settings(max_examples=20, deadline=None)
def test_the_mean_is_the_mean(seed, count):
    gradients = some_gradients(seed, count)
    torch.testing.assert_close(combined("mean", gradients), gradients.mean(0))


@pytest.mark.parametrize("kind", KINDS)
def test_short_gradients_are_combined_like_long_ones(kind):
    gradients = some_gradients(1, 3)
    short = combined(kind, gradients * 1e-5)
    if kind != "nash_mtl":  # its combination has the same length for all
        short *= 1e5
    torch.testing.assert_close(short, combined(kind, gradients), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_phases_with_other_corpora_do_not_disturb_what_is_remembered(kind):
    ours = combiner(kind)
    torch.manual_seed(0)
    ours.weights(["cola", "mnli"], torch.eye(2).double())
    torch.manual_seed(0)
    found = ours.weights(["squad", "swag"], torch.tensor([[1.0, -0.5], [-0.5, 2.0]]).double())
    torch.manual_seed(0)
    fresh = combiner(kind).weights(
        ["squad", "swag"], torch.tensor([[1.0, -0.5], [-0.5, 2.0]]).double()
    )
    assert torch.equal(found, fresh)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_gradients_without_a_direction_get_the_mean(kind, value):
    weights = combiner(kind).weights(["squad", "cola"], torch.full((2, 2), value).double())
    assert weights.tolist() == [0.5, 0.5]


def test_a_failing_solver_is_one_line(monkeypatch):
    def fail(self, products, places):
        raise RuntimeError("no\nsolution")

    monkeypatch.setattr(Combiner, "_weights", fail)
    with pytest.raises(MtdnnError, match=r"training\.combine: upgrad found no weights") as error:
        combiner("upgrad").weights(["squad", "cola"], torch.eye(2).double())
    assert "\n" not in str(error.value)


# --- gradients -------------------------------------------------------------------------------


def test_shared_parameters_get_the_weighted_sum_and_others_their_own_gradient():
    draw = torch.Generator().manual_seed(1)
    everywhere, some, alone, idle = (
        nn.Parameter(torch.randn(3, 2, generator=draw)) for _ in range(4)
    )
    first, second, third = (torch.randn(3, 2, generator=draw) for _ in range(3))
    seen = []

    def weigh(products):
        seen.append(products)
        return torch.tensor([2.0, 3.0, 5.0])

    combine(
        [{everywhere: first, some: second}, {everywhere: second, some: third, alone: first}, {
            everywhere: third
        }],
        weigh,
    )  # fmt: skip
    torch.testing.assert_close(everywhere.grad, 2 * first + 3 * second + 5 * third)
    torch.testing.assert_close(some.grad, 2 * second + 3 * third)
    assert alone.grad is first and idle.grad is None
    zero = torch.zeros(6)
    rows = [torch.cat([a.flatten(), b]) for a, b in
            ((first, second.flatten()), (second, third.flatten()), (third, zero))]  # fmt: skip
    matrix = torch.stack(rows).double()
    torch.testing.assert_close(seen[0], matrix @ matrix.T, rtol=1e-5, atol=1e-5)


def test_sparse_gradients_equal_dense_ones_and_stay_sparse():
    draw = torch.Generator().manual_seed(1)
    dense = torch.zeros(2, 9, 4)
    dense[0, [1, 5]] = torch.randn(2, 4, generator=draw)
    dense[1, [5, 7, 8]] = torch.randn(3, 4, generator=draw)
    results = []
    for sparse in (False, True):
        parameter, seen = nn.Parameter(torch.zeros(9, 4)), []
        given = [each.to_sparse(1) if sparse else each for each in dense]

        def weigh(products, seen=seen):
            seen.append(products)
            return torch.tensor([0.5, 2.0])

        combine([{parameter: each} for each in given], weigh)
        results.append((parameter.grad.to_dense(), seen[0]))
        assert parameter.grad.is_sparse == sparse
        if sparse:
            assert parameter.grad.indices()[0].tolist() == [1, 5, 7, 8]
    torch.testing.assert_close(*results)


# --- steps of a model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("plain"), training=WITHOUT_DROPOUT)


def joint_stepper(prepared, kind, factors=None, **changes):
    """A stepper for joint steps of a new model; all factors are 1 unless given."""
    given = {**prepared.run.training.model_dump(), "combine": kind, **changes}
    training = TrainingSettings.model_validate(given)
    model = prepared.model("packed").train()
    names = list(FAMILIES)
    return JointStepper(
        model,
        optimizer_for(model, training),
        training,
        Combiner(training, names),
        lambda phase, epoch: factors or dict.fromkeys(names, 1.0),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_joint_step_of_one_corpus_is_an_ordinary_one_to_the_bit(tmp_path, kind):
    prepared = Prepared(tmp_path, training={"batch_size": 8})
    results = []
    for together in (False, True):
        stepper = joint_stepper(prepared, kind)
        outcomes = []
        for step, corpus in enumerate(["squad", "cola", "squad", "swag"]):
            random_state(1, step)
            batch = prepared.batch(corpus)
            if together:
                (loss,), norm = stepper.take_together({corpus: batch}, 1e-3, 0, 0)
            else:
                loss, norm = Stepper.take(stepper, corpus, batch, 1e-3)
            outcomes.append((loss.item(), norm.item()))
        results.append((outcomes, stepper.model.state_dict()))
    (ours, weights), (theirs, others) = results
    assert ours == theirs
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


def test_the_mean_of_a_joint_step_is_the_gradient_of_the_mean_loss(plain):
    corpora = ["squad", "cola", "mnli"]
    factors = {"squad": 1.5, "cola": 0.9, "mnli": 0.6}
    stepper = joint_stepper(plain, "mean", factors)
    model, kept = stepper.model, {}
    stepper.update = lambda rate: kept.update(
        {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}
    )
    losses, _ = stepper.take_together({name: plain.batch(name) for name in corpora}, 1e-3, 0, 0)
    reference = plain.model("packed").train()
    each = {name: reference.loss(name, plain.batch(name)) for name in corpora}
    torch.testing.assert_close(losses, [loss.detach() for loss in each.values()])
    shared = sum(factors[name] / 3 * loss for name, loss in each.items())
    shared.backward(retain_graph=True)
    expected = {
        name: p.grad.to_dense().clone()
        for name, p in reference.named_parameters()
        if p.grad is not None
    }
    reference.zero_grad()
    sum(each.values()).backward()  # heads have the gradients of their own losses
    for name, parameter in reference.named_parameters():
        if name.startswith("heads.") and parameter.grad is not None:
            expected[name] = parameter.grad
    assert kept.keys() == expected.keys()
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_give_the_same_joint_step(plain):
    results = []
    for accumulation in (1, 3):
        stepper = joint_stepper(plain, "pcgrad", accumulation=accumulation)
        batches = {name: plain.batch(name) for name in ("squad", "mnli", "stsb")}
        torch.manual_seed(1)
        losses, norm = stepper.take_together(batches, 1e-3, 0, 0)
        results.append([*losses, norm])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_frozen_weights_stay(plain):
    stepper = joint_stepper(plain, "upgrad")
    frozen = dict(stepper.model.encoder.named_parameters(prefix="encoder"))
    frozen = {name: p for name, p in frozen.items() if "embeddings" in name}
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in stepper.model.named_parameters()}
    stepper.take_together({name: plain.batch(name) for name in ("squad", "cola")}, 1e-3, 0, 0)
    for name, parameter in stepper.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (
            name in frozen
            or name.startswith(("heads.mnli", "heads.swag", "heads.stsb", "heads.ner"))
        ), name


def test_factors_are_the_shares_over_equal_ones(plain):
    corpora = ["squad", "cola", "mnli"]
    run = plain.run.model_copy(
        update={"corpora": {name: plain.run.corpora[name] for name in corpora}, "weight": 0.8}
    )
    factors = share_factors(run, {"squad": 100, "cola": 10, "mnli": 90})
    assert factors(0, 0) == pytest.approx({"squad": 2.4, "cola": 0.3, "mnli": 0.3})
    even = run.schedule.model_validate({"policy": "proportional"})
    by_size = share_factors(run.model_copy(update={"schedule": even}), {
        "squad": 100, "cola": 10, "mnli": 90
    })  # fmt: skip
    assert by_size(0, 1) == pytest.approx({"squad": 1.5, "cola": 0.15, "mnli": 1.35})


# --- runs ------------------------------------------------------------------------------------

SMALL = {"rows": 20, "encoder": {"num_hidden_layers": 1}}
TRAINED = {"batch_size": 8, "head_dropout": 0.3, "encoder_dropout": 0.1}


def make(folder, kind, mixture="squad_cola_mnli", schedule=None, **training):
    phased = bool(schedule and "phases" in schedule)
    row = {"encoder": "tiny", "mixture": mixture if phased else "squad"}
    return make_run_folder(
        folder,
        mixture,
        0.5 if "_" in mixture and not phased else 1.0,
        **SMALL,
        tables={"t": {"title": "t", "rows": [row]}},
        schedule=schedule or {"joint": True},
        training={**TRAINED, "combine": kind, **training},
    )


def trained(folder, kind, **changes):
    run_dir, run = make(folder, kind, **changes)
    train(run_dir, run, threads=1)
    return run_dir


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_ends_like_an_undisturbed_one(tmp_path, kind):
    undisturbed = trained(tmp_path / "undisturbed", kind)
    run_dir, run = make(tmp_path / "stopped", kind)
    train_with_stops(run_dir, run, (2, 3))
    assert_same(outcome(run_dir), outcome(undisturbed))
    steps = schedule_of(run_dir)
    lines = lines_of(run_dir)
    assert [line["step"] for line in lines] == [step.step for step in steps]
    assert [line["corpus"] for line in lines] == ["squad", "cola", "mnli"] * (len(lines) // 3)
    for together in zip(*[iter(lines)] * 3, strict=True):
        assert len({(line["step"], line["grad_norm"], line["lr"]) for line in together}) == 1
    record = Record(run_dir)
    record.read()
    assert record.complete and record.about["steps"] == steps[-1].step + 1 == len(lines) / 3
    assert read_json(run_dir / "model" / "run.json")["provenance"]["steps"] == len(lines) / 3
    heads = load_file(run_dir / "model" / "heads.safetensors")
    assert all(name.startswith(("heads.", "pooler.")) for name in heads)


def test_the_combinations_differ(tmp_path):
    outcomes = {
        kind: outcome(trained(tmp_path / kind, kind))[0]["heads.cola.linear.weight"]
        for kind in ("mean", "cagrad", "nash_mtl")
    }
    assert len({value.sum().item() for value in outcomes.values()}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_one_corpus_equals_the_ordinary_one_to_the_bit(tmp_path, kind):
    alone = trained(tmp_path / "joint", kind, mixture="squad")
    usual = trained(tmp_path / "usual", "mean", mixture="squad", schedule={"joint": False})
    assert_same(outcome(alone), outcome(usual))


def test_joint_and_ordinary_phases_follow_each_other_and_resume(tmp_path):
    phases = [
        {"corpora": ["cola", "mnli"], "joint": True, "policy": "uniform", "steps": 3},
        {"policy": "uniform", "steps": 4},
        {"joint": True, "policy": "proportional", "steps": 3, "restart": True},
    ]
    undisturbed = trained(tmp_path / "whole", "gradvac", schedule={"phases": phases})
    steps = schedule_of(undisturbed)
    assert [step.step for step in steps] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        4,
        5,
        6,
        *[7] * 3,
        *[8] * 3,
        *[9] * 3,
    ]
    rates = {line["step"]: line["lr"] for line in lines_of(undisturbed)}
    peak = rates[7]
    assert [rates[step] for step in (7, 8, 9)] == pytest.approx([peak, peak * 2 / 3, peak / 3])
    run_dir, run = make(tmp_path / "stopped", "gradvac", schedule={"phases": phases})
    train_with_stops(run_dir, run, (2, 5, 8))
    assert_same(outcome(run_dir), outcome(undisturbed))


def test_a_killed_process_resumes_to_the_same_bits(tmp_path):
    undisturbed = trained(tmp_path / "undisturbed", "pcgrad", epochs=4)
    run_dir, _ = make(tmp_path / "killed", "pcgrad", epochs=4)
    command = ("train", str(run_dir), "--threads", "1", "--checkpoint-minutes", "0")
    process = begin(*command)
    wait_until(lambda: len(states(run_dir)) > 1 or not process.is_alive(), "no checkpoint")
    process.kill()
    process.join()
    assert states(run_dir)
    process = begin(*command)
    process.join()
    assert process.exitcode == 0
    assert_same(outcome(run_dir), outcome(undisturbed))


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(joint, "find_spec", lambda name: None if name == "cvxpy" else name)
    run_dir, run = make(tmp_path, "cagrad")
    with pytest.raises(MtdnnError) as error:
        train(run_dir, run, threads=1)
    assert str(error.value) == (
        "training.combine: cagrad needs cvxpy; install with pip install 'mtdnn[interference]'"
    )
