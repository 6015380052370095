"""The optimizer and the learning rate equal independent implementations and hand formulas."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from mtdnn.config.layout import RunId
from mtdnn.config.settings import TrainingSettings
from mtdnn.model import optimizer as optimization
from mtdnn.model.multitask import build
from mtdnn.model.optimizer import (
    Adam,
    DecoupledAdamax,
    clip_scale,
    gradient_norm,
    learning_rate,
    optimizer_for,
)
from tests.support.tiny import make_encoder, make_tiny_experiment

SHAPES = [(7,), (3, 5), (1,), (2, 3, 4), ()]
KINDS = {
    "adamax": DecoupledAdamax,
    "adamax_legacy": partial(DecoupledAdamax, legacy=True),
    "adamw": Adam,
    "adam": partial(Adam, decoupled=False),
}


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def gradients(steps=50):
    """Gradients of very different sizes, zeros among them; the same at each call."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        scale = 10.0 ** (step % 9 - 6)
        drawn = [torch.randn(shape, generator=generator) * scale for shape in SHAPES]
        drawn[0][step % 3] = 0
        yield [torch.zeros_like(g) for g in drawn] if step == 20 else drawn


def run(optimizer, some, rates=None):
    for step, drawn in enumerate(gradients()):
        for parameter, gradient in zip(some, drawn, strict=True):
            parameter.grad = gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = rates[step] if rates else group["lr"]
        optimizer.step()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)])
def test_without_decay_it_is_torchs_adamax(betas):
    ours, theirs = parameters(), parameters()
    rates = [1e-2 * (50 - step) / 50 for step in range(50)]
    run(DecoupledAdamax([{"params": ours}], lr=1e-2, betas=betas), ours, rates)
    run(torch.optim.Adamax(theirs, lr=1e-2, betas=betas, eps=1e-8), theirs, rates)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(ours[1], parameters()[1])


@pytest.mark.parametrize("legacy", [False, True])
def test_with_decay_it_is_the_formula(legacy):
    lr, decay, beta1, beta2, eps = 3e-3, 0.1, 0.9, 0.999, 1e-6
    ours = parameters()
    groups = [{"params": ours, "weight_decay": decay}]
    run(DecoupledAdamax(groups, lr=lr, betas=(beta1, beta2), eps=eps, legacy=legacy), ours)

    expected = [p.detach().double() for p in parameters()]
    m = [torch.zeros_like(p) for p in expected]
    u = [torch.zeros_like(p) for p in expected]
    for t, drawn in enumerate(gradients(), start=1):
        for i, gradient in enumerate(drawn):
            g = gradient.double()
            m[i] = beta1 * m[i] + (1 - beta1) * g
            u[i] = torch.maximum(beta2 * u[i], g.abs() + eps)
            step = m[i] / (u[i] + eps) if legacy else m[i] / (1 - beta1**t) / u[i]
            expected[i] = expected[i] - lr * (step + decay * expected[i])
    torch.testing.assert_close([p.detach().double() for p in ours], expected, rtol=1e-5, atol=1e-6)


def torchs(parameters, lr, decay, decoupled, betas=(0.9, 0.999)):
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    return kind(parameters, lr=lr, betas=betas, eps=1e-8, weight_decay=decay, foreach=True)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_is_torchs_to_the_bit(decoupled, decay, betas):
    ours, theirs = parameters(), parameters()
    rates = [1e-2 * (50 - step) / 50 for step in range(50)]
    groups = [{"params": ours, "weight_decay": decay}]
    run(Adam(groups, 1e-2, betas, decoupled=decoupled), ours, rates)
    run(torchs(theirs, 1e-2, decay, decoupled, betas), theirs, rates)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.allclose(ours[1], parameters()[1])


