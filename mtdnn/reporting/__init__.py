"""Tables and figures of an experiment, made from the runs that exist.

Everything is read from the runs' files, never from MLflow. Heavy libraries are imported
by the part that needs them: tables do without matplotlib.
"""

from mtdnn.config import Experiment

TRAINING_FIGURES = ("loss", "draws")
"""Figures that every experiment has: loss curves, and how often each corpus was drawn."""


def write_table(experiment: Experiment, name: str) -> None:
    """Write `results/{experiment}/tables/{name}.md`, `.csv` and `.tex`."""
    from mtdnn.reporting import tables

    tables.write(experiment, name)


def write_figure(experiment: Experiment, name: str) -> None:
    """Write `results/{experiment}/figures/{name}.svg`, `.png` and `.pdf`."""
    from mtdnn.reporting import figures

    figures.write(experiment, name)
