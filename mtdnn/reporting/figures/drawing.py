"""Shared by all figures: the style, pages, a canvas with small print, legends, and saving.

Figures do not use pyplot, which keeps global state and may require a display.
"""

import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from html import escape
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import PAPER_WIDTHS
from mtdnn.machine.files import replacing, write_text
from mtdnn.reporting.escaping import LATEX_CHARACTER, latex, one_line
from mtdnn.reporting.figures.palette import GREY
from mtdnn.reporting.wording import sentence

NOTHING_YET = "nothing to draw yet"
NOTHING_COMPARED = "nothing to compare"

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "savefig.dpi": 160,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mtdnn",
    "text.parse_math": False,  # titles and labels are text, whatever dollar signs they contain
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
_PAPER_STYLE: dict[Any, Any] = {
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "font.size": 7,
    "legend.fontsize": 6.5,
    "lines.markersize": 4.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
}
_PAPER_HEIGHT = 0.78
"""Height of a figure in a paper, where letters are smaller, relative to that on a screen."""

_METADATA: dict[str, dict[str, None] | None] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": None,
}
_FOOTER_POINTS = 7
_TITLE_POINTS = (11, 10, 9, 8)
"""Sizes of a title; the largest with which it has one line is used."""

_POINTS_PER_INCH = 72
_GRID = 2**20
"""Positions that a layout may give across a figure; a power of two, which rounds exactly."""
LABEL_LINE_CHARACTERS = 24
MAX_LABEL_CHARACTERS = 2 * LABEL_LINE_CHARACTERS


@dataclass(frozen=True)
class Page:
    """What a figure is drawn for.

    Attributes:
        name: the folder of its files below `figures/`.
        width: its width in inches; None on a screen, where each figure has its own.
    """

    name: str
    width: float | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether panels are below each other that stand side by side elsewhere."""
        return self.width is not None and self.width < 5


SCREEN = Page("")
PAPER = tuple(Page(name, width) for name, width in PAPER_WIDTHS.items())
"""A column, and the whole width, of a journal's page: nothing but the drawing."""

_page: ContextVar[Page] = ContextVar("page", default=SCREEN)


@contextmanager
def styled(page: Page | None = None) -> Iterator[None]:
    """Let matplotlib use our style, and figures be drawn for a page; by default the current one."""
    before = _page.set(page or _page.get())
    paper = _PAPER_STYLE if _page.get().width else {}
    try:
        with matplotlib.rc_context({**_STYLE, **paper}):
            yield
    finally:
        _page.reset(before)


def is_narrow() -> bool:
    """Return whether figures are drawn for a narrow page."""
    return _page.get().is_narrow


class Sheet(Figure):
    """A figure with what its caption says, whether or not it is drawn.

    Attributes:
        title: the title.
        paragraphs: the small print.
    """

    title: str
    paragraphs: list[str]


