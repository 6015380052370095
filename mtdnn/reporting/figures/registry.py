"""All figures by name, written as SVG, PNG and PDF."""

from collections.abc import Callable

from matplotlib.figure import Figure

from mtdnn.config.experiment import Experiment
from mtdnn.reporting.figures import curves, effects, gradients, scores, tasks, training
from mtdnn.reporting.figures.drawing import drawable, save, styled


def write(experiment: Experiment, name: str) -> None:
    """Write one figure as SVG, PNG and PDF, from the runs that exist."""
    save(experiment, name, lambda: draw(experiment, name))


def draw(experiment: Experiment, name: str) -> Figure:
    """Draw a figure that the experiment describes, or one of `BUILT_IN`."""
    shown = drawable(experiment)
    with styled():
        if name in experiment.figures:
            return scores.draw(shown, name)
        return BUILT_IN[name](shown)


BUILT_IN: dict[str, Callable[[Experiment], Figure]] = {
    "loss": training.draw_losses,
    "draws": training.draw_corpus_shares,
    "gradients": gradients.draw,
    "forgetting": gradients.draw_forgetting,
    "effects": effects.draw,
    "tasks": tasks.draw,
    "groups": curves.draw_groups,
    "precision_recall": curves.draw_precision_recall,
    "thresholds": curves.draw_thresholds,
}
