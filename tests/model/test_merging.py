"""Combined weights equal the papers' formulas, written out number by number."""

import numpy as np
import pytest
import torch

from mtdnn.config.settings import Average
from mtdnn.model.merging import combined

RUNS = [{"mixture": "qa"}, {"mixture": "sc"}]
SHAPES = {"matrix": (7, 5), "vector": (9,)}


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def flat(model):
    return np.concatenate([value.double().numpy().ravel() for value in model.values()])


@pytest.fixture
def start():
    return weights(0)


@pytest.fixture
def models():
    return [weights(seed) for seed in (1, 2, 3)]


def settings(**values):
    return Average.model_validate({"of": RUNS, **values})


def test_a_mean_is_one(start, models):
    found = flat(combined(start, models, settings()))
    np.testing.assert_allclose(found, sum(map(flat, models)) / 3, rtol=1e-6)
    assert np.array_equal(flat(combined(start, [models[0]] * 4, settings())), flat(models[0]))


@pytest.mark.parametrize(("given", "scale"), [({}, 0.4), ({"scale": 0.7}, 0.7)])
def test_task_arithmetic_adds_the_changes(start, models, given, scale):
    found = flat(combined(start, models, settings(method="task_arithmetic", **given)))
    expected = flat(start) + scale * sum(flat(model) - flat(start) for model in models)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def ties(start, models, scale, density):
    """Yadav et al. 2023, algorithm 1."""
    changes = []
    for model in models:
        change = flat(model) - flat(start)
        order = sorted(range(len(change)), key=lambda place: -abs(change[place]))
        for place in order[round(density * len(change)) :]:
            change[place] = 0
        changes.append(change)
    result = flat(start)
    for place in range(len(result)):
        here = [change[place] for change in changes]
        positive = sum(value for value in here if value > 0)
        negative = -sum(value for value in here if value < 0)
        agreeing = [value for value in here if (value > 0 if positive > negative else value < 0)]
        if agreeing and positive != negative:
            result[place] += scale * sum(agreeing) / len(agreeing)
    return result


@pytest.mark.parametrize(
    ("given", "scale", "density"),
    [({}, 1.0, 0.2), ({"scale": 0.3, "density": 0.5}, 0.3, 0.5), ({"density": 1}, 1.0, 1.0)],
)
def test_ties_trims_elects_and_averages(start, models, given, scale, density):
    found = flat(combined(start, models, settings(method="ties", **given)))
    expected = ties(start, models, scale, density)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if density < 0.5:  # what no model changes much keeps its pretrained weight
        assert 0 < np.mean(found == flat(start)) < 1


def test_changes_that_cancel_leave_the_weight(start):
    exact = {name: torch.zeros_like(value) for name, value in start.items()}
    opposite = [{name: value + side for name, value in exact.items()} for side in (0.5, -0.5)]
    found = combined(exact, opposite, settings(method="ties", density=1))
    assert all(not value.any() for value in found.values())
