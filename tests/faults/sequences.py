"""Random sequences of commands and faults."""

import random
from dataclasses import dataclass

from tests.faults.experiment import CALM, FOREIGN, LAYOUT, QA, QA_SC, ROOT, RUNS, VERSIONS
from tests.faults.process import Command, Fault

ACTIONS = (4, 8)
"""Fewest and most actions of a sequence."""
CHANGES = {
    **{"train": 100, "run": 60, "evaluate": 18, "metrics": 14, "schedule": 9, "resolve": 6},
    **{"import": 125, "features": 16, "corpus": 22, "encoder": 22, "statistics": 26},
    **{"table": 16, "summary": 6, "sync": 12, "verify": 112},
}
"""About how many changes of files a command makes, in which a fault can come."""
SHARE_OF_SNAKEMAKE = 0.05
CHANGED_CLOCK_SECONDS = 600


@dataclass(frozen=True)
class Call:
    """A command with a fault, perhaps with another command beside it."""

    command: Command
    fault: Fault | None = None
    beside: Command | None = None


@dataclass(frozen=True)
class Damage:
    """A file is cut in half, removed, or has one byte changed: one of those that match a pattern.

    Attributes:
        pattern: below the folder of results.
        choice: picks one of the matching files, whatever their number.
        way: "halve", "rm" or "flip".
    """

    pattern: str
    choice: int
    way: str


Action = Call | Damage

_RUN = "runs/*/*/*/*/*/"
WITH_DIGESTS = (
    *(
        "encoders/*/config.json",
        "encoders/*/tokenizer*.json",
        "encoders/*/*.safetensors",
        "corpora/*/*.parquet",
    ),
    *("features/*/*/*/*.arrow", _RUN + "model/*.safetensors", _RUN + "model/tokenizer.json"),
    *(_RUN + "schedule.parquet", _RUN + "training.jsonl"),
)
"""Of these files, every bit counts; they are the ones whose digests stand in another file."""
OTHERS = (
    *("encoders/*/manifest.json", "corpora/*/manifest.json", "features/*/*/*/features.json"),
    *(_RUN + "model/run.json", _RUN + "*.parquet", _RUN + "metrics.json", _RUN + "config.yaml"),
    *("state/**/*", "tables/*"),
)
"""A half of one of these files cannot be taken for the whole."""


def draw(seed: int, can_fill: bool = True, with_snakemake: bool = True) -> list[Action]:
    """Return the sequence with this seed.

    Args:
        seed: its number.
        can_fill: whether there is a disk that can be filled.
        with_snakemake: whether a few of them call Snakemake, which takes a minute.
    """
    random_ = random.Random(seed)
    actions = [_action(random_, can_fill) for _ in range(random_.randint(*ACTIONS))]
    if with_snakemake and random_.random() < SHARE_OF_SNAKEMAKE:
        place, delay = random_.randrange(len(actions)), random_.randint(2_000, 30_000)
        fault = random_.choice([None, Fault("SIGTERM", 0, delay)])
        actions.insert(place, Call(("snakemake", CALM, "table1"), fault))
    return actions


def _action(draw: random.Random, can_fill: bool) -> Action:
    if draw.random() < 0.12:
        patterns, ways = (WITH_DIGESTS, ["halve", "flip", "flip", "rm"])
        if draw.random() < 0.5:
            patterns, ways = (OTHERS, ["halve", "halve", "rm"])
        return Damage(draw.choice(patterns), draw.randrange(10**6), draw.choice(ways))
    command, other = _command(draw), None
    if draw.random() < 0.25:
        other = _command(draw)
    kinds = ["SIGKILL"] * 5 + ["SIGTERM"] * 2 + ["SIGINT", "clock"] + ["full"] * (2 * can_fill)
    fault = None
    if other and draw.random() < 0.6:
        fault = Fault("SIGSTOP", _place(draw, command))
    elif draw.random() < 0.7:
        fault = _fault(draw, draw.choice(kinds), command)
    return Call(command, fault, other)


def _fault(draw: random.Random, kind: str, command: Command) -> Fault:
    if kind == "clock":
        return Fault(kind, 0, draw.choice([-1, 1]) * CHANGED_CLOCK_SECONDS)
    amounts = [0, 0, 4, 16, 64, 256] if kind == "full" else [0, 0, 0, 1, 5, 20, 100]
    return Fault(kind, _place(draw, command), draw.choice(amounts))


def _place(draw: random.Random, command: Command) -> int:
    """The number of a change of a file."""
    return draw.randint(1, CHANGES[command[0]])


def _command(draw: random.Random) -> Command:
    version = CALM if draw.random() < 0.75 else draw.choice([*VERSIONS])
    run = draw.choice([QA, QA, QA_SC])
    folder = str(LAYOUT.root / "runs" / run)
    force = ("--force",) if draw.random() < 0.3 else ()
    threads = ("--threads", "1")
    often = ("--checkpoint-minutes", "0") if draw.random() < 0.7 else ()
    wait = ("--wait",) if draw.random() < 0.3 else ()
    commands: list[tuple[int, Command]] = [
        (6, ("train", folder, *force, *often, *wait, *threads)),
        (4, ("evaluate", folder, *force, *threads)),
        (3, ("metrics", version, folder)),
        (6, ("run", version, *([run] if draw.random() < 0.7 else RUNS), *threads)),
        (2, ("schedule", folder, *force)),
        (2, ("resolve", version, run)),
        (3, ("import", CALM, str(FOREIGN))),
        (4, ("features", CALM, "tiny", draw.choice(["squad", "cola"]))),
        (2, ("corpus", CALM, draw.choice(["squad", "cola"]))),
        (2, ("encoder", CALM, "tiny")),
        (2, ("statistics", CALM)),
        (2, ("table", CALM)),
        (1, ("summary", CALM)),
        (2, ("sync", CALM)),
        (1, ("sync", CALM, "--reap")),
        (1, ("verify", str(ROOT))),
    ]
    (command,) = draw.choices([c for _, c in commands], [w for w, _ in commands])
    return command
