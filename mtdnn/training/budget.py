"""How much of the conflict between corpora is measured: what a share of the time allows.

The estimate counts tokens, so it is known before the first step, on any machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mtdnn.config.settings import InterferenceSettings

FORWARD_SHARE = 0.36
"""Time of a forward pass without dropout, as a share of a step's; measured on a CPU."""

COMPARISON_SHARE = 1.4
"""Time of a measurement, as a share of that of a step for each corpus.

Measured on a CPU with five corpora and batches of 220 tokens; with larger ones the inner products,
whose time does not depend on them, count less.
"""


@dataclass(frozen=True)
class Load:
    """What a run trains of one corpus.

    Attributes:
        steps: number of its steps.
        items: number of items in a batch.
        tokens: mean number of tokens of an item.
    """

    steps: float
    items: int
    tokens: float


@dataclass(frozen=True)
class Plan:
    """How much is measured in a run.

    Attributes:
        measurements: how often gradients are compared.
        dev_items: number of dev items of each corpus whose loss is measured at the end of an epoch.
        share: the time that it takes, as a share of the training time; estimated from tokens.
    """

    measurements: int
    dev_items: int
    share: float


def plan(settings: InterferenceSettings, loads: Mapping[str, Load], epochs: int) -> Plan:
    """Return how much is measured in a run, within the share of its time that it may take.

    At most half of that goes to dev losses, the rest to gradients.

    Args:
        settings: how much is wanted.
        loads: what the run trains of each corpus.
        epochs: number of its epochs, in all phases together.
    """
    whole = sum(load.steps * load.items * load.tokens for load in loads.values())
    budget = settings.max_share * whole
    item = epochs * FORWARD_SHARE * sum(load.tokens for load in loads.values())
    once = COMPARISON_SHARE * settings.batches
    once *= sum(load.items * load.tokens for load in loads.values())
    if not whole or not item:
        return Plan(0, 0, 0.0)
    dev_items = min(settings.dev_items, int(budget / 2 / item))
    steps = sum(load.steps for load in loads.values())
    fit = int(min((budget - dev_items * item) / once, steps))
    measurements = min(settings.measurements, fit) if len(loads) > 1 else 0
    return Plan(measurements, dev_items, (measurements * once + dev_items * item) / whole)