def drawable(experiment: Experiment) -> Experiment:
    """Return an experiment whose titles, labels and notice can be drawn; nothing else differs."""

    def drawn(value: Any, key: Any = None) -> Any:
        if isinstance(value, dict):
            return {name: drawn(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [drawn(each) for each in value]
        if not isinstance(value, str) or key not in ("title", "label", "notice"):
            return value
        return label_text(value) if key == "label" else one_line(value)

    changed = Experiment.model_validate(drawn(experiment.model_dump()))
    return experiment if changed == experiment else changed


def label_text(text: str) -> str:
    """Return a label as figures show it: on at most two lines, without its middle if too long."""
    text = one_line(text)
    if len(text) > MAX_LABEL_CHARACTERS:
        half = (MAX_LABEL_CHARACTERS - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    text = textwrap.fill(text, LABEL_LINE_CHARACTERS)
    # matplotlib leaves labels that begin with an underscore out of legends.
    return f" {text}" if text.startswith("_") else text


def run_text(label: str, width: int = 34) -> str:
    """Return the name of a run below or beside which there is room for lines of some width."""
    return textwrap.fill(one_line(label), width)


def save(experiment: Experiment, name: str, draw: Callable[[], Figure]) -> None:
    """Draw a figure in our style and write all of its files; equal runs give equal bytes."""
    with warnings.catch_warnings():
        # A box shows that the font lacks a character.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing", UserWarning)
        with styled():
            sheet = draw()
            assert isinstance(sheet, Sheet), "figures are drawn on a canvas"
            for suffix, metadata in _METADATA.items():
                with replacing(experiment.layout.figure(name, suffix)) as draft:
                    sheet.savefig(draft, metadata=metadata)
                    if suffix == "svg":
                        text = number_clips(draft.read_text("utf-8"))
                        draft.write_text(described(text, sheet.title, sheet.paragraphs), "utf-8")
        if experiment.paper_figures:
            write_text(experiment.layout.figure(name, "tex"), caption(name, sheet))
            for page in PAPER:
                file = experiment.layout.figure(name, "pdf", page.name)
                with styled(page), replacing(file) as draft:
                    draw().savefig(draft, metadata=_METADATA["pdf"])


def described(svg: str, title: str, paragraphs: Iterable[str]) -> str:
    """Return an SVG with a title and a description, which screen readers read out."""
    shown = f"<title>{escape(title)}</title>\n<desc>{escape(' '.join(paragraphs))}</desc>"
    return re.sub(
        r"<svg ([^>]*)>", lambda tag: f'<svg role="img" {tag[1]}>\n {shown}', svg, count=1
    )


def caption(name: str, sheet: Sheet) -> str:
    """Return the caption of a figure as LaTeX, for `\\input` below `\\includegraphics`."""
    text = latex(" ".join(paragraph for paragraph in sheet.paragraphs if paragraph))
    return (
        f"{LATEX_CHARACTER}\n\\caption{{\\textbf{{{latex(sentence(sheet.title))}}} {text}}}\n"
        f"\\label{{fig:{name}}}\n"
    )


def number_clips(svg: str) -> str:
    """Rename the clip paths of an SVG to p1, p2, … in the order of their first use.

    matplotlib names them by a digest of unrounded coordinates, whose last bits may differ between
    processes, so that names would change although the drawing does not.
    """
    names: dict[str, str] = {}
    return re.sub(
        r'(?<=[#"])p[0-9a-f]{10}(?=[")])',
        lambda found: names.setdefault(found[0], f"p{len(names) + 1}"),
        svg,
    )


def canvas(
    experiment: Experiment, size: tuple[float, float], title: str, notes: list[str]
) -> tuple[Figure, SubFigure]:
    """Return a figure with the notes, the experiment's title and its notice as small print.

    See `footed` for arguments and results.
    """
    origin = sentence(f"Experiment {experiment.experiment}: {experiment.title}")
    return footed(size, title, [*notes, origin, experiment.notice or ""])


def footed(
    size: tuple[float, float], title: str, paragraphs: list[str]
) -> tuple[Figure, SubFigure]:
    """Return a figure with a title and small print, and the part of it to draw in.

    In a paper, the title and the small print are not drawn: they are its caption.

    Args:
        size: width and height in inches on a screen, without the small print.
        title: the text above the drawing.
        paragraphs: the small print below it; long lines are wrapped.
    """
    width, height = size
    if on_paper := _page.get().width:
        sheet = Sheet(figsize=(on_paper, height * _PAPER_HEIGHT), layout=_layout(0.02))
        (body,) = sheet.subfigures(1, 1, squeeze=False).flat
    else:
        lines = [line for text in paragraphs for line in _wrapped(text, width)]
        footer = 0.16 + len(lines) * 1.35 * _FOOTER_POINTS / _POINTS_PER_INCH
        sheet = Sheet(figsize=(width, height + footer), layout=_layout(0.09))
        body, foot = sheet.subfigures(2, 1, height_ratios=[height, footer])  # type: ignore[misc]
        heading, points = _on_one_line(one_line(title), width - 0.3)
        body.suptitle(heading, x=0.02, ha="left", fontsize=points, fontweight="bold")
        foot.text(
            0.02,
            0.95,
            "\n".join(lines),
            fontsize=_FOOTER_POINTS,
            color="#555555",
            va="top",
            linespacing=1.3,
        )
    sheet.title, sheet.paragraphs = one_line(title), paragraphs
    return sheet, body


def _layout(margin: float) -> ConstrainedLayoutEngine:
    return _RoundedLayout(w_pad=margin, h_pad=0.06)


class _RoundedLayout(ConstrainedLayoutEngine):
    """A constrained layout that is the same in every process.

    The last bits of what its solver finds depend on where its variables lie in memory.
    """

    def execute(self, fig: Figure) -> None:
        """Place everything, then move it onto a grid far finer than a pixel."""
        super().execute(fig)
        _round_positions(fig)


def _round_positions(figure: FigureBase) -> None:
    for panel in figure.subfigs:
        panel.bbox_relative.set_points(_on_grid(panel.bbox_relative.get_points()))
        _round_positions(panel)
        for text in panel.texts:
            text.set_position(_on_grid(text.get_position()))
        for axes in panel.axes:
            axes.set_position(Bbox(_on_grid(axes.get_position(original=True).get_points())))
            axes.set_in_layout(True)  # what has a position is left out otherwise


def _on_grid(coordinates: Any) -> Any:
    return np.round(np.asarray(coordinates) * _GRID) / _GRID


def _wrapped(text: str, width: float) -> list[str]:
    """Return the lines of the small print that fit into a width in inches."""
    return textwrap.wrap(one_line(text), int(width / (0.58 * _FOOTER_POINTS / _POINTS_PER_INCH)))


def _on_one_line(title: str, width: float) -> tuple[str, int]:
    """Return a title and its size in points; on several lines only if no size makes it fit."""
    for points in _TITLE_POINTS:
        if text_width(title, points, "bold") <= width:
            return title, points
    return textwrap.fill(title, int(width / (0.7 * points / _POINTS_PER_INCH))), points


def points_of(setting: str) -> float:
    """Return the size of letters, in points, that a setting of matplotlib names."""
    size = matplotlib.rcParams[cast(Any, setting)]
    return float(FontProperties(size=size).get_size_in_points())


def text_width(text: str, points: float, weight: str = "normal") -> float:
    """Return the width of a line of text in inches."""
    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text, size=points, prop=FontProperties(weight=weight))
    return float(path.get_extents().width) / _POINTS_PER_INCH


def legend_below(body: SubFigure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Put a legend below the panels, with as many columns as fit into the width."""
    if not handles:
        return
    points = points_of("legend.fontsize")
    lines = [line for label in labels for line in label.split("\n")]
    # An entry has a handle of two letters' width and gaps on both sides of it.
    entry = max(text_width(line, points) for line in lines) + 5.2 * points / _POINTS_PER_INCH
    columns = max(1, min(len(labels), int((body.get_figure(root=True).get_figwidth()) / entry)))
    body.legend(handles, labels, loc="outside lower center", ncols=columns)


def side_by_side(number: int) -> tuple[int, int]:
    """Return rows and columns of panels that stand side by side, on a narrow page on top."""
    return (number, 1) if is_narrow() else (1, number)


def same_span(panels: Iterable[Axes], drawn: list[list[float]], ticks: int = 6) -> None:
    """Let all panels span the same number of points, so that their heights can be compared.

    Args:
        panels: axes that show values in percent, or correlations times 100.
        drawn: the values drawn into each of them.
        ticks: at most how many ticks they have.
    """
    if not any(drawn):
        for axes in panels:
            say_empty(axes)
        return
    span = max(1.0, *(max(values) - min(values) for values in drawn if values)) * 1.2
    for axes, values in zip(panels, drawn, strict=True):
        if not values:
            say_empty(axes)
            continue
        middle = (max(values) + min(values)) / 2
        lowest = -1 if min(values) >= 0 else -101  # only correlations are negative
        axes.set_ylim(max(middle - span / 2, lowest), min(middle + span / 2, 101))
        axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))


def absent(what: str, reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a note for each reason why something is absent, with all that it concerns.

    Args:
        what: what is said of it, for instance `Not drawn`.
        reasons: the reasons of each label; a label without any is not absent.
    """
    labels: dict[str, list[str]] = {}
    for label, several in reasons.items():
        if several:
            labels.setdefault("; ".join(several), []).append(label)
    return [f"{what}: {'; '.join(those)}: {reason}." for reason, those in labels.items()]


def say_empty(axes: Axes, text: str = NOTHING_YET) -> None:
    """Write into the axes that there is nothing to draw."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=GREY,
    )
