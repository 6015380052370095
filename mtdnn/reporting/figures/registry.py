"""Figures as SVG, PNG and PDF: scores of a table, loss curves, how often corpora were drawn."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from mtdnn.config.experiment import Experiment, load_run
from mtdnn.config.layout import RunId
from mtdnn.config.settings import RunSettings
from mtdnn.evaluation.results import (
    Result,
    RowResult,
    Score,
    read_results,
    read_rows,
    read_training,
    variant_label,
)
from mtdnn.reporting import interference
from mtdnn.reporting.figures import curves, effects
from mtdnn.reporting.figures.drawing import (
    GREY,
    STYLE,
    canvas,
    corpus_colours,
    cycle,
    footed,
    same_span,
    save,
    say_empty,
)
from mtdnn.training.schedule import shares

_TRAINING = {
    "loss": "Training loss of each corpus",
    "draws": "How often each corpus was drawn",
}


def write(experiment: Experiment, name: str) -> None:
    """Write one figure in three formats, from the runs that exist."""
    save(experiment, name, lambda: draw(experiment, name))


def draw(experiment: Experiment, name: str) -> Figure:
    """The figure called `name`: one of the experiment's own, or one that every experiment has."""
    with matplotlib.rc_context(STYLE):
        if name in experiment.figures:
            return _scores(experiment, name)
        return _STANDING[name](experiment)


# --- scores against QA weight or mixture -----------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One row of a table in one panel."""

    x: float
    score: Score
    published: float | None


@dataclass(frozen=True)
class Series:
    """Points of one colour, joined by a line when their x is a quantity."""

    label: str
    colour: str
    rows: list[tuple[float, RowResult]]

    def points(self, slice_name: str, metric: str) -> list[Point]:
        key = {"em": "exact", "f1": "f1"}[metric]
        return [
            Point(x, row.score(slice_name, key), row.published.get(metric)) for x, row in self.rows
        ]


def _scores(experiment: Experiment, name: str) -> Figure:
    """EM and F1 of a table's rows; both panels span the same number of points."""
    settings = experiment.figures[name]
    rows = read_rows(experiment, settings.table)
    by_weight = settings.x == "qa_weight"
    ticks, series = _by_weight(experiment, rows) if by_weight else _by_mixture(experiment, rows)
    first = experiment.slice_of(settings.table)
    entry = experiment.slices[first]
    notes = [f"Scores on {entry.label} at null threshold {experiment.decoding.null_threshold:g}."]
    if any(len(row.present) > 1 for row in rows):
        notes[0] += " Small points: single seeds; large: their mean ± sample standard deviation."
    notes += _missing_rows(rows, first)
    figure, body = canvas(experiment, (7.4, 4.0), settings.title, notes)
    panels = body.subplots(1, 2)
    drawn = []
    for axes, metric in zip(panels, ("em", "f1"), strict=True):
        values: list[float] = []
        for number, each in enumerate(series):
            points = each.points(first, metric)
            offset = 0.0 if by_weight else 0.18 * (number - (len(series) - 1) / 2)
            alone = by_weight and _is_alone(experiment, each.rows[0][1])
            values += _draw_points(axes, each, points, offset, by_weight, alone)
        axes.set_ylabel(f"{metric.upper()} (%)")
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("QA weight (probability that a step is a QA step)" if by_weight else "")
        margin = 0.06 if by_weight else 0.5
        axes.set_xlim(min(ticks) - margin, max(ticks) + margin)
        drawn.append(values)
    same_span(panels, drawn)
    if any(drawn):
        # Line plots come before error bars among the handles: sort them by label again.
        handles, labels = panels[0].get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda n: labels[n])
        body.legend(
            [handles[n] for n in order],
            [labels[n] for n in order],
            loc="outside lower center",
            ncols=max(1, int(85 / (9 + max(map(len, labels))))),
        )
    return figure


