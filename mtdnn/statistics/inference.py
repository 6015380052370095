"""Two training methods compared from few seeds each, on questions that come in paragraphs.

The estimand is the difference of two *methods*: of their scores, expected over the seeds with
which they might be trained and over the questions that might be asked. Two things vary, and
they cross: each model answers every question. Write y[a,s,q] for the score of arm a (0 or 1)
trained with seed s on question q, and

    y[a,s,q] = mean[a] + seed[a,s] + question[a,q] + rest[a,s,q]

where questions of one paragraph depend on each other in any way. The difference of the arms'
means over S seeds each has the variance

    sum over arms of Var(seed)/S  +  Var(question[1] - question[0])  +  sum of Var(rest)/S

(the last two taken of means over all questions). What can be computed:

    between:  Var of the seeds' mean scores / S, summed over arms: estimates terms 1 and 3;
    clusters: the cluster-robust variance of the seed-averaged difference, paragraphs being
              clusters: estimates terms 2 and 3;
    rest:     the same of what is left of each seed: estimates term 3 alone.

So the variance is between + (clusters - rest), the rest not counted twice, where clusters - rest,
a variance that may be estimated below zero, is taken as at least zero. The interval is Student's t.
`between` has few degrees of freedom, Welch's; the other parts have about as many as there are
paragraphs. For their sum the degrees of freedom of `between` are divided by its share in the
variance. (Satterthwaite (1946) divides by the squared share; then intervals from 3 seeds cover too
seldom, since by chance the same seeds make the error small and the degrees of freedom many.
`mtdnn.statistics.simulation` shows what this rule covers.) The arms' seed variances may differ.
A seed of one arm is not paired with the same seed of the other: they share the order of batches
and little else, and pairing would cost half of the few degrees of freedom.

With one seed an arm nothing is known of seed variance. What is left is `clusters`, and the
interval is about the two models.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Arm:
    """Scores of one method, summed within paragraphs.

    Args:
        sums: (seeds, paragraphs) sum of the questions' scores.
        sizes: (paragraphs,) number of questions.
    """

    sums: np.ndarray
    sizes: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """(seeds,) mean score of each seed."""
        return self.sums.sum(axis=1) / self.sizes.sum()

    @property
    def deviations(self) -> np.ndarray:
        """(seeds, paragraphs) what paragraphs add to or take from their seed's mean."""
        return (self.sums - np.outer(self.means, self.sizes)) / self.sizes.sum()


@dataclass(frozen=True)
class Components:
    """Variance components of a difference of two arms, as in the module's explanation."""

    between: tuple[float, float]
    """Of each arm; (0, 0) with one seed."""
    clusters: float
    rest: float
    seeds: int
    paragraphs: int

    @property
    def questions(self) -> float:
        """The part that more seeds would not reduce."""
        return max(0.0, self.clusters - self.rest)

    @property
    def variance(self) -> float:
        return sum(self.between) + self.questions

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the variance, as the module explains."""
        between = sum(self.between)
        if not between:
            return self.paragraphs - 1
        welch = (self.seeds - 1) * between**2 / sum(each**2 for each in self.between)
        return min(welch * self.variance / between, self.paragraphs - 1)


@dataclass(frozen=True)
class Estimate:
    """The difference `second - first`, in the scores' own unit."""

    difference: float
    error: float
    """Standard error."""
    degrees: float
    confidence: float

    @property
    def _reach(self) -> float:
        return float(stats.t.ppf((1 + self.confidence) / 2, self.degrees)) * self.error

    @property
    def low(self) -> float:
        return self.difference - self._reach

    @property
    def high(self) -> float:
        return self.difference + self._reach

    def p(self, truth: float = 0.0) -> float:
        """Two-sided p-value of the hypothesis that the difference is `truth`."""
        distance = abs(self.difference - truth)
        if not self.error:
            return float(distance == 0)
        return float(2 * stats.t.sf(distance / self.error, self.degrees))

    def detectable(self, power: float = 0.8) -> float:
        """The smallest true difference that such a design finds with this probability.

        Two-sided at 1 - confidence, before any correction for several comparisons; by the usual
        sum of two quantiles of t (Bloom 1995), with the error and degrees of freedom found here.
        """
        return self._reach + float(stats.t.ppf(power, self.degrees)) * self.error


def components(first: Arm, second: Arm) -> Components:
    """Variance components of the difference of two arms with as many seeds each.

    Raises:
        ValueError: fewer than two paragraphs, which give no variance.
    """
    arms = (first, second)
    seeds, paragraphs = first.sums.shape
    if paragraphs < 2:
        raise ValueError("fewer than two paragraphs")
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


def compare(first: Arm, second: Arm, confidence: float = 0.95) -> Estimate:
    """The difference of two methods with its uncertainty over seeds and questions."""
    parts = components(first, second)
    return Estimate(
        difference=float(second.means.mean() - first.means.mean()),
        error=math.sqrt(parts.variance),
        degrees=parts.degrees,
        confidence=confidence,
    )


def labelings(seeds: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Ways to call half of 2 x `seeds` runs the second arm: up to `resamples` rows of +1 and -1.

    All ways equally often as long as there are fewer than `resamples`, else random ones.
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


def flips(paragraphs: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """(resamples, paragraphs) random signs, +1 and -1."""
    signs = random.integers(0, 2, (resamples, paragraphs), np.int8)
    return signs.astype(np.float32) * 2 - 1


def permutation_test(
    pairs: list[tuple[Arm, Arm]], labels: np.ndarray | None, signs: np.ndarray
) -> list[float]:
    """p-values of a permutation test of the hypothesis that two methods do not differ.

    What is permuted is what would be exchangeable if they did not: whole runs. Each resample
    deals the 2 S runs of a pair out to the two arms anew, so that seed variance is in the
    reference distribution as it is in the data. Of the questions, runs carry along the part that
    differs from run to run. The part that is common to all seeds of an arm (`Components.questions`)
    is added by flipping the sign of each paragraph's seed-averaged difference, shrunk to that
    part's variance. So two methods that answer different questions right, and equally many, are
    not found to differ. If methods do not differ at all and that part is zero, the test
    is exact.

    With S seeds there are (2 S)! / (S! S!) ways to deal: of the 20 at 3 seeds two are as extreme
    as the observed one, so that p is seldom below 0.1; at 5 seeds it can fall below 0.01. With
    one seed only signs are flipped: the test is then about the two models.

    Args:
        pairs: arms to compare, all on the same paragraphs and with the same number of seeds.
        labels: `labelings` of their runs; None with one seed.
        signs: `flips` of their paragraphs, at least as many as labels.
    """
    common, observed, dealt = [], [], 0.0
    for first, second in pairs:
        parts = components(first, second)
        # With one seed there is no rest, and nothing is shrunk.
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
    # Arrangements that equal the observed one must count, whatever was rounded.
    reached = resampled >= np.abs(observed) * (1 - 1e-5)
    return [float(p) for p in (reached.sum(axis=0) + 1) / (len(signs) + 1)]
