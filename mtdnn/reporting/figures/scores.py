"""A table drawn as a figure: scores against weight or mixture."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import weight_text
from mtdnn.evaluation.measures import Measure
from mtdnn.evaluation.results import RowResult, Score, read_rows
from mtdnn.reporting.figures.drawing import GREY, canvas, cycle, same_span
from mtdnn.reporting.wording import axis, is_answering, union

MAX_MEASURES = 2
"""How many measures of a row have a panel, its headline first."""


@dataclass(frozen=True)
class Point:
    """One row of a table in one panel: its place, its score over seeds and the published one."""

    x: float
    score: Score
    published: float | None

    @property
    def mean(self) -> float:
        """The mean over seeds; not a number if no seed has a score."""
        return math.nan if self.score.mean is None else self.score.mean

    @property
    def deviation(self) -> float:
        """The sample standard deviation over seeds; 0 with a single seed."""
        return self.score.deviation or 0.0


@dataclass(frozen=True)
class Series:
    """Rows in one colour, each with its x; a line joins them if x is a quantity."""

    label: str
    colour: str
    rows: list[tuple[float, RowResult]]

    def points(self, slice_name: str, measure: Measure) -> list[Point]:
        """Return the points of the rows on a slice; rows with another target have no score."""
        return [
            Point(
                x,
                row.score(slice_name, measure.key) if _has(row, measure) else Score(()),
                row.published.get(measure.column),
            )
            for x, row in self.rows
        ]


def _has(row: RowResult, measure: Measure) -> bool:
    """Whether a measure is one of the row's target."""
    return measure.key in {own.key for own in row.measures}


def panels(rows: list[RowResult]) -> list[Measure]:
    """Return what the panels show: the first two measures, or the headline of each target."""
    if len({row.measures for row in rows}) == 1:
        return list(rows[0].measures[:MAX_MEASURES])
    return union(row.measures[:1] for row in rows)


def draw(experiment: Experiment, name: str) -> Figure:
    """Draw measures of a table's rows, in panels that span the same number of points."""
    settings = experiment.figures[name]
    rows = read_rows(experiment, settings.table)
    by_weight = settings.x == "weight"
    ticks, series = _by_weight(experiment, rows) if by_weight else _by_mixture(experiment, rows)
    first = experiment.slice_of(settings.table)
    threshold = f" at null threshold {experiment.decoding.null_threshold:g}"
    notes = [
        f"Scores on {experiment.slices[first].label}{threshold * any(map(is_answering, rows))}."
    ]
    if any(len(row.present) > 1 for row in rows):
        notes[0] += " Small points: single seeds; large: their mean ± sample standard deviation."
    notes += _missing_rows(rows, first)
    measures = panels(rows)
    size = (3.7 * max(2, len(measures)), 4.0)
    figure, body = canvas(experiment, size, settings.title, notes)
    grid = body.subplots(1, len(measures), squeeze=False)[0]
    drawn = []
    for axes, measure in zip(grid, measures, strict=True):
        values: list[float] = []
        for number, each in enumerate(series):
            points = each.points(first, measure)
            offset = 0.0 if by_weight else 0.18 * (number - (len(series) - 1) / 2)
            alone = by_weight and _is_alone(experiment, each)
            values += _draw_points(axes, each, points, offset, by_weight, alone)
        axes.set_ylabel(axis(measure))
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("weight of the target (share of the steps)" if by_weight else "")
        margin = 0.06 if by_weight else 0.5
        axes.set_xlim(min(ticks) - margin, max(ticks) + margin)
        drawn.append(values)
    same_span(grid, drawn)
    if any(drawn):
        # matplotlib lists lines before error bars; sorting by label keeps a series together.
        handles, labels = _legend(grid)
        order = sorted(range(len(labels)), key=lambda n: labels[n])
        body.legend(
            [handles[n] for n in order],
            [labels[n] for n in order],
            loc="outside lower center",
            ncols=max(1, int(85 / (9 + max(map(len, labels))))),
        )
    return figure


