"""The figure of differences between rows with their intervals, from `statistics.json`."""

from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.results import read_rows
from mtdnn.reporting.comparisons import are_judged
from mtdnn.reporting.conclusion import about, verdict
from mtdnn.reporting.escaping import one_line
from mtdnn.reporting.figures.drawing import (
    NOTHING_COMPARED,
    NOTHING_YET,
    canvas,
    is_narrow,
    label_text,
    say_empty,
)
from mtdnn.reporting.figures.palette import GREY, INK, VERDICTS, Look
from mtdnn.reporting.wording import clustered, listed
from mtdnn.statistics.level import LEVEL
from mtdnn.statistics.records import NO_INTERVAL, lack_interval, read_statistics, with_baselines

MAX_PANELS = 2
"""How many measures of a row are drawn, its headline first."""

MAX_LINE_CHARACTERS = 40
"""A longer label of a row has further lines, so that the panels keep their width."""

MAX_TITLE_CHARACTERS = 60
"""A longer title of a table has further lines."""

NARROW_CHARACTERS = 54
"""What a label of a row and a line of a title have together in a column of a journal's page."""

_LEGEND = {
    "supported": "green, pointing up: supported",
    "contradicted": "orange, pointing down: contradicted",
}
_TITLE = "Differences from the baseline"

Comparisons = list[dict[str, Any]]


def draw(experiment: Experiment) -> Figure:
    """Draw how the measures of every row differ from its table's baseline, with intervals.

    A table whose rows have one baseline names it once, in its title. Colours say how the measured
    differences agree with the published ones, or where none are published, what is decided.
    """
    statistics = read_statistics(experiment)
    shown = {
        name: comparisons
        for name, table in statistics["tables"].items()
        if (comparisons := with_baselines(table["comparisons"], table["slice"]))
    }
    if not shown:
        return _empty(experiment, statistics)
    labels = {name: _labels(experiment, name, each) for name, each in shown.items()}
    longest = max(len(line) for each in labels.values() for line in "\n".join(each).split("\n"))
    room = max(12, NARROW_CHARACTERS - longest) if is_narrow() else MAX_TITLE_CHARACTERS
    titles = {name: fill(_title(experiment, name, each), room) for name, each in shown.items()}
    heights = {name: _height(labels[name], titles[name]) for name in shown}
    size = (
        7.4 + 0.06 * max(0, longest - MAX_LINE_CHARACTERS),
        1.0 + 0.34 * sum(heights.values()) + 0.3 * len(heights),
    )
    figure, body = canvas(experiment, size, _TITLE, _notes(statistics, shown))
    _draw_tables(body, shown, labels, titles, heights)
    return figure


def _empty(experiment: Experiment, statistics: dict[str, Any]) -> Figure:
    """Say of each table why none of its rows is compared with a baseline."""
    reasons: dict[str, list[str]] = {}
    for name in experiment.tables:
        reasons.setdefault(verdict(statistics, name), []).append(name)
    notes = [about(names, experiment) + reason for reason, names in reasons.items()]
    figure, body = canvas(experiment, (7.4, 3.0), _TITLE, notes)
    say_empty(body.subplots(), NOTHING_COMPARED if statistics["tables"] else NOTHING_YET)
    return figure


def _height(labels: list[str], title: str) -> float:
    """The height of a table's panels, in rows with a label of two lines."""
    lines = max(label.count("\n") + 1 for label in labels)
    return len(labels) * max(1.0, lines / 2) + 0.8 + 0.5 * title.count("\n")


def _notes(statistics: dict[str, Any], shown: dict[str, Comparisons]) -> list[str]:
    drawn = [each for several in shown.values() for each in several]
    families = {each["family"] for each in drawn}
    several_seeds = max(len(each["seeds"]) for each in drawn) > 1
    over = "seeds and " * several_seeds + clustered(families)
    notes = [f"Bars: {100 * statistics['confidence']:g}% intervals, over {over}."]
    if are_judged(drawn):
        notes[0] += " Diamonds: published differences."
    given = {each["verdict"].get(name) for each in drawn for name in each["measures"]}
    words = [text for verdict, text in _LEGEND.items() if verdict in given]
    if words:
        rest = "black circle: not decidable"
        notes[0] += f" Verdict on the published difference: {'; '.join([*words, rest])}."
    if not all(map(are_judged, shown.values())):
        notes.append(
            "Without published differences: filled if “no difference” is rejected after Holm's "
            "correction, hollow if it is not decidable."
        )
    if lack_interval(drawn):
        notes.append(NO_INTERVAL)
    if not several_seeds:
        notes.append("One seed: the intervals do not include the variance between seeds.")
    return notes


