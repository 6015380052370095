"""Put every remedy for interference to a case with a known conflict and to one without.

`python -m tests.support.constructed --seeds 10` prints what it does. Encoders are tiny and have
random weights; corpora are sentences such as "the red house". The label of the target's sentence
is its colour. A second corpus has the same sentences; where there is a conflict, its label is the
thing, which contradicts the target's label in three sentences of four, and where there is none, it
is the colour too.

A head of its own would undo labels that were merely exchanged, so a conflict must reach the
encoder:

forgetting
    The second corpus follows the target. The weights turn to the thing, and the target's head,
    which stands still, no longer finds the colour.
domination
    Both corpora are in each step, the loss of the second with a factor, so that the mean of the
    gradients is hardly the target's, and the encoder learns the thing alone.

In each, a remedy is compared with the same training without it, seed by seed: a seed has its own
weights and its own sentences. All is deterministic on a CPU.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.loading import parse
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data import tokenising
from mtdnn.data.corpora.fetching import fetch
from mtdnn.evaluation.predictions import evaluate
from mtdnn.machine.files import write_text
from mtdnn.statistics.level import CONFIDENCE
from mtdnn.training import schedule
from mtdnn.training.loop import train
from tests.support.tiny import make_encoder

COLOURS = ["red", "green", "blue", "white"]
THINGS = ["house", "river", "trees", "grow"]
LABELS = ["first", "second", "third", "fourth"]
FILLERS = ["the", "a", "and", "old"]
FAMILY = "sequence_classification"
TARGET, OTHER = "target", "other"
ROWS = {"train": 320, "dev": 160}
SIZES = {
    **{"num_hidden_layers": 1, "num_attention_heads": 1},
    **{"hidden_size": 16, "intermediate_size": 32},
}
PLAIN = "plain"


@dataclass(frozen=True)
class Construction:
    """A way in which a second corpus can get in the way of the target.

    Attributes:
        schedule: the schedule of all runs.
        training: settings of all runs.
        remedies: the settings of training of each remedy, which are added to those of all runs.
        schedules: the schedules of remedies that have another one.
        help: the remedies that should help where there is a conflict. Where the gradient of one
            corpus is far longer, only Nash-MTL should, which does not depend on lengths.
    """

    schedule: dict[str, Any]
    training: dict[str, Any]
    remedies: dict[str, dict[str, Any]]
    help: frozenset[str]
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)


FIRST = {"corpora": [TARGET], "steps": 100}
THEN = {"corpora": [OTHER], "steps": 100, "restart": True}
FISHER = {"to": "phase_start", "by": "true_fisher", "corpus": TARGET, "items": 64}
CONSTRUCTIONS = {
    "forgetting": Construction(
        schedule={"phases": [FIRST, THEN]},
        training={},
        remedies={
            "successive": {"anchor": {"to": "phase_start", "strength": 1}},
            "ewc": {"anchor": {**FISHER, "strength": 1e5}},
            "own_lora": {"lora": {"per": "corpus", "rank": 16, "alpha": 32}},
            "packnet": {},
        },
        schedules={"packnet": {"phases": [{**FIRST, "prune": 0.5}, THEN]}},
        help=frozenset({"successive", "ewc", "own_lora", "packnet"}),
    ),
    "domination": Construction(
        schedule={"joint": True, "policy": "uniform", "steps": 100},
        training={"loss_weights": {OTHER: 20}},
        remedies={
            "pcgrad": {"combine": "pcgrad"},
            "gradvac": {"combine": "gradvac"},
            "cagrad": {"combine": "cagrad"},
            "upgrad": {"combine": "upgrad"},
            "nash_mtl": {"combine": "nash_mtl"},
            "uncertainty": {"loss_balancing": "uncertainty"},
            "dynamic_average": {"loss_balancing": "dynamic_average"},
        },
        help=frozenset({"nash_mtl"}),
    ),
}


# --- one run ---------------------------------------------------------------------------------


def write_sentences(folder: Path, draw: random.Random, conflict: bool) -> None:
    """Write the sentences of both corpora, `{corpus}-{split}.jsonl`, into a folder."""
    for split, count in ROWS.items():
        lines: dict[str, list[str]] = {TARGET: [], OTHER: []}
        for _ in range(count):
            colour, thing = draw.randrange(len(COLOURS)), draw.randrange(len(THINGS))
            text = f"{draw.choice(FILLERS)} {COLOURS[colour]} {THINGS[thing]}"
            for name, label in ((TARGET, colour), (OTHER, thing if conflict else colour)):
                lines[name].append(json.dumps({"text": text, "label": LABELS[label]}) + "\n")
        for name, written in lines.items():
            write_text(folder / f"{name}-{split}.jsonl", "".join(written))


def corpus(name: str, folder: Path) -> dict[str, Any]:
    """Return the settings of a corpus of these files."""
    splits = {split: [f"{name}-{split}.jsonl"] for split in ROWS}
    columns = {"sentence1": "text", "label": "label"}
    return {
        "label": name,
        "family": FAMILY,
        "labels": LABELS,
        "source": {
            **{"kind": "files", "root": str(folder), "format": "jsonl"},
            **{"splits": splits, "columns": columns},
        },
    }


def settings(
    folder: Path, construction: Construction, remedy: str, seed: int
) -> tuple[Experiment, RunId]:
    """Return an experiment on the sentences in a folder, and its single run."""
    row = {"encoder": "tiny", "mixture": "both"}
    experiment = parse(
        {
            "experiment": "constructed",
            "title": "Constructed",
            "results": str(folder / "results"),
            "seeds": [seed],
            "encoders": {"tiny": {"label": "tiny", "source": {"kind": "hub", "repo": "no/where"}}},
            "corpora": {each: corpus(each, folder) for each in (TARGET, OTHER)},
            "mixtures": {"both": {"label": "both", "corpora": [TARGET, OTHER], "target": TARGET}},
            "features": {"max_length": 16},
            "schedule": construction.schedules.get(remedy, construction.schedule),
            "training": {
                **{"batch_size": 16, "learning_rate": 3e-2, "weight_decay": 0},
                **{"head_dropout": 0, "encoder_dropout": 0},
                "interference": {"measurements": 0, "dev_items": 0},
                **construction.training,
                **construction.remedies.get(remedy, {}),
            },
            "slices": {"dev": {"label": "dev"}},
            "tables": {"t": {"title": "t", "rows": [row]}},
        },
        "constructed",
    )
    (run_id,) = experiment.runs()
    return experiment, run_id


def scores(construction: Construction, remedy: str, conflict: bool, seed: int) -> dict[str, float]:
    """Train and evaluate a run; return the accuracy of each corpus in percent."""
    silent = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.redirect_stdout(silent),
        contextlib.redirect_stderr(silent),
    ):
        folder = Path(name)
        write_sentences(folder, random.Random(seed), conflict)
        experiment, run_id = settings(folder, construction, remedy, seed)
        layout, run = experiment.layout, experiment.resolve(run_id)
        encoder, run_dir = layout.encoder("tiny"), layout.run(run_id)
        make_encoder(encoder, seed=seed, **SIZES)
        for each, described in run.corpora.items():
            rows, features = layout.corpus(each), layout.features("tiny", "default", each)
            fetch(each, described, root=str(folder), lock=folder / "lock", output=rows)
            tokenising.prepare(
                family=FAMILY,
                settings=run.features,
                encoder=encoder,
                corpus=rows,
                output=features,
            )
        write_text(run_dir / "config.yaml", dump_yaml(run))
        schedule.write(run_dir, run)
        train(run_dir, run, threads=1)
        evaluate(run_dir, run, threads=1)
        return accuracies(RunFolder(run_dir))


def accuracies(files: RunFolder) -> dict[str, float]:
    """Return the accuracy of each corpus of an evaluated run on its dev split, in percent."""
    found = pq.read_table(files.auxiliary).to_pylist()
    return {
        name: 100 * float(np.mean([row["label"] == row["prediction"] for row in own]))
        for name in (TARGET, OTHER)
        if (own := [row for row in found if row["corpus"] == name and row["split"] == "dev"])
    }


# --- many runs -------------------------------------------------------------------------------


class Difference(NamedTuple):
    """A mean over seeds with its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+6.1f} [{self.low:+6.1f}, {self.high:+6.1f}]"


