"""Commands for trained models and their predictions."""

import argparse
from pathlib import Path

from mtdnn.cli.arguments import EVERYDAY, RUN_DIR, THREADS, Argument, Commands, pick, threshold
from mtdnn.config.layout import DESCRIPTION, RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, write_json
from mtdnn.machine.progress import say

commands = Commands()


@commands.add(
    "predict",
    EVERYDAY,
    "answer the questions of a SQuAD-format file, or predict other items of a table",
    Argument("--model", type=Path, required=True, metavar="DIR", help="a run's model/"),
    Argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="questions in SQuAD's format, or else .jsonl, .csv, .tsv or, for tagging, .conll "
        "with the corpus's columns",
    ),
    Argument("--corpus", help="the corpus whose head predicts (default: the run's target)"),
    Argument("--output", type=Path, required=True, metavar="PREDS.json"),
    Argument("--null-odds", type=Path, metavar="ODDS.json", help="also write the null odds"),
    Argument(
        "--null-threshold",
        type=threshold,
        help='answers with larger null odds become "" (default: the run\'s decoding setting)',
    ),
    THREADS,
)
def predict(arguments: argparse.Namespace) -> None:
    from mtdnn.config.loading import validate
    from mtdnn.config.settings import RunSettings
    from mtdnn.evaluation import answering

    description = arguments.model / DESCRIPTION
    described = read_json(description)
    settings = described.get("settings") if isinstance(described, dict) else described
    run = validate(RunSettings, settings, str(description))
    corpus = arguments.corpus or run.target
    pick("corpus", corpus, run.corpora)
    place = (arguments.model, run, corpus, arguments.data)
    if run.corpora[corpus].family != "question_answering":
        if arguments.null_odds or arguments.null_threshold is not None:
            raise MtdnnError(f"--null-odds, --null-threshold: are for questions, not for {corpus}")
        write_json(arguments.output, answering.predict_file(*place, arguments.threads))
        return
    answers, odds = answering.answer_file(*place, arguments.null_threshold, arguments.threads)
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
        type=threshold,
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
    say(f"{arguments.output}: written")
