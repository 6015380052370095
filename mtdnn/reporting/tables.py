"""Tables of scores as Markdown, CSV and LaTeX, measured next to published."""

from typing import Any, NamedTuple

import pandas as pd

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.measures import Measure
from mtdnn.evaluation.results import RowResult, Score, read_rows
from mtdnn.machine.files import replacing, write_text
from mtdnn.reporting.blocks import MISSING, Block, Cell, Notes
from mtdnn.reporting.escaping import csv_text, markdown
from mtdnn.reporting.facts import provenance
from mtdnn.reporting.latex_tables import LatexTable, latex_table
from mtdnn.reporting.wording import in_unit, is_answering, items, listed, union
from mtdnn.statistics.level import CONFIDENCE
from mtdnn.statistics.records import read_entry, with_baselines

SURE = f"{CONFIDENCE:.0%} interval"

OTHER_TARGET = "another target"
"""Why a row has no score in a column that belongs to rows with another target."""


class Column(NamedTuple):
    """A column of scores on a table's slice.

    Attributes:
        heading: its title.
        name: its name in the CSV.
        key: the score's key in `metrics.json`.
        answering: whether only question answering has it; else the rows with this measure have.
        tuned: whether it shows the score at a tuned threshold.
    """

    heading: str
    name: str
    key: str
    answering: bool = False
    tuned: bool = False

    def score(self, row: RowResult, slice_name: str) -> Score:
        """Return the score of a row; without values and with the reason if its target has none."""
        known = {measure.key for measure in row.measures}
        has = is_answering(row) if self.answering else self.key in known
        if not (has and _is_scored(row, slice_name)):
            return Score((), (OTHER_TARGET,))
        return row.score(slice_name, self.key, self.tuned)


_OF_ANSWERS = (
    Column("HasAns F1", "has_ans_f1", "HasAns_f1", answering=True),
    Column("NoAns acc.", "no_ans_accuracy", "NoAns_exact", answering=True),
    Column("Null AUC", "null_odds_auc", "null_odds_auc", answering=True),
)


def write(experiment: Experiment, name: str) -> None:
    """Write one table as Markdown, CSV and LaTeX, from the runs that exist.

    The table shows its slice, or else the first, at the configured null threshold. Several seeds
    give mean ± sample standard deviation. A note below the table explains each missing value.
    """
    rows = read_rows(experiment, name)
    layout = experiment.layout
    notes = Notes()
    main = main_block(experiment, rows, notes)
    of_main = list(notes.reasons)
    others = slices_block(experiment, rows, notes, read_comparisons(experiment, name))
    write_text(layout.table(name, "md"), _markdown(experiment, name, main, others, notes, rows))
    further = any(experiment.slices[each].corpus for each in _slices(experiment, rows)[1])
    blocks, reasons = ([main, others], notes.reasons) if further and others else ([main], of_main)
    write_text(layout.table(name, "tex"), _latex(experiment, name, blocks, reasons, rows))
    with replacing(layout.table(name, "csv")) as draft:
        draft.write_text(csv_text(frame(experiment, name, rows)), encoding="utf-8")


def frame(experiment: Experiment, name: str, rows: list[RowResult]) -> pd.DataFrame:
    """Return the content of the CSV: one record for each row, every slice, all digits."""
    first, others = _slices(experiment, rows)
    measures = union(row.measures for row in rows)
    origins = any(row.row.origin for row in rows)
    records = []
    for row in rows:
        record: dict[str, Any] = {
            "label": row.label,
            "encoder": row.encoder_label,
            "mixture": row.row.mixture,
            "weight": row.row.weight,
            "variant": row.row.variant,
            **({"from": row.row.origin} if origins else {}),
            "seeds": len(row.present),
            "seeds_wanted": len(row.results),
        }
        reasons: dict[str, None] = {}
        for column in _score_columns(experiment, first, rows):
            score = column.score(row, first)
            record |= {column.name: score.mean, f"{column.name}_sd": score.deviation}
            reasons |= dict.fromkeys(score.reasons)
        if experiment.published:
            for metric in (measure.column for measure in measures):
                measured, published = record[metric], row.published.get(metric)
                record[f"published_{metric}"] = published
                both = measured is not None and published is not None
                record[f"{metric}_difference"] = measured - published if both else None
        for other in others:
            for column in _measure_columns(rows):
                score = column.score(row, other)
                record |= {
                    f"{other}_{column.name}": score.mean,
                    f"{other}_{column.name}_sd": score.deviation,
                }
                reasons |= {f"{other}: {reason}": None for reason in score.reasons}
        record["fingerprints"] = " ".join(
            str(result.metrics.get("fingerprint")) for result in row.results if result.metrics
        )
        record |= {"reasons": "; ".join(reasons), "notice": experiment.notice or ""}
        record["title"] = experiment.tables[name].title
        if experiment.tables[name].note:
            record["note"] = experiment.tables[name].note
        records.append(record)
    return pd.DataFrame(records)