@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_with_its_numbers_on_the_device_is_torchs(decoupled):
    """As on a GPU, where steps are recorded."""
    ours, theirs = parameters(), parameters()
    optimizer = Adam([{"params": ours, "weight_decay": 0.1}], 1e-2, decoupled=decoupled)
    optimizer.keep_factors_on(torch.device("cpu"))
    run(optimizer, ours)
    run(torchs(theirs, 1e-2, 0.1, decoupled), theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_resumes_torchs_state(decoupled):
    """The first half is torch's own; ours continues from its moments."""
    ours, theirs = parameters(), parameters()
    drawn = list(gradients(8))
    other, optimizer = torchs(theirs, 1e-2, 0.1, decoupled), None
    for step, some_gradients in enumerate(drawn):
        if step == 4:
            groups = [{"params": ours, "weight_decay": 0.1}]
            optimizer = Adam(groups, 1e-2, decoupled=decoupled)
            for mine, its in zip(ours, theirs, strict=True):
                mine.data.copy_(its)
                state = {n: v.clone() for n, v in other.state[its].items()}
                optimizer.state[mine] = {**state, "step": int(state["step"])}
        for some, each in ((ours, optimizer), (theirs, other)):
            for parameter, gradient in zip(some, some_gradients, strict=True):
                parameter.grad = gradient.clone()
            if each:
                each.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_a_gradient_are_updated_like_a_whole_matrix(kind, monkeypatch):
    monkeypatch.setattr("mtdnn.model.optimizer.PORTION_ELEMENTS", 12)  # of three rows
    generator = torch.Generator().manual_seed(1)
    start, outcomes = torch.randn(10, 4, generator=generator), []
    drawn = [torch.randint(0, 10, (number,), generator=generator) for number in (6, 1, 0, 9, 4)]
    for sparse in (True, False):
        words = nn.Parameter(start.clone())
        optimizer = KINDS[kind]([{"params": [words], "weight_decay": 0.1}], lr=0.1)
        for number, rows in enumerate(drawn):
            words.grad = None
            looked_up = nn.functional.embedding(rows, words, sparse=sparse)
            (looked_up * (number + 1 + torch.arange(4.0))).square().sum().backward()
            norm = gradient_norm([words])
            outcomes.append(norm)
            optimizer.step(clip_scale(norm, 3.0))
        seen = torch.cat(drawn).unique()
        outcomes += [words.detach(), optimizer.state[words]["exp_avg"]]
        outcomes.append(optimizer.state[words][optimizer.second][seen])
    half = len(outcomes) // 2
    torch.testing.assert_close(outcomes[:half], outcomes[half:])


def test_a_factor_of_all_gradients_is_undone_and_that_of_some_is_not():
    outcomes = {}
    for name, factors in {"plain": (1, 1), "all": (9, 9), "some": (9, 1)}.items():
        outcomes[name] = parameters()
        optimizer = DecoupledAdamax([{"params": outcomes[name]}], lr=1e-2)
        for step in range(40):
            generator = torch.Generator().manual_seed(step)
            for parameter in outcomes[name]:
                drawn = torch.randn(parameter.shape, generator=generator) + (-1) ** step
                parameter.grad = drawn * factors[step % 2]
            optimizer.step()
    torch.testing.assert_close(outcomes["all"], outcomes["plain"], rtol=1e-4, atol=1e-5)
    # With alternating signs the larger one decides.
    moved = [(a - b).abs().mean() for a, b in zip(outcomes["some"], parameters(), strict=True)]
    usual = [(a - b).abs().mean() for a, b in zip(outcomes["plain"], parameters(), strict=True)]
    assert sum(moved) > 2 * sum(usual)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sparse", [False, True])
def test_a_forgetful_optimizer_is_a_new_one(kind, sparse):
    start, outcomes = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), []
    for anew in (False, True):
        words = nn.Parameter(start.clone())
        optimizer = KINDS[kind]([{"params": [words], "weight_decay": 0.1}], 0.1)
        for number, rows in enumerate(([0, 1, 2], [3, 1], [4, 5], [0, 4])):
            if number == 2 and anew:
                optimizer = KINDS[kind](optimizer.param_groups, 0.1)
            elif number == 2:
                optimizer.forget()
            words.grad = None
            found = nn.functional.embedding(torch.tensor(rows), words, sparse=sparse)
            (found * (number + 1)).square().sum().backward()
            optimizer.step()
        outcomes.append(words.detach())
    assert torch.equal(*outcomes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_without_gradient_is_unchanged(kind):
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = KINDS[kind]([{"params": [used, unused], "weight_decay": 0.5}], lr=0.1)
    for _ in range(5):
        used.grad = torch.ones(3)
        optimizer.step()
    assert torch.equal(unused, torch.ones(3)) and not optimizer.state[unused]

    # Its first use is its own first step.
    fresh = nn.Parameter(torch.ones(3))
    other = KINDS[kind]([{"params": [fresh], "weight_decay": 0.5}], lr=0.1)
    unused.grad, fresh.grad = torch.full((3,), 0.7), torch.full((3,), 0.7)
    optimizer.step()
    other.step()
    assert torch.equal(unused, fresh)


@pytest.mark.parametrize("kind", KINDS)
def test_its_state_can_be_saved_and_loaded(kind):
    whole, halves = parameters(), parameters()
    drawn = list(gradients(8))
    optimizers = [KINDS[kind]([{"params": some}], lr=1e-2) for some in (whole, halves)]
    for step, some_gradients in enumerate(drawn):
        if step == 4:
            state = optimizers[1].state_dict()
            optimizers[1] = KINDS[kind]([{"params": halves}], lr=1e-2)
            optimizers[1].load_state_dict(state)
        for some, optimizer in zip((whole, halves), optimizers, strict=True):
            for parameter, gradient in zip(some, some_gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_decay_spares_biases_and_layer_norm(tmp_path):
    encoder = make_encoder(tmp_path / "encoder")
    resolve = make_tiny_experiment(tmp_path).resolve
    model = build(encoder, resolve(RunId("tiny", "squad_cola", 0.5, "default", 1)))
    names = {parameter: name for name, parameter in model.named_parameters()}

    def decayed(kind):
        settings = TrainingSettings(optimizer=kind, weight_decay=0.25)
        groups = optimizer_for(model, settings).param_groups
        held = [names[p] for group in groups for p in group["params"]]
        assert sorted(held) == sorted(names.values())  # each in one group
        assert {group["weight_decay"] for group in groups} <= {0.25, 0.0}
        return {names[p] for g in groups if g["weight_decay"] for p in g["params"]}

    spared = set(names.values()) - decayed("adamax")
    assert decayed("adamax") == decayed("adamw") == decayed("adam")
    assert spared == {n for n in names.values() if n.endswith("bias") or "LayerNorm" in n}
    assert {"pooler.dense.bias", "heads.cola.linear.bias"} < spared
    assert decayed("adamax_legacy") == set(names.values())


def test_settings_reach_the_optimizer():
    model = nn.Linear(2, 2)
    for kind, eps in (("adamax", 1e-8), ("adamax_legacy", 1e-6)):
        settings = TrainingSettings(optimizer=kind, beta1=0.8, beta2=0.7, learning_rate=0.5)
        for group in optimizer_for(model, settings).param_groups:
            assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.7), eps, 0.5)
            assert group["legacy"] == (kind == "adamax_legacy")
    for kind in ("adam", "adamw"):
        settings = TrainingSettings(optimizer=kind, beta1=0.8, beta2=0.7, learning_rate=0.5)
        optimizer = optimizer_for(model, settings)
        for group in optimizer.param_groups:
            assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.7), 1e-8, 0.5)
            assert type(optimizer) is Adam and group["decoupled"] == (kind == "adamw")


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 37, 1184])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.33, 1.0])
def test_the_learning_rate_is_that_of_transformers(steps, warmup):
    settings = TrainingSettings(learning_rate=3e-4, warmup=warmup)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = get_linear_schedule_with_warmup(optimizer, int(warmup * steps), steps)
    for step in range(steps):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(step, steps, settings) == pytest.approx(expected, rel=1e-12, abs=0)
        optimizer.step()
        scheduler.step()


