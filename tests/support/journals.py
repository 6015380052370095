"""Journals without training."""

from pathlib import Path
from typing import Any

from mtdnn.training.journal import Journal


def journal_line(step: int) -> dict[str, Any]:
    """A journal's line for a step."""
    return {"step": step, "corpus": "squad", "loss": 1 / (step + 1), "lr": 0.1, "seconds": step}


def make_journal(folder: Path, steps: int = 20, **changes: Any) -> Journal:
    """A journal of a run with that many steps.

    Args:
        folder: the run's folder.
        steps: number of steps of the whole run.
        changes: keys of the journal's first line to replace.
    """
    about = {
        "fingerprint": "f",
        "started": "2026-01-02T03:04:05+00:00",
        "corpora": {"squad": steps},
        **changes,
    }
    return Journal(folder, about, lambda: {"memory_mib": 1.0})
