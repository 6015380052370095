"""A server that forks a process for each program, with its libraries imported already.

Importing torch, transformers and MLflow takes most of the time of a job of a tiny workflow.
Modules of mtdnn are not among them: each process imports its own, from its own PYTHONPATH.

`python server.py SOCKET`, the number of a listening socket, serves until its standard input ends.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress

MODULES = (
    *("torch", "transformers.models.auto", "transformers.models.bert.modeling_bert"),
    *("safetensors.torch", "scipy.optimize", "scipy.stats", "statsmodels.stats.multitest"),
    *("pyarrow.parquet", "pyarrow.dataset", "pyarrow.pandas_compat", "sklearn.metrics", "tqdm"),
    *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "alembic.command"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_pdf"),
    *("jinja2", "pygments.formatters", "pydantic", "snakemake.cli", "snakemake.report"),
)


class Job(BaseException):
    """Ends the loop of the server in a new process, which is to do a request."""

    def __init__(self, request: dict, files: list[int]):
        self.request, self.files = request, files


def serve(listener: socket.socket) -> None:
    """Fork a process for each request, and tell who asked how it ended."""
    with selectors.DefaultSelector() as selector, listener:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ, lambda: True)
        selector.register(listener, selectors.EVENT_READ, lambda: begin(listener, selector))
        while not any(key.data() for key, _ in selector.select()):
            pass


def begin(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    """Fork a process for the next request."""
    if "torch" not in sys.modules:
        import_all()
    client, _ = listener.accept()
    length, files, _, _ = socket.recv_fds(client, 4, 3)
    with client.makefile("rb") as sent:
        request = json.loads(sent.read(int.from_bytes(length, "big")))
    process = os.fork()
    if process == 0:
        raise Job(request, files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(process)

    def report() -> None:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        for each in (ended, client):
            selector.unregister(each)
        with suppress(BrokenPipeError):
            client.sendall(f"{status}\n".encode())
        os.close(ended)
        client.close()

    client.sendall(f"{process}\n".encode())
    selector.register(ended, selectors.EVENT_READ, report)
    # Who asked says nothing more, and so was killed.
    selector.register(client, selectors.EVENT_READ, lambda: os.kill(process, signal.SIGKILL))


def import_all() -> None:
    """Import the libraries; threads that they start would not be in the forks."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    for name in MODULES:
        importlib.import_module(name)
    assert "mtdnn" not in sys.modules and threading.active_count() == 1
    gc.collect()
    gc.freeze()


def become(job: Job) -> None:
    """Do in this process what `python -m MODULE ARGUMENTS` does."""
    request = job.request
    for number, file in enumerate(job.files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.umask(request["mask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _, _, module, *arguments = sys.orig_argv[:] = request["command"]
    sys.argv[:] = ["", *arguments]
    sys.path[:] = [request["folder"], *request["path"]]
    sys.modules.pop("sitecustomize", None)
    importlib.invalidate_caches()
    with suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")  # the program's own
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = status_of(end.code)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    # What Python does at its end, but for taking every module apart, which takes longer than most
    # programs.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def status_of(code: object) -> int:
    """Return the exit status of a program that calls `sys.exit(code)`."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        serve(socket.socket(fileno=int(sys.argv[1])))
    except Job as job:
        begun = job
    else:
        sys.exit()
    become(begun)
