"""Commands for an experiment as a whole."""

import argparse
import json
import shlex
from pathlib import Path

from mtdnn.cli.arguments import (
    EVERYDAY,
    EXPERIMENT,
    JSON,
    THREADS,
    TOOLS,
    Argument,
    Commands,
    load_experiment,
    pick,
)
from mtdnn.machine.progress import say

commands = Commands()


@commands.add(
    "new",
    EVERYDAY,
    "write a commented experiment to start from, NAME.yaml",
    Argument("name", metavar="NAME", help="the experiment's name, perhaps after a folder"),
)
def new(arguments: argparse.Namespace) -> None:
    from mtdnn.workflow import starting

    file = shlex.quote(str(starting.write_new(arguments.name)))
    print(f"{file}: written; edit it, then: mtdnn check {file}")


@commands.add("check", EVERYDAY, "check an experiment's YAML file", EXPERIMENT)
def check(arguments: argparse.Namespace) -> None:
    from mtdnn.config.places import naming_lines
    from mtdnn.workflow.snakefile import check_sources

    experiment = load_experiment(arguments)
    with naming_lines([arguments.experiment], str(arguments.experiment)):
        check_sources(experiment, str(arguments.experiment), encoders=True)
    print(f"{arguments.experiment}: valid, {len(experiment.runs())} runs")


@commands.add(
    "plan",
    EVERYDAY,
    "show runs, steps, time and memory before anything starts",
    EXPERIMENT,
    JSON,
    Argument(
        "--no-measuring", action="store_true", help="use only rates that were measured before"
    ),
    THREADS,
)
def plan(arguments: argparse.Namespace) -> None:
    from mtdnn.workflow import planning

    experiment = load_experiment(arguments)
    planned = planning.plan(experiment, arguments.threads, measure=not arguments.no_measuring)
    text = json.dumps(planned, indent=2) if arguments.json else "\n".join(planning.lines(planned))
    name = shlex.quote(str(arguments.experiment))
    print(text.replace(planning.CONFIG, json.dumps(name)[1:-1] if arguments.json else name))


@commands.add(
    "fetch",
    EVERYDAY,
    "copy all encoders and corpora to a folder, for machines without a network",
    EXPERIMENT,
    Argument("folder", type=Path, metavar="FOLDER"),
)
def fetch(arguments: argparse.Namespace) -> None:
    from mtdnn.data import offline

    variables = offline.fetch(load_experiment(arguments), arguments.folder)
    print("# On the machine without a network, before anything else:")
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")


@commands.add(
    "run",
    EVERYDAY,
    "train and evaluate runs here, without Snakemake; needs their features",
    EXPERIMENT,
    Argument("runs", nargs="*", metavar="RUN", help="default: all runs"),
    THREADS,
)
def run(arguments: argparse.Namespace) -> None:
    from mtdnn.workflow import running

    experiment = load_experiment(arguments)
    known = {run.path: run for run in experiment.runs()}
    chosen = [pick("run", path, known) for path in arguments.runs or known]
    running.train_and_evaluate(experiment, chosen, arguments.threads)


@commands.add(
    "import",
    EVERYDAY,
    "add a run that was trained elsewhere to an experiment",
    EXPERIMENT,
    Argument("folder", type=Path, metavar="DIR"),
)
def import_run(arguments: argparse.Namespace) -> None:
    from mtdnn.workflow import importing

    importing.import_run(load_experiment(arguments), arguments.folder)


@commands.add(
    "verify",
    EVERYDAY,
    "check that an experiment's files follow from each other",
    Argument("folder", type=Path, metavar="results/EXPERIMENT"),
    Argument(
        "--predictions", action="store_true", help="also evaluate every model again, and compare"
    ),
    THREADS,
)
def verify(arguments: argparse.Namespace) -> None:
    from mtdnn.workflow import verification

    experiment = verification.experiment_in(arguments.folder)
    verification.verify(experiment, arguments.predictions, arguments.threads)


@commands.add(
    "crate",
    EVERYDAY,
    "pack a finished experiment for publication, as an RO-Crate",
    Argument("folder", type=Path, metavar="results/EXPERIMENT"),
    Argument(
        "output", type=Path, metavar="OUT", help="a new folder, or a file if it ends with .zip"
    ),
    Argument("--with-models", action="store_true", help="pack the trained models, too"),
)
def crate(arguments: argparse.Namespace) -> None:
    from mtdnn.workflow import crate, verification

    experiment = verification.experiment_in(arguments.folder)
    crate.write(experiment, arguments.output, arguments.with_models)
    say(f"{arguments.output}: written")


@commands.add("settings", EVERYDAY, "explain every setting: default, meaning, origin")
def settings(_: argparse.Namespace) -> None:
    from mtdnn.config import reference

    print(reference.ledger())
    print(reference.reference(), end="")


@commands.add(
    "workflow",
    TOOLS,
    "print the path of the Snakefile, for use outside the checkout",
    Argument(
        "--folder",
        action="store_true",
        help="print the folder that holds it, examples of experiments and environments instead",
    ),
)
def workflow(arguments: argparse.Namespace) -> None:
    from mtdnn.workflow import shared

    print(shared.folder() if arguments.folder else shared.snakefile())


@commands.add(
    "schema",
    TOOLS,
    "write the JSON schema of experiment files",
    Argument("output", type=Path, metavar="FILE"),
)
def schema(arguments: argparse.Namespace) -> None:
    from mtdnn.config.experiment import Experiment
    from mtdnn.machine.files import write_json

    write_json(arguments.output, Experiment.model_json_schema())
