"""The schedule of a run, drawn before training.

It says for every step which corpus gives the batch and which items are in it. By default that is
weighted stochastic batch selection, the paper's algorithm 1; `policies` has the other ways. It
depends only on the run's settings, its seed and the sizes of its corpora.
"""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtdnn.config.layout import Layout, RunFolder, outdated_by
from mtdnn.config.phases import RunPhase, phases_of_run
from mtdnn.config.settings import RunSettings
from mtdnn.data.features import training_features
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import reading_parquet
from mtdnn.machine.staging import publishing
from mtdnn.training.policies import Supply, order, shares

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("phase", pa.int16()),
        ("epoch", pa.int16()),
        ("corpus", pa.string()),
        ("rows", pa.list_(pa.int32())),
    ]
)

# Stands for the target corpus among the shares and decks of a run with `steps_of_weight`.
_SECOND_DECK = ""


@dataclass(frozen=True)
class Step:
    """One step of a run, or the part of a joint step that one of its corpora has.

    Attributes:
        step: its number, from 0; the parts of a joint step follow each other with the same one.
        epoch: the epoch of the phase to which it belongs, from 0.
        corpus: the corpus that gives the batch.
        rows: (N,) int32, the items of the corpus's training features in the batch.
        phase: the phase to which it belongs, from 0.
    """

    step: int
    epoch: int
    corpus: str
    rows: np.ndarray
    phase: int = 0


class _Deck:
    """The batches of one corpus, cut from shuffled rows and popped one by one."""

    def __init__(self, supply: Supply, recut: bool, random: np.random.Generator):
        self._size, self._batch_size, self._random = supply.size, supply.batch_size, random
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


class _Batch(NamedTuple):
    """A batch of a phase, before its step has a number."""

    epoch: int
    corpus: str
    rows: np.ndarray


def draw(
    phases: Sequence[RunPhase], supplies: Mapping[str, Supply], weight: float, seed: int
) -> Iterator[Step]:
    """Draw all steps of a run.

    Args:
        phases: its phases.
        supplies: what each of its corpora can give.
        weight: the share of the target, for the policy `weighted`.
        seed: the run's seed.
    """
    steps = itertools.count()
    for number, phase in enumerate(phases):
        for batches in _draw_phase(phase, supplies, weight, (seed, number)):
            step = next(steps)
            yield from (Step(step, epoch, name, rows, number) for epoch, name, rows in batches)


def _draw_phase(
    phase: RunPhase, supplies: Mapping[str, Supply], weight: float, seeds: tuple[int, int]
) -> Iterator[list[_Batch]]:
    """Draw the batches of a phase, those of each step together.

    With `steps_of_weight` the target corpus has a second deck, in an order of its own, which
    takes the place of a mixture's other corpora: with the same seed there are as many steps as in
    a mixture whose first corpus is the target one.

    Args:
        phase: the phase.
        supplies: what each corpus can give.
        weight: the share of the target.
        seeds: the run's seed, and the number of the phase.
    """
    # A stream for each corpus and one for the draws: adding a corpus does not move other batches.
    # Each phase has its own; the first has the numbers 0 to 2.
    seed, number = seeds
    random = np.random.default_rng([seed, 0, number])

    def deck(corpus: str, stream: int) -> _Deck:
        own = np.random.default_rng([seed, stream, *corpus.encode()])
        return _Deck(supplies[corpus], phase.schedule.recut == "each_epoch", own)

    decks = {name: deck(name, number + 2 if number else 1) for name in phase.corpora}
    if longer := phase.schedule.steps_of_weight:
        assert phase.target is not None, "a control of the target alone"
        decks[_SECOND_DECK] = deck(phase.target, 2)
    in_order = order(phase, supplies, random)
    taken = 0
    for epoch in range(phase.epochs):
        if phase.end != "steps":
            for each in decks.values():
                each.refill()
        if longer:
            probabilities = {phase.corpora[0]: longer, _SECOND_DECK: 1 - longer}
        else:
            probabilities = shares(phase, supplies, weight, epoch)
        names = in_order or _drawn(probabilities, phase, decks, random)
        used_up: set[str] = set()
        while not _is_over(phase, decks, used_up, taken, epoch):
            chosen = phase.corpora if phase.schedule.joint else (next(names),)
            if not phase.refills and not decks[chosen[0]]:
                continue
            batches = []
            for name in chosen:
                if not decks[name]:
                    decks[name].refill()
                batches.append(_Batch(epoch, name or phase.corpora[0], decks[name].pop()))
            yield batches
            taken += 1
            used_up.update(name for name in chosen if not decks[name])


def _is_over(
    phase: RunPhase, decks: Mapping[str, _Deck], used_up: set[str], taken: int, epoch: int
) -> bool:
    """Whether an epoch of a phase is over.

    Args:
        phase: the phase.
        decks: the batches that are left of each corpus.
        used_up: the corpora that have run dry in this epoch.
        taken: number of steps in the phase so far.
        epoch: the epoch, from 0.
    """
    if phase.end == "target":
        return not decks[phase.target or ""]
    if phase.end == "every_corpus":
        return len(used_up) == len(decks)
    return taken == (phase.schedule.steps or 0) * (epoch + 1) // phase.epochs


