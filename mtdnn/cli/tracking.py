"""Commands that bring runs to MLflow and compare what it holds with the tables."""

import argparse
import os
from pathlib import Path

from mtdnn.cli.arguments import (
    EXPERIMENT,
    STEPS,
    TOOLS,
    Argument,
    Commands,
    load_experiment,
    positive,
    seconds,
)
from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError

commands = Commands()


@commands.add("store", STEPS, "create the MLflow store and the experiment in it", EXPERIMENT)
def store(arguments: argparse.Namespace) -> None:
    from mtdnn.tracking.client import create_store

    create_store(load_experiment(arguments))


@commands.add(
    "sync",
    TOOLS,
    "bring MLflow up to date with the runs, including unfinished ones",
    EXPERIMENT,
    Argument("runs", type=Path, nargs="*", metavar="RUN_DIR", help="default: all runs"),
    Argument(
        "--follow",
        action="store_true",
        help="keep delivering, at low priority, until all runs are scored",
    ),
    Argument(
        "--every",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="time between two deliveries (default: 10)",
    ),
    Argument(
        "--parent", type=positive, metavar="PID", help="stop following when this process ends"
    ),
    Argument(
        "--reap",
        action="store_true",
        help="first mark runs whose training was killed as ended",
    ),
)
def sync(arguments: argparse.Namespace) -> None:
    if arguments.follow:
        os.nice(10)  # before MLflow is imported, which takes seconds
    from mtdnn.tracking import delivery

    experiment = load_experiment(arguments)
    for folder in arguments.runs:
        if not RunFolder(folder).config.exists():
            raise MtdnnError(f"{folder}: not the folder of a run; it has no {RunFolder.config}")
    if arguments.reap:
        for line in delivery.reap(experiment):
            print(line)
    if arguments.follow:
        delivery.follow(experiment, arguments.runs, arguments.parent, arguments.every)
    else:
        count = delivery.sync(experiment, arguments.runs)
        print(f"MLflow is up to date with {count} run{'s' if count != 1 else ''}")


@commands.add(
    "agreement", STEPS, "compare every table with MLflow, and log a summary there", EXPERIMENT
)
def agreement(arguments: argparse.Namespace) -> None:
    from mtdnn.tracking import agreement

    agreement.write(load_experiment(arguments))