def _slices(experiment: Experiment, rows: list[RowResult]) -> tuple[str, list[str]]:
    """The slice that a table shows, and the other slices on which any of its rows is scored."""
    first = rows[0].slice_name
    others = [other for other in experiment.slices if other != first]
    return first, [other for other in others if any(_is_scored(row, other) for row in rows)]


def _is_scored(row: RowResult, slice_name: str) -> bool:
    """Whether a slice can score a row's runs; another experiment may not know the slice."""
    return slice_name not in row.experiment.slices or row.corpus(slice_name) is not None


def _measure_columns(rows: list[RowResult]) -> list[Column]:
    """The measures of all rows."""
    measures = union(row.measures for row in rows)
    return [Column(measure.label, measure.column, measure.key) for measure in measures]


def _score_columns(experiment: Experiment, slice_name: str, rows: list[RowResult]) -> list[Column]:
    """The measures of all rows and, if any row answers questions, what else its scores say."""
    columns = _measure_columns(rows)
    answering = [row for row in rows if is_answering(row)]
    if answering:
        columns += _OF_ANSWERS
    if answering and experiment.tuned_on(slice_name):
        columns += [
            Column(f"{each.heading} tuned", f"tuned_{each.name}", each.key, True, tuned=True)
            for each in _measure_columns(answering)
        ]
    return columns


def main_block(experiment: Experiment, rows: list[RowResult], notes: Notes) -> Block:
    """Return the scores on the table's slice, next to the published ones if there are any."""
    first, _ = _slices(experiment, rows)
    measures = union(row.measures for row in rows)
    columns = _score_columns(experiment, first, rows)
    heading, body = _row_cells(rows)
    text_columns = len(heading) - 1
    heading += [column.heading for column in columns] + ["Seeds"]
    if experiment.published:
        heading += [f"Published {measure.label}" for measure in measures]
        heading += [f"Δ {measure.label}" for measure in measures]
    for row, cells in zip(rows, body, strict=True):
        for column in columns:
            digits = 3 if column.key == "null_odds_auc" else 2
            cells.append(_score_cell(column.score(row, first), notes, digits))
        cells.append(_seeds_cell(row, first, notes))
        if experiment.published:
            cells += _published_cells(row, first, measures)
    return Block(heading, body, text_columns)


def slices_block(
    experiment: Experiment,
    rows: list[RowResult],
    notes: Notes,
    comparisons: list[dict[str, Any]],
) -> Block | None:
    """Return the measures on the other slices; None if there is only one slice.

    A slice of a corpus that it names has a second column: how the rows' first measure differs
    from the baseline's there, if the table's comparisons have it.
    """
    _, others = _slices(experiment, rows)
    if not others:
        return None
    heading, body = _row_cells(rows)
    text_columns = len(heading) - 1
    columns = _measure_columns(rows)
    for other in others:
        heading.append(f"{experiment.slices[other].label}: {_slashed(columns)}")
        for row, cells in zip(rows, body, strict=True):
            scores = {column.key: column.score(row, other) for column in columns}
            measured = any(score.values for score in scores.values())
            text = " / ".join(map(seeds, scores.values())) if measured else MISSING
            reasons = scores[row.measures[0].key].reasons
            cells.append(notes.cell(text, () if measured else reasons))
        from_baseline = {
            each["to"]: each["measures"][each["headline"]]
            for each in with_baselines(comparisons, other)
        }
        if experiment.slices[other].corpus and from_baseline:
            heading.append(f"{experiment.slices[other].label}: Δ {headlines(rows)} ({SURE})")
            for row, cells in zip(rows, body, strict=True):
                numbers = from_baseline.get(row.path)
                cells.append(Cell(interval(numbers) if numbers else MISSING))
    return Block(heading, body, text_columns)


