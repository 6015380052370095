"""Corpora of given sizes, for schedules that need no features."""

from mtdnn.training.policies import Supply
from tests.support.tiny import FAMILIES


def supplies(sizes: dict[str, int], batch_size: int = 8) -> dict[str, Supply]:
    """What corpora of the given sizes can give; the names are those of `FAMILIES`."""
    return {name: Supply(FAMILIES[name], size, batch_size) for name, size in sizes.items()}
