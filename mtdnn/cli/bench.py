"""`mtdnn bench`: measurements of speed."""

import argparse
from pathlib import Path

from mtdnn.cli.arguments import JSON, THREADS, TOOLS, Argument, Commands, positive

commands = Commands()


@commands.add(
    "bench",
    TOOLS,
    "time a part of the pipeline against its peers, in turns",
    Argument(
        "benchmark",
        choices=["train", "prepare", "decode", "plan", "grid", "paper", "startup", "journal"],
    ),
    JSON,
    Argument(
        "--only", default="", metavar="PREFIX", help="only cases whose names begin with PREFIX"
    ),
    Argument("--rounds", type=positive, default=9, metavar="N", help="turns (default: 9)"),
    Argument("--precision", choices=["fp32", "bf16"], help="default: the experiment's"),
    Argument(
        "--encoder",
        choices=["pretrained", "minilm", "base", "large", "tiny"],
        default="pretrained",
        help="the experiment's own, or a shape with random weights (default: pretrained)",
    ),
    Argument(
        "--experiment",
        type=Path,
        default=Path("config/reduced.yaml"),
        metavar="EXPERIMENT.yaml",
        help="measure on its corpora if they are fetched, or else on synthetic windows "
        "(default: config/reduced.yaml)",
    ),
    Argument(
        "--folder",
        type=Path,
        default=Path("results/bench"),
        help="keeps encoders and features for the next time (default: results/bench)",
    ),
    THREADS,
)
def bench(arguments: argparse.Namespace) -> None:
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