def headlines(rows: list[RowResult]) -> str:
    """Return the label of the rows' first measure; rows may have different targets."""
    return listed(dict.fromkeys(row.measures[0].label for row in rows), "or")


def read_comparisons(experiment: Experiment, name: str) -> list[dict[str, Any]]:
    """Return the comparisons of a table's rows; none before the statistics exist."""
    exist = experiment.layout.statistics(name).exists()
    comparisons: list[dict[str, Any]] = read_entry(experiment, name)["comparisons"] if exist else []
    return comparisons


def _slashed(columns: list[Column]) -> str:
    return " / ".join(column.heading for column in columns)


def _row_cells(rows: list[RowResult]) -> tuple[list[str], list[list[Cell]]]:
    """The columns that name a row, with its variant if the table has any, and its weight."""
    variants = any(row.row.variant != "default" for row in rows)
    heading = ["", "Encoder", *(["Variant"] if variants else []), "Weight"]
    body = []
    for row in rows:
        names = [row.label, row.encoder_label, *([row.variant_label] if variants else [])]
        body.append([Cell(text) for text in (*names, row.experiment.shown_weight(row.row))])
    return heading, body


def _score_cell(score: Score, notes: Notes, digits: int) -> Cell:
    if score.values:
        return Cell(seeds(score, digits))
    return notes.cell(MISSING, score.reasons)


def _seeds_cell(row: RowResult, slice_name: str, notes: Notes) -> Cell:
    """How many of the row's seeds have scores."""
    score = row.score(slice_name, row.measures[0].key)
    text = f"{len(score.values)}/{len(row.results)}"
    # If no seed has scores, the cells of the scores already have the notes.
    return notes.cell(text, score.reasons if score.values else ())


def _published_cells(row: RowResult, slice_name: str, measures: list[Measure]) -> list[Cell]:
    published = [row.published.get(measure.column) for measure in measures]
    known = {measure.key for measure in row.measures}
    measured = [
        row.score(slice_name, measure.key).mean if measure.key in known else None
        for measure in measures
    ]
    shown = [MISSING if value is None else f"{value:g}" for value in published]
    differences = [
        MISSING if ours is None or theirs is None else signed(ours - theirs)
        for ours, theirs in zip(measured, published, strict=True)
    ]
    return [Cell(text) for text in shown + differences]


def signed(value: float | None) -> str:
    """Format a difference with its sign and two decimals; zero has no sign, None is missing."""
    if value is None:
        return MISSING
    text = f"{abs(value):.2f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "−") + text


