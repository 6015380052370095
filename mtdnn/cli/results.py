"""Commands that turn the scores of runs into statistics, tables, figures and pages."""

import argparse

from mtdnn.cli.arguments import (
    EVERYDAY,
    EXPERIMENT,
    STEPS,
    Argument,
    Commands,
    load_experiment,
    pick,
)
from mtdnn.machine.progress import say

commands = Commands()


@commands.add("checksums", STEPS, "record the digests of all finished files", EXPERIMENT)
def checksums(arguments: argparse.Namespace) -> None:
    from mtdnn.workflow import checksums

    checksums.write(load_experiment(arguments))


@commands.add(
    "statistics",
    STEPS,
    "compare the rows of tables over seeds and questions",
    EXPERIMENT,
    Argument(
        "names",
        nargs="*",
        metavar="TABLE",
        help="default: all tables, then collected in statistics.json",
    ),
    Argument(
        "--collect",
        action="store_true",
        help="only collect the tables' existing results in statistics.json",
    ),
)
def statistics(arguments: argparse.Namespace) -> None:
    from mtdnn.reporting import products
    from mtdnn.statistics import records

    experiment = load_experiment(arguments)
    for name in arguments.names:
        pick("table", name, experiment.tables)
    if not arguments.collect:
        records.write(experiment, arguments.names or experiment.tables)
        for name in arguments.names or experiment.tables:
            products.write_comparisons(experiment, name)
    if arguments.collect or not arguments.names:
        records.collect(experiment)


@commands.add(
    "table",
    STEPS,
    "write tables from the runs that exist",
    EXPERIMENT,
    Argument("names", nargs="*", metavar="TABLE", help="default: all tables"),
)
def table(arguments: argparse.Namespace) -> None:
    from mtdnn.reporting import products

    experiment = load_experiment(arguments)
    for name in arguments.names or experiment.tables:
        pick("table", name, experiment.tables)
        products.write_table(experiment, name)


@commands.add(
    "figure",
    STEPS,
    "draw figures from the runs that exist",
    EXPERIMENT,
    Argument("names", nargs="*", metavar="FIGURE", help="default: all figures"),
)
def figure(arguments: argparse.Namespace) -> None:
    from mtdnn.reporting import products

    experiment = load_experiment(arguments)
    known = dict.fromkeys([*experiment.figures, *products.FIGURES])
    for name in arguments.names or known:
        pick("figure", name, known)
        products.write_figure(experiment, name)


@commands.add(
    "cases",
    STEPS,
    "list the questions that mixtures answer differently, and every task's scores",
    EXPERIMENT,
)
def cases(arguments: argparse.Namespace) -> None:
    from mtdnn.reporting import products

    experiment = load_experiment(arguments)
    products.write_cases(experiment)
    products.write_interference(experiment)
    products.write_gradients(experiment)


@commands.add(
    "page",
    STEPS,
    "write pages of the HTML report",
    EXPERIMENT,
    Argument(
        "names", nargs="*", metavar="PAGE", help="a table, cases, runs, …; default: all pages"
    ),
)
def page(arguments: argparse.Namespace) -> None:
    from mtdnn.reporting import products

    experiment = load_experiment(arguments)
    known = dict.fromkeys([*experiment.tables, *products.PAGES])
    for name in arguments.names or known:
        pick("page", name, known)
        products.write_page(experiment, name)


@commands.add("summary", EVERYDAY, "write summary.md, for a paper's appendix", EXPERIMENT)
def summary(arguments: argparse.Namespace) -> None:
    from mtdnn.reporting import products

    experiment = load_experiment(arguments)
    products.write_summary(experiment)
    say(f"{experiment.layout.summary}: written")
