"""The figures of training: loss curves, and how often each corpus was drawn."""

from pathlib import Path
from textwrap import fill
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
from mtdnn.reporting.figures.drawing import (
    GREY,
    canvas,
    corpus_colours,
    cycle,
    footed,
    label_text,
    say_empty,
    styled,
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
    columns = max(1, min(len(kinds), 3 if len(kinds) <= 9 else 4))
    lines = max(1, -(-len(kinds) // columns))
    size = (1.2 + 2.4 * max(columns, 2), 1.1 + 1.75 * lines)
    notes = _loss_notes(experiment, results, steps)
    figure, body = canvas(experiment, size, "Training loss of each corpus", notes)
    grid = body.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    colours = corpus_colours(experiment)
    for axes, members in zip(grid.flat, kinds.values(), strict=False):
        for result in members:
            _draw_loss(axes, steps[result.run], colours)
        axes.set_title(fill(experiment.run_label(members[0].run), 28), fontsize=8)
        _loss_axis(axes)
    for axes in grid.flat[len(kinds) :]:
        axes.set_visible(False)
    if kinds:
        # The last panel of a column is not always in the bottom row.
        for axes in grid.flat[max(0, len(kinds) - columns) : len(kinds)]:
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_xlabel("training step")
        body.supylabel("loss of a batch (log scale)", fontsize=9)
        _corpus_legend(experiment, body, colours)
    else:
        grid.flat[0].set_visible(True)
        say_empty(grid.flat[0])
    return figure


def _trained(experiment: Experiment) -> list[Result]:
    """The runs that are trained: all but averages of others."""
    return [each for each in read_results(experiment) if not experiment.is_average(each.run)]


def _loss_notes(
    experiment: Experiment, results: list[Result], steps: dict[RunId, list[dict[str, Any]]]
) -> list[str]:
    notes = ["Faint: every step; strong: moving average over a twentieth of the corpus's steps."]
    if len(experiment.seeds) > 1:
        notes[0] += " The seeds of a run overlap."
    untrained = [result for result in results if not steps[result.run]]
    unscored = [result for result in results if steps[result.run] and result.metrics is None]
    notes += missing_runs(experiment, untrained, "Not drawn")
    return notes + missing_runs(experiment, unscored, "Drawn, but without scores")


def run_loss(folder: Path) -> Figure:
    """Draw the loss curves of one run from the files in its folder."""
    settings = load_run(RunFolder(folder).config)
    steps = read_training(folder)
    colours = dict(zip(settings.corpora, cycle(), strict=False))
    with styled():
        title = f"Training loss of {settings.mixture_label}"
        figure, body = footed((6.4, 3.8), title, [settings.notice or ""])
        axes = body.subplots()
        if steps:
            for name, line in _draw_loss(axes, steps, colours).items():
                line.set_label(label_text(settings.corpora[name].label))
            _loss_axis(axes)
            body.legend(loc="outside lower center", ncols=6)
        else:
            say_empty(axes)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss of a batch (log scale)")
    return figure


def _draw_loss(axes: Axes, steps: list[dict[str, Any]], colours: dict[str, str]) -> dict[str, Any]:
    """Draw every corpus's loss and return the smoothed line of each."""
    lines = {}
    for corpus in dict.fromkeys(step["corpus"] for step in steps):
        own = [step for step in steps if step["corpus"] == corpus]
        x = np.array([step["step"] for step in own])
        y = np.array([step["loss"] for step in own], dtype=float)
        colour = colours.get(corpus, GREY)
        # As vectors, thousands of faint strokes would make huge SVG and PDF files.
        axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.25, rasterized=True, zorder=2)
        smooth = moving_average(y, max(1, len(y) // 20))
        keep = np.unique(np.linspace(0, len(x) - 1, 400).astype(int))
        lines[corpus] = axes.plot(x[keep], smooth[keep], color=colour, linewidth=1.4, zorder=3)[0]
    return lines


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """Return the centred moving average; the window shrinks at both ends.

    Args:
        values: (n,) values.
        width: length of the window.
    """
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
    colours = corpus_colours(experiment)
    height = 1.7 + 0.27 * max(len(bars), 3)
    notes = missing_runs(experiment, missing, "Not drawn")
    figure, body = canvas(experiment, (7.4, height), "How often each corpus was drawn", notes)
    axes = body.subplots()
    for place, bar in enumerate(bars):
        _draw_bar(axes, place, bar, colours)
    if bars:
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the training steps (%)")
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        _corpus_legend(experiment, body, colours, marks=True)
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


def _draw_bar(axes: Axes, place: int, bar: _Bar, colours: dict[str, str]) -> None:
    """Draw a bar, with a tick above and below it at each intended boundary."""
    total, left, boundary = sum(bar.counts.values()), 0.0, 0.0
    for corpus, share in bar.intended.items():
        width = 100 * bar.counts.get(corpus, 0) / total
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
    axes.text(101, place, f"{bar.steps:,} steps", va="center", fontsize=7.5)


def _corpus_legend(
    experiment: Experiment, body: SubFigure, colours: dict[str, str], marks: bool = False
) -> None:
    used = {name for run in experiment.runs() for name in experiment.mixtures[run.mixture].corpora}
    handles: list[Artist] = [
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
    # About as many entries as fit in one line of the figure.
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), 6, 90 // (longest + 6)))
    body.legend(handles=handles, loc="outside lower center", ncols=columns)


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
