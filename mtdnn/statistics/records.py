"""Paired comparisons of training methods: what an experiment's runs allow to conclude.

`mtdnn.statistics.inference` explains the intervals and tests, `comparisons` says what is compared
and how verdicts are given, `simulation` checks both against known truth.

`results/{experiment}/statistics/{table}.json` holds the entry of one table, and
`results/{experiment}/statistics.json` all of them:

    experiment, notice
    confidence    0.95
    resamples     number of permutations at most
    seeds         the experiment's seeds
    tables        for each table
        title, slice
        comparisons   those of the table's slice at the zero threshold first; each has
            kind          "baseline" (from QA alone of the same encoder and, where the table has
                          it, variant) or "neighbour" (from the row above); a pair stands once
            from, to      rows: a run's path without its seed; from_label, to_label
            slice         name of the questions; slice_label
            threshold     "zero" or "tuned"
            seeds         those that both rows have
            questions, paragraphs
            em, f1        in points, `to` minus `from`:
                difference, low, high, error (standard error), degrees (of freedom)
                p, p_holm                       of no difference
                p_permutation                   of the permutation test
                p_published, p_published_holm   of the published difference; null without one
                detectable                      smallest difference found with 80 % probability
            published     {em, f1}: the published difference, or null
            verdict       {em, f1: "supported" | "contradicted" | "not decidable", or null without
                          a published difference; text: one sentence on EM}
            conclusion    "higher" | "lower" | "open": what the measured EM says
            flips         of a variant: is the conclusion another than without it? null elsewhere
            notes         sentences
        left_out      comparisons that cannot be made: kind, from, to, slice, threshold, reason
    cells         for each row and slice: {em, f1: {mean, deviation, seeds}}; deviation is null
                  below two seeds
"""

from collections.abc import Iterable
from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.machine.files import read_json, write_json

CONFIDENCE = 0.95
RESAMPLES = 10_000


def write(experiment: Experiment, names: Iterable[str]) -> None:
    """Write `statistics/{table}.json` of these tables, from the runs that exist."""
    from mtdnn.statistics.comparisons import compare_tables

    for name, entry in compare_tables(experiment, list(names)):
        write_json(experiment.layout.statistics(name), entry)


def collect(experiment: Experiment) -> None:
    """Write `statistics.json` from the entries of all tables.

    Raises:
        MtdnnError: the entry of a table is missing.
    """
    entries = {name: read_json(experiment.layout.statistics(name)) for name in experiment.tables}
    cells: dict[str, dict] = {}
    for entry in entries.values():
        cells |= entry.pop("cells")
    write_json(
        experiment.layout.all_statistics,
        {
            "experiment": experiment.experiment,
            "notice": experiment.notice,
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seeds": experiment.seeds,
            "tables": entries,
            "cells": cells,
        },
    )


def read_statistics(experiment: Experiment) -> dict[str, Any]:
    """`statistics.json`; without tables and cells where there is none yet."""
    path = experiment.layout.all_statistics
    return read_json(path) if path.exists() else {"tables": {}, "cells": {}}
