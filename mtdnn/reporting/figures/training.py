"""The figures of training: loss curves, and how often each corpus was drawn."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.loading import load_run
from mtdnn.evaluation.results import Result, read_results
from mtdnn.reporting.escaping import one_line
from mtdnn.reporting.figures.drawing import (
    canvas,
    footed,
    is_narrow,
    label_text,
    legend_below,
    points_of,
    run_text,
    say_empty,
    styled,
    text_width,
)
from mtdnn.reporting.figures.palette import (
    BASELINE,
    CORPUS_COLOURS,
    GREY,
    Look,
    corpus_looks,
    ink_on,
    looks,
)
from mtdnn.training.log import read_training
from mtdnn.training.schedule import counts, intended_shares, numbers_of_steps


def draw_losses(experiment: Experiment) -> Figure:
    """Draw the loss of every corpus, in a panel for each kind of run; its seeds overlap."""
    results = _trained(experiment)
    steps = {result.run: read_training(result.folder) for result in results}
    kinds: dict[str, list[Result]] = {}
    for result in results:
        if steps[result.run]:
            kinds.setdefault(result.run.row_path, []).append(result)
    most = 2 if is_narrow() else 3 if len(kinds) <= 9 else 4
    columns = max(1, min(len(kinds), most))
    lines = max(1, -(-len(kinds) // columns))
    size = (1.2 + 2.4 * max(columns, 2), 1.1 + 1.9 * lines)
    window = _window(steps.values())
    notes = _loss_notes(experiment, results, steps, window)
    figure, body = canvas(experiment, size, "Training loss of each corpus", notes)
    grid = body.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    own = corpus_looks(experiment)
    drawn: dict[str, Line2D] = {}
    for axes, members in zip(grid.flat, kinds.values(), strict=False):
        for result in members:
            drawn |= _draw_loss(axes, steps[result.run], own, window)
        _panel_title(axes, experiment, members[0].run)
        _loss_axis(axes)
    for axes in grid.flat[len(kinds) :]:
        axes.set_visible(False)
    if kinds:
        # The last panel of a column is not always in the bottom row.
        for axes in grid.flat[max(0, len(kinds) - columns) : len(kinds)]:
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_xlabel("training step")
        body.supylabel("loss of a batch (log scale)", fontsize=points_of("axes.labelsize"))
        _corpus_legend(experiment, body, drawn)
    else:
        grid.flat[0].set_visible(True)
        say_empty(grid.flat[0])
    return figure


def _trained(experiment: Experiment) -> list[Result]:
    """The runs that are trained: all but averages of others."""
    return [each for each in read_results(experiment) if not experiment.is_average(each.run)]


def _panel_title(axes: Axes, experiment: Experiment, run: RunId) -> None:
    """Write the mixture and weight above a panel, and below them what else tells the run apart."""
    whole = one_line(experiment.run_label(run))
    weight = "" if run.weight == 1 else f", w {run.weight:g}"
    mixture = one_line(experiment.mixtures[run.mixture].label) + weight
    rest = whole.removeprefix(mixture).removeprefix(", ")
    lines = [mixture, rest] if rest and rest != whole else [whole]
    points = points_of("axes.titlesize") - 1
    room = 1.5 if is_narrow() else 2.2
    widest = max(text_width(line, points) for line in lines)
    axes.set_title("\n".join(lines), fontsize=points * min(1, room / widest), linespacing=1.3)


def _window(steps: Iterable[list[dict[str, Any]]]) -> int:
    """The number of training steps over which losses are averaged: a 25th of the longest run."""
    return max(1, max((each[-1]["step"] + 1 for each in steps if each), default=1) // 25)


def _loss_notes(
    experiment: Experiment,
    results: list[Result],
    steps: dict[RunId, list[dict[str, Any]]],
    window: int,
) -> list[str]:
    notes = [f"Faint: every step; strong: moving average over {window:,} training steps."]
    if window == 1:
        notes = ["Lines: every training step."]
    if any(result.run.seed != results[0].run.seed for result in results if steps[result.run]):
        notes[0] += " The seeds of a run overlap."
    untrained = [result for result in results if not steps[result.run]]
    unscored = [result for result in results if steps[result.run] and result.metrics is None]
    notes += missing_runs(experiment, untrained, "Not drawn")
    return notes + missing_runs(experiment, unscored, "Drawn, but without scores")


def run_loss(folder: Path) -> Figure:
    """Draw the loss curves of one run from the files in its folder."""
    settings = load_run(RunFolder(folder).config)
    steps = read_training(folder)
    own = dict(zip(settings.corpora, looks(CORPUS_COLOURS), strict=False))
    with styled():
        title = f"Training loss of {settings.mixture_label}"
        figure, body = footed((6.4, 3.8), title, [settings.notice or ""])
        axes = body.subplots()
        if steps:
            lines = _draw_loss(axes, steps, own, _window([steps]))
            _loss_axis(axes)
            legend_below(
                body,
                list(lines.values()),
                [label_text(settings.corpora[name].label) for name in lines],
            )
        else:
            say_empty(axes)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss of a batch (log scale)")
    return figure


def _draw_loss(
    axes: Axes, steps: list[dict[str, Any]], own: dict[str, Look], window: int
) -> dict[str, Line2D]:
    """Draw every corpus's loss and return the smoothed line of each.

    Args:
        axes: where to draw.
        steps: the log of a run.
        own: the look of each corpus.
        window: number of training steps over which losses are averaged.
    """
    lines = {}
    for corpus in dict.fromkeys(step["corpus"] for step in steps):
        taken = [step for step in steps if step["corpus"] == corpus]
        x = np.array([step["step"] for step in taken])
        y = np.array([step["loss"] for step in taken], dtype=float)
        look = own.get(corpus, BASELINE)
        # As vectors, thousands of faint strokes would make huge SVG and PDF files.
        axes.plot(x, y, color=look.colour, linewidth=0.5, alpha=0.25, rasterized=True, zorder=2)
        smooth = moving_average(x, y, window)
        keep = np.unique(np.linspace(0, len(x) - 1, 400).astype(int))
        (lines[corpus],) = axes.plot(
            x[keep],
            smooth[keep],
            color=look.colour,
            linestyle=look.dash,
            marker=look.marker,
            markersize=3,
            markevery=(0.1, 0.25),
            linewidth=1.4,
            zorder=3,
        )
    return lines


def moving_average(steps: np.ndarray, values: np.ndarray, width: int) -> np.ndarray:
    """Return, at each step, the mean of the values at most half a window away.

    Args:
        steps: (n,) steps in ascending order.
        values: (n,) the value at each of them.
        width: length of the window in steps.
    """
    totals = np.concatenate([[0.0], np.cumsum(values)])
    first = np.searchsorted(steps, steps - width / 2, "left")
    last = np.searchsorted(steps, steps + width / 2, "right")
    means: np.ndarray = (totals[last] - totals[first]) / (last - first)
    return means


def _loss_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def draw_corpus_shares(experiment: Experiment) -> Figure:
    """Draw each corpus's share of the steps next to its intended share.

    There is a bar for each run, or for each of its phases.
    """
    results = _trained(experiment)
    bars: list[_Bar] = []
    missing = []
    for result in results:
        phases = _phases(experiment, result)
        bars += phases
        missing += [] if phases else [result]
    own = corpus_looks(experiment)
    height = 1.7 + (0.5 if is_narrow() else 0.33) * max(len(bars), 3)
    notes = missing_runs(experiment, missing, "Not drawn")
    figure, body = canvas(experiment, (7.4, height), "How often each corpus was drawn", notes)
    axes = body.subplots()
    for place, bar in enumerate(bars):
        _draw_bar(axes, place, bar, own)
    if bars:
        labels = [run_text(bar.label, 20 if is_narrow() else 34) for bar in bars]
        axes.set_yticks(range(len(bars)), labels)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the training steps (%)")
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        drawn = {corpus for bar in bars for corpus in bar.intended}
        patches = {name: Patch(color=own[name].colour) for name in own if name in drawn}
        _corpus_legend(experiment, body, patches, marks=any(len(bar.intended) > 1 for bar in bars))
    else:
        say_empty(axes)
    return figure


class _Bar(NamedTuple):
    """One bar of the figure of draws.

    Attributes:
        label: the run, and its phase if it has several.
        counts: number of batches of each corpus.
        intended: the share of the batches that each corpus should have.
        steps: number of steps.
    """

    label: str
    counts: dict[str, int]
    intended: dict[str, float]
    steps: int


def _phases(experiment: Experiment, result: Result) -> list[_Bar]:
    """The bars of a run, one for each phase; none if its schedule cannot be read."""
    phases = counts(result.folder)
    if not phases:
        return []
    run = experiment.resolve(result.run)
    intended = intended_shares(result.folder, run)
    steps = numbers_of_steps(run, phases)
    label = experiment.run_label(result.run, seed=True)
    several = len(phases) > 1
    return [
        _Bar(f"{label}, phase {number}" if several else label, *bar)
        for number, bar in enumerate(zip(phases, intended, steps, strict=False), 1)
    ]


def _draw_bar(axes: Axes, place: int, bar: _Bar, own: dict[str, Look]) -> None:
    """Draw a bar, with a tick above and below it at each intended boundary."""
    total, left, boundary = sum(bar.counts.values()), 0.0, 0.0
    for corpus, share in bar.intended.items():
        width = 100 * bar.counts.get(corpus, 0) / total
        colour = own[corpus].colour if corpus in own else GREY
        axes.barh(
            place,
            width,
            left=left,
            height=0.62,
            color=colour,
            edgecolor="white",
            linewidth=0.6,
            zorder=2,
        )
        if width >= 4:
            axes.text(
                left + width / 2,
                place,
                f"{width:.0f}",
                ha="center",
                va="center",
                color=ink_on(colour),
                fontsize=7,
            )
        left += width
        boundary += 100 * share
        if boundary < 99.9:
            for edge in (place - 0.32, place + 0.32):
                outwards = edge + (edge - place) * 0.4
                axes.plot([boundary] * 2, [edge, outwards], color="black", linewidth=1.2)
    axes.text(101, place, f"{bar.steps:,} steps", va="center", fontsize=7.5)


def _corpus_legend(
    experiment: Experiment, body: SubFigure, drawn: Mapping[str, Artist], marks: bool = False
) -> None:
    """Name the corpora that are drawn, and the marks of the intended boundaries."""
    known = {name: drawn[name] for name in experiment.corpora if name in drawn}
    handles, labels = list(known.values()), [experiment.corpora[name].label for name in known]
    if marks:
        mark = Line2D([], [], color="black", marker="|", linestyle="none", markersize=9)
        mark.set_markeredgewidth(1.2)
        handles, labels = [*handles, mark], [*labels, "intended boundary"]
    legend_below(body, handles, labels)


def missing_runs(experiment: Experiment, results: list[Result], what: str) -> list[str]:
    """Return a note for each reason, with its runs and, unless all are missing, their seeds.

    Args:
        experiment: the experiment.
        results: the runs.
        what: what is said of them, for instance `Not drawn`.
    """
    reasons: dict[str, dict[str, list[int]]] = {}
    for result in results:
        runs = reasons.setdefault(result.missing or "no record of its training", {})
        runs.setdefault(experiment.run_label(result.run), []).append(result.run.seed)
    notes = []
    for reason, runs in reasons.items():
        named = [
            label if len(seeds) == len(experiment.seeds) else f"{label}, {_seeds(seeds)}"
            for label, seeds in runs.items()
        ]
        notes.append(f"{what}: {'; '.join(named)} ({reason}).")
    return notes


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
