"""What all figures share: style, colours, a canvas with small print, and how they are saved.

matplotlib is used without pyplot: no global state, no display.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from mtdnn.config.experiment import Experiment
from mtdnn.machine.files import replacing

# Okabe and Ito's palette, told apart with any common colour-blindness; yellow is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#767676"
STYLE = {
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
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
_METADATA = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
_FOOTER_SIZE = 7


def save(experiment: Experiment, name: str, draw: Callable[[], Figure]) -> None:
    """Draw a figure in our style and write it in three formats; same runs, same bytes."""
    with matplotlib.rc_context(STYLE):
        figure = draw()
        for suffix, metadata in _METADATA.items():
            with replacing(experiment.layout.figure(name, suffix)) as draft:
                figure.savefig(draft, metadata=metadata)
                if suffix == "svg":
                    draft.write_text(number_clips(draft.read_text("utf-8")), "utf-8")


def number_clips(svg: str) -> str:
    """Name the clip paths of an SVG p1, p2, … in the order of their use.

    matplotlib names them by a digest of places that are not rounded, whose last bits may differ
    from one process to the next: names would change where nothing that is drawn does.
    """
    names: dict[str, str] = {}
    return re.sub(
        r'(?<=[#"])p[0-9a-f]{10}(?=[")])',
        lambda found: names.setdefault(found[0], f"p{len(names) + 1}"),
        svg,
    )


def corpus_colours(experiment: Experiment) -> dict[str, str]:
    """A colour for each corpus, the same in all figures of an experiment."""
    return dict(zip(experiment.corpora, cycle(), strict=False))


def cycle() -> Iterator[str]:
    while True:
        yield from COLOURS


def canvas(
    experiment: Experiment, size: tuple[float, float], title: str, notes: list[str]
) -> tuple[Figure, SubFigure]:
    """A figure of the experiment: its title and notice stand below the notes."""
    origin = f"Experiment {experiment.experiment}: {experiment.title}."
    return footed(size, title, [*notes, origin, experiment.notice or ""])


def footed(
    size: tuple[float, float], title: str, paragraphs: list[str]
) -> tuple[Figure, SubFigure]:
    """A figure with small print below, and the part of it (of `size` inches) to draw in."""
    width, height = size
    characters = int(width / (0.6 * _FOOTER_SIZE / 72))
    lines = [line for text in paragraphs for line in textwrap.wrap(text, characters)]
    room = 0.16 + len(lines) * 1.35 * _FOOTER_SIZE / 72
    figure = Figure(
        figsize=(width, height + room), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.06)
    )
    body, foot = figure.subfigures(2, 1, height_ratios=[height, room])
    body.suptitle(title, x=0.02, ha="left", fontsize=11, fontweight="bold")
    # A dollar would start a formula.
    text = "\n".join(lines).replace("$", r"\$")
    size = _FOOTER_SIZE
    foot.text(0.02, 0.95, text, fontsize=size, color="#555555", va="top", linespacing=1.3)
    return figure, body


def same_span(panels: Iterable[Axes], drawn: list[list[float]]) -> None:
    """Give both panels as many points from bottom to top, so that heights compare."""
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
        axes.set_ylim(max(middle - span / 2, -1), min(middle + span / 2, 101))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def say_empty(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        0.5,
        0.5,
        "nothing to draw yet",
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=GREY,
    )