def _by_weight(
    experiment: Experiment, rows: list[RowResult]
) -> tuple[dict[float, str], list[Series]]:
    """x is the QA weight; a series for each mixture, encoder and variant."""
    groups: dict[tuple, list[tuple[float, RowResult]]] = {}
    for row in rows:
        key = (row.row.mixture, row.row.encoder, row.row.variant)
        groups.setdefault(key, []).append((row.row.qa_weight, row))
    colours = iter(cycle())
    series = []
    for members in groups.values():
        row = members[0][1]
        alone = _is_alone(experiment, row)
        mixture = experiment.mixtures[row.row.mixture].label + (" alone" if alone else "")
        label = ", ".join([mixture, *_distinctive(row, rows)])
        grey = alone and all(each.colour != GREY for each in series)
        colour = GREY if grey else next(colours)
        series.append(Series(label, colour, sorted(members, key=lambda member: member[0])))
    weights = sorted({row.row.qa_weight for row in rows})
    return {weight: f"{weight:g}" if weight % 1 else "1.0" for weight in weights}, series


def _by_mixture(
    experiment: Experiment, rows: list[RowResult]
) -> tuple[dict[float, str], list[Series]]:
    """x is the mixture, in the table's order; a series for each encoder and variant."""
    weights: dict[str, set] = {}
    for row in rows:
        weights.setdefault(row.row.mixture, set()).add(row.row.qa_weight)
    places: dict[str, int] = {}
    groups: dict[tuple, list[tuple[float, RowResult]]] = {}
    for row in rows:
        label = experiment.mixtures[row.row.mixture].label.replace("+", "\n+")
        if len(weights[row.row.mixture]) > 1:
            label += f"\nw {row.row.qa_weight:g}"
        place = places.setdefault(label, len(places))
        groups.setdefault((row.row.encoder, row.row.variant), []).append((place, row))
    series = [
        Series(", ".join(_distinctive(members[0][1], rows)) or "measured", colour, members)
        for members, colour in zip(groups.values(), cycle(), strict=False)
    ]
    return {float(place): label for label, place in places.items()}, series


def _is_alone(experiment: Experiment, row: RowResult) -> bool:
    """Whether the row trains on question answering only: the baseline of the others."""
    return len(experiment.mixtures[row.row.mixture].corpora) == 1


def _distinctive(row: RowResult, rows: list[RowResult]) -> list[str]:
    """Encoder and variant of a row, each only where the table's rows differ in it."""
    parts = []
    if len({other.row.encoder for other in rows}) > 1:
        parts.append(row.encoder_label)
    if len({other.row.variant for other in rows}) > 1:
        parts.append(row.variant_label)
    return parts


