"""Commands for trained models and their predictions."""

import argparse
from pathlib import Path

from mtdnn.cli.arguments import EVERYDAY, RUN_DIR, THREADS, Argument, Commands
from mtdnn.config.layout import DESCRIPTION, RunFolder
from mtdnn.machine.files import read_json, write_json

commands = Commands()


@commands.add(
    "predict",
    EVERYDAY,
    "answer the questions of a SQuAD-format file",
    Argument("--model", type=Path, required=True, metavar="DIR", help="a run's model/"),
    Argument("--data", type=Path, required=True, metavar="FILE.json"),
    Argument("--output", type=Path, required=True, metavar="PREDS.json"),
    Argument("--null-odds", type=Path, metavar="ODDS.json", help="also write the null odds"),
    Argument(
        "--null-threshold",
        type=float,
        help='answers with larger null odds become "" (default: the run\'s decoding setting)',
    ),
    THREADS,
)
def predict(arguments: argparse.Namespace) -> None:
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


@commands.add(
    "score",
    EVERYDAY,
    "score SQuAD 2.0 predictions as the official scorer does",
    Argument("--data", type=Path, required=True, metavar="DEV.json"),
    Argument("--predictions", type=Path, required=True, metavar="PREDS.json"),
    Argument("--null-odds", type=Path, metavar="ODDS.json"),
    Argument(
        "--null-threshold",
        type=float,
        default=1.0,
        help='answers with larger null odds count as "" (default: 1.0, as in the official scorer)',
    ),
    Argument("--output", type=Path, metavar="FILE", help="write the scores to this JSON file"),
)
def score(arguments: argparse.Namespace) -> None:
    from mtdnn.evaluation import scoring

    scoring.score_files(
        data=arguments.data,
        predictions=arguments.predictions,
        null_odds=arguments.null_odds,
        threshold=arguments.null_threshold,
        output=arguments.output,
    )


@commands.add(
    "export",
    EVERYDAY,
    "save a task as a plain Hugging Face model",
    RUN_DIR,
    Argument("corpus"),
    Argument("output", type=Path, metavar="DIR"),
)
def export(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import load_run
    from mtdnn.model import saving

    run = load_run(RunFolder(arguments.run).config)
    saving.export(arguments.run, run, arguments.corpus, arguments.output)
