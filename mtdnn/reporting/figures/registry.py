"""Every figure by its name, written as SVG, PNG and PDF."""

import matplotlib
from matplotlib.figure import Figure

from mtdnn.config.experiment import Experiment
from mtdnn.reporting.figures import curves, effects, interference, scores, training
from mtdnn.reporting.figures.drawing import STYLE, save


def write(experiment: Experiment, name: str) -> None:
    """Write one figure in three formats, from the runs that exist."""
    save(experiment, name, lambda: draw(experiment, name))


def draw(experiment: Experiment, name: str) -> Figure:
    """The figure called `name`: one of the experiment's own, or one that every experiment has."""
    with matplotlib.rc_context(STYLE):
        if name in experiment.figures:
            return scores.draw(experiment, name)
        return _STANDING[name](experiment)


_STANDING = {
    "loss": training.draw_losses,
    "draws": training.draw_draws,
    "effects": effects.draw,
    "interference": interference.draw,
    "groups": curves.draw_groups,
    "precision_recall": curves.draw_precision_recall,
    "thresholds": curves.draw_thresholds,
}
