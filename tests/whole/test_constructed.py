"""Remedies in constructed cases, with few seeds; `make conflict` has more of both."""

import numpy as np
import pytest
from scipy import stats

from tests.support.constructed import (
    CONSTRUCTIONS,
    Difference,
    Outcome,
    difference,
    fails,
    outcomes,
)

SEEDS = (1, 2, 3)


def test_the_interval_is_that_of_a_paired_t_test():
    random = np.random.default_rng(1)
    plain, other = random.random(8), random.random(8)
    expected = stats.ttest_rel(other, plain).confidence_interval(0.95)
    assert difference(plain, other)[1:] == pytest.approx((expected.low, expected.high))


def test_a_remedy_fails_if_it_does_not_help_or_if_it_hurts():
    def outcome(remedy, conflict, low, high):
        found = Difference((low + high) / 2, low, high)
        return Outcome("domination", remedy, conflict, 50.0, found, found)

    assert {"nash_mtl"} <= CONSTRUCTIONS["domination"].help
    assert not fails(outcome("nash_mtl", True, 1, 5)) and fails(outcome("nash_mtl", True, -1, 5))
    assert not fails(outcome("dynamic_average", True, -5, -1))  # no claim about it
    assert not fails(outcome("nash_mtl", False, -1, 5)) and fails(
        outcome("nash_mtl", False, -5, -1)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("construction", "remedies"),
    [("forgetting", ["successive", "packnet"]), ("domination", ["nash_mtl"])],
)
def test_remedies_help_where_there_is_a_conflict_and_do_no_harm_elsewhere(construction, remedies):
    for outcome in outcomes(construction, remedies, True, SEEDS):
        assert outcome.target.mean > 20, outcome
    for outcome in outcomes(construction, remedies, False, SEEDS):
        assert outcome.target.mean > -8, outcome
