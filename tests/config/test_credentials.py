"""User and password leave a tracking URI before anything can show them."""

import os

import pytest

from mtdnn.config.credentials import (
    CREDENTIALS_VARIABLE,
    take_credentials,
    with_credentials,
    without_credentials,
)
from mtdnn.errors import MtdnnError

VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", CREDENTIALS_VARIABLE)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("uri", "clean", "user", "password"),
    [
        ("https://ann:secret@host:5000/x", "https://host:5000/x", "ann", "secret"),
        ("https://ann:se@cret@host", "https://host", "ann", "se@cret"),
        ("https://ann:s%2Fc%40t@host/a?b=c", "https://host/a?b=c", "ann", "s/c@t"),
        ("http://token@host", "http://host", "token", ""),
        ("https://ann:pa:ss@[::1]:80", "https://[::1]:80", "ann", "pa:ss"),
    ],
)
def test_credentials_of_a_server_go_to_mlflows_own_variables(uri, clean, user, password):
    assert take_credentials(uri, "x.yaml: tracking_uri") == clean
    assert (os.environ[VARIABLES[0]], os.environ[VARIABLES[1]]) == (user, password)
    assert CREDENTIALS_VARIABLE not in os.environ


def test_credentials_of_a_database_are_put_back_for_mlflow_alone():
    uri = "postgresql://ann:se%40cret@host/db"
    clean = take_credentials(uri, "x.yaml: tracking_uri")
    assert clean == "postgresql://host/db"
    assert with_credentials(clean) == uri
    assert with_credentials("postgresql://other/db") == "postgresql://other/db"


@pytest.mark.parametrize(
    "uri", ["postgresql://host/db?user=a&password=secret", "https://host?api_TOKEN=secret"]
)
def test_a_password_in_the_query_is_refused_without_showing_it(uri):
    with pytest.raises(MtdnnError, match=r"x\.yaml: uri: .*; write it before the host") as error:
        take_credentials(uri, "x.yaml: uri")
    assert "secret" not in str(error.value)
    assert not set(VARIABLES) & set(os.environ)


@pytest.mark.parametrize(
    "uri", ["https://host:5000", "sqlite:////tmp/a b/mlflow.db", "some/folder"]
)
def test_a_uri_without_credentials_stays_as_it_is(uri):
    assert take_credentials(uri, "x") == uri == with_credentials(uri) == without_credentials(uri)
    assert not set(VARIABLES) & set(os.environ)


@pytest.mark.parametrize(
    "uri", ["https://ann:se/cret@host", "https://ann:secret@[::1", "http://a:b"]
)
def test_a_malformed_uri_is_refused_without_showing_it(uri):
    with pytest.raises(MtdnnError, match=r"^x\.yaml: tracking_uri: is not a URI") as refused:
        take_credentials(uri, "x.yaml: tracking_uri")
    assert "cret" not in str(refused.value)


def test_messages_of_libraries_are_shown_without_the_password():
    take_credentials("postgresql://ann:s%40t@host/db", "x")
    message = "could not connect to postgresql://ann:s%40t@host/db with password s@t"
    assert "s%40t" not in without_credentials(message)
    assert "s@t" not in without_credentials(message)
    take_credentials("https://ann:se@cret@host", "x")
    assert "se@cret" not in without_credentials("401 for https://ann:se@cret@host/api")


def test_credentials_are_removed_wherever_they_are():
    text = "cannot reach http://me:secret@host/x?a=b@c, nor http://other/y"
    assert without_credentials(text) == "cannot reach http://host/x?a=b@c, nor http://other/y"
