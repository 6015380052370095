"""Compare two training methods from a few seeds each, on questions clustered in paragraphs.

The estimand is the difference of two *methods*: of their expected scores over the seeds that they
might be trained with and over the questions that might be asked. Seeds and questions vary, and
they are crossed: each model answers every question. Write y[a,s,q] for the score of arm a (0 or 1)
trained with seed s on question q, and

    y[a,s,q] = mean[a] + seed[a,s] + question[a,q] + rest[a,s,q]

where the questions of one paragraph may depend on each other in any way. The difference of the
arms' means over S seeds each has the variance

    sum over arms of Var(seed)/S  +  Var(question[1] - question[0])  +  sum of Var(rest)/S

(the last two are variances of means over all questions). These can be computed:

    between:  Var of the seeds' mean scores / S, summed over arms: estimates terms 1 and 3;
    clusters: the cluster-robust variance of the seed-averaged difference, where paragraphs are
              the clusters: estimates terms 2 and 3;
    rest:     the same variance for each seed's residuals: estimates term 3 alone.

So the variance is between + (clusters - rest), which counts the rest once. The estimate of
clusters - rest can be negative, and is then set to zero. The interval is Student's t.
`between` has few degrees of freedom (Welch 1947); the other parts have about as many as there are
paragraphs. For the sum, the degrees of freedom of `between` are divided by its share of the
variance. (Satterthwaite (1946) divides by the squared share; then intervals from 3 seeds cover too
seldom, because the same seeds by chance make both the error small and the degrees of freedom
many. `mtdnn.statistics.simulation` measures the coverage of this rule.) The arms' seed variances
may differ. A seed of one arm is not paired with the same seed of the other: they share little
more than the order of batches, and pairing would halve the few degrees of freedom.

With one seed per arm, the seed variance is unknown. Only `clusters` remains, and the interval
describes the two models, not the methods.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ROUNDING = 1e-9
"""A standard error below this share of the scores is 0 but for the rounding of floating point.

Rounding changes a variance by about 1e-16 of its terms, so a standard error by up to 1e-8 of those
of a few points. An error that is not 0 is at least that of one item, which is larger for fewer than
1e9 items.
"""


@dataclass(frozen=True)
class Arm:
    """Scores of one method, summed within paragraphs.

    Attributes:
        sums: (seeds, paragraphs) sum of the questions' scores, in any unit.
        sizes: (paragraphs,) number of questions.
    """

    sums: NDArray[np.float64]
    sizes: NDArray[np.int64]

    @property
    def means(self) -> NDArray[np.float64]:
        """(seeds,) mean score of each seed, in the unit of a question's score."""
        means: NDArray[np.float64] = self.sums.sum(axis=1) / self.sizes.sum()
        return means

    @property
    def deviations(self) -> NDArray[np.float64]:
        """(seeds, paragraphs) what each paragraph adds to its seed's mean, relative to the mean."""
        deviations: NDArray[np.float64] = (
            self.sums - np.outer(self.means, self.sizes)
        ) / self.sizes.sum()
        return deviations


@dataclass(frozen=True)
class Components:
    """Variance components of the difference of two arms, as the module's docstring defines them.

    Attributes:
        between: one value per arm; (0, 0) with one seed.
        clusters: cluster-robust variance of the seed-averaged difference.
        rest: the same for each seed's residuals.
        seeds: number of seeds of each arm.
        paragraphs: number of paragraphs.
    """

    between: tuple[float, float]
    clusters: float
    rest: float
    seeds: int
    paragraphs: int

    @property
    def questions(self) -> float:
        """The part of the variance that more seeds would not reduce."""
        return max(0.0, self.clusters - self.rest)

    @property
    def variance(self) -> float:
        """Variance of the difference, in the squared unit of the scores."""
        return sum(self.between) + self.questions

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the variance; the module's docstring gives the rule."""
        between = sum(self.between)
        if not between:
            return self.paragraphs - 1
        welch = (self.seeds - 1) * between**2 / sum(each**2 for each in self.between)
        return min(welch * self.variance / between, self.paragraphs - 1)


