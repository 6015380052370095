"""`summary.md`: scores, differences and verdicts with LaTeX tables, for a paper's appendix.

Every number comes from `statistics.json` or from a run's `metrics.json`.
"""

from mtdnn.config.experiment import Experiment
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.results import read_rows
from mtdnn.machine.files import write_text
from mtdnn.reporting.templating import render
from mtdnn.statistics.records import read_statistics


def write(experiment: Experiment) -> None:
    """Write `summary.md` from `statistics.json`.

    Raises:
        MtdnnError: `statistics.json` does not exist.
    """
    path = experiment.layout.all_statistics
    if not path.exists():
        raise MtdnnError(f"{path}: no such file; run mtdnn statistics first")
    statistics = read_statistics(experiment)
    tables = {}
    for name, table in experiment.tables.items():
        rows = [
            (row.long_label, statistics["cells"].get(row.path, {}), row.missing)
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
