"""The figure of interference: each corpus's dev score in every mixture that contains it."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.measures import ACCURACY
from mtdnn.evaluation.results import Score
from mtdnn.reporting.figures.drawing import COLOURS, GREY, canvas, corpus_colours
from mtdnn.reporting.interference import auxiliary, headline, kinds, majority, targets
from mtdnn.reporting.wording import axis


def draw(experiment: Experiment) -> Figure:
    """Draw a panel for each target and each auxiliary corpus, with a line for each kind of run."""
    known, corpora, own = kinds(experiment), auxiliary(experiment), targets(experiment)
    notes = [
        "Each corpus is scored on its own dev set. Small points: single seeds; large: their mean."
    ]
    if any(headline(experiment, corpus) == ACCURACY for corpus in corpora):
        notes[0] += " Dashed: accuracy of always predicting the most frequent label."
    for kind in known:
        if kind.reasons:
            notes.append(f"Incomplete: {kind.label}: {'; '.join(kind.reasons)}.")
    number = len(own) + len(corpora)
    size = (1.6 + 1.75 * number, 1.3 + 0.3 * max(len(known), 2))
    figure, body = canvas(experiment, size, "Scores of every task by mixture and weight", notes)
    panels = body.subplots(1, number, sharey=True, squeeze=False)[0]
    colours, levels = corpus_colours(experiment), majority(known)
    for axes, target in zip(panels, own, strict=False):
        scores = [kind.own(target) for kind in known]
        _panel(axes, scores, COLOURS[-1], target.title, axis(target.measure))
    for axes, corpus in zip(panels[len(own) :], corpora, strict=True):
        measure = headline(experiment, corpus)
        scores = [kind.score(corpus, measure) for kind in known]
        _panel(axes, scores, colours[corpus], experiment.corpora[corpus].label, axis(measure))
        if corpus in levels and measure == ACCURACY:
            axes.axvline(levels[corpus], color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    panels[0].set_yticks(range(len(known)), [kind.label for kind in known])
    panels[0].set_ylim(len(known) - 0.5, -0.5)
    return figure


def _panel(axes: Axes, scores: list[Score], colour: str, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=8)
    axes.set_xlabel(unit.replace(" (", "\n("))  # panels are narrow
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
