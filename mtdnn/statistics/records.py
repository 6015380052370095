"""Write and read the statistics of an experiment's tables: comparisons of their rows.

`mtdnn.statistics.inference` explains the intervals and tests, `comparisons` says which rows are
compared and how verdicts follow, `simulation` checks the intervals and tests against known truth.

`results/{experiment}/statistics/{table}.json` is the entry of one table, and
`results/{experiment}/statistics.json` collects all of them:

    experiment, notice
    confidence    0.95
    resamples     maximum number of permutations
    seeds         the experiment's seeds
    tables        for each table:
        title, slice
        comparisons   those on the table's slice at the zero threshold come first; each has
            kind          "baseline" (`from` is the target alone with the same encoder and, if the
                          table has it, the same variant), "variant" (`from` is the mixture without
                          the variant, `to` with it), "chosen" (`to` names `from` as `against`)
                          or "neighbour" (`from` is the row above);
                          each pair of rows occurs once
            from, to      the rows: a run's path without its seed; from_label, to_label
            slice         the slice's name; slice_label
            threshold     "zero" or "tuned"
            seeds         the seeds that both rows have
            target, family          the rows' target and its family
            questions, clusters     numbers of questions or other items, and of their clusters
            measures      for each measure by its column, the headline first; in points, `to` minus
                          `from`:
                difference, low, high, error (standard error), degrees (of freedom); low, high and
                detectable are null where nothing varies
                p, p_holm                       of the hypothesis of no difference
                p_permutation                   of the permutation test
                p_published, p_published_holm   of the published difference; null if there is none
                detectable                      smallest difference detected with probability 0.8
            labels        the heading of each measure
            headline      the measure on which conclusion and sentence are based
            published     {em, f1}: the published difference in points, or null
            verdict       for each measure "supported" | "contradicted" | "not decidable", or null
                          if no difference is published; text: one sentence on the headline
            conclusion    "higher" | "lower" | "open": what the measured headline says
            flips         for a variant: whether its conclusion differs from that without the
                          variant; otherwise null
            notes         sentences
        left_out      comparisons that were not possible: kind, from, to, slice, threshold, reason
    cells         for each row, slice and measure of the row's target: mean, deviation, seeds;
                  times 100; deviation is null below two seeds

The columns of question answering are `em` and `f1`; those of other measures are their keys.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_product, write_json
from mtdnn.statistics.level import CONFIDENCE, RESAMPLES

NO_INTERVAL = (
    "No interval is given where the scores do not vary: the uncertainty of the difference is then "
    "unknown, and p is 1."
)
"""The note of comparisons that `lack_interval`."""


def write(experiment: Experiment, names: Iterable[str]) -> None:
    """Write `statistics/{table}.json` for the named tables, from the runs that exist.

    Comparisons that are not possible are listed with the reason.

    Raises:
        MtdnnError: the published numbers are not readable.
    """
    # Not at the top: readers do not need scipy.
    from mtdnn.statistics.comparisons import compare_tables

    for name, entry in compare_tables(experiment, list(names)):
        write_json(experiment.layout.statistics(name), entry)


def collect(experiment: Experiment) -> None:
    """Collect the entries of all tables in `statistics.json`.

    Raises:
        MtdnnError: the entry of a table is missing.
    """
    entries = {name: read_entry(experiment, name) for name in experiment.tables}
    cells: dict[str, Any] = {}
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


def with_baselines(comparisons: list[dict[str, Any]], slice_name: str) -> list[dict[str, Any]]:
    """Return the comparisons of rows with their baselines on a slice, at the zero threshold."""
    wanted = ("baseline", slice_name, "zero")
    return [e for e in comparisons if (e["kind"], e["slice"], e["threshold"]) == wanted]


def lacks_interval(comparison: dict[str, Any], column: str = "") -> bool:
    """Return whether nothing varies in a measure, by default the headline: it has no interval."""
    return comparison["measures"][column or comparison["headline"]]["low"] is None


def lack_interval(comparisons: Iterable[dict[str, Any]]) -> bool:
    """Return whether any measure of any comparison has no interval."""
    return any(lacks_interval(each, column) for each in comparisons for column in each["measures"])


def read_entry(experiment: Experiment, name: str) -> dict[str, Any]:
    """Read the statistics of one table.

    Raises:
        MtdnnError: the file is missing or broken.
    """
    return _read(experiment.layout.statistics(name), "comparisons", "left_out", "cells")


def read_statistics(experiment: Experiment) -> dict[str, Any]:
    """Read `statistics.json`; the result has empty `tables` and `cells` if it does not exist yet.

    Raises:
        MtdnnError: the file is broken.
    """
    path = experiment.layout.all_statistics
    return _read(path, "tables", "cells") if path.exists() else {"tables": {}, "cells": {}}


def _read(path: Path, *keys: str) -> dict[str, Any]:
    content = read_product(path)
    if not content.keys() >= set(keys):
        raise MtdnnError(f"{path}: is not as `mtdnn statistics` writes it; run it again")
    return content
