"""Tables of scores as Markdown, CSV and LaTeX, measured next to published."""

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import weight_text
from mtdnn.evaluation.results import RowResult, Score, read_rows
from mtdnn.machine.files import read_product, replacing, write_text
from mtdnn.reporting.facts import provenance

MISSING = "–"


class Column(NamedTuple):
    """A column of scores on a table's slice: its heading, its name in the CSV, an official key."""

    heading: str
    name: str
    key: str
    tuned: bool = False


_SCORES = (
    Column("EM", "em", "exact"),
    Column("F1", "f1", "f1"),
    Column("HasAns F1", "has_ans_f1", "HasAns_f1"),
    Column("NoAns acc.", "no_ans_accuracy", "NoAns_exact"),
    Column("Null AUC", "null_odds_auc", "null_odds_auc"),
)
_TUNED = (
    Column("EM tuned", "tuned_em", "exact", tuned=True),
    Column("F1 tuned", "tuned_f1", "f1", tuned=True),
)


@dataclass(frozen=True)
class Cell:
    """The text of a cell and the numbers of its notes."""

    text: str
    notes: tuple[int, ...] = ()


@dataclass
class Notes:
    """Numbered notes below a table; equal reasons share a number."""

    reasons: list[str] = field(default_factory=list)

    def number(self, reason: str) -> int:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1

    def cell(self, text: str, reasons: tuple[str, ...]) -> Cell:
        return Cell(text, tuple(sorted(self.number(reason) for reason in reasons)))


@dataclass(frozen=True)
class Block:
    """A table as text, before it becomes Markdown, LaTeX or HTML.

    Attributes:
        heading: the titles of the columns.
        body: the rows of cells.
        text_columns: how many columns, from the left, hold text; the others hold numbers.
    """

    heading: list[str]
    body: list[list[Cell]]
    text_columns: int


def write(experiment: Experiment, name: str) -> None:
    """Write one table as Markdown, CSV and LaTeX, from the runs that exist.

    The table shows its slice, or else the first, at the configured null threshold. Several seeds
    give mean ± sample standard deviation. A note below the table explains each missing value.
    """
    rows = read_rows(experiment, name)
    layout = experiment.layout
    notes = Notes()
    main = main_block(experiment, rows, notes)
    tex = _latex(experiment, name, main, list(notes.reasons), rows)
    others = slices_block(experiment, rows, notes)
    write_text(layout.table(name, "md"), _markdown(experiment, name, main, others, notes, rows))
    write_text(layout.table(name, "tex"), tex)
    with replacing(layout.table(name, "csv")) as draft:
        draft.write_text(csv_text(frame(experiment, name, rows)), encoding="utf-8")


def csv_text(records: pd.DataFrame) -> str:
    """Return records as CSV in which no spreadsheet program takes a text for a formula.

    A text that begins like a formula gets an apostrophe, which such programs do not show.
    """

    def defused(value: Any) -> Any:
        begins = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        return f"'{value}" if begins else value

    return records.map(defused).to_csv(index=False)


def frame(experiment: Experiment, name: str, rows: list[RowResult]) -> pd.DataFrame:
    """Return the content of the CSV: one record for each row, every slice, all digits."""
    first, others = _slices(experiment, rows)
    records = []
    for row in rows:
        record: dict[str, Any] = {
            "label": row.label,
            "encoder": row.encoder_label,
            "mixture": row.row.mixture,
            "qa_weight": row.row.qa_weight,
            "variant": row.row.variant,
            "seeds": len(row.present),
            "seeds_wanted": len(row.results),
        }
        reasons: dict[str, None] = {}
        for column in _score_columns(experiment, first):
            score = row.score(first, column.key, column.tuned)
            record |= {column.name: score.mean, f"{column.name}_sd": score.deviation}
            reasons |= dict.fromkeys(score.reasons)
        if experiment.published:
            for metric in ("em", "f1"):
                measured, published = record[metric], row.published.get(metric)
                record[f"published_{metric}"] = published
                both = measured is not None and published is not None
                record[f"{metric}_difference"] = measured - published if both else None
        for other in others:
            for metric, key in (("em", "exact"), ("f1", "f1")):
                score = row.score(other, key)
                record |= {
                    f"{other}_{metric}": score.mean,
                    f"{other}_{metric}_sd": score.deviation,
                }
                reasons |= {f"{other}: {reason}": None for reason in score.reasons}
        record["fingerprints"] = " ".join(
            str(result.metrics.get("fingerprint")) for result in row.results if result.metrics
        )
        record |= {"reasons": "; ".join(reasons), "notice": experiment.notice or ""}
        record["title"] = experiment.tables[name].title
        records.append(record)
    return pd.DataFrame(records)


