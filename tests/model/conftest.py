"""Runs that several tests of the model read but never change."""

import pytest

from tests.support.packed import Prepared
from tests.support.tiny import OWN_SIZES


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module", params=OWN_SIZES)
def any_encoder(request, tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def undropped(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("undropped"))
