"""How the corpus of a step is chosen: by shares from which it is drawn, or in an order.

Everything here is a pure function of the settings of a phase, the sizes of its corpora, the epoch
and, for orders, a random stream.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mtdnn.config.phases import RunPhase
from mtdnn.config.settings import (
    Annealed,
    Family,
    Proportional,
    RoundRobin,
    Shuffled,
    Temperature,
    Uniform,
    Weighted,
)

# The exponent falls from 1 by this much (Stickland and Murray 2019, section 4).
ANNEALED_BY = 0.8


@dataclass(frozen=True)
class Supply:
    """What a corpus can give.

    Attributes:
        family: its task family.
        size: number of its training items.
        batch_size: number of items in a batch.
    """

    family: Family
    size: int
    batch_size: int

    @property
    def batches(self) -> int:
        """Number of batches that use each item once; the last one may be smaller."""
        return math.ceil(self.size / self.batch_size)


def shares(
    phase: RunPhase, supplies: Mapping[str, Supply], weight: float, epoch: int
) -> dict[str, float]:
    """Return each corpus's share of the steps of an epoch, in the order of the mixture.

    Policies that draw take it as the probability of the corpus at every step. Those with an order
    keep to it exactly over a whole round.

    Args:
        phase: the phase.
        supplies: what each of its corpora can give.
        weight: the share of the target, for the policy `weighted`.
        epoch: the epoch, from 0.
    """
    sizes = {name: float(supplies[name].size) for name in phase.corpora}
    match phase.schedule.policy:
        case Weighted():
            families = {name: supplies[name].family for name in phase.corpora}
            return weighted(families, phase.target, weight, phase.schedule.spread)
        case Uniform() | RoundRobin():
            return _by_power(sizes, 0)
        case Proportional(alpha=alpha):
            return _by_power(sizes, alpha)
        case Temperature(temperature=temperature, cap=cap, caps=caps):
            limits = {name: caps.get(name, cap or math.inf) for name in sizes}
            capped = {name: min(size, limits[name]) for name, size in sizes.items()}
            return _by_power(capped, 1 / temperature)
        case Annealed():
            return _by_power(sizes, 1 - ANNEALED_BY * epoch / max(1, phase.epochs - 1))
        case Shuffled():
            return _by_power({name: float(supplies[name].batches) for name in sizes}, 1)


def weighted(
    families: Mapping[str, Family], target: str | None, weight: float, spread: str
) -> dict[str, float]:
    """Return the shares of the paper's algorithm 1, in the order of `families`.

    Args:
        families: the corpora, each with its task family.
        target: the target; None only for a corpus alone.
        weight: the probability of the target.
        spread: `datasets` or `families`, over which the rest is spread evenly.
    """
    if len(families) == 1:
        return dict.fromkeys(families, 1.0)
    groups: dict[Family, list[str]] = {}
    for name, family in families.items():
        if name != target:
            groups.setdefault(family, []).append(name)
    rest = 1 - weight
    if spread == "families":
        auxiliary = {
            name: rest / len(groups) / len(names) for names in groups.values() for name in names
        }
    else:
        count = sum(map(len, groups.values()))
        auxiliary = {name: rest / count for names in groups.values() for name in names}
    return {name: weight if name == target else auxiliary[name] for name in families}


def _by_power(sizes: dict[str, float], exponent: float) -> dict[str, float]:
    """Shares in proportion to a power of the sizes."""
    largest = max(sizes.values())  # divided out, so that no power overflows
    powers = {name: (size / largest) ** exponent for name, size in sizes.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def order(
    phase: RunPhase, supplies: Mapping[str, Supply], random: np.random.Generator
) -> Iterator[str] | None:
    """Return the endless order of a phase's corpora, or None if its policy draws them."""
    match phase.schedule.policy:
        case RoundRobin():
            return itertools.cycle(phase.corpora)
        case Shuffled():
            every = [name for name in phase.corpora for _ in range(supplies[name].batches)]
            return _shuffled(every, random)
    return None


def _shuffled(batches: list[str], random: np.random.Generator) -> Iterator[str]:
    while True:
        yield from (batches[place] for place in random.permutation(len(batches)))
