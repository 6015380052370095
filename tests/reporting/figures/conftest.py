"""A made-up experiment whose figures are drawn."""

import pytest

from tests.support.factories import make_experiment, make_run
from tests.support.published_scores import write_published


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """An experiment with part of its runs, three seeds, and published numbers."""
    folder = tmp_path_factory.mktemp("drawn")
    experiment = make_experiment(folder, seeds=[1, 2, 3], published=write_published(folder))
    for number, run in enumerate(experiment.runs()):
        if run.encoder == "base" and run.weight != 0.9:
            make_run(experiment, run, em=70 + number % 7, steps=60)
    return experiment