def difference(plain: Sequence[float], other: Sequence[float]) -> Difference:
    """Return the mean of paired differences with Student's interval."""
    values = np.subtract(other, plain)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return Difference(values.mean(), values.mean() - half, values.mean() + half)


class Outcome(NamedTuple):
    """What a remedy did in one case, over seeds.

    Attributes:
        construction, remedy, conflict: the case.
        plain: mean accuracy of the target without the remedy.
        target, other: what the remedy changes in the accuracy of both corpora.
    """

    construction: str
    remedy: str
    conflict: bool
    plain: float
    target: Difference
    other: Difference


def outcomes(
    name: str, remedies: Sequence[str], conflict: bool, seeds: Sequence[int]
) -> Iterator[Outcome]:
    """Yield what each of some remedies does in a construction, over seeds."""
    construction = CONSTRUCTIONS[name]

    def over_seeds(remedy: str) -> dict[str, list[float]]:
        found = [scores(construction, remedy, conflict, seed) for seed in seeds]
        return {corpus: [each[corpus] for each in found] for corpus in (TARGET, OTHER)}

    plain = over_seeds(PLAIN)
    for remedy in remedies:
        changed = over_seeds(remedy)
        both = [difference(plain[corpus], changed[corpus]) for corpus in (TARGET, OTHER)]
        yield Outcome(name, remedy, conflict, float(np.mean(plain[TARGET])), *both)


def fails(outcome: Outcome) -> bool:
    """Whether a remedy does not help where it should, or hurts where nothing is in conflict."""
    if not outcome.conflict:
        return outcome.target.high < 0
    return outcome.remedy in CONSTRUCTIONS[outcome.construction].help and outcome.target.low <= 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.constructed")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", metavar="REMEDY", help="some of the remedies")
    arguments = parser.parse_args()
    seeds, failed = range(1, arguments.seeds + 1), 0
    print(
        f"accuracy in percent; differences with {CONFIDENCE:.0%} intervals over {len(seeds)} seeds"
    )
    for name, construction in CONSTRUCTIONS.items():
        remedies = [each for each in construction.remedies if each in (arguments.only or each)]
        for conflict in (True, False) if remedies else ():
            print(f"\n{name}, {'with' if conflict else 'without'} conflict")
            print(f"{'':16} {'plain':>6} {'target':>24} {'other corpus':>24}", flush=True)
            for outcome in outcomes(name, remedies, conflict, seeds):
                failed += fails(outcome)
                verdict = "  FAILS" if fails(outcome) else ""
                row = f"{outcome.remedy:16} {outcome.plain:6.1f} {outcome.target!s:>24}"
                print(f"{row} {outcome.other!s:>24}{verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
