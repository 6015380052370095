"""The command line: every step of the workflow by itself, and tools for a trained model.

Heavy libraries are imported inside the commands that need them.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mtdnn import __version__
from mtdnn.config.layout import DESCRIPTION, RunFolder
from mtdnn.errors import Busy, MtdnnError, disk_message, lines, printable, reason
from mtdnn.machine.files import read_json, write_json, write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status. Bad input is one message, no traceback."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except MtdnnError as error:
        for line in lines(error):
            print(f"mtdnn: error: {line}", file=sys.stderr)
        return getattr(error, "status", 2)
    except KeyboardInterrupt:
        print("mtdnn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"mtdnn: error: {printable(disk_message(error))}", file=sys.stderr)
        return 2
    except MemoryError:
        print(
            "mtdnn: error: out of memory; close other programs, or use a larger machine",
            file=sys.stderr,
        )
        return 2
    return 0


# --- the steps of the workflow, in order -----------------------------------------------------


def _check(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load

    experiment = load(arguments.experiment)
    print(f"{arguments.experiment}: valid, {len(experiment.runs())} runs")


def _fetch(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.data.offline import fetch

    variables = fetch(load(arguments.experiment), arguments.folder)
    print("# On the machine without a network, before anything else:")
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")


def _encoder(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.data import encoders

    experiment = load(arguments.experiment)
    settings = _pick("encoder", arguments.name, experiment.encoders)
    output = experiment.layout.encoder(arguments.name)
    encoders.fetch(arguments.name, settings, lock=Path(experiment.lock), output=output)


def _corpus(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.data.corpora import fetching

    experiment = load(arguments.experiment)
    settings = _pick("corpus", arguments.name, experiment.corpora)
    root = experiment.data_path(getattr(settings.source, "root", None))
    output = experiment.layout.corpus(arguments.name)
    fetching.fetch(arguments.name, settings, root=root, lock=Path(experiment.lock), output=output)


def _features(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.config.settings import FeatureSettings
    from mtdnn.data import tokenising

    experiment = load(arguments.experiment)
    corpus = _pick("corpus", arguments.corpus, experiment.corpora)
    _pick("encoder", arguments.encoder, experiment.encoders)
    if arguments.variant != "default":
        _pick("variant", arguments.variant, experiment.variants)
    settings = FeatureSettings.model_validate(experiment.settings_of(arguments.variant)["features"])
    layout = experiment.layout
    tokenising.prepare(
        family=corpus.family,
        settings=settings,
        encoder=layout.encoder(arguments.encoder),
        corpus=layout.corpus(arguments.corpus),
        output=layout.features(arguments.encoder, arguments.variant, arguments.corpus),
    )


def _resolve(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.config.yaml_files import dump_yaml

    experiment = load(arguments.experiment)
    runs = {run.path: run for run in experiment.runs()}
    run = _pick("run", arguments.run, runs)
    write_text(RunFolder(experiment.layout.run(run)).config, dump_yaml(experiment.resolve(run)))


def _schedule(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load_run
    from mtdnn.training import schedule

    run = load_run(RunFolder(arguments.run).config)
    _run_step("schedule", arguments.run, lambda: schedule.write(arguments.run, run))


def _train(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load_run
    from mtdnn.training import launch, loop

    run = load_run(RunFolder(arguments.run).config)
    seconds = 60 * arguments.checkpoint_minutes

    def train() -> None:
        loop.train(arguments.run, run, arguments.threads, seconds, arguments.wait)

    with launch.reported(reason):
        # What stands in the run's folder is up to one of several processes.
        _run_step("train", arguments.run, train) if launch.leads() else train()


def _evaluate(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load_run
    from mtdnn.evaluation import predictions
    from mtdnn.model import saving

    run = load_run(RunFolder(arguments.run).config)
    saving.check_weights(arguments.run / "model")  # before what they once predicted is removed
    work = partial(predictions.evaluate, arguments.run, run, arguments.threads)
    _run_step("evaluate", arguments.run, work)


def _metrics(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.evaluation import metrics

    experiment = load(arguments.experiment)
    _run_step("metrics", arguments.run, lambda: metrics.write(arguments.run, experiment))


def _store(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.tracking.client import create_store

    create_store(load(arguments.experiment))


def _sync(arguments: argparse.Namespace) -> None:
    if arguments.follow:
        os.nice(10)  # before MLflow is imported, which takes seconds
    from mtdnn.config.loading import load
    from mtdnn.tracking.delivery import follow, reap, sync

    experiment = load(arguments.experiment)
    for run in arguments.runs:
        if not RunFolder(run).config.exists():
            raise MtdnnError(f"{run}: is no folder of a run; it has no config.yaml")
    if arguments.reap:
        for line in reap(experiment):
            print(line)
    if arguments.follow:
        follow(experiment, arguments.runs, arguments.parent, arguments.every)
    else:
        found = sync(experiment, arguments.runs)
        print(f"MLflow is up to date with {found} run{'s' if found != 1 else ''}")


def _agreement(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.tracking import agreement

    agreement.write(load(arguments.experiment))


def _statistics(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.reporting import products
    from mtdnn.statistics import records

    experiment = load(arguments.experiment)
    for name in arguments.names:
        _pick("table", name, experiment.tables)
    if not arguments.collect:
        records.write(experiment, arguments.names or experiment.tables)
        for name in arguments.names or experiment.tables:
            products.write_comparisons(experiment, name)
    if arguments.collect or not arguments.names:
        records.collect(experiment)


def _table(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.reporting import products

    experiment = load(arguments.experiment)
    for name in arguments.names or experiment.tables:
        _pick("table", name, experiment.tables)
        products.write_table(experiment, name)


def _figure(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.reporting import products

    experiment = load(arguments.experiment)
    known = dict.fromkeys([*experiment.figures, *products.FIGURES])
    for name in arguments.names or known:
        _pick("figure", name, known)
        products.write_figure(experiment, name)


def _cases(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.reporting import products

    experiment = load(arguments.experiment)
    products.write_cases(experiment)
    products.write_interference(experiment)


def _summary(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.reporting import products

    products.write_summary(load(arguments.experiment))


def _page(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.reporting import products

    experiment = load(arguments.experiment)
    known = dict.fromkeys([*experiment.tables, *products.PAGES])
    for name in arguments.names or known:
        _pick("page", name, known)
        products.write_page(experiment, name)


# --- tools -----------------------------------------------------------------------------------


def _score(arguments: argparse.Namespace) -> None:
    from mtdnn.evaluation import scoring

    scoring.score_files(
        data=arguments.data,
        predictions=arguments.predictions,
        null_odds=arguments.null_odds,
        threshold=arguments.null_threshold,
        output=arguments.output,
    )


def _run(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load, load_run
    from mtdnn.config.yaml_files import dump_yaml
    from mtdnn.evaluation import predictions
    from mtdnn.model import saving
    from mtdnn.training import fingerprint, loop, schedule

    experiment = load(arguments.experiment)
    runs = {run.path: run for run in experiment.runs()}
    chosen = [_pick("run", path, runs) for path in arguments.runs or runs]
    for run in chosen:
        folder, settings = experiment.layout.run(run), experiment.resolve(run)
        is_trained = fingerprint.is_finished(folder, settings)
        is_predicted = is_trained and RunFolder(folder).predictions.exists()
        if is_predicted and load_run(RunFolder(folder).config).decoding == settings.decoding:
            print(f"{run.path}: is there already", file=sys.stderr)
            continue
        print(f"{run.path}: {chosen.index(run) + 1} of {len(chosen)}", file=sys.stderr)
        write_text(RunFolder(folder).config, dump_yaml(settings))
        if not is_trained:
            _run_step("schedule", folder, partial(schedule.write, folder, settings))
            work = partial(loop.train, folder, settings, arguments.threads)
            _run_step("train", folder, work)
        saving.check_weights(folder / "model")
        work = partial(predictions.evaluate, folder, settings, arguments.threads)
        _run_step("evaluate", folder, work)


def _predict(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import validate
    from mtdnn.config.settings import RunSettings
    from mtdnn.evaluation import answering

    description = arguments.model / DESCRIPTION
    run = validate(RunSettings, read_json(description).get("settings"), str(description))
    answers, odds = answering.predict(
        arguments.model, run, arguments.data, arguments.null_threshold, arguments.threads
    )
    write_json(arguments.output, answers)
    if arguments.null_odds:
        write_json(arguments.null_odds, odds)


def _export(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load_run
    from mtdnn.model import saving

    run = load_run(RunFolder(arguments.run).config)
    saving.export(arguments.run, run, arguments.corpus, arguments.output)


def _import(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.workflow import importing

    importing.import_run(load(arguments.experiment), arguments.folder)


def _verify(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.workflow import verification

    folder = arguments.folder
    experiment = load(folder / "experiment.yaml")
    if folder.absolute().name != experiment.experiment:
        raise MtdnnError(f"{folder}: holds the experiment {experiment.experiment!r}; rename it")
    here = experiment.model_copy(update={"results": str(folder.absolute().parent)})
    verification.verify(here, arguments.predictions, arguments.threads)


def _plan(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load
    from mtdnn.workflow.planning import described, plan

    planned = plan(load(arguments.experiment), arguments.threads, not arguments.no_measuring)
    print(json.dumps(planned, indent=2) if arguments.json else "\n".join(described(planned)))


def _bench(arguments: argparse.Namespace) -> None:
    from mtdnn.bench import harness

    options = harness.Options(
        experiment=arguments.experiment,
        encoder=arguments.encoder,
        folder=arguments.folder,
        threads=arguments.threads,
        rounds=arguments.rounds,
        precision=arguments.precision,
        only=arguments.only,
    )
    harness.run(arguments.benchmark, options, arguments.json)


def _settings(_: argparse.Namespace) -> None:
    from mtdnn.config import reference

    print(reference.ledger())
    print(reference.reference(), end="")


def _schema(arguments: argparse.Namespace) -> None:
    from mtdnn.config.experiment import Experiment

    write_json(arguments.output, Experiment.model_json_schema())


# --- helpers ---------------------------------------------------------------------------------


def _pick(kind: str, name: str, among: dict):
    """`among[name]`, or a message that names what there is."""
    if name not in among:
        raise MtdnnError(f"unknown {kind} {name!r}; known are {', '.join(among)}")
    return among[name]


def _positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _minutes(text: str) -> float:
    """A time of zero or more, for argparse."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes")
    return minutes


