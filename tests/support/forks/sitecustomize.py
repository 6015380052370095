"""Python runs this before a program: a server that has imported its libraries forks it.

That is `python -m mtdnn …` and `python -m snakemake …` with this folder in PYTHONPATH and a server
(`tests/support/forking.py`, `server.py`). Every other program starts as always.
"""

import os
import sys


def ask(address: str) -> int:
    """Have the server do what this process was started for, and return how that ended.

    Returns:
        The exit status, or the negative number of a signal.
    """
    import json
    import signal
    import socket

    mask = os.umask(0)
    os.umask(mask)
    request = {
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": [place for place in sys.path if place != os.path.dirname(__file__)],
        "command": sys.orig_argv,
        "mask": mask,
    }
    text = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(text).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(text)
        with server.makefile("rb") as answers:
            process = int(answers.readline())
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda number, _: os.kill(process, number))
            # Without an answer the server is gone, and with it the program.
            return int(answers.readline() or -signal.SIGKILL)


def end(status: int) -> None:
    """End as the program has ended."""
    import signal

    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


if "MTDNN_FORKS" in os.environ and sys.orig_argv[1:3] in (["-m", "mtdnn"], ["-m", "snakemake"]):
    end(ask(os.environ["MTDNN_FORKS"]))
