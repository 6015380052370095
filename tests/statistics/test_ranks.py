"""Spearman's rank correlation and its interval."""

import numpy as np
import pytest

from mtdnn.statistics.ranks import rank_correlation


def test_the_interval_is_that_of_bonett_and_wright():
    x, y = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [2, 1, 4, 3, 7, 5, 6, 10, 8, 9]
    found = rank_correlation(x, y)
    expected = 1 - 6 * sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (10 * 99)
    error = np.sqrt((1 + expected**2 / 2) / 7)
    assert found.value == pytest.approx(expected)
    assert found.low == pytest.approx(np.tanh(np.arctanh(expected) - 1.959964 * error), abs=1e-6)
    assert found.high == pytest.approx(np.tanh(np.arctanh(expected) + 1.959964 * error), abs=1e-6)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_perfect_order_has_an_interval(direction):
    found = rank_correlation(range(6), [direction * each for each in range(6)])
    assert found.value == pytest.approx(direction)
    ends = sorted(abs(bound) for bound in (found.low, found.high))
    assert ends[1] == pytest.approx(1) and 0 < ends[0] < 0.95
    assert found.low <= found.value <= found.high


def test_too_few_or_constant_values_have_none():
    assert rank_correlation([1, 2, 3], [1, 2, 3]) is None
    assert rank_correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]) is None
    assert rank_correlation([1, 2, 3, 4, 5], [0.5] * 5) is None


def test_intervals_cover_the_correlation_of_the_population():
    draw = np.random.default_rng(1)
    correlation = 0.6
    truth = 6 / np.pi * np.arcsin(correlation / 2)  # Spearman's of a bivariate normal
    pairs = draw.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], (1000, 12))
    found = [rank_correlation(*each.T) for each in pairs]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert covered > 0.92
