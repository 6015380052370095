"""The figure of differences between rows with their intervals, from `statistics.json`."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtdnn.config.experiment import Experiment
from mtdnn.reporting.figures.drawing import COLOURS, GREY, canvas, label_text, say_empty
from mtdnn.statistics.records import read_statistics

_VERDICTS = {"supported": COLOURS[2], "contradicted": COLOURS[1]}
_TITLE = "Differences from the baseline"


def draw(experiment: Experiment) -> Figure:
    """Draw how EM and F1 of every row differ from its table's baseline, with intervals."""
    statistics = read_statistics(experiment)
    shown = {
        name: [each for each in table["comparisons"] if _is_shown(table, each)]
        for name, table in statistics["tables"].items()
    }
    shown = {name: comparisons for name, comparisons in shown.items() if comparisons}
    if not shown:
        notes = ["No row can be compared with a baseline yet."]
        figure, body = canvas(experiment, (7.4, 3.0), _TITLE, notes)
        say_empty(body.subplots())
        return figure
    notes = [
        f"Bars: {100 * statistics['confidence']:g}% intervals for the training method, over seeds "
        "and paragraphs. Diamonds: published differences. Colours: the verdict on the published "
        "difference; green: supported, orange: contradicted, black: not decidable or no verdict."
    ]
    if len(statistics.get("seeds", [])) < 2:
        notes.append("One seed: the intervals do not include the variance between seeds.")
    heights = [len(comparisons) + 0.8 for comparisons in shown.values()]
    size = (7.4, 1.0 + 0.34 * sum(heights) + 0.3 * len(heights))
    figure, body = canvas(experiment, size, _TITLE, notes)
    grid = body.subplots(len(shown), 2, sharex=True, squeeze=False, height_ratios=heights)
    for panels, (name, comparisons) in zip(grid, shown.items(), strict=True):
        for axes, metric in zip(panels, ("em", "f1"), strict=True):
            _panel(axes, comparisons, metric)
        panels[0].set_yticks(range(len(comparisons)), [_label(each) for each in comparisons])
        panels[1].set_yticks(range(len(comparisons)), [])
        panels[0].set_title(experiment.tables[name].title, loc="left", fontweight="bold")
    for axes, metric in zip(grid[-1], ("EM", "F1"), strict=True):
        axes.set_xlabel(f"difference in {metric} (points)")
    return figure


def _is_shown(table: dict[str, Any], comparison: dict[str, Any]) -> bool:
    own = (table["slice"], "baseline", "zero")
    return (comparison["slice"], comparison["kind"], comparison["threshold"]) == own


def _label(comparison: dict[str, Any]) -> str:
    return f"{label_text(comparison['to_label'])} − {label_text(comparison['from_label'])}"


def _panel(axes: Axes, comparisons: list[dict[str, Any]], metric: str) -> None:
    for place, comparison in enumerate(comparisons):
        measured = comparison[metric]
        word = comparison["verdict"][metric]
        colour = _VERDICTS.get(word, "#222222")
        axes.plot([measured["low"], measured["high"]], [place] * 2, color=colour, linewidth=1.6)
        axes.plot(measured["difference"], place, "o", color=colour, markersize=6)
        published = (comparison["published"] or {}).get(metric)
        if published is not None:
            axes.plot(published, place, "D", color=GREY, markerfacecolor="white", markersize=6)
    axes.axvline(0, color=GREY, linewidth=0.9, zorder=1)
    axes.set_ylim(len(comparisons) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
