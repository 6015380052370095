"""Figures of the training: loss curves, and how often each corpus was drawn."""

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

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.loading import load_run
from mtdnn.config.settings import RunSettings
from mtdnn.evaluation.results import Result, read_results, variant_label
from mtdnn.reporting.figures.drawing import (
    GREY,
    STYLE,
    canvas,
    corpus_colours,
    cycle,
    footed,
    say_empty,
)
from mtdnn.training.log import read_training
from mtdnn.training.schedule import shares

_TRAINING = {
    "loss": "Training loss of each corpus",
    "draws": "How often each corpus was drawn",
}


def draw_losses(experiment: Experiment) -> Figure:
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
    settings = load_run(RunFolder(folder).config)
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


def draw_draws(experiment: Experiment) -> Figure:
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
        column = pq.read_table(RunFolder(folder).schedule, columns=["corpus"])["corpus"]
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
