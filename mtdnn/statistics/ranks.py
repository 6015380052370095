"""Spearman's rank correlation with an interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mtdnn.statistics.level import CONFIDENCE


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation of pairs of values.

    Attributes:
        value: Spearman's correlation, from -1 to 1.
        low, high: bounds of its interval.
    """

    value: float
    low: float
    high: float


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> RankCorrelation | None:
    """Return Spearman's rank correlation; None below four pairs, or if one side is constant.

    The interval is that of Bonett and Wright (2000): Fisher's z with the variance
    (1 + r²/2) / (n - 3). It takes the pairs as independent.

    Args:
        x, y: two values of each of n pairs.
    """
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    value = float(stats.spearmanr(x, y).statistic)
    if abs(value) >= 1:
        # Fisher's z of a perfect order is infinite; the nearest order that is not has a finite one.
        nearest = math.copysign(1 - 6 * 2 / (len(x) * (len(x) ** 2 - 1)), value)
        bounds = sorted((_bound(nearest, len(x), -math.copysign(1, value)), value))
        return RankCorrelation(value, *bounds)
    return RankCorrelation(value, _bound(value, len(x), -1), _bound(value, len(x), 1))


def _bound(value: float, count: int, side: float) -> float:
    error = math.sqrt((1 + value**2 / 2) / (count - 3))
    quantile = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    return math.tanh(math.atanh(value) + side * quantile * error)
