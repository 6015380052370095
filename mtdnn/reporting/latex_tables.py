"""Tables as LaTeX, as journals want them: aligned numbers, one number in a column, notes below.

What is the same in all rows has no column; it is said below the table. What a column of Markdown
joins (`EM / F1`, a difference with its interval) has a column each.
"""

import re
from dataclasses import dataclass, field, replace

from mtdnn.config.experiment import Experiment
from mtdnn.reporting.blocks import MISSING, Block, Cell
from mtdnn.reporting.escaping import LATEX_CHARACTER, LATEX_NEEDS, latex
from mtdnn.statistics.level import CONFIDENCE

_NUMBER = re.compile(r"([+−]?)(\d+)(?:\.(\d+))?(?: ± (\d+)\.(\d+))?")
_INTERVAL = re.compile(r"([+−]?[\d.]+) \(([+−]?[\d.]+) to ([+−]?[\d.]+)\)")
_SPACE = re.compile(r"(?<!Δ) ")
"""Where a title may be cut into lines."""

_SURE = f"{CONFIDENCE:.0%} interval"
_LONG = 24
"""A column with a longer text has lines of a fixed width."""

_LONG_SHARE = 0.26
"""Their width, of that of the text."""

_ROOM, _LETTER, _GAP = 345.0, 4.4, 8.0
"""Points: a narrow page's text, a letter of a table, and the gap between two columns."""


@dataclass(frozen=True)
class LatexTable:
    """A floating table.

    Attributes:
        title: what the caption begins with.
        label: what follows `tab:` in its label.
        blocks: the tables in it, one below the other.
        notes: the texts of the cells' numbered notes.
        below: sentences below it.
    """

    title: str
    label: str
    blocks: list[Block]
    notes: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """A column: its title, its cells, and whether it holds text."""

    heading: str
    cells: list[Cell]
    is_text: bool


def latex_table(experiment: Experiment, table: LatexTable) -> str:
    """Return a table for `\\input`; it needs booktabs, siunitx and threeparttable."""
    caption = latex(f"{table.title} ({experiment.title})")
    notice = rf" \emph{{{latex(experiment.notice)}}}" if experiment.notice else ""
    lines = [
        LATEX_NEEDS,
        LATEX_CHARACTER,
        r"\begin{table}",
        rf"\centering\setlength{{\tabcolsep}}{{{_GAP / 2:g}pt}}",
        r"\sisetup{retain-explicit-plus=true,separate-uncertainty=true}",
        rf"\caption{{{caption}.{notice}}}",
        rf"\label{{tab:{table.label}}}",
        r"\footnotesize",
    ]
    same: list[str] = []
    parts: list[list[Column]] = []
    for block in table.blocks:
        columns, constant = _without_constants(_columns(block))
        same += [text for text in constant if text not in same]
        parts += _fitting(columns)
    for number, part in enumerate(parts, start=1):
        lines += [r"\par\medskip"] if number > 1 else []
        lines += _tabular(part, table.notes if number == len(parts) else [])
    below = [f"In all rows: {'; '.join(same)}."] if same else []
    lines += [r"\par\smallskip\raggedright"]
    lines += [rf"{latex(text)}\par" for text in [*below, *table.below]]
    return "\n".join([*lines, r"\end{table}", ""])


def _columns(block: Block) -> list[Column]:
    """The columns of a block, each with one number in a cell."""
    columns = []
    for number, heading in enumerate(block.heading):
        cells = [row[number] for row in block.body]
        column = Column(heading, cells, number < block.text_columns)
        columns += [column] if column.is_text else _apart(column)
    return columns


def _apart(column: Column) -> list[Column]:
    """Split a column whose cells join several numbers."""
    shown = [cell.text for cell in column.cells if cell.text != MISSING]
    start, _, names = column.heading.rpartition(": ")
    parts = names.split(" / ")
    if len(parts) > 1 and all(text.count(" / ") == len(parts) - 1 for text in shown):
        prefix = f"{start}: " if start else ""
        return [
            Column(prefix + part, [_part(cell, " / ", n) for cell in column.cells], False)
            for n, part in enumerate(parts)
        ]
    if shown and all(map(_INTERVAL.fullmatch, shown)):
        heading = column.heading.partition(" (")[0]
        return [
            Column(heading, [_matched(cell, r"\1") for cell in column.cells], False),
            Column(_SURE, [_matched(cell, r"\2 to \3") for cell in column.cells], False),
        ]
    return [column]


def _part(cell: Cell, between: str, number: int) -> Cell:
    return cell if cell.text == MISSING else replace(cell, text=cell.text.split(between)[number])


