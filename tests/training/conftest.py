"""Runs that several tests of training read but never change."""

import pytest

from mtdnn.model import attention
from mtdnn.training.loop import train
from tests.support.packed import Prepared
from tests.support.tiny import make_run_folder

LEARNABLE = {"batch_size": 8, "epochs": 4, "learning_rate": 0.02, "head_dropout": 0.1}


def train_tiny(folder, mixture):
    run_dir, run = make_run_folder(
        folder,
        mixture,
        weight=0.25,
        rows=120,
        encoder={"num_hidden_layers": 1},
        training=LEARNABLE,
    )
    train(run_dir, run, threads=1)
    return run_dir, run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of the paper's task families, trained to the end."""
    return train_tiny(tmp_path_factory.mktemp("trained"), "squad_swag_cola_mnli")


@pytest.fixture(scope="session")
def trained_on_scores_and_tags(tmp_path_factory):
    """A run of question answering, regression and token classification, trained to the end."""
    return train_tiny(tmp_path_factory.mktemp("scores"), "squad_stsb_ner")


@pytest.fixture(scope="session")
def undropped(tmp_path_factory):
    """A run without dropout, whose features are ready."""
    return Prepared(tmp_path_factory.mktemp("undropped"))


@pytest.fixture
def like_a_gpu(monkeypatch):
    """The paths of a GPU in fp32, on a CPU."""
    monkeypatch.setenv("MTDNN_PLAIN", "attention, dropout, embedding, optimizer")
    monkeypatch.setattr(attention, "one_by_one", attention.side_by_side)
