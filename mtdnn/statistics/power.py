"""The smallest difference between two methods that a number of seeds detects, before training.

The test is that of the tables (`mtdnn.statistics.inference`): two-sided at 5 %, seeds of the two
methods not paired. Only the variance between seeds is known in advance, so the result is a lower
bound: the variance between items makes the detectable difference larger.
"""

import math
from dataclasses import dataclass, replace

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.measures import measures_of
from mtdnn.evaluation.results import read_rows
from mtdnn.statistics.inference import Estimate
from mtdnn.statistics.level import CONFIDENCE, LEVEL
from mtdnn.statistics.records import read_statistics

POWER = 0.8

MAX_SEEDS = 1000
"""Of more seeds than these nobody needs the number."""

PRIOR = 1.2 / 5.02
"""Standard deviation between seeds in points, if no run tells: BERT base on MNLI, whose accuracy
ranges over 1.2 points in 100 seeds (McCoy, Min and Linzen 2020); the expected range of 100 normal
values is 5.02 standard deviations."""

PRIOR_SOURCE = "BERT base on MNLI (McCoy et al. 2020)"


@dataclass(frozen=True)
class Outlook:
    """What the seeds of an experiment can detect in one measure.

    Attributes:
        label: the measure's name.
        seeds: number of seeds.
        deviation: standard deviation of a score over seeds, in points; 0 if the scores of all runs
            are equal, which tells nothing of other runs.
        runs: number of scored runs from which it comes; 0 if it is the prior.
        difference: the smallest difference that is detected with probability `POWER`, in points;
            None with one seed, which says nothing of methods, and without a deviation.
        enough: number of seeds that detect the largest published gain; None if there is none, if it
            takes more than `MAX_SEEDS`, and without a deviation.
        gain: the largest published gain over a row of the target alone, in points; None likewise.
        target: how the target is shown.
    """

    label: str
    seeds: int
    deviation: float
    runs: int
    difference: float | None
    enough: int | None
    gain: float | None
    target: str = ""


def outlooks(experiment: Experiment) -> list[Outlook]:
    """Return what the experiment's seeds can detect in the headline of each target."""
    cells = read_statistics(experiment)["cells"]
    found: dict[str, tuple[str, dict[str, tuple[float, int]], list[float]]] = {}
    for name, table in experiment.tables.items():
        for row in table.own_rows:
            target = experiment.target_of(row.mixture)
            assert target is not None, "an experiment is checked when it is loaded"
            headline = measures_of(experiment.corpora[target])[0]
            _, spreads, _ = found.setdefault(target, (headline.label, {}, []))
            cell = cells.get(row.path, {}).get(experiment.slice_of(name), {}).get(headline.column)
            if cell and cell["deviation"] is not None:
                spreads[row.path] = cell["deviation"], len(cell["seeds"])
    for target, gain in _published_gains(experiment):
        found[target][2].append(gain)
    seeds = len(experiment.seeds)
    return [
        replace(
            _outlook(label, seeds, list(spreads.values()), gains),
            target=experiment.corpora[target].label,
        )
        for target, (label, spreads, gains) in found.items()
    ]


def detectable(deviation: float, seeds: int) -> float:
    """Return the smallest difference that is detected with probability `POWER`.

    Args:
        deviation: standard deviation of each method's score over seeds.
        seeds: number of seeds of each method, at least 2.
    """
    error = deviation * math.sqrt(2 / seeds)
    return Estimate(0.0, error, 2 * (seeds - 1), CONFIDENCE).detectable(POWER)


def seeds_for(difference: float, deviation: float) -> int | None:
    """Return the number of seeds of each method with which a difference is detected.

    None if it is larger than `MAX_SEEDS`.
    """
    numbers = range(2, MAX_SEEDS + 1)
    return next((n for n in numbers if detectable(deviation, n) <= difference), None)


def pooled(spreads: list[tuple[float, int]]) -> float:
    """Return the common standard deviation of groups of runs.

    Args:
        spreads: the sample standard deviation of each group, and its number of runs (at least 2).
    """
    squares = sum((runs - 1) * deviation**2 for deviation, runs in spreads)
    return math.sqrt(squares / sum(runs - 1 for _, runs in spreads))


def lines(found: list[Outlook]) -> list[str]:
    """Return a sentence or two on each outlook, as `mtdnn plan` prints them."""
    return [line for outlook in found for line in _lines(outlook, several=len(found) > 1)]


def _outlook(
    label: str, seeds: int, spreads: list[tuple[float, int]], gains: list[float]
) -> Outlook:
    deviation = pooled(spreads) if spreads else PRIOR
    gain = max((gain for gain in gains if gain > 0), default=None)
    return Outlook(
        label=label,
        seeds=seeds,
        deviation=deviation,
        runs=sum(runs for _, runs in spreads),
        difference=detectable(deviation, seeds) if seeds > 1 and deviation else None,
        enough=seeds_for(gain, deviation) if gain and deviation else None,
        gain=gain,
    )


def _published_gains(experiment: Experiment) -> list[tuple[str, float]]:
    """Return the published gains in the headline over the target alone, with their targets."""
    gains: list[tuple[str, float]] = []
    for name, table in experiment.tables.items() if experiment.published else ():
        if table.own_rows != table.rows:  # another experiment's results need not be here
            continue
        rows = [row for row in read_rows(experiment, name) if row.published]
        for base in rows:
            gains += [
                (row.target, row.published[headline] - base.published[headline])
                for row in rows
                for headline in [row.measures[0].column]
                if base.is_alone and not row.is_alone
                if (row.target, row.row.encoder) == (base.target, base.row.encoder)
            ]
    return gains


def _lines(outlook: Outlook, several: bool) -> list[str]:
    where = f" on {outlook.target}" if several else ""
    smallest = f"Smallest detectable difference{where}"
    if not outlook.deviation:
        return [
            f"{smallest}: cannot be estimated, because the {outlook.label} of {outlook.runs} runs "
            "does not vary between seeds."
        ]
    origin = f"estimated from {outlook.runs} runs; few items make it larger"
    if not outlook.runs:
        origin = f"as for {PRIOR_SOURCE}; few items and short training runs make it much larger"
    return [
        f"{smallest} (power {POWER:.0%}, two-sided test at {LEVEL:.0%}): "
        f"{_detected(outlook)}{_gain(outlook)}.",
        f"This assumes a standard deviation of {outlook.deviation:.2f} points between seeds, "
        f"{origin}.",
    ]


def _detected(outlook: Outlook) -> str:
    """The smallest difference that is detected; with one seed, that none is."""
    if outlook.difference is None:
        three = detectable(outlook.deviation, 3)
        return f"none with 1 seed; at best {three:.1f} points of {outlook.label} with 3 seeds"
    return f"at best {outlook.difference:.1f} points of {outlook.label} with {outlook.seeds} seeds"


def _gain(outlook: Outlook) -> str:
    """How many seeds would detect the largest published gain, if there is one."""
    if outlook.gain is None:
        return ""
    gain = f"; the largest published gain is {outlook.gain:.2f}"
    if outlook.enough is None:
        return f"{gain}, for which even {MAX_SEEDS:,} seeds are too few"
    if outlook.enough != outlook.seeds:
        return f"{gain}, for which {outlook.enough} seeds are enough"
    return gain