def _have_one_baseline(comparisons: Comparisons) -> bool:
    """Whether all rows of a table are compared with the same one."""
    return len({each["from"] for each in comparisons}) == 1


def _title(experiment: Experiment, name: str, comparisons: Comparisons) -> str:
    """The title of a table's panels."""
    title = one_line(experiment.tables[name].title)
    if _have_one_baseline(comparisons):
        title += f", against {one_line(comparisons[0]['from_label'])}"
    return title


def _labels(experiment: Experiment, name: str, comparisons: Comparisons) -> list[str]:
    """A label for each comparison of a table."""
    if not _have_one_baseline(comparisons):
        labels = [
            (label_text(each["to_label"]), label_text(each["from_label"])) for each in comparisons
        ]
        longest = max(len(f"{to} − {origin}") for to, origin in labels)
        between = "\n− " if longest > MAX_LINE_CHARACTERS else " − "
        return [f"{to}{between}{origin}" for to, origin in labels]
    names = {}
    if len({each[end].rpartition("/")[0] for each in comparisons for end in ("from", "to")}) == 1:
        # Variants of one mixture.
        names = {r.path: r.row.label or r.variant_label for r in read_rows(experiment, name)}
    shown = [one_line(names.get(each["to"]) or str(each["to_label"])) for each in comparisons]
    return [fill(label, MAX_LINE_CHARACTERS) for label in shown]


def _draw_tables(
    body: SubFigure,
    shown: dict[str, Comparisons],
    labels: dict[str, list[str]],
    titles: dict[str, str],
    heights: dict[str, float],
) -> None:
    """Draw a line of panels for each table; below them stands what the last one measures."""
    measured = {name: _measured(comparisons) for name, comparisons in shown.items()}
    columns = max(map(len, measured.values()))
    grid = body.subplots(
        len(shown), columns, sharex=True, squeeze=False, height_ratios=list(heights.values())
    )
    for line, (name, comparisons) in zip(grid, shown.items(), strict=True):
        places = range(len(comparisons))
        is_last = name == list(shown)[-1]
        for number, axes in enumerate(line):
            axes.set_visible(number < len(measured[name]))
            if axes.get_visible():
                _panel(axes, comparisons, number)
                if is_last or measured[name] != measured[list(shown)[-1]]:
                    what = "Δ" if is_narrow() else "difference in"
                    axes.set_xlabel(f"{what} {measured[name][number]} (points)")
                axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_yticks(places, [])
        line[0].set_yticks(places, labels[name])
        line[0].set_title(titles[name], loc="left", fontweight="bold")


def _measured(comparisons: Comparisons) -> list[str]:
    """What each panel of a table shows: one measure, or those of rows with different targets."""
    labels = [[each["labels"][name] for name in each["measures"]] for each in comparisons]
    return [
        listed(dict.fromkeys(own[number] for own in labels if number < len(own)), "or")
        for number in range(min(MAX_PANELS, max(map(len, labels))))
    ]


def _panel(axes: Axes, comparisons: Comparisons, number: int) -> None:
    """Draw the `number`-th measure of each comparison."""
    judged = are_judged(comparisons)
    for place, comparison in enumerate(comparisons):
        if number >= len(comparison["measures"]):
            continue
        name, measured = list(comparison["measures"].items())[number]
        look, face = _look(comparison, name, judged)
        if measured["low"] is not None:
            ends = [measured["low"], measured["high"]]
            axes.plot(ends, [place] * 2, color=look.colour, linewidth=1.6)
        axes.plot(
            measured["difference"],
            place,
            look.marker,
            color=look.colour,
            markerfacecolor=face,
            markersize=6,
        )
        published = (comparison["published"] or {}).get(name)
        if published is not None:
            axes.plot(published, place, "D", color=INK, markerfacecolor="none", markersize=6)
    axes.axvline(0, color=GREY, linewidth=0.9, zorder=1)
    axes.set_ylim(len(comparisons) - 0.4, -0.6)
    axes.grid(axis="y", visible=not judged)
    axes.tick_params(axis="y", length=0)


def _look(comparison: dict[str, Any], name: str, judged: bool) -> tuple[Look, str]:
    """The look of a comparison's bar and mark, and the colour of the middle of its mark."""
    if judged:
        look = VERDICTS.get(comparison["verdict"].get(name), VERDICTS[None])
        return look, look.colour
    decided = len(comparison["seeds"]) > 1 and comparison["measures"][name]["p_holm"] <= LEVEL
    return (VERDICTS[None], INK) if decided else (VERDICTS[None]._replace(colour=GREY), "white")
