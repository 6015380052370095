"""Shared by all figures: the style, the colours, a canvas with small print, and saving.

Figures do not use pyplot, which keeps global state and may require a display.
"""

import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from mtdnn.config.experiment import Experiment
from mtdnn.machine.files import replacing
from mtdnn.reporting.escaping import one_line

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#767676"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.hashsalt": "mtdnn",
    "text.parse_math": False,  # titles and labels are text, whatever dollar signs they contain
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
_METADATA = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
_FOOTER_POINTS = 7
_TITLE_POINTS = 11
_POINTS_PER_INCH = 72
LABEL_LINE_CHARACTERS = 24
MAX_LABEL_CHARACTERS = 2 * LABEL_LINE_CHARACTERS


def styled() -> AbstractContextManager[None]:
    """Return a context in which matplotlib uses our style."""
    return matplotlib.rc_context(_STYLE)


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


def save(experiment: Experiment, name: str, draw: Callable[[], Figure]) -> None:
    """Draw a figure in our style and write it in three formats; equal runs give equal bytes."""
    with styled(), warnings.catch_warnings():
        # A box shows that the font lacks a character.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing", UserWarning)
        figure = draw()
        for suffix, metadata in _METADATA.items():
            with replacing(experiment.layout.figure(name, suffix)) as draft:
                figure.savefig(draft, metadata=metadata)
                if suffix == "svg":
                    draft.write_text(number_clips(draft.read_text("utf-8")), "utf-8")


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


def corpus_colours(experiment: Experiment) -> dict[str, str]:
    """Return a colour for each corpus, the same in all figures of an experiment."""
    return dict(zip(experiment.corpora, cycle(), strict=False))


def cycle() -> Iterator[str]:
    """Yield the colours of the palette, repeatedly."""
    while True:
        yield from COLOURS


def canvas(
    experiment: Experiment, size: tuple[float, float], title: str, notes: list[str]
) -> tuple[Figure, SubFigure]:
    """Return a figure with the notes, the experiment's title and its notice as small print.

    See `footed` for arguments and results.
    """
    origin = f"Experiment {experiment.experiment}: {experiment.title}."
    return footed(size, title, [*notes, origin, experiment.notice or ""])


def footed(
    size: tuple[float, float], title: str, paragraphs: list[str]
) -> tuple[Figure, SubFigure]:
    """Return a figure with a title and small print, and the part of it to draw in.

    Args:
        size: width and height in inches, without the small print.
        title: the text above the drawing.
        paragraphs: the small print below it; long lines are wrapped.
    """
    width, height = size
    lines = [line for text in paragraphs for line in _wrapped(text, width, _FOOTER_POINTS)]
    footer = 0.16 + len(lines) * 1.35 * _FOOTER_POINTS / _POINTS_PER_INCH
    figure = Figure(
        figsize=(width, height + footer), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.06)
    )
    body, foot = figure.subfigures(2, 1, height_ratios=[height, footer])  # type: ignore[misc]
    heading = "\n".join(_wrapped(title, width, _TITLE_POINTS))
    body.suptitle(heading, x=0.02, ha="left", fontsize=_TITLE_POINTS, fontweight="bold")
    foot.text(
        0.02,
        0.95,
        "\n".join(lines),
        fontsize=_FOOTER_POINTS,
        color="#555555",
        va="top",
        linespacing=1.3,
    )
    return figure, body


def _wrapped(text: str, width: float, points: int) -> list[str]:
    """Return the lines of a text of this size that fit into a width in inches."""
    ems = 0.6 if points == _FOOTER_POINTS else 0.7  # the title is bold
    return textwrap.wrap(one_line(text), int(width / (ems * points / _POINTS_PER_INCH)))


def same_span(panels: Iterable[Axes], drawn: list[list[float]]) -> None:
    """Let all panels span the same number of points, so that their heights can be compared.

    Args:
        panels: axes that show values in percent, or correlations times 100.
        drawn: the values drawn into each of them.
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
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def say_empty(axes: Axes, text: str = "nothing to draw yet") -> None:
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
