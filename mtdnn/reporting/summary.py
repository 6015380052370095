"""`summary.md`: scores, differences and verdicts for a paper's appendix, with LaTeX tables.

Every number stands in `statistics.json` or in a run's `metrics.json`.
"""

from mtdnn.config.experiment import Experiment
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.results import RowResult, read_rows
from mtdnn.machine.files import write_text
from mtdnn.reporting.templating import render
from mtdnn.statistics.records import read_statistics


def write(experiment: Experiment) -> None:
    """Write `summary.md` from `statistics.json`.

    Raises:
        MtdnnError: there is no `statistics.json`.
    """
    root = experiment.layout.root
    if not (experiment.layout.all_statistics).exists():
        raise MtdnnError(f"{root / 'statistics.json'}: no such file; run mtdnn statistics first")
    statistics = read_statistics(experiment)
    tables = {}
    for name, table in experiment.tables.items():
        rows = [
            (_label(row), statistics["cells"].get(_path(row), {}), row.missing)
            for row in read_rows(experiment, name)
        ]
        tables[name] = {
            "title": table.title,
            "rows": rows,
            **{key: statistics["tables"][name][key] for key in ("comparisons", "left_out")},
        }
    write_text(
        experiment.layout.summary,
        render("summary.md", experiment, statistics=statistics, tables=tables),
    )


def _path(row: RowResult) -> str:
    return row.results[0].run.path.rpartition("/")[0]


def _label(row: RowResult) -> str:
    """The row's name with its weight where it mixes, and its variant."""
    parts = [row.label]
    parts += [f"w {row.row.qa_weight:g}"] if row.row.qa_weight < 1 else []
    parts += [] if row.row.variant == "default" else [row.variant_label]
    return ", ".join(parts)
