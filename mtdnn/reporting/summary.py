"""`summary.md`: scores, differences and verdicts with LaTeX tables, for a paper's appendix.

Every number comes from `statistics.json` or from a run's `metrics.json`.
"""

from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.measures import Measure
from mtdnn.evaluation.results import RowResult, read_rows
from mtdnn.machine.files import write_text
from mtdnn.reporting.blocks import MISSING, Block, Cell
from mtdnn.reporting.comparisons import are_judged, measures_of
from mtdnn.reporting.conclusion import verdict
from mtdnn.reporting.latex_tables import LatexTable, latex_table
from mtdnn.reporting.tables import headlines, signed
from mtdnn.reporting.templating import interval, render, score
from mtdnn.reporting.wording import THRESHOLDS, clustered, is_answering, targets, union
from mtdnn.statistics.records import NO_INTERVAL, lack_interval, read_statistics


def write(experiment: Experiment) -> None:
    """Write `summary.md` from `statistics.json`.

    Raises:
        MtdnnError: `statistics.json` does not exist, or lacks a table.
    """
    path = experiment.layout.all_statistics
    if not path.exists():
        raise MtdnnError(f"{path}: no such file; run mtdnn statistics first")
    statistics = read_statistics(experiment)
    missing = [name for name in experiment.tables if name not in statistics["tables"]]
    if missing:
        raise MtdnnError(f"{path}: lacks {', '.join(missing)}; run mtdnn statistics first")
    tables = {name: _table(experiment, name, statistics) for name in experiment.tables}
    families = {experiment.corpora[name].family for name in targets(experiment)}
    values = {"statistics": statistics, "tables": tables, "clusters": clustered(families)}
    compared = [each for table in tables.values() for each in table["comparisons"]]
    values["remark"] = NO_INTERVAL if lack_interval(compared) else ""
    write_text(experiment.layout.summary, render("summary.md", experiment, **values))


def _table(experiment: Experiment, name: str, statistics: dict[str, Any]) -> dict[str, Any]:
    """The values of one table that the template uses."""
    rows, found = read_rows(experiment, name), statistics["tables"][name]
    measures = union(row.measures for row in rows)
    values = {
        "title": experiment.tables[name].title,
        "verdict": verdict(statistics, name),
        "note": experiment.tables[name].note,
        "measures": measures,
        "compared": measures_of(found["comparisons"], rows),
        "lines": [
            line
            for row in rows
            for line in _lines(experiment, row, statistics["cells"].get(row.path, {}), measures)
        ],
        "comparisons": found["comparisons"],
        "left_out": found["left_out"],
        "headlines": headlines(rows),
        "judged": are_judged(found["comparisons"]),
        "thresholds": any(map(is_answering, rows)),
    }
    return {**values, "latex": latex_table(experiment, _latex(name, values))}


def _latex(name: str, values: dict[str, Any]) -> LatexTable:
    """The scores and comparisons of a table, given the values that the template uses."""
    measures, compared = values["measures"], values["compared"]
    heading = ["", "Scored on", "Seeds", *(measure.label for measure in measures)]
    body = [
        [label, slice_label or MISSING, ", ".join(map(str, seeds)) or MISSING, *map(score, scores)]
        for label, slice_label, seeds, scores in values["lines"]
    ]
    blocks = [_block(heading, body, 2)]
    if values["comparisons"]:
        at = ["Null threshold"] if values["thresholds"] else []
        heading = ["Difference", "Scored on", *at]
        for measure in compared:
            heading += [f"Δ {measure.label}", "95% interval"]
        heading += [f"Published Δ {values['headlines']}"] if values["judged"] else []
        heading.append("Verdict" if values["judged"] else "Conclusion")
        body = [_compared(each, values) for each in values["comparisons"]]
        blocks.append(_block(heading, body, 2 + len(at)))
    below = [values["note"]] if values["note"] else []
    below += [NO_INTERVAL] if lack_interval(values["comparisons"]) else []
    return LatexTable(values["title"], f"summary-{name}", blocks, below=below)


def _compared(each: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """The cells of one comparison."""
    cells = [f"{each['to_label']} − {each['from_label']}", each["slice_label"]]
    cells += [THRESHOLDS[each["threshold"]]] if values["thresholds"] else []
    for measure in values["compared"]:
        numbers = each["measures"].get(measure.column, {})
        cells += [signed(numbers.get("difference")), interval(numbers)]
    if not values["judged"]:
        return [*cells, each["conclusion"]]
    published = (each["published"] or {}).get(each["headline"])
    return [
        *cells,
        signed(published),
        each["verdict"].get(each["headline"]) or MISSING,
    ]


def _block(heading: list[str], body: list[list[str]], text_columns: int) -> Block:
    return Block(heading, [[Cell(text) for text in row] for row in body], text_columns)


def _lines(
    experiment: Experiment, row: RowResult, cells: dict[str, Any], measures: list[Measure]
) -> list[tuple[str, str, list[int], list[dict[str, Any] | None]]]:
    """A row's label, slice, seeds and cells for each slice that has scores; else the reason."""
    lines = []
    for name, scored in cells.items():
        scores = [scored.get(measure.column) for measure in measures]
        known = [each for each in scores if each and each["mean"] is not None]
        if known:
            label = experiment.slices[name].label
            lines.append((row.long_label, label, known[0]["seeds"], scores))
    return lines or [(row.long_label, "; ".join(row.missing), [], [None] * len(measures))]
