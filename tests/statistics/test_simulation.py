"""Intervals and tests against simulated runs with known truth."""

import math

import pytest

from mtdnn.statistics.simulation import Scenario, simulate

# Small, because CI runs it: `python -m mtdnn.statistics.simulation` is the long form, with every
# scenario. Bounds are the long form's, widened by the error of a share of so few simulations.
SHORT = 1000


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("of_arm", [0.0, 0.05])
def test_intervals_cover_and_tests_keep_their_level(seeds, of_arm):
    scenario = Scenario(
        f"short {of_arm}", seeds, questions=800, deviations=(0.015, 0.015), of_arm=of_arm
    )
    outcome = simulate(scenario, SHORT, resamples=252)
    error = 2 * math.sqrt(0.05 * 0.95 / SHORT)
    assert 0.95 - 0.02 <= outcome.coverage <= 0.95 + 0.02 + error / 2
    assert outcome.rejected <= 0.05 + error
    assert outcome.permuted <= 0.05 + error
    assert 0.7 < outcome.correlation < 0.9


def test_intervals_cover_a_true_difference_of_f1():
    scenario = Scenario("f1", 3, questions=600, difference=0.03, metric="f1", of_arm=0.02)
    outcome = simulate(scenario, 500, resamples=20)
    assert 0.92 <= outcome.coverage <= 0.985
