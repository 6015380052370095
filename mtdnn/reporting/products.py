"""The products of an experiment: which tables, figures and pages it has, and what writes each.

Products are written from the files of the runs that exist, never from MLflow. The Snakefile
imports this module, so each function imports its heavy libraries itself.
"""

from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import PAPER_WIDTHS
from mtdnn.machine.files import digest, sha256

TRAINING_FIGURES = ("loss", "draws", "gradients", "forgetting")
"""Training figures that every experiment has.

Loss curves, shares of the corpora, cosines of their gradients, and their dev losses.
"""

ANSWER_FIGURES = ("effects", "tasks", "groups", "precision_recall", "thresholds")
"""Figures of scores and predictions that every experiment has."""

FIGURES = (*TRAINING_FIGURES, *ANSWER_FIGURES)
"""All figures other than those that the experiment describes."""

PAGES = ("cases", "interference", "runs", "settings")
"""All pages of the HTML report other than those of the tables."""


def figure_files(experiment: Experiment, name: str) -> list[Path]:
    """Return all files of a figure, the SVG first."""
    layout = experiment.layout
    files = [layout.figure(name, end) for end in ("svg", "png", "pdf")]
    if experiment.paper_figures:
        files.append(layout.figure(name, "tex"))
        files += [layout.figure(name, "pdf", page) for page in PAPER_WIDTHS]
    return files


def templates_digest() -> str:
    """Return a digest of the templates, which the digest of the code does not cover."""
    templates = sorted(Path(__file__).with_name("templates").iterdir())
    return digest({template.name: sha256(template) for template in templates})[:16]


def write_table(experiment: Experiment, name: str) -> None:
    """Write `results/{experiment}/tables/{name}.md`, `.csv` and `.tex`."""
    from mtdnn.reporting import tables

    tables.write(experiment, name)


def write_comparisons(experiment: Experiment, name: str) -> None:
    """Write `results/{experiment}/comparisons/{name}.md`, `.csv` and `.tex`."""
    from mtdnn.reporting import comparisons

    comparisons.write(experiment, name)


def write_figure(experiment: Experiment, name: str) -> None:
    """Write the files of a figure: `results/{experiment}/figures/{name}.svg`, `.png`, `.pdf`, …"""
    from mtdnn.reporting.figures import registry

    registry.write(experiment, name)


def write_interference(experiment: Experiment) -> None:
    """Write `results/{experiment}/tables/interference.md`, `.csv` and `.tex`."""
    from mtdnn.reporting import interference

    interference.write(experiment)


def write_gradients(experiment: Experiment) -> None:
    """Write `results/{experiment}/tables/gradients.md`, `.csv` and `.tex`."""
    from mtdnn.reporting import gradients

    gradients.write(experiment)


def write_cases(experiment: Experiment) -> None:
    """Write `results/{experiment}/cases.json` and `cases.md`."""
    from mtdnn.reporting import cases

    cases.write(experiment)


def write_page(experiment: Experiment, name: str) -> None:
    """Write `results/{experiment}/pages/{name}.html`."""
    from mtdnn.reporting import pages

    pages.write_page(experiment, name)


def write_summary(experiment: Experiment) -> None:
    """Write `results/{experiment}/summary.md`."""
    from mtdnn.reporting import summary

    summary.write(experiment)
