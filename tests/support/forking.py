"""Programs of a tiny workflow that start at once: forks of a server with all libraries imported."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORKS = Path(__file__).parent / "forks"
"""In PYTHONPATH, it has programs forked by the server."""

VARIABLE = "MTDNN_FORKS"


def environment() -> dict[str, str]:
    """Return the environment of a program that is forked."""
    places = [str(FORKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


@contextmanager
def server() -> Iterator[None]:
    """Run the server; it imports libraries when the first program asks for a fork."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(folder) / "server")
        listener.bind(address)
        listener.listen(64)
        number = listener.fileno()
        command = [sys.executable, str(FORKS / "server.py"), str(number)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number]) as process:
            os.environ[VARIABLE] = address
            try:
                yield
            finally:
                del os.environ[VARIABLE]
                process.stdin.close()
