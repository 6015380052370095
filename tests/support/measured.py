"""Measurements of gradients and dev losses in the logs of made-up runs."""

import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path

from mtdnn.config.layout import RunFolder
from mtdnn.config.loading import load_run
from mtdnn.machine.files import write_text

PARTS = ("encoder", "embeddings", "layer 1", "layer 2", "layer 3", "other")


def measure(
    folder: Path, cosines: Mapping[str, float], noise: float = 0.02, times: int = 8
) -> None:
    """Add measurements to the training log of a made-up run.

    Args:
        folder: the run's folder.
        cosines: the early cosine of each auxiliary corpus with the target; it falls by 0.1.
        noise: standard deviation of the noise of each cosine.
        times: number of measurements.
    """
    files = RunFolder(folder)
    run = load_run(files.config)
    draw = random.Random(str(folder))
    lines = [json.loads(line) for line in files.log.read_text().splitlines()]
    names = [run.target, *(name for name in run.corpora if name != run.target)]
    for number in range(times if len(names) > 1 else 0):
        place = (number + 0.5) / times
        line = lines[int(place * len(lines))]

        def cosine(a: str, b: str, place: float = place) -> float:
            value = cosines[b] if a == run.target else cosines[a] * cosines[b]
            return round(value - 0.1 * (place > 0.5) + draw.gauss(0, noise), 6)

        pairs = list(itertools.combinations(names, 2))
        line["gradients"] = {
            "norm": dict.fromkeys(names, 1.5),
            "cosine": {part: {f"{a}/{b}": cosine(a, b) for a, b in pairs} for part in PARTS},
        }
    for end in (len(lines) // 2 - 1, len(lines) - 1):
        lines[end]["dev_loss"] = {
            name: round(1 + draw.random() - end / len(lines), 6) for name in names
        }
    write_text(files.log, "".join(json.dumps(line) + "\n" for line in lines))
