"""Files of a trained run, as tests read them."""

import json
from pathlib import Path

from mtdnn.config.layout import Layout, RunFolder
from mtdnn.config.settings import RunSettings
from mtdnn.data.features import training_features
from mtdnn.training import schedule


def schedule_of(run_dir: Path, run: RunSettings) -> list[schedule.Step]:
    """The schedule of a run."""
    features = training_features(Layout.of_run(run_dir), run)
    return schedule.read(run_dir, {name: len(corpus) for name, corpus in features.items()})


def lines_of(run_dir: Path) -> list[dict]:
    """The training log of a run."""
    return [json.loads(line) for line in RunFolder(run_dir).log.read_text().splitlines()]