@dataclass(frozen=True)
class Estimate:
    """The difference of two methods, second minus first, in the unit of the scores.

    The interval is intersected with the range of possible differences, which it can leave where
    degrees of freedom are few. The true difference is in that range, so the intersection covers it
    exactly if the interval of t does: the coverage stays (Mandelkern 2002).

    Attributes:
        difference: the estimated difference.
        error: its standard error.
        degrees: degrees of freedom of the standard error.
        confidence: confidence of the interval, 0 to 1.
        span: the largest possible difference: the length of the range of scores.
    """

    difference: float
    error: float
    degrees: float
    confidence: float
    span: float = math.inf

    @property
    def _half_width(self) -> float:
        return float(stats.t.ppf((1 + self.confidence) / 2, self.degrees)) * self.error

    @property
    def low(self) -> float:
        """Lower end of the confidence interval."""
        return max(self.difference - self._half_width, -self.span)

    @property
    def high(self) -> float:
        """Upper end of the confidence interval."""
        return min(self.difference + self._half_width, self.span)

    def p(self, truth: float = 0.0) -> float:
        """Return the two-sided p-value of the hypothesis that the true difference is `truth`.

        It is 1 if nothing varies: then the uncertainty is unknown, and nothing can be rejected.
        """
        if not self.error:
            return 1.0
        distance = abs(self.difference - truth)
        return float(2 * stats.t.sf(distance / self.error, self.degrees))

    def detectable(self, power: float = 0.8) -> float:
        """Return the smallest true difference that this design detects with probability `power`.

        The test is two-sided at level 1 - confidence, without correction for multiple
        comparisons. The value is the minimum detectable effect of Bloom (1995), the sum of two
        quantiles of t, with the estimated error and degrees of freedom.
        """
        return self._half_width + float(stats.t.ppf(power, self.degrees)) * self.error


def components(first: Arm, second: Arm) -> Components:
    """Return the variance components of the difference of two arms.

    Args:
        first: an arm.
        second: an arm on the same paragraphs, with the same number of seeds.

    Raises:
        ValueError: there are fewer than two paragraphs, so the variance is unknown.
    """
    arms = (first, second)
    seeds, paragraphs = first.sums.shape
    if paragraphs < 2:
        raise ValueError("fewer than two clusters of items")
    small_sample = paragraphs / (paragraphs - 1)
    difference = second.deviations.mean(axis=0) - first.deviations.mean(axis=0)
    clusters = small_sample * float(np.square(difference).sum())
    between, rest = (0.0, 0.0), 0.0
    if seeds > 1:
        between = tuple(float(arm.means.var(ddof=1)) / seeds for arm in arms)
        rest = small_sample * sum(
            float(arm.deviations.var(axis=0, ddof=1).sum()) / seeds for arm in arms
        )
    return Components(between, clusters, rest, seeds, paragraphs)


def compare(first: Arm, second: Arm, confidence: float = 0.95, span: float = math.inf) -> Estimate:
    """Estimate the difference of two methods and its uncertainty over seeds and questions.

    Args:
        first: an arm.
        second: an arm on the same paragraphs, with the same number of seeds.
        confidence: confidence of the interval, 0 to 1.
        span: the length of the range of scores, for instance 100 for percent.

    Returns:
        Second minus first, in the unit of the arms' scores. Where nothing varies but for rounding,
        the error is exactly 0.

    Raises:
        ValueError: there are fewer than two paragraphs, so the variance is unknown.
    """
    parts = components(first, second)
    error = math.sqrt(parts.variance)
    scores = max(np.abs(arm.sums).sum(axis=1).max() / arm.sizes.sum() for arm in (first, second))
    return Estimate(
        difference=float(second.means.mean() - first.means.mean()),
        error=error if error > ROUNDING * scores else 0.0,
        degrees=parts.degrees,
        confidence=confidence,
        span=span,
    )


