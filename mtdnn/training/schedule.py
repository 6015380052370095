"""Weighted stochastic batch selection (the paper's algorithm 1), drawn before training.

The schedule says for every step which corpus gives the batch and which items are in it.
It depends only on the run's settings, its seed and the sizes of its corpora.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtdnn.config.layout import Layout, RunFolder, outdated_by
from mtdnn.config.settings import (
    CorpusSettings,
    Family,
    RunSettings,
    ScheduleSettings,
    TrainingSettings,
)
from mtdnn.data.features import training_features
from mtdnn.errors import MtdnnError
from mtdnn.machine.staging import publishing

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("epoch", pa.int16()),
        ("corpus", pa.string()),
        ("rows", pa.list_(pa.int32())),
    ]
)

# Stands for the target corpus among the shares and decks of a run with `steps_of_weight`.
_SECOND_DECK = ""


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        step: its number, from 0.
        epoch: the epoch to which it belongs, from 0.
        corpus: the corpus that gives the batch.
        rows: (N,) int32, the items of the corpus's training features in the batch.
    """

    step: int
    epoch: int
    corpus: str
    rows: np.ndarray


def shares(
    corpora: dict[str, CorpusSettings], target: str, weight: float, spread: str
) -> dict[str, float]:
    """Return the probability of each corpus at a step, in the order of `corpora`.

    Args:
        corpora: the mixture.
        target: its target.
        weight: the probability of the target.
        spread: `datasets` or `families`, over which the rest is spread evenly.
    """
    families: dict[Family, list[str]] = {}
    for name, corpus in corpora.items():
        if name != target:
            families.setdefault(corpus.family, []).append(name)
    rest = 1 - weight
    if spread == "families":
        auxiliary = {
            name: rest / len(families) / len(names) for names in families.values() for name in names
        }
    else:
        count = sum(map(len, families.values()))
        auxiliary = {name: rest / count for names in families.values() for name in names}
    return {name: weight if name == target else auxiliary[name] for name in corpora}


class _Deck:
    """The batches of one corpus, cut from shuffled rows and popped one by one."""

    def __init__(self, size: int, batch_size: int, recut: bool, random: np.random.Generator):
        self._size, self._batch_size, self._random = size, batch_size, random
        self._fixed = None if recut else self._cut()
        self._left: list[np.ndarray] = []

    def _cut(self) -> list[np.ndarray]:
        order = self._random.permutation(self._size).astype(np.int32)
        return np.split(order, range(self._batch_size, self._size, self._batch_size))

    def refill(self) -> None:
        """Fill the deck: cut it again, or bring the batches of the first cut into a new order."""
        if self._fixed is None:
            self._left = self._cut()[::-1]  # popped from the end: the smaller batch comes last
        else:
            self._left = [self._fixed[i] for i in self._random.permutation(len(self._fixed))]

    def __len__(self) -> int:
        return len(self._left)

    def pop(self) -> np.ndarray:
        return self._left.pop()


def draw(
    probabilities: dict[str, float],
    target: str,
    sizes: dict[str, int],
    *,
    settings: ScheduleSettings,
    training: TrainingSettings,
    seed: int,
) -> Iterator[Step]:
    """Draw all steps of a run (the paper's algorithm 1).

    With `steps_of_weight` the target corpus has a second deck, in an order of its own, which
    takes the place of a mixture's other corpora: with the same seed there are as many steps as in
    a mixture whose first corpus is the target one.

    Args:
        probabilities: share of each corpus, summing to 1.
        target: the question-answering corpus; an epoch ends with its last batch.
        sizes: number of training items of each corpus.
        settings: what happens when an auxiliary corpus runs dry, and at each new epoch.
        training: the batch size (the last batch of a pass may be smaller) and the epochs, which
            are passes over the target corpus.
        seed: the run's seed.
    """
    # A stream for each corpus and one for the draws: adding a corpus does not move other batches.
    random = np.random.default_rng([seed, 0])

    def deck(corpus: str, stream: int) -> _Deck:
        own = np.random.default_rng([seed, stream, *corpus.encode()])
        return _Deck(sizes[corpus], training.batch_size, settings.recut == "each_epoch", own)

    decks = {name: deck(name, 1) for name in probabilities}
    if settings.steps_of_weight:
        weight = settings.steps_of_weight
        probabilities = {target: weight, _SECOND_DECK: 1 - weight}
        decks[_SECOND_DECK] = deck(target, 2)
    number = 0
    for epoch in range(training.epochs):
        for each in decks.values():
            each.refill()
        while decks[target]:
            name = _pick(random.random(), _current(probabilities, target, decks, settings))
            if not decks[name]:
                if settings.dry == "skip":
                    continue
                decks[name].refill()
            yield Step(number, epoch, name or target, decks[name].pop())
            number += 1


