"""Intervals and tests against independent references."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from mtdnn.statistics.inference import (
    Arm,
    Estimate,
    compare,
    components,
    flips,
    labelings,
    permutation_test,
)


def arms(random, seeds, sizes, spread=0.0):
    """Two arms of random 0/1 scores, and the scores of the questions themselves."""
    questions = random.random((2, seeds, sizes.sum())) < 0.7 + spread * random.standard_normal(
        (2, seeds, 1)
    )
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return [
        Arm(np.add.reduceat(each, starts, axis=1), sizes) for each in questions * 1.0
    ], questions


def test_one_seed_is_the_cluster_robust_regression_of_statsmodels():
    random = np.random.default_rng(1)
    sizes = random.integers(3, 12, 60)
    (first, second), questions = arms(random, 1, sizes)
    estimate = compare(first, second)
    difference = questions[1, 0].astype(float) - questions[0, 0]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    fit = sm.OLS(difference, np.ones(len(difference))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}, use_t=True
    )
    assert estimate.difference == pytest.approx(fit.params[0])
    correction = math.sqrt(len(sizes) / (len(sizes) - 1))
    assert estimate.error == pytest.approx(fit.bse[0] * correction)
    assert estimate.degrees == len(sizes) - 1


def test_without_questions_in_the_variance_it_is_welch_s_test():
    """All paragraphs are equal: only seeds vary, and the questions contribute nothing."""
    sizes, means = np.full(50, 10), np.array([[70.0, 71.0, 73.0], [74.0, 74.5, 74.2]])
    first, second = (Arm(np.outer(each, sizes), sizes) for each in means)
    parts, estimate = components(first, second), compare(first, second)
    assert parts.questions == pytest.approx(0, abs=1e-20)
    reference = stats.ttest_ind(means[1], means[0], equal_var=False)
    assert estimate.difference / estimate.error == pytest.approx(reference.statistic)
    assert estimate.degrees == pytest.approx(reference.df)
    assert estimate.p() == pytest.approx(reference.pvalue)


def test_p_and_interval_say_the_same():
    estimate = Estimate(difference=1.3, error=0.5, degrees=4.2, confidence=0.95)
    assert estimate.p(estimate.low) == pytest.approx(0.05)
    assert estimate.p(estimate.high) == pytest.approx(0.05)
    assert estimate.low < 0 < estimate.high and estimate.p() > 0.05


def test_no_interval_goes_beyond_the_range_of_differences():
    """Two seeds that differ a lot have two degrees of freedom at most, whose t is 4.3."""
    sizes, means = np.full(4, 5), np.array([[10.0, 90.0], [90.0, 10.0]])
    pair = [Arm(np.outer(each, sizes), sizes) for each in means]
    wide, bounded = compare(*pair), compare(*pair, span=100)
    assert wide.low < -100 and wide.high > 100
    assert (bounded.low, bounded.high) == (-100, 100)
    assert (bounded.p(), bounded.detectable()) == (wide.p(), wide.detectable())
    inside = Estimate(difference=-90, error=5, degrees=50, confidence=0.95, span=100)
    assert (inside.low, round(inside.high)) == (-100, -80)


def test_detectable_difference_is_found_with_eighty_percent():
    estimate = Estimate(difference=0.0, error=0.4, degrees=12.0, confidence=0.95)
    critical = stats.t.ppf(0.975, 12)
    power = stats.nct.sf(critical, 12, estimate.detectable() / 0.4)
    assert power == pytest.approx(0.8, abs=0.01)


def test_equal_arms_do_not_differ():
    sizes = np.array([3, 4, 5])
    arm = Arm(np.array([[1.0, 2.0, 3.0]]), sizes)
    estimate = compare(arm, arm)
    assert (estimate.difference, estimate.low, estimate.high, estimate.p()) == (0, 0, 0, 1)
    signs = flips(3, 99, np.random.default_rng(0))
    assert permutation_test([(arm, arm)], None, signs) == [1.0]


@pytest.mark.parametrize("seeds", [1, 3])
def test_nothing_is_rejected_where_nothing_varies(seeds):
    """Every run of an arm has the same score in every paragraph: how sure that is is unknown."""
    sizes = np.array([3, 4, 5])
    wrong, right = (Arm(np.tile(score * sizes, (seeds, 1)), sizes) for score in (0.0, 100.0))
    estimate = compare(wrong, right, span=100)
    assert (estimate.difference, estimate.error) == (100, 0)
    assert (estimate.p(), estimate.p(1.0)) == (1, 1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_varies_by_rounding_alone_does_not_vary(seeds):
    sizes = np.array([3, 7, 11, 5, 9])
    first, second = (Arm(np.tile(m * sizes, (seeds, 1)), sizes) for m in (66.7, 66.7 + 1 / 3))
    assert 0 < components(first, second).variance < 1e-20
    estimate = compare(first, second)
    assert (estimate.error, estimate.p()) == (0, 1)


def test_one_item_of_many_is_no_rounding():
    sizes = np.full(10_000, 1000)
    sums = 70.0 * sizes
    changed = sums.copy()
    changed[0] += 100
    estimate = compare(Arm(sums[None], sizes), Arm(changed[None], sizes))
    assert estimate.error == pytest.approx(100 / sizes.sum(), rel=1e-3)


def test_permutation_of_runs_is_exact_when_only_runs_differ():
    sizes, means = np.full(40, 5), np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    pair = tuple(Arm(np.outer(each, sizes), sizes) for each in means)
    labels = labelings(3, 10_000, np.random.default_rng(0))
    signs = flips(40, len(labels), np.random.default_rng(0))
    (p,) = permutation_test([pair], labels, signs)
    assert p == pytest.approx(2 / 20, abs=1e-3)
    assert {tuple(row) for row in labels} == {tuple(-row) for row in labels}
    assert len({tuple(row) for row in labels}) == 20


def test_no_difference_in_total_is_reached_by_every_permutation():
    """The totals are equal, but their sums of fractions are not, by rounding."""
    random = np.random.default_rng(3)
    sizes = random.integers(1, 9, 60)
    gains = 100 * random.integers(-3, 4, 30) / 3.0
    first = Arm(np.full((1, 60), 50.0), sizes)
    second = Arm(first.sums + np.concatenate([gains, -gains]), sizes)
    signs = flips(60, 999, random)
    assert permutation_test([(first, second)], None, signs) == [1.0]


def test_labelings_of_many_seeds_are_drawn_at_random():
    labels = labelings(9, 500, np.random.default_rng(0))
    assert labels.shape == (500, 18)
    assert (labels.sum(axis=1) == 0).all()