def _draw_points(
    axes: Axes, series: Series, points: list[Point], offset: float, joined: bool, baseline: bool
) -> list[float]:
    """Draw one series into one panel; returns every value drawn, for the axis's range."""
    values: list[float] = []
    measured = [point for point in points if point.score.values]
    published = [point for point in points if point.published is not None]
    for point in measured:
        seeds = point.score.values
        values += seeds
        if len(seeds) > 1:
            values += [
                point.score.mean - point.score.deviation,
                point.score.mean + point.score.deviation,
            ]
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
            [point.score.mean for point in measured],
            yerr=[point.score.deviation or 0 for point in measured],
            fmt="-o" if joined else "o",
            color=series.colour,
            markersize=6,
            linewidth=1.5,
            elinewidth=1.2,
            capsize=3 if any(point.score.deviation for point in measured) else 0,
            label=series.label,
            zorder=3,
        )
        if baseline:
            axes.axhline(measured[0].score.mean, color=series.colour, linewidth=1, linestyle="--")
    if published:
        values += [point.published for point in published]
        axes.plot(
            [point.x + offset + (0.012 if joined else 0.14) for point in published],
            [point.published for point in published],
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
    """A note for every row of which seeds are not drawn."""
    notes = []
    for row in rows:
        score = row.score(slice_name, "exact")
        if score.reasons:
            weight = "" if row.row.qa_weight == 1 else f" w {row.row.qa_weight:g}"
            notes.append(f"Not drawn: {row.label}{weight}: {'; '.join(score.reasons)}.")
    return notes


# --- training --------------------------------------------------------------------------------


def _losses(experiment: Experiment) -> Figure:
    """A panel for each kind of run with the loss of every corpus; seeds lie over each other."""
    results = read_results(experiment)
    steps = {result.run: read_training(result.folder) for result in results}
    kinds: dict[tuple, list[Result]] = {}
    for result in results:
        if steps[result.run]:
            run = result.run
            kind = (run.encoder, run.mixture, run.qa_weight, run.variant)
            kinds.setdefault(kind, []).append(result)
    columns = max(1, min(len(kinds), 3 if len(kinds) <= 9 else 4))
    lines = max(1, -(-len(kinds) // columns))
    size = (1.2 + 2.4 * max(columns, 2), 1.1 + 1.75 * lines)
    figure, body = canvas(
        experiment, size, _TRAINING["loss"], _loss_notes(experiment, results, steps)
    )
    grid = body.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    colours = corpus_colours(experiment)
    for axes, members in zip(grid.flat, kinds.values(), strict=False):
        for result in members:
            _draw_loss(axes, steps[result.run], colours)
        axes.set_title(fill(_run_label(experiment, members[0], seed=False), 28), fontsize=8)
        _loss_axis(axes)
    for axes in grid.flat[len(kinds) :]:
        axes.set_visible(False)
    if kinds:
        # The last used panel of a column is not always in the bottom row.
        for axes in grid.flat[max(0, len(kinds) - columns) : len(kinds)]:
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_xlabel("training step")
        body.supylabel("loss of a batch (log scale)", fontsize=9)
        _corpus_legend(experiment, body, colours)
    else:
        grid.flat[0].set_visible(True)
        say_empty(grid.flat[0])
    return figure


def _loss_notes(
    experiment: Experiment, results: list[Result], steps: dict[RunId, list]
) -> list[str]:
    notes = ["Faint: each step; strong: moving average over a twentieth of the corpus's steps."]
    if len(experiment.seeds) > 1:
        notes[0] += " Seeds lie over each other."
    untrained = [result for result in results if not steps[result.run]]
    unscored = [result for result in results if steps[result.run] and result.metrics is None]
    notes += _missing_runs(experiment, untrained, "Not drawn")
    return notes + _missing_runs(experiment, unscored, "Drawn, without scores")


def run_loss(folder: Path) -> Figure:
    """The loss curves of one run, from its own files."""
    settings = load_run(folder / "config.yaml")
    steps = read_training(folder)
    colours = dict(zip(settings.corpora, cycle(), strict=False))
    with matplotlib.rc_context(STYLE):
        title = f"Training loss of {settings.mixture_label}"
        figure, body = footed((6.4, 3.8), title, [settings.notice or ""])
        axes = body.subplots()
        if steps:
            for name, line in _draw_loss(axes, steps, colours).items():
                line.set_label(settings.corpora[name].label)
            _loss_axis(axes)
            body.legend(loc="outside lower center", ncols=6)
        else:
            say_empty(axes)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss of a batch (log scale)")
    return figure


def _draw_loss(axes: Axes, steps: list[dict[str, Any]], colours: dict[str, str]) -> dict[str, Any]:
    """Draw every corpus's loss; returns the smoothed line of each."""
    lines = {}
    for corpus in dict.fromkeys(step["corpus"] for step in steps):
        own = [step for step in steps if step["corpus"] == corpus]
        x = np.array([step["step"] for step in own])
        y = np.array([step["loss"] for step in own], dtype=float)
        colour = colours.get(corpus, GREY)
        # Thousands of faint strokes are an image inside the SVG and PDF, the curve is not.
        axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.25, rasterized=True, zorder=2)
        smooth = moving_average(y, max(1, len(y) // 20))
        keep = np.unique(np.linspace(0, len(x) - 1, 400).astype(int))
        lines[corpus] = axes.plot(x[keep], smooth[keep], color=colour, linewidth=1.4, zorder=3)[0]
    return lines


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving average of the same length; windows shrink at both ends."""
    kernel = np.ones(min(width, len(values)))
    totals = np.convolve(values, kernel, mode="same")
    return totals / np.convolve(np.ones(len(values)), kernel, mode="same")


def _loss_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _draws(experiment: Experiment) -> Figure:
    """A bar for each run: the share of each corpus in its steps, and the share intended."""
    results = read_results(experiment)
    counts = {result.run: _drawn(result.folder) for result in results}
    shown = [result for result in results if counts[result.run]]
    colours = corpus_colours(experiment)
    height = 1.7 + 0.27 * max(len(shown), 3)
    missing = [result for result in results if not counts[result.run]]
    notes = _missing_runs(experiment, missing, "Not drawn")
    figure, body = canvas(experiment, (7.4, height), _TRAINING["draws"], notes)
    axes = body.subplots()
    for place, result in enumerate(shown):
        _draw_bar(axes, place, counts[result.run], experiment.resolve(result.run), colours)
    if shown:
        labels = [_run_label(experiment, result, seed=True) for result in shown]
        axes.set_yticks(range(len(shown)), labels)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the training steps (%)")
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        _corpus_legend(experiment, body, colours, marks=True)
    else:
        say_empty(axes)
    return figure


def _drawn(folder: Path) -> dict[str, int]:
    """Steps of each corpus in a run's schedule; empty when there is none that can be read."""
    try:
        column = pq.read_table(folder / "schedule.parquet", columns=["corpus"])["corpus"]
    except (OSError, pa.ArrowInvalid):
        return {}
    return {each["values"]: each["counts"] for each in column.value_counts().to_pylist()}


def _draw_bar(
    axes: Axes,
    place: int,
    counts: dict[str, int],
    settings: RunSettings,
    colours: dict[str, str],
) -> None:
    total, left, boundary = sum(counts.values()), 0.0, 0.0
    intended = shares(settings.corpora, settings.qa_weight, settings.schedule.spread)
    for corpus, share in intended.items():
        width = 100 * counts.get(corpus, 0) / total
        axes.barh(place, width, left=left, height=0.62, color=colours.get(corpus, GREY), zorder=2)
        if width >= 4:
            axes.text(
                left + width / 2,
                place,
                f"{width:.0f}",
                ha="center",
                va="center",
                color="white",
                fontsize=7,
            )
        left += width
        boundary += 100 * share
        if boundary < 99.9:
            for edge in (place - 0.32, place + 0.32):
                outwards = edge + (edge - place) * 0.4
                axes.plot([boundary] * 2, [edge, outwards], color="black", linewidth=1.2)
    axes.text(101, place, f"{total:,} steps", va="center", fontsize=7.5)


# --- shared ----------------------------------------------------------------------------------


def _corpus_legend(
    experiment: Experiment, body: SubFigure, colours: dict[str, str], marks: bool = False
) -> None:
    used = {name for run in experiment.runs() for name in _corpora(experiment, run)}
    handles: list[Any] = [
        Patch(color=colours[name], label=corpus.label)
        for name, corpus in experiment.corpora.items()
        if name in used
    ]
    if marks:
        handles.append(
            Line2D(
                [],
                [],
                color="black",
                marker="|",
                linestyle="none",
                markersize=9,
                markeredgewidth=1.2,
                label="intended boundary",
            )
        )
    # About as many entries as a line of the figure has room for.
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), 6, 90 // (longest + 6)))
    body.legend(handles=handles, loc="outside lower center", ncols=columns)


def _corpora(experiment: Experiment, run: Any) -> list[str]:
    return experiment.mixtures[run.mixture].corpora


def _run_label(experiment: Experiment, result: Result, seed: bool) -> str:
    """Mixture, QA weight, and whatever else the experiment's runs differ in."""
    run, every = result.run, experiment.runs()
    alone = len(_corpora(experiment, run)) == 1
    parts = [experiment.mixtures[run.mixture].label]
    parts += [] if alone else [f"w {run.qa_weight:g}"]
    if len({other.encoder for other in every}) > 1:
        parts.append(experiment.encoders[run.encoder].label)
    if run.variant != "default":
        parts.append(variant_label(experiment, run.variant))
    if seed and len(experiment.seeds) > 1:
        parts.append(f"seed {run.seed}")
    return ", ".join(parts)


def _missing_runs(experiment: Experiment, results: list[Result], what: str) -> list[str]:
    """One note for each reason, naming its runs; seeds are named unless all are missing."""
    reasons: dict[str, dict[str, list[int]]] = {}
    for result in results:
        runs = reasons.setdefault(result.missing or "no record of its training", {})
        runs.setdefault(_run_label(experiment, result, seed=False), []).append(result.run.seed)
    notes = []
    for reason, runs in reasons.items():
        named = [
            label if len(seeds) == len(experiment.seeds) else f"{label}, seed {_listed(seeds)}"
            for label, seeds in runs.items()
        ]
        notes.append(f"{what}: {'; '.join(named)} ({reason}).")
    return notes


def _listed(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))


_STANDING = {
    "loss": _losses,
    "draws": _draws,
    "effects": effects.draw,
    "interference": interference.draw,
    "groups": curves.draw_groups,
    "precision_recall": curves.draw_precision_recall,
    "thresholds": curves.draw_thresholds,
}
