"""Check on simulated runs that intervals cover the truth and that tests keep their level.

A model's score on a question is a function of z = ability - difficulty. Ability belongs to the
run: its arm's level plus a seed effect. Difficulty is a sum of normal parts:

- common to all runs: of the paragraph and of the question;
- of the arm: questions and paragraphs that suit one method better than the other;
- of the run: what differs between seeds, by paragraph and by question.

EM is 1 if z > 0. F1 rises linearly from 0 at z = -0.5 to 1 at z = 0. The variances of the parts
sum to 1, so the expected score of an arm is a one-dimensional integral, and the truth is known.

    python -m mtdnn.statistics.simulation            # the long form: every scenario
"""

import argparse
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mtdnn.statistics.inference import Arm, compare, flips, labelings, permutation_test


@dataclass(frozen=True)
class Scenario:
    """Size and variances of a simulated comparison; scores are 0 to 1.

    Attributes:
        name: how the scenario is shown; also seeds its random numbers.
        seeds: number of seeds of each arm.
        questions: minimum number of questions.
        paragraph: minimum and maximum number of questions in a paragraph.
        score: expected EM of the first arm.
        difference: expected EM of the second arm minus that of the first.
        deviations: standard deviation of each arm's EM over seeds, on the same questions.
        of_paragraph: share of the variance of difficulty common to a paragraph, in each part.
        of_arm: share of the variance of difficulty that belongs to the arm.
        of_run: share that belongs to the run; at 0.05 the EM of two seeds correlates at about 0.8.
        metric: `em` or `f1`.
    """

    name: str
    seeds: int
    questions: int = 6078
    paragraph: tuple[int, int] = (5, 25)
    score: float = 0.74
    difference: float = 0.0
    deviations: tuple[float, float] = (0.006, 0.006)
    of_paragraph: float = 0.15
    of_arm: float = 0.0
    of_run: float = 0.05
    metric: str = "em"


@dataclass(frozen=True)
class Outcome:
    """Results of simulating a scenario; scores are 0 to 1.

    Attributes:
        scenario: the scenario.
        simulations: number of simulations.
        coverage: share of intervals that contain the true difference.
        rejected: share of simulations with p <= 0.05 by the t of the interval.
        permuted: share of simulations with p <= 0.05 by the permutation test.
        half_width: mean half-width of the intervals.
        deviation: mean standard deviation of the first arm's score over seeds; NaN with one seed.
        correlation: mean correlation of two seeds' scores over questions.
    """

    scenario: Scenario
    simulations: int
    coverage: float
    rejected: float
    permuted: float
    half_width: float
    deviation: float
    correlation: float


