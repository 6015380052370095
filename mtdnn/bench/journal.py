"""The cost of the journal in training: steps with a journal against the same steps without.

The steps are the smallest ones, on single sentences, so the journal's share is the largest. The
rest of tracking runs in another process, and training never waits for a server.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mtdnn.bench.harness import Options, Timing, Work, compare
from mtdnn.bench.material import gather
from mtdnn.bench.train import Ours, random_batches, smallest
from mtdnn.training.journal import Journal
from mtdnn.training.loop import STEPS_BETWEEN_READS
from mtdnn.training.usage import memory_mib

PORTIONS = 4
LINES = 20_000  # of the direct measurement


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """Yield one case: steps with a journal against steps without, and the time of a line alone."""
    material = gather(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = smallest(material)
    batches = random_batches(material.features[corpus], PORTIONS * STEPS_BETWEEN_READS)
    with tempfile.TemporaryDirectory() as folder, _journal(Path(folder), corpus) as journal:
        lines = _Lines(corpus)
        alone = _seconds_per_line(journal, lines)
        training = Ours(material, corpus, device)

        def portion(number: int, journaled: bool) -> Work:
            own = batches[number * STEPS_BETWEEN_READS : (number + 1) * STEPS_BETWEEN_READS]

            def work() -> None:
                for step in training.steps(own):
                    step()
                if journaled:
                    journal.add(lines.next(len(own)))

            return work

        with_journal, without = (
            [portion(n, journaled) for n in range(PORTIONS)] for journaled in (True, False)
        )
        timing = Timing.on(device, options.rounds)
        result = compare("journal", "without", with_journal, without, timing, material.facts)
    result["journal_s"] = alone
    step = result["peer_s"] / STEPS_BETWEEN_READS
    result["cost"] = f"{1e6 * alone:.0f} µs per step, {100 * alone / step:.2f} % of the smallest"
    yield result


def _journal(folder: Path, corpus: str) -> Journal:
    about = {"fingerprint": "f", "started": "2026-01-01", "corpora": {corpus: 10 * LINES}}
    return Journal(folder, about, lambda: {"memory_mib": memory_mib()})


class _Lines:
    """Makes lines of a training log, step after step."""

    def __init__(self, corpus: str):
        self._corpus, self._step = corpus, 0

    def next(self, count: int) -> list[dict[str, Any]]:
        first, self._step = self._step, self._step + count
        return [
            {
                "step": step,
                "epoch": 0,
                "corpus": self._corpus,
                "loss": 0.123456789 + step,
                "lr": 2.987654321e-05,
                "grad_norm": 1.23456789,
                "tokens": 1024,
                "seconds": 0.123 * step,
            }
            for step in range(first, first + count)
        ]


def _seconds_per_line(journal: Journal, lines: _Lines) -> float:
    """Return the seconds per line, written as in training: a few at a time."""
    batches = [lines.next(STEPS_BETWEEN_READS) for _ in range(LINES // STEPS_BETWEEN_READS)]
    start = time.perf_counter()
    for batch in batches:
        journal.add(batch)
    return (time.perf_counter() - start) / LINES
