"""Runs that several tests of training read but never change."""

import pytest

from mtdnn.training.loop import train
from tests.support.packed import Prepared
from tests.support.tiny import FAMILIES, make_run_folder

LEARNABLE = {"batch_size": 8, "epochs": 4, "learning_rate": 0.02, "head_dropout": 0.1}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of all six corpora, trained to the end."""
    run_dir, run = make_run_folder(
        tmp_path_factory.mktemp("trained"),
        mixture="_".join(FAMILIES),
        weight=0.16,
        rows=120,
        encoder={"num_hidden_layers": 1},
        training=LEARNABLE,
    )
    train(run_dir, run, threads=1)
    return run_dir, run


@pytest.fixture(scope="session")
def undropped(tmp_path_factory):
    """A run without dropout, whose features are ready."""
    return Prepared(tmp_path_factory.mktemp("undropped"))
