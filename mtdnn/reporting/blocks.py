"""A table as text, before it becomes Markdown, LaTeX or HTML."""

from dataclasses import dataclass, field

MISSING = "–"


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
    """A table as text.

    Attributes:
        heading: the titles of the columns.
        body: the rows of cells.
        text_columns: how many columns, from the left, hold text; the others hold numbers.
    """

    heading: list[str]
    body: list[list[Cell]]
    text_columns: int


def without_empty(block: Block) -> Block:
    """Return a block without the columns in which no cell has content."""
    kept = [
        number
        for number in range(len(block.heading))
        if any(row[number].text not in ("", MISSING) or row[number].notes for row in block.body)
    ]
    return Block(
        [block.heading[number] for number in kept],
        [[row[number] for number in kept] for row in block.body],
        sum(number < block.text_columns for number in kept),
    )
