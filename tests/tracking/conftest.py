"""Experiments in one store of MLflow."""

import pytest

from mtdnn.tracking.client import create_store
from tests.support.factories import make_experiment


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A fresh store, created once, because its migrations take seconds."""
    folder = tmp_path_factory.mktemp("store")
    create_store(make_experiment(folder))
    return folder


@pytest.fixture
def experiment(template, request):
    """An experiment of its own: tests share one database but no runs."""
    name = request.node.name.lower()[:60].strip("_[]")
    return make_experiment(template, experiment=name)
