"""The figure of tasks: each corpus's dev score in every mixture that contains it."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.measures import ACCURACY, Measure
from mtdnn.evaluation.results import Score
from mtdnn.reporting.figures.drawing import canvas, is_narrow, run_text, say_empty
from mtdnn.reporting.figures.palette import GREY, INK, Look, corpus_looks
from mtdnn.reporting.figures.training import missing_runs
from mtdnn.reporting.interference import auxiliary, headline, kinds, majority, targets
from mtdnn.reporting.wording import axis

TITLE = "Score of each task by mixture and weight"


def draw(experiment: Experiment) -> Figure:
    """Draw a panel for each target and each auxiliary corpus, with a line for each kind of run."""
    known, corpora, own = kinds(experiment), auxiliary(experiment), targets(experiment)
    colours, levels = corpus_looks(experiment), majority(known)
    first = next(iter(experiment.slices.values())).label
    notes = [f"Targets are scored on {first}, auxiliary corpora on their own dev sets."]
    if any(len(kind.results) > 1 for kind in known):
        notes[0] += " Small points: single seeds; large: their mean."
    if any(headline(experiment, corpus) == ACCURACY and corpus in levels for corpus in corpora):
        notes[0] += " Dashed: accuracy of always predicting the most frequent label."
    absent = [result for kind in known for result in kind.results if result.missing]
    notes += missing_runs(experiment, absent, "Not drawn")
    if not own:
        figure, body = canvas(experiment, (7.4, 3.0), TITLE, ["All runs are those of others."])
        say_empty(body.subplots(), "no runs of this experiment")
        return figure
    number = len(own) + len(corpora)
    columns = 2 if is_narrow() else number
    lines = -(-number // columns)
    size = (1.6 + 1.75 * number, (1.3 + 0.36 * max(len(known), 2)) * lines)
    figure, body = canvas(experiment, size, TITLE, notes)
    panels = body.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for axes in panels[number:]:
        axes.set_visible(False)
    # In characters, beside the labels of the runs.
    room = int(figure.get_figwidth() / (columns + 1.2) * (16 if figure.get_figwidth() < 7 else 13))
    for axes, target in zip(panels, own, strict=False):
        scores = [kind.own(target) for kind in known]
        title = run_text(target.title, room)
        _panel(axes, scores, Look(INK, "o", "-"), title, target.measure)
    for axes, corpus in zip(panels[len(own) :], corpora, strict=False):
        measure = headline(experiment, corpus)
        scores = [kind.score(corpus, measure) for kind in known]
        title = run_text(experiment.corpora[corpus].label, room)
        level = levels.get(corpus) if measure == ACCURACY else None
        _panel(axes, scores, colours[corpus], title, measure, level)
    labels = [run_text(kind.label) for kind in known]
    panels[0].set_yticks(range(len(known)), labels)
    panels[0].set_ylim(len(known) - 0.5, -0.5)
    return figure


def _panel(  # Many parameters because panels differ in all of them.
    axes: Axes,
    scores: list[Score],
    look: Look,
    title: str,
    measure: Measure,
    level: float | None = None,
) -> None:
    """Draw the scores of all kinds of runs; `level` is the accuracy of the most frequent label."""
    axes.set_title(title)
    axes.set_xlabel(axis(measure).replace(" (", "\n("))  # panels are narrow
    axes.tick_params(axis="y", length=0)
    if not any(score.values for score in scores):
        axes.set_xticks([])
        return
    whole: dict[str, Any] = {"color": look.colour, "clip_on": False}  # at 100, the axis ends
    for place, score in enumerate(scores):
        if len(score.values) > 1:
            places = [place] * len(score.values)
            axes.plot(score.values, places, "o", markersize=3, alpha=0.45, **whole)
        if score.values:
            axes.plot(np.mean(score.values), place, look.marker, markersize=6, **whole)
    if level is not None:
        axes.axvline(level, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 100 * measure.lowest - 1), min(high, 101))  # no margin of the impossible
