"""What it costs a training to say how it goes: steps with a journal against the same without.

The steps are the smallest that there are, single sentences, so the share is the largest. What
else belongs to tracking runs in another process, and never waits for a server.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mtdnn.bench.harness import Options, compare
from mtdnn.bench.material import gather
from mtdnn.bench.train import Ours, random_batches, smallest
from mtdnn.training.journal import Journal, memory_mib
from mtdnn.training.loop import STEPS_BETWEEN_READS

PORTIONS = 4
LINES = 20_000  # of the direct measurement


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """Steps with a journal against steps without; how long a line takes by itself."""
    material = gather(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = smallest(material)
    batches = random_batches(material.features[corpus], PORTIONS * STEPS_BETWEEN_READS)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    with tempfile.TemporaryDirectory() as room, _journal(Path(room), corpus) as journal:
        lines = _Lines(corpus)
        alone = _seconds_per_line(journal, lines)
        training = Ours(material, corpus, device)

        def portion(number: int, said: bool) -> Callable[[], None]:
            own = batches[number * STEPS_BETWEEN_READS : (number + 1) * STEPS_BETWEEN_READS]

            def work() -> None:
                for step in training.steps(own):
                    step()
                if said:
                    journal.add(lines.next(len(own)))

            return work

        sides = [[portion(n, said) for n in range(PORTIONS)] for said in (True, False)]
        result = compare("journal", "without", *sides, options.rounds, wait, **material.facts)
    result["journal_s"] = alone
    step = result["peer_s"] / STEPS_BETWEEN_READS
    result["cost"] = f"{1e6 * alone:.0f} µs a step, {100 * alone / step:.2f} % of the smallest"
    yield result


def _journal(folder: Path, corpus: str) -> Journal:
    about = {"fingerprint": "f", "started": "2026-01-01", "corpora": {corpus: 10 * LINES}}
    return Journal(folder, about, lambda: {"memory_mib": memory_mib()})


class _Lines:
    """Lines of a training log, one step after the other."""

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
    """Time of a line, written as in training: a few at a time."""
    made = [lines.next(STEPS_BETWEEN_READS) for _ in range(LINES // STEPS_BETWEEN_READS)]
    start = time.perf_counter()
    for some in made:
        journal.add(some)
    return (time.perf_counter() - start) / LINES
