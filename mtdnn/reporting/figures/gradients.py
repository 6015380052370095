"""The figures of gradient conflict: cosines between corpora, and each corpus's dev loss."""

import statistics
from collections.abc import Iterable
from itertools import cycle as repeat
from textwrap import fill
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.results import read_results
from mtdnn.reporting.blocks import MISSING
from mtdnn.reporting.figures.drawing import NOTHING_YET, canvas, say_empty
from mtdnn.reporting.figures.palette import GREY, MIXTURE_COLOURS, Look, corpus_looks
from mtdnn.reporting.figures.training import missing_runs
from mtdnn.reporting.gradients import Measured, read
from mtdnn.reporting.tables import signed
from mtdnn.training.log import cosines_with_target

Style = Literal["-", "--", ":", "-."]
LINE_STYLES: tuple[Style, ...] = ("-", "--", ":", "-.")
_SHOWN = dict(zip(LINE_STYLES, ("solid", "dashed", "dotted", "dash-dotted"), strict=True))

_Curve = list[tuple[float, float]]


def draw(experiment: Experiment) -> Figure:
    """Draw the cosines of gradients: between corpora, by layer, and in the course of training."""
    measured = [each for each in read(experiment) if any(each.pairs())]
    kinds = _kinds(measured)
    columns = max(1, min(len(kinds), 3 if len(kinds) <= 9 else 4))
    lines = -(-len(kinds) // columns)
    title = "Gradient conflict between corpora"
    size = (1.2 + 2.4 * max(columns, 3), 3.6 + 1.75 * lines)
    if not measured:
        return _empty(experiment, size, title, "measurements")
    figure, body = canvas(experiment, size, title, _notes(experiment, measured))
    heights = [3.3, 0.3 + 1.75 * lines]
    above, below = body.subfigures(2, 1, height_ratios=heights)  # type: ignore[misc]
    matrix, layers = above.subplots(1, 2, width_ratios=[1, 1.15])
    _draw_matrix(experiment, matrix, measured)
    looks = corpus_looks(experiment)
    _draw_layers(layers, measured, looks)
    grid = below.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, members in zip(grid.flat, kinds.values(), strict=False):
        for corpus in members[0].corpora:
            if curves := [curve for each in members if (curve := each.course(corpus))]:
                _draw_course(axes, curves, looks[corpus])
        axes.axhline(0, color=GREY, linewidth=0.9, zorder=1)
        axes.set_title(fill(experiment.run_label(members[0].result.run), 30), fontsize=8)
    _label_grid(below, grid, len(kinds), "cosine with the target")
    shown = {name for each in measured for name in each.corpora if name != each.target}
    handles = [
        axes.plot([], [], label=experiment.corpora[name].label, **_line(looks[name]))[0]
        for name in experiment.corpora
        if name in shown
    ]
    below.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return figure


def _empty(experiment: Experiment, size: tuple[float, float], title: str, setting: str) -> Figure:
    """Say why there is nothing to draw and, if trained runs lack it, how to turn on `setting`."""
    mixtures = setting == "measurements"
    notes, text = _unmeasured(experiment, [], mixtures), NOTHING_YET
    alone = [experiment.mixtures[run.mixture].is_alone for run in experiment.runs()]
    if mixtures and alone and all(alone):
        text = "nothing to compare: every run trains on one corpus alone"
    elif any(len(each.corpora) > 1 or not mixtures for each in read(experiment)):
        text = "nothing was measured during training"
        notes.append(
            f"To turn it on, set training.interference.{setting} above 0 and max_share high "
            "enough; only runs that are trained after that are measured."
        )
    figure, body = canvas(experiment, size, title, notes)
    say_empty(body.subplots(), text)
    return figure


def _notes(experiment: Experiment, measured: list[Measured]) -> list[str]:
    notes = [
        "Cosines of the corpora's mean gradients at the same weights, without dropout, over the "
        "whole encoder unless said otherwise. Above 0 two corpora move the encoder the same way; "
        "below 0 they conflict. Left: means over all runs that train both, and over training. "
        "Right: with the target, by layer (E: embeddings). Below: in the course of training."
    ]
    if len(experiment.seeds) > 1:
        notes[0] += " Lines: means over seeds; shaded: their range."
    if styles := _styles(measured):
        named = {
            key: f"{experiment.encoders[key[0]].label} with target "
            f"{experiment.corpora[key[1]].label}"
            for key in styles
        }
        if len(styles) > 1:
            said = "; ".join(f"{_SHOWN[style]}: {named[key]}" for key, style in styles.items())
            notes.append(f"By layer, {said}.")
    return notes + _unmeasured(experiment, measured, mixtures=True)


def _unmeasured(experiment: Experiment, measured: list[Measured], mixtures: bool) -> list[str]:
    """Notes on the runs that are not drawn."""
    drawn = {each.result.run for each in measured}
    left = [
        result
        for result in read_results(experiment)
        if result.run not in drawn
        and not (mixtures and experiment.mixtures[result.run.mixture].is_alone)
    ]
    untrained = [result for result in left if result.missing]
    notes = missing_runs(experiment, untrained, "Not drawn")
    if others := [result for result in left if not result.missing]:
        labels = dict.fromkeys(experiment.run_label(result.run) for result in others)
        notes.append(f"Not drawn: {'; '.join(labels)} (nothing was measured during training).")
    return notes


def _kinds(measured: Iterable[Measured]) -> dict[str, list[Measured]]:
    """The runs that differ only in their seed, by the path that they share."""
    kinds: dict[str, list[Measured]] = {}
    for each in measured:
        kinds.setdefault(each.result.run.row_path, []).append(each)
    return kinds


def _styles(measured: Iterable[Measured]) -> dict[tuple[str, str], Style]:
    """A line style for each encoder and target."""
    keys = dict.fromkeys((each.result.run.encoder, each.target) for each in measured)
    return dict(zip(keys, repeat(LINE_STYLES), strict=False))


def _draw_matrix(experiment: Experiment, axes: Axes, measured: list[Measured]) -> None:
    """Draw the mean cosine of each pair of corpora."""
    values: dict[frozenset[str], list[float]] = {}
    for each in measured:
        for pair, value in each.pairs():
            values.setdefault(pair, []).append(value)
    names = [name for name in experiment.corpora if any(name in pair for pair in values)]
    means = np.full((len(names), len(names)), np.nan)
    for row, a in enumerate(names):
        for column, b in enumerate(names[:row]):
            if found := values.get(frozenset((a, b))):
                means[row, column] = statistics.fmean(found)
    limit = max(0.1, float(np.nanmax(np.abs(means))))
    # Blue where two corpora agree, red where they conflict, as colour-blind readers can tell.
    axes.imshow(means[1:, :-1], cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(means[1:, :-1]):
        if column <= row:
            text = MISSING if np.isnan(value) else signed(value)
            colour = "white" if abs(value) > 0.7 * limit else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    labels = [fill(experiment.corpora[name].label, 12) for name in names]
    axes.set_xticks(range(len(names) - 1), labels[:-1], fontsize=7, rotation=30, ha="right")
    axes.set_yticks(range(len(names) - 1), labels[1:], fontsize=7)
    axes.set_title("mean cosine of each pair", fontsize=8)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_layers(axes: Axes, measured: list[Measured], looks: dict[str, Look]) -> None:
    """Draw the mean cosine with the target, by layer."""
    values: dict[tuple[tuple[str, str], str], dict[int, list[float]]] = {}
    for each in measured:
        key = (each.result.run.encoder, each.target)
        for line in each.lines:
            for part in (line.get("gradients") or {}).get("cosine", {}):
                depth = _depth(part)
                if depth is None:
                    continue
                for corpus, value in cosines_with_target(line, part).items():
                    values.setdefault((key, corpus), {}).setdefault(depth, []).append(value)
    styles, deepest = _styles(measured), 0
    for (key, corpus), layers in values.items():
        depths = sorted(layers)
        deepest = max(deepest, depths[-1])
        means = [statistics.fmean(layers[depth]) for depth in depths]
        style, look = styles[key], looks[corpus]
        axes.plot(depths, means, **{**_line(look), "linestyle": style})
    axes.axhline(0, color=GREY, linewidth=0.9, zorder=1)
    step = 1 if deepest <= 12 else 2
    ticks = range(0, deepest + 1, step)
    axes.set_xticks(ticks, ["E" if depth == 0 else str(depth) for depth in ticks])
    axes.set_title("mean cosine with the target, by layer", fontsize=8)
    axes.set_xlabel("layer")


def _depth(part: str) -> int | None:
    """The place of a part of the encoder on the axis of layers; None if it has none."""
    if part == "embeddings":
        return 0
    word, _, number = part.partition(" ")
    return int(number) if word == "layer" else None


def _resampled(curves: list[_Curve]) -> tuple[np.ndarray, np.ndarray]:
    """The seeds' curves at the places of the first: percent (n,) and values (seeds, n)."""
    # Runs of different seeds have slightly different places.
    x = np.array([place for place, _ in curves[0]])
    points = [np.array(curve).T for curve in curves]
    return 100 * x, np.array([np.interp(x, places, values) for places, values in points])


def _draw_course(axes: Axes, curves: list[_Curve], look: Look) -> None:
    """Draw the mean of the seeds' curves, and their range as a ribbon."""
    x, values = _resampled(curves)
    marker = look.marker if len(x) <= 10 else ""
    axes.plot(x, values.mean(axis=0), **{**_line(look), "marker": marker})
    if len(curves) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0, zorder=2)


def _line(look: Look) -> dict[str, Any]:
    """How matplotlib draws a line of means."""
    style = {"color": look.colour, "linestyle": look.dash, "marker": look.marker}
    return {**style, "linewidth": 1.4, "markersize": 3, "zorder": 3}


def _draw_losses(axes: Axes, curves: list[_Curve], colour: str, style: Style, shift: float) -> None:
    """Draw the mean of the seeds' losses, and their range as bars, moved by `shift` percent."""
    x, values = _resampled(curves)
    x, mean = x + shift, values.mean(axis=0)
    axes.plot(x, mean, style, color=colour, linewidth=1.4, marker="o", markersize=3, zorder=3)
    if len(curves) > 1:
        axes.vlines(x, values.min(axis=0), values.max(axis=0), color=colour, linewidth=0.9)


def _label_grid(body: SubFigure, grid: np.ndarray, used: int, y_label: str) -> None:
    """Hide the panels that are not used, and label the axes of the others."""
    columns = grid.shape[1]
    for axes in grid.flat[used:]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, used - columns) : used]:
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_xlabel("share of training (%)")
    for axes in grid.flat[:used]:
        axes.set_xlim(0, 105)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    body.supylabel(y_label, fontsize=9)