def _slices(experiment: Experiment, rows: list[RowResult]) -> tuple[str, list[str]]:
    """The slice that a table shows, and the other slices."""
    first = rows[0].slice_name
    return first, [other for other in experiment.slices if other != first]


def _score_columns(experiment: Experiment, slice_name: str) -> tuple[Column, ...]:
    return _SCORES + (_TUNED if experiment.tuned_on(slice_name) else ())


def main_block(experiment: Experiment, rows: list[RowResult], notes: Notes) -> Block:
    """Return the scores on the table's slice, next to the published ones if there are any."""
    first, _ = _slices(experiment, rows)
    columns = _score_columns(experiment, first)
    heading, body = _row_cells(rows)
    text_columns = len(heading) - 1
    heading += [column.heading for column in columns] + ["Seeds"]
    if experiment.published:
        heading += ["Published EM", "Published F1", "Δ EM", "Δ F1"]
    for row, cells in zip(rows, body, strict=True):
        for column in columns:
            digits = 3 if column.key == "null_odds_auc" else 2
            cells.append(_score_cell(row.score(first, column.key, column.tuned), notes, digits))
        cells.append(_seeds_cell(row, first, notes))
        if experiment.published:
            cells += _published_cells(row, first)
    return Block(heading, body, text_columns)


def slices_block(experiment: Experiment, rows: list[RowResult], notes: Notes) -> Block | None:
    """Return EM / F1 on the other slices; None if there is only one slice."""
    _, others = _slices(experiment, rows)
    if not others:
        return None
    heading, body = _row_cells(rows)
    text_columns = len(heading) - 1
    heading += [f"{experiment.slices[other].label}: EM / F1" for other in others]
    for row, cells in zip(rows, body, strict=True):
        for other in others:
            em, f1 = row.score(other, "exact"), row.score(other, "f1")
            text = f"{_number(em)} / {_number(f1)}" if em.values else MISSING
            cells.append(notes.cell(text, () if em.values else em.reasons))
    return Block(heading, body, text_columns)


def _row_cells(rows: list[RowResult]) -> tuple[list[str], list[list[Cell]]]:
    """The columns that name a row, with its variant if the table has any, and its QA weight."""
    variants = any(row.row.variant != "default" for row in rows)
    heading = ["", "Encoder", *(["Variant"] if variants else []), "QA weight"]
    body = []
    for row in rows:
        names = [row.label, row.encoder_label, *([row.variant_label] if variants else [])]
        body.append([Cell(text) for text in (*names, weight_text(row.row.qa_weight))])
    return heading, body


def _score_cell(score: Score, notes: Notes, digits: int) -> Cell:
    if score.values:
        return Cell(_number(score, digits))
    return notes.cell(MISSING, score.reasons)


def _seeds_cell(row: RowResult, slice_name: str, notes: Notes) -> Cell:
    """How many of the row's seeds have scores."""
    score = row.score(slice_name, "exact")
    text = f"{len(score.values)}/{len(row.results)}"
    # If no seed has scores, the cells of the scores already have the notes.
    return notes.cell(text, score.reasons if score.values else ())


def _published_cells(row: RowResult, slice_name: str) -> list[Cell]:
    published = [row.published.get("em"), row.published.get("f1")]
    measured = [row.score(slice_name, "exact").mean, row.score(slice_name, "f1").mean]
    shown = [MISSING if value is None else f"{value:g}" for value in published]
    differences = [
        MISSING if ours is None or theirs is None else signed(ours - theirs)
        for ours, theirs in zip(measured, published, strict=True)
    ]
    return [Cell(text) for text in shown + differences]