def _run_step(step: str, run: Path, work: Callable[[], None]) -> None:
    """Do one step of a run and keep the reason of a failure beside the run, for the tables.

    What the step and later ones made before is removed first: scores of an earlier model
    never stand beside a later failure.
    """
    failure = RunFolder(run).failure
    failure.unlink(missing_ok=True)
    for path in RunFolder(run).products_from(step):
        path.unlink(missing_ok=True)
    try:
        work()
    except (KeyboardInterrupt, Busy):
        raise
    except BaseException as error:
        with suppress(OSError):  # the disk may be what has failed
            write_json(failure, {"step": step, "reason": reason(error).splitlines()[0]})
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtdnn", description="Reproducible multi-task fine-tuning experiments."
    )
    parser.add_argument("--version", action="version", version=f"mtdnn {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: Callable, description: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=description, description=description)
        sub.set_defaults(command=function)
        return sub

    def of_experiment(name: str, function: Callable, description: str) -> argparse.ArgumentParser:
        sub = command(name, function, description)
        sub.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
        return sub

    def threads(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")

    of_experiment("check", _check, "check an experiment's YAML file")
    sub = of_experiment("plan", _plan, "show runs, steps, time and memory before anything starts")
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub.add_argument(
        "--no-measuring", action="store_true", help="use only the rates that were measured before"
    )
    threads(sub)
    sub = of_experiment(
        "fetch", _fetch, "bring all encoders and corpora to a folder, for machines without network"
    )
    sub.add_argument("folder", type=Path, metavar="FOLDER")
    sub = of_experiment("encoder", _encoder, "fetch and verify an encoder")
    sub.add_argument("name")
    sub = of_experiment("corpus", _corpus, "fetch, verify and normalise a corpus")
    sub.add_argument("name")
    sub = of_experiment("features", _features, "tokenise a corpus for an encoder")
    sub.add_argument("encoder")
    sub.add_argument("corpus")
    sub.add_argument("--variant", default="default")
    sub = of_experiment("resolve", _resolve, "write the resolved settings of a run")
    sub.add_argument("run", help="for instance base/qa_sc/w0.8/default/seed1")
    sub = command("schedule", _schedule, "draw the batches of a run")
    sub.add_argument("run", type=Path, metavar="RUN_DIR")
    sub = command("train", _train, "train a run")
    sub.add_argument("run", type=Path, metavar="RUN_DIR")
    sub.add_argument(
        "--checkpoint-minutes",
        type=_minutes,
        default=os.environ.get("MTDNN_CHECKPOINT_MINUTES", "10"),
        metavar="M",
        help="time between two checkpoints (default MTDNN_CHECKPOINT_MINUTES, or else 10)",
    )
    sub.add_argument(
        "--wait",
        action="store_true",
        help="when another process trains the run, wait for it and take what it made",
    )
    threads(sub)
    sub = command("evaluate", _evaluate, "predict a run's dev sets")
    sub.add_argument("run", type=Path, metavar="RUN_DIR")
    threads(sub)
    sub = of_experiment("metrics", _metrics, "score a run's predictions on every slice")
    sub.add_argument("run", type=Path, metavar="RUN_DIR")
    of_experiment("store", _store, "create the MLflow store and experiment")
    sub = of_experiment("sync", _sync, "deliver to MLflow what it lacks of runs, also unfinished")
    sub.add_argument("runs", type=Path, nargs="*", metavar="RUN_DIR", help="all by default")
    sub.add_argument(
        "--follow", action="store_true", help="go on until all runs are scored, at low priority"
    )
    sub.add_argument(
        "--every", type=float, default=10.0, metavar="SECONDS", help="how often (default 10)"
    )
    sub.add_argument(
        "--parent", type=_positive, metavar="PID", help="follow only while this process lives"
    )
    sub.add_argument(
        "--reap", action="store_true", help="end runs in MLflow whose training was killed"
    )
    of_experiment(
        "agreement", _agreement, "compare every table with MLflow, and log a summary there"
    )
    sub = of_experiment(
        "statistics", _statistics, "compare the rows of tables over seeds and questions"
    )
    sub.add_argument("names", nargs="*", metavar="TABLE", help="all, collected, when none is named")
    sub.add_argument(
        "--collect", action="store_true", help="only write statistics.json from what is there"
    )
    sub = of_experiment("table", _table, "write tables from the runs that exist")
    sub.add_argument("names", nargs="*", metavar="TABLE")
    sub = of_experiment("figure", _figure, "draw figures from the runs that exist")
    sub.add_argument("names", nargs="*", metavar="FIGURE")

    of_experiment("cases", _cases, "find what mixtures answer otherwise, and every task's score")
    of_experiment("summary", _summary, "write summary.md, for a paper's appendix")
    sub = of_experiment("page", _page, "write pages of the HTML report")
    sub.add_argument("names", nargs="*", metavar="PAGE", help="a table, or cases, runs, …")

    sub = of_experiment(
        "run", _run, "train and evaluate runs here, without Snakemake; features must be there"
    )
    sub.add_argument("runs", nargs="*", metavar="RUN", help="all when none is named")
    threads(sub)
    sub = command("score", _score, "score SQuAD 2.0 predictions as the official scorer does")
    sub.add_argument("--data", type=Path, required=True, metavar="DEV.json")
    sub.add_argument("--predictions", type=Path, required=True, metavar="PREDS.json")
    sub.add_argument("--null-odds", type=Path, metavar="ODDS.json")
    sub.add_argument(
        "--null-threshold",
        type=float,
        default=1.0,
        help='answers with larger null odds count as "" (default 1.0, as the official scorer)',
    )
    sub.add_argument("--output", type=Path, metavar="FILE", help="write the scores as JSON there")
    sub = command("predict", _predict, "answer the questions of a SQuAD-format file")
    sub.add_argument("--model", type=Path, required=True, metavar="DIR", help="a run's model/")
    sub.add_argument("--data", type=Path, required=True, metavar="FILE.json")
    sub.add_argument("--output", type=Path, required=True, metavar="PREDS.json")
    sub.add_argument("--null-odds", type=Path, metavar="ODDS.json", help="write null odds as well")
    sub.add_argument("--null-threshold", type=float, default=None)
    threads(sub)
    sub = command("export", _export, "save a task as a plain Hugging Face model")
    sub.add_argument("run", type=Path, metavar="RUN_DIR")
    sub.add_argument("corpus")
    sub.add_argument("output", type=Path, metavar="DIR")
    sub = of_experiment("import", _import, "take in a run that was trained elsewhere")
    sub.add_argument("folder", type=Path, metavar="DIR")
    sub = command("bench", _bench, "time a part of the pipeline against its peers, in turns")
    parts = ["train", "prepare", "decode", "plan", "grid", "paper", "startup", "journal"]
    sub.add_argument("benchmark", choices=parts)
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub.add_argument("--only", default="", metavar="PREFIX", help="cases whose names begin so")
    sub.add_argument("--rounds", type=_positive, default=9, metavar="N", help="turns (default 9)")
    sub.add_argument("--precision", choices=["fp32", "bf16"], help="default: the experiment's")
    sub.add_argument(
        "--encoder",
        choices=["pretrained", "minilm", "base", "large", "tiny"],
        default="pretrained",
        help="the experiment's own, or a shape with random weights",
    )
    sub.add_argument(
        "--experiment",
        type=Path,
        default=Path("config/reduced.yaml"),
        metavar="EXPERIMENT.yaml",
        help="its corpora are measured on, else synthetic windows (default config/reduced.yaml)",
    )
    sub.add_argument(
        "--folder",
        type=Path,
        default=Path("results/bench"),
        help="keeps encoders and features for the next time (default results/bench)",
    )
    threads(sub)
    sub = command("verify", _verify, "check that an experiment's files follow from each other")
    sub.add_argument("folder", type=Path, metavar="results/EXPERIMENT")
    sub.add_argument(
        "--predictions", action="store_true", help="also evaluate every model again, and compare"
    )
    threads(sub)
    command("settings", _settings, "explain every setting: default, meaning, origin")
    sub = command("schema", _schema, "write the JSON schema of experiment files")
    sub.add_argument("output", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