def draw_forgetting(experiment: Experiment) -> Figure:
    """Draw each corpus's dev loss at the ends of epochs and phases, a line for each kind of run."""
    measured = read(experiment)
    names = [name for name in experiment.corpora if any(each.losses(name) for each in measured)]
    measured = [each for each in measured if any(map(each.losses, names))]
    kinds = _kinds(measured)
    columns = max(1, min(len(names), 3))
    lines = max(1, -(-len(names) // columns))
    notes = [
        "Mean loss of the same items of each corpus's dev set at the end of each epoch and phase, "
        "without dropout. A loss that rises while other corpora are trained shows forgetting, or "
        "overfitting; compare it with the same corpus in other mixtures."
    ]
    if len(experiment.seeds) > 1:
        notes[0] += " Points: means over seeds; bars: their range."
    notes += _unmeasured(experiment, measured, mixtures=False)
    size = (1.2 + 2.4 * max(columns, 3), 1.4 + 2.0 * lines + 0.12 * len(kinds))
    title = "Dev loss of each corpus during training"
    if not names:
        return _empty(experiment, size, title, "dev_items")
    figure, body = canvas(experiment, size, title, notes)
    grid = body.subplots(lines, columns, sharex=True, squeeze=False)
    styles = [(colour, style) for style in LINE_STYLES for colour in MIXTURE_COLOURS]
    drawn = list(zip(kinds.values(), repeat(styles), strict=False))
    for axes, name in zip(grid.flat, names, strict=False):
        for place, (members, (colour, style)) in enumerate(drawn):
            if curves := [curve for each in members if (curve := each.losses(name))]:
                shift = min(1.0, 8 / len(drawn)) * (place - len(drawn) / 2)
                _draw_losses(axes, curves, colour, style, shift)
        axes.set_title(experiment.corpora[name].label, fontsize=8)
    _label_grid(body, grid, len(names), "mean dev loss")
    handles = [
        Line2D([], [], color=colour, linestyle=style, label=_label(experiment, members))
        for members, (colour, style) in drawn
    ]
    body.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _label(experiment: Experiment, members: list[Measured]) -> str:
    return experiment.run_label(members[0].result.run)