# --- fast paths ------------------------------------------------------------------------------


def test_a_scaled_step_is_torchs_clipping(monkeypatch):
    """In portions that cut large tensors and join small ones."""
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_update_equals_the_reference_path(kind):
    rule = optimization.adamax if kind.startswith("adamax") else optimization.adam
    outcomes = []
    copies = [torch.empty(shape, dtype=torch.bfloat16) for shape in ((30, 7), (5,), (2, 3))]
    for function in (rule, optimization.compiled(rule)):
        generator = torch.Generator().manual_seed(1)
        lists = [
            [torch.randn(shape, generator=generator) for shape in ((30, 7), (5,), (2, 3))]
            for _ in range(4)
        ]
        lists[3] = [norm.abs() + 0.1 for norm in lists[3]]
        weights, gradients, *moments = lists
        for rate in (0.1, 0.02):
            given = [gradient.clone() for gradient in gradients]
            numbers = [torch.tensor(number) for number in (0.5, 0.99, rate, 0.3)]
            if rule is optimization.adamax:
                options = (*numbers[:3], 0.9, 0.999, 1e-8, kind == "adamax_legacy")
            else:
                numbers[1] = numbers[1] if kind == "adamw" else None
                options = (*numbers, 0.9, 0.999, 1e-8, 0.0 if kind == "adamw" else 0.1)
            if function is rule:
                function(weights, given, *moments, *options)
            else:
                function(weights, given, *moments, copies, *options)
                assert all(map(torch.equal, given, gradients))  # it need not write them
                assert all(map(torch.equal, copies, (weight.bfloat16() for weight in weights)))
        outcomes.append([weights, *moments])
    torch.testing.assert_close(*outcomes)


def test_an_update_that_cannot_be_compiled_takes_the_reference_path(monkeypatch, capsys):
    def failing(function, **_):
        def call(*_):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    done = []
    call = optimization.compiled.__wrapped__(lambda *given: done.append(given[-1]))
    for number in (1, 2):
        call([], [], [], [], [], number)
    assert done == [1, 2]
    assert capsys.readouterr().out.count("continuing without torch.compile: no compiler") == 1