def _current(
    probabilities: dict[str, float],
    target: str,
    decks: dict[str, _Deck],
    settings: ScheduleSettings,
) -> dict[str, float]:
    """The shares at this step: `renormalise` gives a dry corpus's share to the other auxiliaries.

    The share of question answering is constant until no auxiliary batch is left.
    """
    if settings.dry != "renormalise":
        return probabilities
    left = {n: p for n, p in probabilities.items() if n != target and decks[n]}
    if not left:
        return {target: 1.0}
    scale = (1 - probabilities[target]) / sum(left.values())
    return {target: probabilities[target], **{n: p * scale for n, p in left.items()}}


def _pick(uniform: float, probabilities: dict[str, float]) -> str:
    """The corpus whose interval of the cumulative shares contains `uniform`."""
    names = list(probabilities)
    place = np.searchsorted(np.cumsum(list(probabilities.values())), uniform, side="right")
    return names[min(int(place), len(names) - 1)]  # the shares may sum to a hair below 1


def of_run(run: RunSettings, sizes: dict[str, int]) -> Iterator[Step]:
    """Draw the steps of a run whose corpora have `sizes` training items."""
    return draw(
        shares(run.corpora, run.target, run.weight, run.schedule.spread),
        run.target,
        sizes,
        settings=run.schedule,
        training=run.training,
        seed=run.seed,
    )


def write(run_dir: Path, run: RunSettings, force: bool = False) -> None:
    """Draw a run's schedule from the sizes of its features and write it to its folder.

    Args:
        run_dir: the run's folder.
        run: its resolved settings.
        force: replace the schedule of a finished run, whose products are then removed.

    Raises:
        MtdnnError: the folder holds a run with another schedule, and `force` is false.
    """
    files = RunFolder(run_dir)
    sizes = {name: len(f) for name, f in training_features(Layout.of_run(run_dir), run).items()}
    table = _table(list(of_run(run, sizes)))
    try:
        if pq.read_table(files.schedule).equals(table):
            print(f"mtdnn: {files.schedule}: up to date", file=sys.stderr)
            return
    except (OSError, pa.ArrowInvalid):
        pass  # missing or damaged
    if files.description.exists() and not force:
        raise MtdnnError(
            f"{files.schedule}: belongs to a run trained under other settings; "
            "train the run again, or use --force to remove its products"
        )
    with publishing(run_dir, outdated_by("schedule")) as folder:
        pq.write_table(table, RunFolder(folder).schedule, compression="zstd")


def save(steps: Sequence[Step], path: Path) -> None:
    """Write a schedule to the file `path`."""
    pq.write_table(_table(steps), path, compression="zstd")


def _table(steps: Sequence[Step]) -> pa.Table:
    columns = {
        "step": [s.step for s in steps],
        "epoch": [s.epoch for s in steps],
        "corpus": [s.corpus for s in steps],
        "rows": [s.rows for s in steps],
    }
    return pa.table(columns, schema=SCHEMA)


def read(run_dir: Path, sizes: dict[str, int]) -> list[Step]:
    """Read the schedule of a run whose corpora have `sizes` training items.

    Raises:
        MtdnnError: the schedule is not readable, or was drawn for other features.
    """
    path = RunFolder(run_dir).schedule
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowInvalid) as error:
        raise MtdnnError(f"{path}: not a readable schedule ({error}); draw it again") from None
    numbers, epochs = table["step"].to_pylist(), table["epoch"].to_pylist()
    corpora, rows = table["corpus"].to_pylist(), table["rows"].combine_chunks()
    values, offsets = rows.values.to_numpy(), rows.offsets.to_numpy()
    steps = [
        Step(number, epoch, corpus, values[offsets[i] : offsets[i + 1]])
        for i, (number, epoch, corpus) in enumerate(zip(numbers, epochs, corpora, strict=True))
    ]
    for step in steps:
        if step.rows.max() >= sizes.get(step.corpus, 0):
            raise MtdnnError(
                f"{path}: step {step.step} needs item {step.rows.max()} of {step.corpus}, which "
                f"has {sizes.get(step.corpus, 0)}; its features have changed: draw it again"
            )
    return steps
