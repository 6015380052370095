"""A table drawn as a figure, against weight or mixture: differences first, scores below them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import weight_text
from mtdnn.evaluation.measures import Measure
from mtdnn.evaluation.results import RowResult, Score, read_rows
from mtdnn.reporting.conclusion import why_not_compared
from mtdnn.reporting.figures.drawing import (
    NOTHING_COMPARED,
    absent,
    canvas,
    is_narrow,
    legend_below,
    same_span,
    say_empty,
)
from mtdnn.reporting.figures.palette import GREY, INK, Look, looks, mixture_looks
from mtdnn.reporting.wording import axis, clustered, is_answering, listed, union
from mtdnn.statistics.level import CONFIDENCE
from mtdnn.statistics.records import NO_INTERVAL, lack_interval, read_entry, with_baselines

MAX_MEASURES = 2
"""How many measures of a row have a panel, its headline first."""

_HEIGHTS = (2.2, 1.0)
"""Relative heights of the panels of differences and of those of scores."""


@dataclass(frozen=True)
class Point:
    """One row of a table: its place, its look, and what the legend calls it."""

    x: float
    row: RowResult
    look: Look
    label: str


@dataclass(frozen=True)
class Series:
    """Rows that belong together; a line joins them if x is a quantity and it is known how sure."""

    points: list[Point]


@dataclass(frozen=True)
class Plot:
    """What is drawn: the rows with their places, and how they differ from their baselines.

    Attributes:
        ticks: what stands below each place.
        series: the rows.
        comparisons: by row's path, its comparison with its baseline, as in `statistics.json`.
        slice_name: where they are scored.
        by_weight: whether x is the weight, a quantity.
    """

    ticks: dict[float, str]
    series: list[Series]
    comparisons: dict[str, dict[str, Any]]
    slice_name: str
    by_weight: bool


def panels(rows: list[RowResult]) -> list[Measure]:
    """Return what the panels show: the first two measures, or the headline of each target."""
    if len({row.measures for row in rows}) == 1:
        return list(rows[0].measures[:MAX_MEASURES])
    return union(row.measures[:1] for row in rows)


def draw(experiment: Experiment, name: str) -> Figure:
    """Draw how a table's rows differ from their baseline, and below it their scores."""
    settings = experiment.figures[name]
    rows = read_rows(experiment, settings.table)
    first, by_weight = experiment.slice_of(settings.table), settings.x == "weight"
    exists = experiment.layout.statistics(settings.table).exists()
    entry = read_entry(experiment, settings.table) if exists else None
    found = with_baselines(entry["comparisons"], first) if entry else []
    comparisons = {each["to"]: each for each in found}
    plot = Plot(*_placed(experiment, rows, comparisons, by_weight), comparisons, first, by_weight)
    measures = panels(rows)
    number = len(measures)
    size = (3.7 * max(2, number), 5.2 * (number if is_narrow() else 1))
    notes = ([] if found else [why_not_compared(entry)]) + _notes(experiment, plot, rows)
    figure, body = canvas(experiment, size, settings.title, notes)
    shape = (2 * number, 1) if is_narrow() else (2, number)
    heights = [each for each in _HEIGHTS for _ in range(number if is_narrow() else 1)]
    grid = body.subplots(*shape, squeeze=False, height_ratios=heights).flatten()
    above, below = grid[:number], grid[number:]
    drawn = []
    for axes, under, measure in zip(above, below, measures, strict=True):
        if above[0] is not axes:
            axes.sharey(above[0])
        _draw_differences(axes, plot, measure)
        drawn.append(_draw_scores(under, plot, measure))
        axes.set_ylabel(f"difference in {measure.label}\n(points)")
        under.set_ylabel(axis(measure))
        _place(axes, plot, labelled=False)
        _place(under, plot, labelled=under is below[-1] or not is_narrow())
    if not comparisons:
        is_final = entry is not None and not any(row.missing for row in rows)
        _say_nothing_compared(above, is_final)
    same_span(below, drawn, ticks=4)
    handles, labels = _legend(grid)
    legend_below(body, handles, labels)
    return figure


def _placed(
    experiment: Experiment,
    rows: list[RowResult],
    comparisons: dict[str, dict[str, Any]],
    by_weight: bool,
) -> tuple[dict[float, str], list[Series]]:
    """Return what stands below each place, and the rows as series; baselines are grey."""
    place = _by_weight if by_weight else _by_mixture
    ticks, groups = place(rows)
    compared_with = {each["from"] for each in comparisons.values()}
    alone = {row.path for row in rows if row.is_alone}
    # A target alone is one even if no row is compared with it (yet).
    baselines = compared_with | (alone - comparisons.keys())
    own, several = mixture_looks(experiment), looks()
    mixtures = [{row.row.mixture for _, row in members} for members in groups.values()]
    by_mixture = len(groups) == 1 or len(set().union(*mixtures)) == sum(map(len, mixtures))
    series = []
    for label, members in groups.items():
        look = next(several)
        points = []
        for x, row in members:
            shown = own[row.row.mixture] if by_mixture and not row.row.origin else look
            called = label
            if row.path in baselines | alone:
                shown = shown._replace(colour=GREY)
            if row.path in baselines:
                called = "baseline" if len(baselines) == 1 else f"{row.long_label} (baseline)"
            points.append(Point(x, row, shown, called))
        series.append(Series(points))
    return ticks, series


