"""Learning rates of steps, and where the optimizer starts anew."""

import numpy as np
import pytest

from mtdnn.config.layout import RunId
from mtdnn.model.optimizer import learning_rate
from mtdnn.training.pace import paces
from mtdnn.training.schedule import Step
from tests.support.tiny import make_tiny_experiment

PEAK = 3e-5


def run_with(tmp_path, **settings):
    experiment = make_tiny_experiment(tmp_path, **settings)
    return experiment.resolve(RunId("tiny", "squad_cola", 0.5, "default", 1))


def steps_of(*phases):
    names = [(number, name) for number, phase in enumerate(phases) for name in phase]
    return [Step(i, 0, name, np.array([0]), number) for i, (number, name) in enumerate(names)]


def test_one_schedule_spans_phases_unless_one_restarts(tmp_path):
    phases = [{}, {"learning_rate": 1e-3}, {"restart": True}, {}]
    run = run_with(tmp_path, schedule={"phases": phases}, training={"warmup": 0.2})
    steps = steps_of(["squad"] * 4, ["cola"] * 6, ["squad"] * 15, ["cola"] * 5)
    found = list(paces(run, steps))
    expected = [
        *(learning_rate(step, 10, run.training) for step in range(4)),
        *(learning_rate(step, 10, run.training) * 1e-3 / PEAK for step in range(4, 10)),
        *(learning_rate(step, 20, run.training) for step in range(20)),
    ]
    assert [pace.rate for pace in found] == pytest.approx(expected)
    assert [pace.head_rate for pace in found] == [pace.rate for pace in found]
    assert [step for step, pace in enumerate(found) if pace.restarts] == [10]


def test_without_phases_and_rates_of_corpora_all_is_as_ever(tmp_path):
    run, steps = run_with(tmp_path), steps_of(["squad", "cola"] * 20)
    for step, pace in enumerate(paces(run, steps)):
        assert pace.rate == pace.head_rate == learning_rate(step, 40, run.training)
        assert not pace.restarts


def test_corpora_and_their_heads_may_have_rates_of_their_own(tmp_path):
    training = {"learning_rates": {"cola": 6e-5}, "head_learning_rates": {"squad": 3e-3}}
    run = run_with(tmp_path, training=training)
    for step, pace in enumerate(paces(run, steps_of(["squad", "cola"] * 20))):
        usual = learning_rate(step, 40, run.training)
        rate, head_rate = ((usual, 100 * usual), (2 * usual, 2 * usual))[step % 2]
        assert (pace.rate, pace.head_rate) == pytest.approx((rate, head_rate))
