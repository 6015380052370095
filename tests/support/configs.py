"""The experiments of the repository, also laid over each other."""

from pathlib import Path

import yaml
from snakemake.utils import update_config

from mtdnn.config.experiment import Experiment
from mtdnn.config.loading import parse

CONFIGS = Path(__file__).parents[2] / "config"


def overlaid(*names: str) -> Experiment:
    """The experiment of YAML files of `config/`, each laid over those before it."""
    merged: dict = {}
    for name in names:
        update_config(merged, yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")))
    return parse(merged, where=" and ".join(names))
