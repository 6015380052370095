"""Tables and figures of an experiment, made from the runs that exist.

Everything is read from the runs' files, never from MLflow. Heavy libraries are imported
by the part that needs them: tables do without matplotlib.
"""

from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.machine.files import digest, sha256

TRAINING_FIGURES = ("loss", "draws")
"""Figures that every experiment has: loss curves, and how often each corpus was drawn."""

ANSWER_FIGURES = ("effects", "interference", "groups", "precision_recall", "thresholds")
"""Figures that every experiment has, drawn from its runs' scores and predictions."""

FIGURES = (*TRAINING_FIGURES, *ANSWER_FIGURES)

PAGES = ("cases", "interference", "runs", "settings")
"""Pages of the HTML report beside those of the tables."""


def templates_digest() -> str:
    """Digest of the templates of pages, which the digest of the code does not know."""
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
    """Write `results/{experiment}/figures/{name}.svg`, `.png` and `.pdf`."""
    from mtdnn.reporting.figures import registry

    registry.write(experiment, name)


def write_interference(experiment: Experiment) -> None:
    """Write `results/{experiment}/tables/interference.md`, `.csv` and `.tex`."""
    from mtdnn.reporting import interference

    interference.write(experiment)


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