def _by_weight(
    rows: list[RowResult],
) -> tuple[dict[float, str], dict[str, list[tuple[float, RowResult]]]]:
    """Place rows by weight, in a group for each mixture, encoder and variant."""
    groups: dict[str, list[tuple[float, RowResult]]] = {}
    for row in sorted(rows, key=lambda row: row.row.weight):
        mixture = row.experiment.mixtures[row.row.mixture]
        name = mixture.label + (" alone" if mixture.is_alone else "")
        label = ", ".join([name, *_distinctive(row, rows)])
        groups.setdefault(label, []).append((row.row.weight, row))
    return {weight: weight_text(weight) for weight in sorted({r.row.weight for r in rows})}, groups


def _by_mixture(
    rows: list[RowResult],
) -> tuple[dict[float, str], dict[str, list[tuple[float, RowResult]]]]:
    """Place rows by mixture in the table's order, in a group for each encoder and variant."""
    weights: dict[str, set[float]] = {}
    for row in rows:
        weights.setdefault(row.row.mixture, set()).add(row.row.weight)
    places: dict[str, int] = {}
    groups: dict[str, list[tuple[float, RowResult]]] = {}
    for row in rows:
        label = row.experiment.mixtures[row.row.mixture].label.replace("+", "\n+")
        if len(weights[row.row.mixture]) > 1:
            label += f"\nw {row.row.weight:g}"
        place = places.setdefault(label, len(places))
        groups.setdefault(", ".join(_distinctive(row, rows)), []).append((place, row))
    return {float(place): label for label, place in places.items()}, groups


def _distinctive(row: RowResult, rows: list[RowResult]) -> list[str]:
    """The encoder and variant of a row, each only if the table's rows differ in it."""
    parts = []
    if len({other.row.encoder for other in rows}) > 1:
        parts.append(row.encoder_label)
    if len({other.row.variant for other in rows}) > 1:
        parts.append(row.variant_label)
    return parts


def _notes(experiment: Experiment, plot: Plot, rows: list[RowResult]) -> list[str]:
    """Say what is drawn, and what is not."""
    found = list(plot.comparisons.values())
    baselines = listed(dict.fromkeys(each["from_label"] for each in found)) if found else ""
    seeds = max((len(each["seeds"]) for each in found), default=0)
    threshold = f" at null threshold {experiment.decoding.null_threshold:g}"
    notes = []
    if found:
        over = clustered(each["family"] for each in found)
        over = f"seeds and {over}" if seeds > 1 else over
        marks = "ribbons or bars" if plot.by_weight and seeds > 1 else "bars"
        notes.append(
            f"Above: differences from {baselines}; {marks}: {CONFIDENCE:.0%} intervals over {over}."
        )
        if seeds == 1:
            notes[0] += " One seed: they do not include the variance between seeds."
        if lack_interval(found):
            notes.append(NO_INTERVAL)
    scores = f"on {experiment.slices[plot.slice_name].label}"
    notes.append(f"Below: scores {scores}{threshold * any(map(is_answering, rows))}.")
    if any(len(row.present) > 1 for row in rows):
        spread = "ribbons or bars" if plot.by_weight else "bars"
        notes[-1] += (
            f" Small points: single seeds; large: mean over seeds; {spread}: ± sample standard "
            "deviation."
        )
    reasons = {
        row.long_label: row.score(plot.slice_name, row.measures[0].key).reasons for row in rows
    }
    return notes + absent("Not drawn", reasons)


def _shift(plot: Plot, number: int) -> float:
    """How far a series stands beside the place of a mixture."""
    return 0.0 if plot.by_weight else 0.18 * (number - (len(plot.series) - 1) / 2)


def _draw_differences(axes: Axes, plot: Plot, measure: Measure) -> None:
    """Draw the differences in one measure with their intervals, and the published ones."""
    axes.axhline(0, color=GREY, linewidth=1, zorder=1)
    for number, series in enumerate(plot.series):
        shift = _shift(plot, number)
        known = []
        for point in series.points:
            comparison = plot.comparisons.get(point.row.path)
            numbers = comparison and comparison["measures"].get(measure.column)
            if numbers and comparison:
                known.append((point, numbers, comparison))
                published = (comparison["published"] or {}).get(measure.column)
                _draw_published(axes, point, shift, published)
            elif point.look.colour == GREY and plot.comparisons and _has(point.row, measure):
                _draw_point(axes, point, shift, 0.0)
        joined = plot.by_weight and len(known) > 1 and min(len(c["seeds"]) for *_, c in known) > 1
        places = [point for point, _, _ in known]
        means = [numbers["difference"] for _, numbers, _ in known]
        bounds = [
            (mean, mean) if numbers["low"] is None else (numbers["low"], numbers["high"])
            for mean, (_, numbers, _) in zip(means, known, strict=True)
        ]
        _draw_spread(axes, places, shift, means, bounds, joined)
        for point, mean in zip(places, means, strict=True):
            _draw_point(axes, point, shift, mean)