def _legend(grid: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """The handles and labels of all panels, each label once."""
    found: dict[str, Artist] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _by_weight(
    experiment: Experiment, rows: list[RowResult]
) -> tuple[dict[float, str], list[Series]]:
    """Place rows by weight, with a series for each mixture, encoder and variant."""
    groups: dict[tuple[str, str, str], list[tuple[float, RowResult]]] = {}
    for row in rows:
        key = (row.row.mixture, row.row.encoder, row.row.variant)
        groups.setdefault(key, []).append((row.row.weight, row))
    colours = iter(cycle())
    series: list[Series] = []
    for members in groups.values():
        row = members[0][1]
        mixture = experiment.mixtures[row.row.mixture]
        name = mixture.label + (" alone" if mixture.is_alone else "")
        label = ", ".join([name, *_distinctive(row, rows)])
        grey = mixture.is_alone and all(each.colour != GREY for each in series)
        colour = GREY if grey else next(colours)
        series.append(Series(label, colour, sorted(members, key=lambda member: member[0])))
    weights = sorted({row.row.weight for row in rows})
    return {weight: weight_text(weight) for weight in weights}, series


def _by_mixture(
    experiment: Experiment, rows: list[RowResult]
) -> tuple[dict[float, str], list[Series]]:
    """Place rows by mixture in the table's order, with a series for each encoder and variant."""
    weights: dict[str, set[float]] = {}
    for row in rows:
        weights.setdefault(row.row.mixture, set()).add(row.row.weight)
    places: dict[str, int] = {}
    groups: dict[tuple[str, str], list[tuple[float, RowResult]]] = {}
    for row in rows:
        label = experiment.mixtures[row.row.mixture].label.replace("+", "\n+")
        if len(weights[row.row.mixture]) > 1:
            label += f"\nw {row.row.weight:g}"
        place = places.setdefault(label, len(places))
        groups.setdefault((row.row.encoder, row.row.variant), []).append((place, row))
    series = [
        Series(", ".join(_distinctive(members[0][1], rows)) or "measured", colour, members)
        for members, colour in zip(groups.values(), cycle(), strict=False)
    ]
    return {float(place): label for label, place in places.items()}, series


def _is_alone(experiment: Experiment, series: Series) -> bool:
    """Whether a series by weight is a baseline: its target alone."""
    return experiment.mixtures[series.rows[0][1].row.mixture].is_alone


def _distinctive(row: RowResult, rows: list[RowResult]) -> list[str]:
    """The encoder and variant of a row, each only if the table's rows differ in it."""
    parts = []
    if len({other.row.encoder for other in rows}) > 1:
        parts.append(row.encoder_label)
    if len({other.row.variant for other in rows}) > 1:
        parts.append(row.variant_label)
    return parts


def _draw_points(
    axes: Axes, series: Series, points: list[Point], offset: float, joined: bool, baseline: bool
) -> list[float]:
    """Draw one series into one panel and return every drawn value, for the axis's range."""
    values: list[float] = []
    measured = [point for point in points if point.score.values]
    published = [(point.x, point.published) for point in points if point.published is not None]
    for point in measured:
        seeds = point.score.values
        values += seeds
        if len(seeds) > 1:
            values += [point.mean - point.deviation, point.mean + point.deviation]
            spread = np.linspace(-1, 1, len(seeds)) * (0.008 if joined else 0.05)
            axes.plot(
                point.x + offset + spread,
                seeds,
                "o",
                color=series.colour,
                markersize=3,
                alpha=0.45,
                markeredgewidth=0,
                zorder=2,
            )
    if measured:
        axes.errorbar(
            [point.x + offset for point in measured],
            [point.mean for point in measured],
            yerr=[point.deviation for point in measured],
            fmt="-o" if joined else "o",
            color=series.colour,
            markersize=6,
            linewidth=1.5,
            elinewidth=1.2,
            capsize=3 if any(point.deviation for point in measured) else 0,
            label=series.label,
            zorder=3,
        )
        if baseline:
            axes.axhline(measured[0].mean, color=series.colour, linewidth=1, linestyle="--")
    if published:
        values += [value for _, value in published]
        axes.plot(
            [x + offset + (0.012 if joined else 0.14) for x, _ in published],
            [value for _, value in published],
            ":D" if joined else "D",
            color=series.colour,
            markerfacecolor="none",
            markersize=6,
            linewidth=1,
            label=f"{series.label}, published" if series.label != "measured" else "published",
            zorder=4,
        )
    return values


def _missing_rows(rows: list[RowResult], slice_name: str) -> list[str]:
    """A note for every row with seeds that are not drawn."""
    return [
        f"Not drawn: {row.long_label}: {'; '.join(reasons)}."
        for row in rows
        if (reasons := row.score(slice_name, row.measures[0].key).reasons)
    ]