def _matched(cell: Cell, template: str) -> Cell:
    return replace(cell, text=_INTERVAL.sub(template, cell.text))


def _without_constants(columns: list[Column]) -> tuple[list[Column], list[str]]:
    """Return the columns that differ between rows, and what the others say of all rows."""
    kept, same = [], []
    for number, column in enumerate(columns):
        is_constant = len(column.cells) > 1 and len(set(column.cells)) == 1
        if number == 0 or not is_constant:
            kept.append(column)
        elif not column.cells[0].notes and column.cells[0].text != MISSING:
            same.append(f"{column.heading} {column.cells[0].text}")
        elif column.cells[0].notes:
            notes = ", ".join(map(str, column.cells[0].notes))
            same.append(f"{column.heading} {MISSING} (note {notes})")
    return kept, same


def _fitting(columns: list[Column]) -> list[list[Column]]:
    """Cut a table that is wider than a page into several that begin with the same columns."""
    names = [column for column in columns if column.is_text] or columns[:1]
    groups: list[list[Column]] = []
    for column in columns:
        if column.heading == _SURE and groups:
            groups[-1].append(column)
        elif column not in names:
            groups.append([column])
    used = sum(map(_width, names))
    parts, width = [list(names)], used
    for group in groups:
        if width + sum(map(_width, group)) > _ROOM and len(parts[-1]) > len(names):
            parts, width = [*parts, list(names)], used
        parts[-1] += group
        width += sum(map(_width, group))
    return parts


def _width(column: Column) -> float:
    """About the width of a column in points."""
    cells = max((len(cell.text) for cell in column.cells), default=0)
    if column.is_text and cells > _LONG:
        return _LONG_SHARE * _ROOM + _GAP
    return _LETTER * max(cells, *map(len, _SPACE.split(column.heading))) + _GAP


def _tabular(columns: list[Column], notes: list[str]) -> list[str]:
    formats = [_format(column) for column in columns]
    rows = zip(*(column.cells for column in columns), strict=True)
    return [
        r"\begin{threeparttable}",
        rf"\begin{{tabular}}{{{''.join(formats)}}}",
        r"\toprule",
        " & ".join(_heading(column, form) for column, form in zip(columns, formats, strict=True))
        + r" \\",
        r"\midrule",
        *(
            " & ".join(_cell(cell, form) for cell, form in zip(row, formats, strict=True)) + r" \\"
            for row in rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
        *_tablenotes(notes),
        r"\end{threeparttable}",
    ]


def _tablenotes(notes: list[str]) -> list[str]:
    if not notes:
        return []
    items = [rf"\item[{number}] {latex(reason)}" for number, reason in enumerate(notes, start=1)]
    return [r"\begin{tablenotes}[flushleft]", *items, r"\end{tablenotes}"]


def _format(column: Column) -> str:
    """The type of a column: aligned numbers, or text."""
    shown = [cell.text for cell in column.cells if cell.text != MISSING]
    numbers = [_NUMBER.fullmatch(text) for text in shown]
    if column.is_text or not numbers or not all(numbers):
        if max((len(text) for text in shown), default=0) > _LONG:
            return rf">{{\raggedright\arraybackslash}}p{{{_LONG_SHARE}\linewidth}}"
        return "l" if column.is_text else "r"
    found = [number for number in numbers if number]
    sign = "+" if any(number[1] for number in found) else ""
    whole = max(len(number[2]) for number in found)
    decimals = max(len(number[3] or "") for number in found)
    spread = max((len(str(int(n[4] + n[5]))) for n in found if n[4] is not None), default=0)
    around = f"({spread})" if spread else ""
    return f"S[table-format={sign}{whole}.{decimals}{around}]"


def _heading(column: Column, form: str) -> str:
    """A title, with a line for each of its words above numbers, which are narrow."""
    if form.startswith((">", "l")) or " " not in column.heading:
        title = latex(column.heading)
    else:
        title = rf"\shortstack[r]{{{_lines(column.heading)}}}"
    return f"{{{title}}}" if form.startswith("S") else title


def _lines(heading: str) -> str:
    """A title on several lines; what names a further set has its own."""
    start, colon, rest = heading.rpartition(": ")
    words = [*([start + ":"] if colon else []), *_SPACE.split(rest)]
    return r"\\".join(map(latex, words))


def _cell(cell: Cell, form: str) -> str:
    notes = rf"\tnote{{{','.join(map(str, cell.notes))}}}" if cell.notes else ""
    if not form.startswith("S"):
        return latex(cell.text) + notes
    if cell.text == MISSING:
        return f"{{{latex(cell.text)}{notes}}}"
    return cell.text.replace("−", "-").replace(" ± ", " +- ") + notes
