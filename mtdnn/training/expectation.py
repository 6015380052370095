"""The steps that a schedule has on average, known before it is drawn."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mtdnn.config.phases import RunPhase
from mtdnn.training.policies import Supply, shares


def expected_steps(
    phases: Sequence[RunPhase], supplies: Mapping[str, Supply], weight: float
) -> list[dict[str, float]]:
    """Return the expected number of steps with each corpus, for each phase of a run.

    It is the mean over seeds, for `dry: renormalise` very nearly so. `is_exact` says where every
    seed has just this number of steps.

    Args:
        phases: the phases.
        supplies: what each corpus can give; sizes may be estimates.
        weight: the share of the target, for the policy `weighted`.
    """
    return [_of_phase(phase, supplies, weight) for phase in phases]


def number_of_steps(phases: Sequence[RunPhase], expected: Sequence[Mapping[str, float]]) -> float:
    """Return the number of steps of a run, where a joint one counts once.

    Args:
        phases: its phases.
        expected: what `expected_steps` returned for them.
    """
    return sum(
        max(steps.values()) if phase.schedule.joint else sum(steps.values())
        for phase, steps in zip(phases, expected, strict=True)
    )


def is_exact(phases: Sequence[RunPhase]) -> bool:
    """Return whether a run with these phases has the same number of steps with every seed."""
    return all(
        phase.end == "steps"
        or phase.schedule.joint
        or phase.schedule.policy.kind in ("round_robin", "shuffled")
        or (len(phase.corpora) == 1 and not phase.schedule.steps_of_weight)
        or (phase.end == "every_corpus" and not phase.refills)
        for phase in phases
    )


def _of_phase(phase: RunPhase, supplies: Mapping[str, Supply], weight: float) -> dict[str, float]:
    batches = {name: supplies[name].batches for name in phase.corpora}
    if phase.schedule.joint:
        last = batches[phase.target or ""] if phase.end == "target" else max(batches.values())
        steps = phase.schedule.steps or phase.epochs * last
        return dict.fromkeys(phase.corpora, float(steps))
    if phase.schedule.policy.kind == "round_robin":
        epochs = _in_turn(phase, batches)
    else:
        epochs = (
            _of_epoch(phase, batches, shares(phase, supplies, weight, epoch))
            for epoch in range(phase.epochs)
        )
    total = dict.fromkeys(phase.corpora, 0.0)
    for epoch in epochs:
        total = {name: count + epoch[name] for name, count in total.items()}
    return total


def _of_epoch(
    phase: RunPhase, batches: dict[str, int], share: dict[str, float]
) -> dict[str, float]:
    """The expected steps of each corpus in an epoch of a policy other than `round_robin`."""
    if phase.end == "steps":
        steps = (phase.schedule.steps or 0) / phase.epochs
        return {name: steps * part for name, part in share.items()}
    if phase.schedule.policy.kind == "shuffled":
        return {name: float(count) for name, count in batches.items()}
    if phase.end == "every_corpus":
        if not phase.refills:
            return {name: float(count) for name, count in batches.items()}
        draws = _draws_of_all(batches, share)
        return {name: draws * part for name, part in share.items()}
    target = phase.target or ""
    if not phase.refills:
        return _before_target(phase, batches, share)
    draws = batches[target] / (phase.schedule.steps_of_weight or share[target])
    return {name: draws * part for name, part in share.items()}


def _before_target(
    phase: RunPhase, batches: dict[str, int], share: dict[str, float]
) -> dict[str, float]:
    """The expected steps of an epoch that ends with the target, where no corpus is refilled.

    Until the target's last batch, each other corpus is drawn a number of times with a negative
    binomial distribution, and yields at most its batches. If the shares of dry corpora go to the
    others, these are drawn more often by a common factor, which fits the total.
    """
    target = phase.target or ""
    others = {name: part for name, part in share.items() if name != target}

    def drawn(factor: float) -> dict[str, float]:
        return {
            name: _mean_of_draws(batches[target], factor * part / share[target], batches[name])
            for name, part in others.items()
        }

    factor = 1.0
    if phase.schedule.dry == "renormalise" and others:
        every = sum(batches[name] for name in others)
        total = _mean_of_draws(batches[target], sum(others.values()) / share[target], every)
        low, high = 1.0, 2.0
        while sum(drawn(high).values()) < total * (1 - 1e-9) and high < 1e6:
            low, high = high, 2 * high
        for _ in range(40):
            factor = (low + high) / 2
            low, high = (low, factor) if sum(drawn(factor).values()) > total else (factor, high)
    steps = {target: float(batches[target]), **drawn(factor)}
    return {name: steps[name] for name in share}


def _mean_of_draws(targets: int, odds: float, most: int) -> float:
    """The mean number of draws of a corpus before the last of the target, at most `most`.

    Args:
        targets: number of draws of the target.
        odds: the corpus's share, divided by that of the target.
        most: larger numbers count as this.
    """
    from scipy.special import betainc

    # The sum of the probabilities that there are more than 0, 1, … draws.
    return float(most - betainc(targets, np.arange(1, most + 1), 1 / (1 + odds)).sum())


def _draws_of_all(batches: dict[str, int], share: dict[str, float]) -> float:
    """The mean number of draws until each corpus was drawn as often as it has batches.

    If draws came at random times, one a second on average, those of different corpora would be
    independent and the mean time would be the mean number. It is the integral of the probability
    that a corpus is still lacking draws.
    """
    from scipy.integrate import quad
    from scipy.special import gammainc

    if len(batches) == 1:
        return float(sum(batches.values()))

    def lacking(time: float) -> float:
        return 1 - math.prod(float(gammainc(n, share[name] * time)) for name, n in batches.items())

    longest = max(n / share[name] for name, n in batches.items())
    # Nearly all of the change happens within some deviations of the longest wait.
    deviation = max(math.sqrt(n) / share[name] for name, n in batches.items())
    places = [max(0.0, longest - 12 * deviation), longest, longest + 12 * deviation]
    places.append(longest + 60 * deviation)
    parts = [quad(lacking, a, b, limit=200)[0] for a, b in itertools.pairwise(places)]
    return places[0] + float(sum(parts))


def _in_turn(phase: RunPhase, batches: dict[str, int]) -> Iterator[dict[str, float]]:
    """Yield the exact steps of each corpus in every epoch of `round_robin`.

    A turn without a batch, of a corpus that is dry, is no step.
    """
    names, turns = list(phase.corpora), 0
    for epoch in range(phase.epochs):
        # Turns until the first of each corpus, from the beginning of the epoch.
        wait = {name: (place - turns) % len(names) for place, name in enumerate(names)}
        last = {name: (batches[name] - 1) * len(names) + wait[name] + 1 for name in names}
        if phase.end == "steps":
            steps = phase.schedule.steps or 0
            length = steps * (epoch + 1) // phase.epochs - steps * epoch // phase.epochs
        elif phase.end == "target":
            length = last[phase.target or ""]
        else:
            length = max(last.values())
        taken = {name: -((wait[name] - length) // len(names)) for name in names}
        if not phase.refills:
            taken = {name: min(taken[name], batches[name]) for name in names}
        yield {name: float(count) for name, count in taken.items()}
        turns += length
