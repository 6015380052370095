"""User and password of a tracking server: accepted in its URI, and kept out of everything else.

Settings are written to files, stand in Snakemake's records and are shown in reports, so user and
password leave them before that. They travel to child processes in the environment: those of an HTTP
server in MLflow's own variables, those of a database in `CREDENTIALS_VARIABLE`.
"""

import os
import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from mtdnn.errors import MtdnnError

CREDENTIALS_VARIABLE = "MTDNN_TRACKING_URI"
"""Holds the complete URI of a database with user and password."""

_MLFLOW = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
HIDDEN = "***"
# As in `?password=…`, which drivers of databases understand.
_SECRET = re.compile("password|passwd|pwd|secret|token", re.IGNORECASE)


def take_credentials(uri: str, where: str) -> str:
    """Move user and password of a URI to the environment; return the URI without them.

    Args:
        uri: of an MLflow server or store.
        where: file and key, for the message.

    Raises:
        MtdnnError: the URI cannot be parsed, or has a password in its query; the message does not
            show it.
    """
    parts = _parse(uri, where)
    for name, _ in parse_qsl(parts.query):
        if _SECRET.search(name):
            raise MtdnnError(
                f"{where}: has a password in its query, where others could read it; write it "
                "before the host, as user:password@host"
            )
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
    """Return the complete URI of a database whose user and password are in the environment."""
    complete = os.environ.get(CREDENTIALS_VARIABLE, "")
    return complete if without_credentials(complete) == uri else uri


def without_credentials(text: str) -> str:
    """Return a URI, or a message that contains some, without user and password."""
    text = re.sub(r"(?<=://)[^/?#\s]*@", "", text)
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return text


def _secrets() -> list[str]:
    """Return the known passwords in every form that a message may have, the longest first."""
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