def _draw_scores(axes: Axes, plot: Plot, measure: Measure) -> list[float]:
    """Draw the scores in one measure, and return every drawn value, for the axis's range."""
    drawn: list[float] = []
    for number, series in enumerate(plot.series):
        shift = _shift(plot, number)
        known = []
        for point in series.points:
            score = _score(point.row, plot.slice_name, measure)
            drawn += [*score.values]
            published = point.row.published.get(measure.column)
            drawn += _draw_published(axes, point, shift, published)
            if score.mean is None:
                continue
            known.append((point, score.mean, score.deviation or 0.0))
            drawn += [score.mean - known[-1][2], score.mean + known[-1][2]]
            if point.look.colour == GREY:
                axes.axhline(score.mean, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
            if len(score.values) > 1:
                _draw_seeds(axes, point, shift, score.values, 0.008 if plot.by_weight else 0.05)
        joined = plot.by_weight and len(known) > 1 and all(sd for *_, sd in known)
        bounds = [(mean - sd, mean + sd) for _, mean, sd in known]
        places = [point for point, *_ in known]
        _draw_spread(axes, places, shift, [mean for _, mean, _ in known], bounds, joined)
        for point, mean, _ in known:
            _draw_point(axes, point, shift, mean, small=True)
    return drawn


def _score(row: RowResult, slice_name: str, measure: Measure) -> Score:
    """A row's score; empty if its target has another measure."""
    return row.score(slice_name, measure.key) if _has(row, measure) else Score(())


def _has(row: RowResult, measure: Measure) -> bool:
    """Whether a measure is one of the row's target."""
    return measure.key in {own.key for own in row.measures}


def _draw_spread(  # Many parameters because a ribbon and bars need the same numbers.
    axes: Axes,
    points: list[Point],
    shift: float,
    means: list[float],
    bounds: list[tuple[float, float]],
    joined: bool,
) -> None:
    """Draw how sure the means are: as a ribbon around their line, or as a bar for each."""
    if joined:
        x, look = [point.x for point in points], points[0].look
        lows, highs = zip(*bounds, strict=True)
        axes.fill_between(x, lows, highs, color=look.colour, alpha=0.2, linewidth=0, zorder=2)
        axes.plot(x, means, color=look.colour, linestyle=look.dash, linewidth=1.5, zorder=3)
        return
    for point, (low, high) in zip(points, bounds, strict=True):
        axes.plot([point.x + shift] * 2, [low, high], color=point.look.colour, linewidth=1.5)


def _draw_point(axes: Axes, point: Point, shift: float, y: float, small: bool = False) -> None:
    axes.plot(
        point.x + shift,
        y,
        linestyle="none",
        marker=point.look.marker,
        color=point.look.colour,
        markersize=4.5 if small else 6,
        label=point.label,
        zorder=4,
    )


def _draw_seeds(
    axes: Axes, point: Point, shift: float, values: tuple[float, ...], width: float
) -> None:
    spread = np.linspace(-1, 1, len(values)) * width
    axes.plot(
        point.x + shift + spread,
        values,
        "o",
        color=point.look.colour,
        markersize=3,
        alpha=0.45,
        markeredgewidth=0,
        zorder=3,
    )


def _draw_published(axes: Axes, point: Point, shift: float, value: float | None) -> list[float]:
    """Draw a published value as a hollow diamond, and return it, if there is one."""
    if value is None:
        return []
    axes.plot(
        point.x + shift,
        value,
        linestyle="none",
        marker="D",
        color=INK,
        markerfacecolor="none",
        markersize=6,
        label="published",
        zorder=5,
    )
    return [value]


def _place(axes: Axes, plot: Plot, labelled: bool) -> None:
    """Set the horizontal axis of a panel."""
    axes.set_xticks(list(plot.ticks), list(plot.ticks.values()) if labelled else [])
    axes.grid(axis="x", visible=False)
    if labelled and plot.by_weight:
        axes.set_xlabel("weight of the target (share of the steps)")
    margin = 0.06 if plot.by_weight else 0.5
    axes.set_xlim(min(plot.ticks) - margin, max(plot.ticks) + margin)


def _say_nothing_compared(above: Iterable[Axes], is_final: bool) -> None:
    """Write into the panels of differences that there are none, or if not final, none yet."""
    for axes in above:
        axes.clear()
        say_empty(axes, NOTHING_COMPARED if is_final else f"{NOTHING_COMPARED} yet")


def _legend(grid: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """The handles and labels of all panels, each label once."""
    found: dict[str, Artist] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