def labelings(seeds: int, resamples: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return ways to label half of 2 x `seeds` runs as the second arm.

    Args:
        seeds: number of seeds of each arm.
        resamples: maximum number of labelings.
        random: source of the random labelings.

    Returns:
        (labelings, 2 x seeds) +1 for a run of the second arm, -1 for one of the first. If there
        are at most `resamples` ways, each occurs equally often; otherwise `resamples` random ones.
    """
    ways = math.comb(2 * seeds, seeds)
    if ways <= resamples:
        chosen = np.array(list(itertools.combinations(range(2 * seeds), seeds)))
        chosen = np.tile(chosen, (resamples // ways, 1))
    else:
        order = random.random((resamples, 2 * seeds)).argsort(axis=1)
        chosen = order[:, :seeds]
    signs = np.full((len(chosen), 2 * seeds), -1.0, np.float32)
    np.put_along_axis(signs, chosen, 1.0, axis=1)
    return signs


def flips(paragraphs: int, resamples: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return (resamples, paragraphs) random signs, +1 or -1."""
    signs = random.integers(0, 2, (resamples, paragraphs), np.int8)
    return signs.astype(np.float32) * 2 - 1


def permutation_test(
    pairs: list[tuple[Arm, Arm]],
    labels: NDArray[np.float32] | None,
    signs: NDArray[np.float32],
) -> list[float]:
    """Test by permutation the hypothesis that two methods do not differ.

    Under that hypothesis whole runs are exchangeable, so runs are permuted. Each resample deals
    the 2 S runs of a pair to the two arms at random, so the reference distribution contains the
    seed variance that is in the data. The runs carry along the part of the questions' variance
    that differs between runs. The part that all seeds of an arm share (`Components.questions`) is
    added by flipping the sign of each paragraph's seed-averaged difference, shrunk to the variance
    of that part. So two methods that answer different questions correctly, but the same number of
    them, are not found to differ. If the methods do not differ at all and that part is zero, the
    test is exact.

    With S seeds there are (2 S)! / (S! S!) ways to deal. With 3 seeds there are 20, of which two
    are as extreme as the observed one, so p is seldom below 0.1; with 5 seeds it can fall below
    0.01. With one seed only signs are flipped, and the test is about the two models.

    Args:
        pairs: arms to compare, all on the same paragraphs and with the same number of seeds.
        labels: `labelings` of their runs; None with one seed.
        signs: `flips` of their paragraphs, at least as many as labels.

    Returns:
        A p-value for each pair.

    Raises:
        ValueError: there are fewer than two paragraphs.
    """
    common: list[NDArray[np.float64]] = []
    observed: list[float] = []
    dealt: NDArray[np.float64] | float = 0.0
    for first, second in pairs:
        parts = components(first, second)
        # With one seed there is no rest, so nothing is shrunk.
        shrinkage = math.sqrt(parts.questions / parts.clusters) if parts.clusters else 0.0
        total = (second.sums.mean(axis=0) - first.sums.mean(axis=0)) / first.sizes.sum()
        centred = second.deviations.mean(axis=0) - first.deviations.mean(axis=0)
        common.append(total if labels is None else shrinkage * centred)
        observed.append(total.sum())
    if labels is not None:
        means = np.array([np.concatenate([a.means, b.means]) for a, b in pairs])
        centred_means = means - means.mean(axis=1, keepdims=True)
        dealt = labels @ centred_means.T / (labels.shape[1] / 2)
        signs = signs[: len(labels)]
    resampled = np.abs(signs @ np.array(common, np.float32).T + dealt)
    # Arrangements that equal the observed one must count despite rounding, even if it is 0.
    rounding = 1e-5 * np.abs(observed) + 1e-6 * np.abs(common).sum(axis=1)
    reached = resampled >= np.abs(observed) - rounding
    return [float(p) for p in (reached.sum(axis=0) + 1) / (len(signs) + 1)]