def signed(value: float) -> str:
    """Format a value with its sign and two decimals; zero has no sign."""
    text = f"{abs(value):.2f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "−") + text


def _number(score: Score, digits: int = 2) -> str:
    """The mean, with ± standard deviation if there are several seeds."""
    text = f"{score.mean:.{digits}f}"
    return text if score.deviation is None else f"{text} ± {score.deviation:.{digits}f}"


def explanation(experiment: Experiment, rows: list[RowResult]) -> str:
    """Return sentences that explain the numbers: slice, threshold, seeds, tuning."""
    slice_name, _ = _slices(experiment, rows)
    first = experiment.slices[slice_name]
    scored = [result.values(slice_name)[0] for row in rows for result in row.present]
    questions = next((s["total"] for s in scored if s.get("total")), first.questions)
    size = f" ({questions:,} questions)" if questions else ""
    threshold = experiment.decoding.null_threshold
    parts = [f"EM and F1 in percent on {first.label}{size} at null threshold {threshold:g}."]
    parts.append(
        "Null AUC: area under the ROC curve of the null odds as a test for unanswerable questions."
    )
    tuned_on = experiment.tuned_on(slice_name)
    if tuned_on:
        parts.append(f"Tuned: at the null threshold that scores best on {tuned_on}.")
    if len(experiment.seeds) > 1:
        parts.append("Several seeds: mean ± sample standard deviation.")
    if experiment.published:
        split = experiment.published_split(slice_name)
        if split not in (None, "dev"):
            parts.append(f"Published: on the split {split}.")
        parts.append("Δ: measured minus published.")
    return " ".join(parts)


def comparison_lines(experiment: Experiment, name: str) -> list[str]:
    """Return a line for each row against its baseline; none before the statistics exist."""
    path = experiment.layout.statistics(name)
    entry = read_product(path) if path.exists() else {"comparisons": []}
    return [
        f"{each['to_label']} against {each['from_label']}: Δ EM {interval(each['em'])}, "
        f"Δ F1 {interval(each['f1'])}. {each['verdict']['text']}"
        for each in entry["comparisons"]
        if each["kind"] == "baseline"
        and (each["slice"], each["threshold"]) == (entry["slice"], "zero")
    ]


def interval(numbers: dict[str, Any]) -> str:
    """Format a measured difference with its interval."""
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
        parts += ["On other questions:", markdown_block(others)]
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


def markdown(text: str) -> str:
    """Escape plain text so that Markdown (and HTML in it) shows it unchanged, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", " ".join(text.split()))


# --- LaTeX -----------------------------------------------------------------------------------


def _latex(
    experiment: Experiment, name: str, block: Block, notes: list[str], rows: list[RowResult]
) -> str:
    below = [f"[{number}] {reason}" for number, reason in enumerate(notes, start=1)]
    below.append(explanation(experiment, rows))
    below += comparison_lines(experiment, name)
    below.append(provenance(result for row in rows for result in row.results))
    return latex_table(experiment, experiment.tables[name].title, name, block, below)


def latex_table(
    experiment: Experiment, title: str, label: str, block: Block, below: list[str]
) -> str:
    """Return a floating table with small print, for `\\input`; it needs booktabs and graphicx."""
    caption = latex(f"{title} ({experiment.title})")
    notice = rf" \emph{{{latex(experiment.notice)}}}" if experiment.notice else ""
    align = "".join("l" if n < block.text_columns else "r" for n, _ in enumerate(block.heading))
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{caption}.{notice}}}",
        rf"\label{{tab:{label}}}",
        # Shrink a table that is wider than the text; never enlarge one.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        " & ".join(latex(title) for title in block.heading) + r" \\",
        r"\midrule",
        *(" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in block.body),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip\footnotesize\raggedright",
        *(rf"{latex(text)}\par" for text in below),
    ]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_cell(cell: Cell) -> str:
    notes = ",".join(map(str, cell.notes))
    return latex(cell.text) + (rf"\textsuperscript{{{notes}}}" if notes else "")


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
}


def latex(text: str) -> str:
    """Escape plain text so that LaTeX prints it unchanged, on one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
