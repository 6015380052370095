"""The steps from an encoder and its corpora to the scores of a run, in order."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mtdnn.cli.arguments import (
    EXPERIMENT,
    FORCE,
    RUN_DIR,
    STEPS,
    THREADS,
    Argument,
    Commands,
    load_experiment,
    minutes,
    pick,
)
from mtdnn.config.layout import RunFolder
from mtdnn.errors import reason
from mtdnn.machine.progress import say

if TYPE_CHECKING:
    from mtdnn.config.experiment import Experiment

commands = Commands()


@commands.add("encoder", STEPS, "fetch and verify an encoder", EXPERIMENT, Argument("name"))
def encoder(arguments: argparse.Namespace) -> None:
    from mtdnn.data import encoders

    experiment = load_experiment(arguments)
    encoders.fetch(
        arguments.name,
        pick("encoder", arguments.name, experiment.encoders),
        lock=_lock_file(experiment),
        output=experiment.layout.encoder(arguments.name),
    )
    say(f"{experiment.layout.encoder(arguments.name)}: written")


@commands.add("corpus", STEPS, "fetch, verify and normalise a corpus", EXPERIMENT, Argument("name"))
def corpus(arguments: argparse.Namespace) -> None:
    from mtdnn.data.corpora import fetching, overlap

    experiment = load_experiment(arguments)
    settings = pick("corpus", arguments.name, experiment.corpora)
    fetching.fetch(
        arguments.name,
        settings,
        root=experiment.data_path(getattr(settings.source, "root", None)),
        lock=_lock_file(experiment),
        output=experiment.layout.corpus(arguments.name),
    )
    for line in fetching.summary(experiment.layout.corpus(arguments.name)):
        say(line)
    for line in overlap.within(arguments.name, settings, experiment.layout):
        say(line)


@commands.add(
    "features",
    STEPS,
    "tokenise a corpus for an encoder",
    EXPERIMENT,
    Argument("encoder"),
    Argument("corpus"),
    Argument("--variant", default="default"),
)
def features(arguments: argparse.Namespace) -> None:
    from mtdnn.config.settings import FeatureSettings
    from mtdnn.data import tokenising

    experiment = load_experiment(arguments)
    corpus = pick("corpus", arguments.corpus, experiment.corpora)
    pick("encoder", arguments.encoder, experiment.encoders)
    if arguments.variant != "default":
        pick("variant", arguments.variant, experiment.variants)
    settings = FeatureSettings.model_validate(experiment.settings_of(arguments.variant)["features"])
    layout = experiment.layout
    output = layout.features(arguments.encoder, arguments.variant, arguments.corpus)
    tokenising.prepare(
        family=corpus.family,
        settings=settings,
        encoder=layout.encoder(arguments.encoder),
        corpus=layout.corpus(arguments.corpus),
        output=output,
    )
    say(f"{output}: written")


@commands.add(
    "resolve",
    STEPS,
    "write the resolved settings of a run",
    EXPERIMENT,
    Argument("run", help="for instance base/qa_sc/w0.8/default/seed1"),
)
def resolve(arguments: argparse.Namespace) -> None:
    from mtdnn.workflow import running

    experiment = load_experiment(arguments)
    runs = {run.path: run for run in experiment.runs()}
    run = pick("run", arguments.run, runs)
    written = running.write_settings(experiment, run, wait=True)
    files = RunFolder(experiment.layout.run(run))
    say(f"{files.config}: {'written' if written else 'up to date'}")
    if not files.description.exists():
        running.check_measurable(experiment, run)


@commands.add("schedule", STEPS, "draw the batches of a run", RUN_DIR, FORCE)
def schedule(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load_run
    from mtdnn.training import schedule
    from mtdnn.workflow.running import held, run_step

    settings = load_run(RunFolder(arguments.run).config)
    work = partial(schedule.write, arguments.run, settings, arguments.force)
    with held(arguments.run, "the run's schedule is being drawn"):
        run_step("schedule", arguments.run, work)


@commands.add(
    "train",
    STEPS,
    "train a run",
    RUN_DIR,
    Argument(
        "--checkpoint-minutes",
        type=minutes,
        variable="MTDNN_CHECKPOINT_MINUTES",
        default="10",
        metavar="M",
        help="time between two checkpoints (default: MTDNN_CHECKPOINT_MINUTES, or else 10)",
    ),
    Argument(
        "--wait",
        action="store_true",
        help="if another process is training the run, wait for it and use its result",
    ),
    FORCE,
    THREADS,
)
def train(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load_run
    from mtdnn.training import launch, loop
    from mtdnn.workflow.running import run_step

    settings = load_run(RunFolder(arguments.run).config)
    seconds = 60 * arguments.checkpoint_minutes
    options = (arguments.threads, seconds, arguments.wait, arguments.force)
    work = partial(loop.train, arguments.run, settings, *options)
    with launch.reported(reason):
        # Of several processes that train one run, only the first writes in the run's folder.
        run_step("train", arguments.run, work) if launch.leads() else work()


@commands.add(
    "logits",
    STEPS,
    "write a run's logits for a corpus's training items, for runs that learn them",
    RUN_DIR,
    Argument("corpus", help="one of the run's corpora"),
    FORCE,
    THREADS,
)
def logits(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load_run
    from mtdnn.evaluation import teaching

    settings = load_run(RunFolder(arguments.run).config)
    options = (arguments.threads, arguments.force)
    teaching.teach(arguments.run, settings, arguments.corpus, *options)


@commands.add("evaluate", STEPS, "predict a run's dev sets", RUN_DIR, FORCE, THREADS)
def evaluate(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load_run
    from mtdnn.workflow import running

    settings = load_run(RunFolder(arguments.run).config)
    running.evaluate(arguments.run, settings, arguments.threads, arguments.force)


@commands.add("metrics", STEPS, "score a run's predictions on every slice", EXPERIMENT, RUN_DIR)
def metrics(arguments: argparse.Namespace) -> None:
    from mtdnn.evaluation import metrics
    from mtdnn.workflow.running import held, run_step

    experiment = load_experiment(arguments)
    with held(arguments.run, "the run is being scored"):
        run_step("metrics", arguments.run, partial(metrics.write, arguments.run, experiment))


def _lock_file(experiment: "Experiment") -> Path:
    """Return the file of resolved Hub revisions and digests."""
    assert experiment.lock is not None, "loading an experiment sets its lock file"
    return Path(experiment.lock)