def score(z: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """Return the scores, 0 to 1, of any shape, for z = ability - difficulty."""
    if metric == "em":
        return (z > 0).astype(np.float64)
    return np.clip(1 + 2 * z, 0, 1)


def expected(level: float, seed_variance: float, metric: str) -> float:
    """Return the expected score of an arm over seeds and questions, 0 to 1.

    Args:
        level: the arm's ability.
        seed_variance: variance of the seed effects on ability.
        metric: `em` or `f1`.
    """
    grid = np.linspace(-9, 9, 200_001)
    density = stats.norm.pdf(grid)
    z = level + math.sqrt(1 + seed_variance) * grid
    return float((score(z, metric) * density).sum() / density.sum())


def truth(scenario: Scenario) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Derive the true values of a scenario.

    Returns:
        The level of each arm, the standard deviation of each arm's seed effects, and the true
        difference of the expected scores, second minus first, in the range -1 to 1.
    """
    density = stats.norm.pdf(stats.norm.ppf(scenario.score))
    # The wanted deviation includes what differs between seeds by chance on single questions.
    chance = scenario.score * (1 - scenario.score) * _flip_share(scenario) / scenario.questions
    effects = [
        float(math.sqrt(max(0.0, wanted**2 - chance)) / density) for wanted in scenario.deviations
    ]
    targets = (scenario.score, scenario.score + scenario.difference)
    levels = [
        float(stats.norm.ppf(target)) * math.sqrt(1 + effect**2)
        for target, effect in zip(targets, effects, strict=True)
    ]
    first, second = (
        expected(level, effect**2, scenario.metric)
        for level, effect in zip(levels, effects, strict=True)
    )
    return (levels[0], levels[1]), (effects[0], effects[1]), second - first


def _flip_share(scenario: Scenario) -> float:
    """Return 1 - the correlation of EM between two seeds, over questions."""
    shared, cut = 1 - scenario.of_run, stats.norm.ppf(scenario.score)
    both = stats.multivariate_normal.cdf([cut, cut], cov=[[1, shared], [shared, 1]])
    return float(1 - (both - scenario.score**2) / (scenario.score * (1 - scenario.score)))


def draw(
    scenario: Scenario,
    levels: tuple[float, float],
    effects: tuple[float, float],
    random: np.random.Generator,
) -> tuple[tuple[Arm, Arm], float]:
    """Draw paragraphs and two arms' runs on them.

    Args:
        scenario: sizes and variances.
        levels: ability of each arm.
        effects: standard deviation of each arm's seed effects.
        random: source of all random numbers.

    Returns:
        The two arms, and the correlation of the first arm's first and last seed over questions.
    """
    low, high = scenario.paragraph
    sizes = random.integers(low, high + 1, 2 * scenario.questions // (low + high) + 50)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), scenario.questions)]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def part(share: float, *runs: int) -> NDArray[np.float32]:
        """Draw normal difficulty with variance `share`, some of it common to a paragraph."""
        paragraphs = random.standard_normal((*runs, len(sizes)), np.float32)
        questions = random.standard_normal((*runs, sizes.sum()), np.float32)
        common = math.sqrt(share * scenario.of_paragraph)
        own = math.sqrt(share * (1 - scenario.of_paragraph))
        difficulty: NDArray[np.float32] = (
            common * np.repeat(paragraphs, sizes, axis=-1) + own * questions
        )
        return difficulty

    common = part(1 - scenario.of_arm - scenario.of_run)
    arms = []
    for level, effect in zip(levels, effects, strict=True):
        ability = level + effect * random.standard_normal((scenario.seeds, 1))
        difficulty = common + part(scenario.of_arm) + part(scenario.of_run, scenario.seeds)
        arms.append(score(ability - difficulty, scenario.metric))
    correlation = float(np.corrcoef(arms[0][0], arms[0][-1])[0, 1])
    first, second = (Arm(np.add.reduceat(arm, starts, axis=1), sizes) for arm in arms)
    return (first, second), correlation


def simulate(
    scenario: Scenario, simulations: int, *, resamples: int = 999, seed: int = 0
) -> Outcome:
    """Draw and compare two arms `simulations` times.

    Args:
        scenario: sizes and variances; its name and number of seeds enter the random seed.
        simulations: number of simulated comparisons.
        resamples: maximum number of resamples of each permutation test.
        seed: seed of all random numbers.
    """
    random = np.random.default_rng([seed, scenario.seeds, *scenario.name.encode()])
    levels, effects, difference = truth(scenario)
    counts = np.zeros(3)
    widths: list[float] = []
    deviations: list[float] = []
    correlations: list[float] = []
    for _ in range(simulations):
        (first, second), correlation = draw(scenario, levels, effects, random)
        estimate = compare(first, second)
        labels = None
        if scenario.seeds > 1:
            labels = labelings(scenario.seeds, resamples, random)
            deviations.append(float(first.means.std(ddof=1)))
        signs = flips(len(first.sizes), resamples if labels is None else len(labels), random)
        (permuted,) = permutation_test([(first, second)], labels, signs)
        covered = estimate.low <= difference <= estimate.high
        counts += (covered, estimate.p() <= 0.05, permuted <= 0.05)
        widths.append(estimate.high - estimate.difference)
        correlations.append(correlation)
    coverage, rejected, permuted_share = (float(count) / simulations for count in counts)
    return Outcome(
        scenario,
        simulations,
        coverage=coverage,
        rejected=rejected,
        permuted=permuted_share,
        half_width=float(np.mean(widths)),
        deviation=float(np.mean(deviations)) if deviations else math.nan,
        correlation=float(np.mean(correlations)),
    )


def scenarios() -> Iterable[Scenario]:
    """Yield every scenario of the long form, with 3 and with 5 seeds."""
    small = Scenario(
        "small", 0, questions=201, paragraph=(3, 7), deviations=(0.03, 0.03), score=0.7
    )
    kinds = [
        Scenario("seed deviation 0.3", 0, deviations=(0.003, 0.003)),
        Scenario("seed deviation 0.6", 0),
        Scenario("seed deviation 1.0", 0, deviations=(0.01, 0.01)),
        Scenario("deviations 0.3 and 1.0", 0, deviations=(0.003, 0.01)),
        Scenario("arms suit different questions", 0, of_arm=0.05),
        Scenario("the same, deviation 0.3", 0, of_arm=0.05, deviations=(0.003, 0.003)),
        Scenario("paragraphs weigh more", 0, of_arm=0.03, of_paragraph=0.5),
        Scenario("F1", 0, metric="f1", of_arm=0.02),
        Scenario("a difference of one point", 0, difference=0.01, of_arm=0.02),
        small,
        replace(small, name="small, arms suit different questions", of_arm=0.05),
    ]
    for seeds in (3, 5):
        for kind in kinds:
            yield replace(kind, seeds=seeds)


def main(arguments: list[str] | None = None) -> int:
    """Print one line per scenario; return 1 if any interval or test is outside its bounds."""
    parser = argparse.ArgumentParser(description="Check intervals and tests on simulated runs.")
    parser.add_argument("--simulations", type=int, default=2000, metavar="N")
    options = parser.parse_args(arguments)
    # Two standard errors of a simulated share.
    error = 2 * math.sqrt(0.05 * 0.95 / options.simulations)
    print(f"{options.simulations} simulations; Monte-Carlo error ±{100 * error:.1f} points")
    print("seeds  coverage  t <= 5 %  permutation <= 5 %  half-width  sd of seeds  correlation")
    wrong = 0
    for scenario in scenarios():
        outcome = simulate(scenario, options.simulations)
        is_null = scenario.difference == 0
        good = 0.93 <= outcome.coverage <= 0.97
        good &= not is_null or max(outcome.rejected, outcome.permuted) <= 0.05 + error
        wrong += not good
        print(
            f"{scenario.seeds:5d}  {outcome.coverage:8.3f}  {outcome.rejected:8.3f}  "
            f"{outcome.permuted:18.3f}  {100 * outcome.half_width:10.2f}  "
            f"{100 * outcome.deviation:11.2f}  {outcome.correlation:11.2f}  {scenario.name}"
            f"{'' if good else '  OUTSIDE'}",
            flush=True,
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