def number(value: float | None, digits: int = 2) -> str:
    """Format a number; None is shown as missing."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def seeds(score: Score, digits: int = 2) -> str:
    """Format the mean over seeds, with ± standard deviation if there are several."""
    text = number(score.mean, digits)
    return text if score.deviation is None else f"{text} ± {score.deviation:.{digits}f}"


def explanation(experiment: Experiment, rows: list[RowResult]) -> str:
    """Return sentences that explain the numbers: measures, slice, threshold, seeds, tuning."""
    slice_name, _ = _slices(experiment, rows)
    targets = dict.fromkeys(row.target_label for row in rows)
    parts = [_scored(experiment, [row for row in rows if row.target_label == t]) for t in targets]
    if len(targets) > 1 or not is_answering(rows[0]):
        parts = [f"{target}: {part}" for target, part in zip(targets, parts, strict=True)]
    answering = any(map(is_answering, rows))
    if answering:
        parts.append(
            "Null AUC: area under the ROC curve of the null odds as a test for unanswerable "
            "questions."
        )
    tuned_on = experiment.tuned_on(slice_name)
    if answering and tuned_on:
        parts.append(f"Tuned: at the null threshold that scores best on {tuned_on}.")
    if len(experiment.seeds) > 1:
        parts.append("Several seeds: mean ± sample standard deviation.")
    if experiment.published:
        split = experiment.published_split(slice_name)
        if split not in (None, "dev"):
            parts.append(f"Published: on the split {split}.")
        parts.append("Δ: measured minus published.")
    return " ".join(parts)


def _scored(experiment: Experiment, rows: list[RowResult]) -> str:
    """Say how rows with one target are scored: measures, slice, number of items, threshold."""
    slice_name, family = rows[0].slice_name, rows[0].family
    entry = experiment.slices[slice_name]
    scored = [result.values(slice_name)[0] for row in rows for result in row.present]
    number = next((s["questions"] for s in scored if s.get("questions")), entry.questions)
    size = f" ({number:,} {items([family])})" if number else ""
    threshold = f" at null threshold {experiment.decoding.null_threshold:g}"
    measured = in_unit(rows[0].measures)
    return f"{measured} on {entry.label}{size}{threshold if is_answering(rows[0]) else ''}."


def comparison_lines(experiment: Experiment, name: str) -> list[str]:
    """Return a line for each row against its baseline; none before the statistics exist."""
    found = with_baselines(read_comparisons(experiment, name), experiment.slice_of(name))
    return [
        f"{each['to_label']} against {each['from_label']}: {_differences(each)}. "
        f"{each['verdict']['text']}"
        for each in found
    ]


def _differences(comparison: dict[str, Any]) -> str:
    """The difference in every measure with its interval."""
    return ", ".join(
        f"Δ {comparison['labels'][name]} {interval(numbers)}"
        for name, numbers in comparison["measures"].items()
    )


def interval(numbers: dict[str, Any]) -> str:
    """Format a measured difference with its interval, if it is known."""
    if numbers["low"] is None:
        return f"{signed(numbers['difference'])} ({MISSING})"
    return (
        f"{signed(numbers['difference'])} ({signed(numbers['low'])} to {signed(numbers['high'])})"
    )


# --- Markdown --------------------------------------------------------------------------------


def _markdown(
    experiment: Experiment,
    name: str,
    main: Block,
    others: Block | None,
    notes: Notes,
    rows: list[RowResult],
) -> str:
    parts = [f"## {markdown(experiment.tables[name].title)}"]
    parts.append(f"Experiment {markdown(experiment.experiment)}: {markdown(experiment.title)}")
    if experiment.notice:
        parts.append(f"> {markdown(experiment.notice)}")
    parts.append(markdown_block(main))
    if others:
        what = items(row.family for row in rows)
        parts += [f"On other {what}:", markdown_block(others)]
    note = experiment.tables[name].note
    parts += [markdown(note)] if note else []
    if notes.reasons:
        numbered = enumerate(notes.reasons, start=1)
        parts.append("\n".join(f"- \\[{n}\\] {markdown(reason)}" for n, reason in numbered))
    parts.append(markdown(explanation(experiment, rows)))
    lines = comparison_lines(experiment, name)
    parts += ["\n".join(f"- {markdown(line)}" for line in lines)] if lines else []
    parts.append(markdown(provenance(result for row in rows for result in row.results)))
    return "\n\n".join(parts) + "\n"


def markdown_block(block: Block) -> str:
    """Return a block as a Markdown table."""
    aligned = ["---" if n < block.text_columns else "---:" for n, _ in enumerate(block.heading)]
    lines = [[markdown(title) for title in block.heading], aligned]
    lines += [[_markdown_cell(cell) for cell in row] for row in block.body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(cell: Cell) -> str:
    notes = "".join(f" \\[{number}\\]" for number in cell.notes)
    return markdown(cell.text) + notes


# --- LaTeX -----------------------------------------------------------------------------------


def _latex(
    experiment: Experiment,
    name: str,
    blocks: list[Block],
    notes: list[str],
    rows: list[RowResult],
) -> str:
    entry = experiment.tables[name]
    below = [entry.note] if entry.note else []
    below.append(explanation(experiment, rows))
    below += comparison_lines(experiment, name)
    below.append(provenance(result for row in rows for result in row.results))
    return latex_table(experiment, LatexTable(entry.title, name, blocks, notes, below))
