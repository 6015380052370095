"""User and password of a tracking server: accepted in its URI, and kept out of everything else.

Settings are written to files, kept in Snakemake's records and shown in reports, so user and
password leave them before that. They travel to child processes in the environment: those of an HTTP
server in MLflow's own variables, those of a database in `CREDENTIALS_VARIABLE`.
"""

import os
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from mtdnn.errors import MtdnnError

CREDENTIALS_VARIABLE = "MTDNN_TRACKING_URI"
"""Holds the complete URI of a database with user and password."""

_MLFLOW = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
HIDDEN = "***"


def take_credentials(uri: str, where: str) -> str:
    """Move user and password of a URI to the environment, and return the URI without them.

    Args:
        uri: of an MLflow server or store.
        where: file and key, for the message.

    Raises:
        MtdnnError: the URI cannot be parsed; the message does not show it.
    """
    parts = _parse(uri, where)
    if parts.username is None and parts.password is None:
        return uri
    clean = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if parts.scheme in ("http", "https"):
        for name, value in zip(_MLFLOW, (parts.username, parts.password), strict=True):
            os.environ[name] = unquote(value or "")
    else:
        os.environ[CREDENTIALS_VARIABLE] = uri
    return clean


def with_credentials(uri: str) -> str:
    """The complete URI of a database whose user and password are in the environment."""
    complete = os.environ.get(CREDENTIALS_VARIABLE, "")
    return complete if without_credentials(complete) == uri else uri


def without_credentials(text: str) -> str:
    """A text, such as a URI or a library's message, without any known user and password."""
    try:
        parts = urlsplit(text)
        if parts.username is not None or parts.password is not None:
            text = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    except ValueError:
        pass
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return text


def _secrets() -> list[str]:
    """Known passwords as they may appear in a message, the longest first."""
    complete = urlsplit(os.environ.get(CREDENTIALS_VARIABLE, ""))
    known = {os.environ.get(_MLFLOW[1], ""), complete.password or ""}
    known |= {unquote(secret) for secret in known}
    known |= {f"{complete.username}:{complete.password}@"} if complete.password else set()
    return sorted(filter(None, known), key=len, reverse=True)


def _parse(uri: str, where: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise MtdnnError(
            f"{where}: is not a URI; percent-encode special characters of user and password, or "
            f"set {' and '.join(_MLFLOW)} instead"
        ) from None
    return parts
