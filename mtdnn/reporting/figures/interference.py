"""The figure of interference: each corpus's dev score in every mixture that contains it."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.results import Score
from mtdnn.reporting.figures.drawing import COLOURS, GREY, canvas, corpus_colours
from mtdnn.reporting.interference import auxiliary, kinds, majority


def draw(experiment: Experiment) -> Figure:
    """Draw a panel for each corpus, with a line for each kind of run."""
    known, corpora = kinds(experiment), auxiliary(experiment)
    notes = [
        "Each corpus is scored on its own dev set. Small points: single seeds; large: their mean. "
        "Dashed: accuracy of always predicting the most frequent label."
    ]
    for kind in known:
        if kind.reasons:
            notes.append(f"Incomplete: {kind.label}: {'; '.join(kind.reasons)}.")
    size = (1.6 + 1.75 * (len(corpora) + 1), 1.3 + 0.3 * max(len(known), 2))
    figure, body = canvas(experiment, size, "Scores of every task by mixture and weight", notes)
    panels = body.subplots(1, len(corpora) + 1, sharey=True, squeeze=False)[0]
    colours, levels = corpus_colours(experiment), majority(known)
    _panel(panels[0], [kind.f1 for kind in known], COLOURS[-1], "Question answering", "F1 (%)")
    for axes, corpus in zip(panels[1:], corpora, strict=True):
        scores = [kind.score(corpus, "accuracy") for kind in known]
        _panel(axes, scores, colours[corpus], experiment.corpora[corpus].label, "accuracy (%)")
        if corpus in levels:
            axes.axvline(levels[corpus], color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    panels[0].set_yticks(range(len(known)), [kind.label for kind in known])
    panels[0].set_ylim(len(known) - 0.5, -0.5)
    return figure


def _panel(axes: Axes, scores: list[Score], colour: str, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=8)
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", length=0)
    if not any(score.values for score in scores):
        axes.set_xticks([])
        return
    for place, score in enumerate(scores):
        if len(score.values) > 1:
            places = [place] * len(score.values)
            axes.plot(score.values, places, "o", color=colour, markersize=3, alpha=0.45)
        if score.values:
            axes.plot(np.mean(score.values), place, "o", color=colour, markersize=6)