def _drawn(
    probabilities: dict[str, float],
    phase: RunPhase,
    decks: Mapping[str, _Deck],
    random: np.random.Generator,
) -> Iterator[str]:
    """Draw corpora without end, each in view of the decks at that moment."""
    divides = phase.schedule.dry == "renormalise" and not phase.refills
    while True:
        yield _pick(
            random.random(),
            _left(probabilities, phase.target, decks) if divides else probabilities,
        )


def _left(
    probabilities: dict[str, float], target: str | None, decks: Mapping[str, _Deck]
) -> dict[str, float]:
    """The shares at this step if those of dry corpora go to the others.

    The share of the target is constant until no other batch is left, or it runs dry itself.
    """
    left = {n: p for n, p in probabilities.items() if n != target and decks[n]}
    kept = probabilities[target] if target is not None and decks[target] else 0.0
    if not left:
        return {target: 1.0} if target is not None else probabilities
    scale = (1 - kept) / sum(left.values())
    return {
        **({target: kept} if target is not None and kept else {}),
        **{n: p * scale for n, p in left.items()},
    }


def _pick(uniform: float, probabilities: dict[str, float]) -> str:
    """The corpus whose interval of the cumulative shares contains `uniform`."""
    names = list(probabilities)
    place = np.searchsorted(np.cumsum(list(probabilities.values())), uniform, side="right")
    return names[min(int(place), len(names) - 1)]  # the shares may sum to a hair below 1


def supplies_of(run: RunSettings, sizes: Mapping[str, int]) -> dict[str, Supply]:
    """Return what each corpus of a run can give, from the number of its training items."""
    return {
        name: Supply(corpus.family, sizes[name], run.training.batch_size_of(name))
        for name, corpus in run.corpora.items()
    }


def of_run(run: RunSettings, sizes: Mapping[str, int]) -> Iterator[Step]:
    """Draw the steps of a run whose corpora have `sizes` training items; an average has none."""
    if run.training.average:
        return iter(())
    return draw(phases_of_run(run), supplies_of(run, sizes), run.weight, run.seed)


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
    table = _table(list(of_run(run, sizes)), sizes)
    try:
        if pq.read_table(files.schedule).equals(table):
            print(f"mtdnn: {files.schedule}: up to date", file=sys.stderr)
            return
    except (OSError, pa.ArrowException):
        pass  # missing or damaged
    if files.description.exists() and not force:
        raise MtdnnError(
            f"{files.schedule}: belongs to a run trained under other settings; "
            "train the run again, or use --force to remove its products"
        )
    with publishing(run_dir, outdated_by("schedule")) as folder:
        pq.write_table(table, RunFolder(folder).schedule, compression="zstd")


def save(steps: Sequence[Step], sizes: Mapping[str, int], path: Path) -> None:
    """Write a schedule to the file `path`, with the sizes of the corpora for which it was drawn."""
    pq.write_table(_table(steps, sizes), path, compression="zstd")


def _table(steps: Sequence[Step], sizes: Mapping[str, int]) -> pa.Table:
    columns = {
        "step": [s.step for s in steps],
        "phase": [s.phase for s in steps],
        "epoch": [s.epoch for s in steps],
        "corpus": [s.corpus for s in steps],
        "rows": [s.rows for s in steps],
    }
    return pa.table(columns, schema=SCHEMA.with_metadata({"sizes": json.dumps(dict(sizes))}))


def length(steps: Sequence[Step]) -> int:
    """Return the number of steps of a whole schedule; a joint one counts once."""
    return steps[-1].step + 1 if steps else 0


def counts(run_dir: Path) -> list[dict[str, int]]:
    """Return the number of batches of each corpus, in each phase, of a run's schedule.

    There are none if the file is missing or damaged.
    """
    try:
        table = pq.read_table(RunFolder(run_dir).schedule, columns=["phase", "corpus"])
    except (OSError, pa.ArrowException):
        return []
    phases: dict[int, dict[str, int]] = {}
    for each in table.group_by(["phase", "corpus"]).aggregate([([], "count_all")]).to_pylist():
        phases.setdefault(each["phase"], {})[each["corpus"]] = each["count_all"]
    return [phases[number] for number in sorted(phases)]


def numbers_of_steps(run: RunSettings, batches: Sequence[Mapping[str, int]]) -> list[int]:
    """Return the number of steps of each phase of a run from that of each corpus's batches."""
    return [
        max(each.values()) if phase.schedule.joint else sum(each.values())
        for phase, each in zip(phases_of_run(run), batches, strict=False)
    ]


def intended_shares(run_dir: Path, run: RunSettings) -> list[dict[str, float]]:
    """Return the share of the batches that each corpus should have, for each phase of a run.

    Args:
        run_dir: the run's folder, with its schedule.
        run: its settings.
    """
    path = RunFolder(run_dir).schedule
    with reading_parquet(path):
        metadata = pq.read_schema(path).metadata or {}
    sizes = json.loads(metadata.get(b"sizes", b"{}"))
    supplies = supplies_of(run, {name: sizes.get(name, 1) for name in run.corpora})
    expected = []
    for phase in phases_of_run(run):
        if phase.schedule.joint:
            expected.append(dict.fromkeys(phase.corpora, 1 / len(phase.corpora)))
            continue
        epochs = [shares(phase, supplies, run.weight, epoch) for epoch in range(phase.epochs)]
        expected.append(
            {name: sum(each[name] for each in epochs) / phase.epochs for name in phase.corpora}
        )
    return expected
