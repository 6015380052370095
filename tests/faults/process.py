"""Commands in processes of their own, with a fault at a chosen place.

A server that has imported everything forks a process for each command, so a command takes as long
as its work. Faults need nothing from the package: Python reports every change of a file before it
happens (an audit event), and there the process is killed, is stopped, or finds its disk full.
"""

import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILLER, STRUCK = "filler", "struck"
"""Fills the disk, and tells that a fault has come; outside of the folder of the commands."""
MODULES = (
    *("mtdnn.cli.main", "mtdnn.training.loop", "mtdnn.evaluation.predictions"),
    *("mtdnn.evaluation.metrics", "mtdnn.data.tokenising", "mtdnn.data.corpora.fetching"),
    *("mtdnn.statistics.comparisons", "mtdnn.reporting.tables", "mtdnn.reporting.comparisons"),
    *("mtdnn.reporting.summary", "mtdnn.tracking.delivery", "mtdnn.tracking.agreement"),
    *("mtdnn.workflow.importing", "mtdnn.workflow.verification", "mtdnn.workflow.running"),
    *("mtdnn.data.encoders", "transformers.models.bert.modeling_bert"),
    # What these import inside functions.
    *("sklearn.metrics", "pyarrow.dataset", "pyarrow.pandas_compat", "email.policy"),
    *("mlflow.store.tracking.sqlalchemy_store", "alembic.command", "matplotlib.pyplot"),
    "tests.faults.warm",
)
PATIENCE_SECONDS = 3.0
"""How long a command may wait for one that is stopped, before that one continues."""
TIMEOUT_SECONDS = 200.0
"""Longer than a lease is waited for whose holder cannot be known, as it was damaged."""
DISK_BYTES = 64 << 20

Command = tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """What happens to a command, and where.

    Attributes:
        kind: a signal's name; "full", the disk is full; or "clock", the clock is wrong.
        at: the fault comes before this change of a file, counted from 1; 0 is the beginning.
        amount: milliseconds after it (signals), KiB that are left (full), seconds (clock).
    """

    kind: str
    at: int = 0
    amount: int = 0

    def __str__(self) -> str:
        if self.kind == "clock":
            return f"its clock is {self.amount} s off"
        if self.kind == "full":
            return f"{self.amount} KiB are left on the disk before its change {self.at} of a file"
        late = f"{self.amount} ms after" if self.amount else "before"
        return f"{self.kind} {late} its change {self.at} of a file"


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        command: the command.
        status: its exit status, negative after a signal.
        output: everything that it printed.
        is_struck: whether its fault came.
    """

    command: Command
    status: int
    output: str
    is_struck: bool = False

    @property
    def errors(self) -> list[str]:
        """The lines with which it refused or failed."""
        return re.findall(r"^mtdnn: error: (.*)$", self.output, re.MULTILINE)

    def __str__(self) -> str:
        return f"$ {shown(self.command)}\n{self.output}(status {self.status})"


def shown(command: Command) -> str:
    """A command as one would type it."""
    if command[0] == "snakemake":
        return f"snakemake {shlex.join(command[2:])} --configfile {command[1]}"
    return f"mtdnn {shlex.join(command)}"


class Machine:
    """Runs commands in one folder.

    Args:
        disk: a folder; if possible, a small disk is mounted there.

    Attributes:
        folder: the working folder of every command.
        can_fill: whether its disk is one that can be filled.
    """

    def __init__(self, disk: Path, can_fill: bool):
        self.folder, self.can_fill = disk / "here", can_fill
        self.folder.mkdir()
        self._filler, self._struck, self._prints = (
            disk / FILLER,
            disk / STRUCK,
            disk.parent / "output",
        )
        self._prints.mkdir(exist_ok=True)
        self._number = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *MODULES])
        # More threads would slow tiny models down; the server takes over what it finds here.
        os.environ.setdefault("OMP_NUM_THREADS", "1")

    def run(
        self, command: Command, fault: Fault | None = None, beside: Command | None = None
    ) -> list[Outcome]:
        """Run a command, and another one beside it.

        With the fault SIGSTOP, the second one runs while the first is stopped.
        """
        before = _dates(self.folder) if fault and fault.kind == "clock" else {}
        first, output = self._start(command, fault)
        outcomes = []
        if fault and fault.kind == "SIGSTOP":
            while first.is_alive() and not _is_stopped(first):
                time.sleep(0.005)
        second = self._start(beside, None) if beside else None
        if second:
            second[0].join(PATIENCE_SECONDS)
        if fault and fault.kind == "SIGSTOP" and first.is_alive():
            os.kill(first.pid, signal.SIGCONT)
        outcomes.append(_end(command, first, output))
        if second:
            outcomes.append(_end(beside, *second))
        is_struck = self._struck.exists() or bool(fault and fault.kind == "clock")
        outcomes[0] = replace(outcomes[0], is_struck=is_struck)
        self._filler.unlink(missing_ok=True)
        self._struck.unlink(missing_ok=True)
        if fault and fault.kind == "clock":
            for path, date in _dates(self.folder).items():
                if before.get(path) != date:  # the disk's clock is wrong as well
                    os.utime(path, ns=(date + fault.amount * 10**9,) * 2)
        return outcomes

    def _start(self, command: Command, fault: Fault | None) -> tuple[BaseProcess, Path]:
        self._number += 1
        output = self._prints / str(self._number)
        output.touch()
        arguments = (command, self.folder, output, fault, self._filler)
        process = self._context.Process(target=_perform, args=arguments)
        process.start()
        return process, output


def _end(command: Command, process: BaseProcess, output: Path) -> Outcome:
    process.join(TIMEOUT_SECONDS)
    is_late = process.is_alive()
    if is_late:
        process.kill()
        process.join()
    text = output.read_text(encoding="utf-8", errors="replace")
    output.unlink()
    if is_late:
        text += f"it did not end within {TIMEOUT_SECONDS} s\n"
    return Outcome(command, process.exitcode, text)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk at a folder, if this process may; yield whether it did."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs")
    try:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True)
        is_mounted = done.returncode == 0
    except FileNotFoundError:
        is_mounted = False
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _is_stopped(process: BaseProcess) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"
    return False


def _dates(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# --- in the process of the command -------------------------------------------------------------


def _perform(
    command: Command, folder: Path, output: Path, fault: Fault | None, filler: Path
) -> None:
    from mtdnn.cli.main import main

    handle = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.chdir(folder)
    os.environ.pop("MTDNN_DATA", None)
    tempfile.tempdir = str(folder / "tmp")
    if fault:
        _install(fault, str(folder), filler)
    if command[0] == "snakemake":
        os.execv(sys.executable, [sys.executable, "-m", *_snakemake(command)])
    status = main(command)
    # The command is over: a signal that comes now would only meet what Python does at its end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


def _snakemake(command: Command) -> list[str]:
    _, experiment, *targets = command
    places = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", experiment)
    profile = str(ROOT / "profiles" / "default")
    return ["snakemake", *targets, *places, "--workflow-profile", profile, "--cores", "1"]


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = (
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime"),
    *("os.link", "os.symlink", "os.truncate"),
)


def _install(fault: Fault, folder: str, filler: Path) -> None:
    if fault.kind == "clock":
        real, real_ns = time.time, time.time_ns
        time.time = lambda: real() + fault.amount
        time.time_ns = lambda: real_ns() + fault.amount * 10**9
        return
    if not fault.at:
        _strike(fault, filler)
        return
    changes, thread = 0, threading.get_ident()

    def notice(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        if threading.get_ident() != thread or not _is_change(event, arguments, folder):
            return
        changes += 1
        if changes == fault.at:
            _strike(fault, filler)

    sys.addaudithook(notice)


def _is_change(event: str, arguments: tuple[object, ...], folder: str) -> bool:
    """Whether an audit event announces a change of a file or folder below `folder`."""
    if event == "open":
        is_write = isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
    else:
        is_write = event in _CHANGES
    if not is_write or not isinstance(arguments[0], str | os.PathLike):
        return False
    has_folder = arguments[-1] not in (-1, None) and event in ("os.remove", "os.rmdir")
    return has_folder or os.path.abspath(arguments[0]).startswith(folder)


def _strike(fault: Fault, filler: Path) -> None:
    filler.with_name(STRUCK).touch()
    if fault.kind == "full":
        _fill(filler, fault.amount << 10)
        return
    number = signal.Signals[fault.kind]
    if not fault.amount:
        os.kill(os.getpid(), number)
        return
    # A helper, because this process may be in a library that lets no other thread run.
    subprocess.Popen(
        ["/bin/sh", "-c", f"sleep {fault.amount / 1000}; kill -{number:d} {os.getpid()}"],
        start_new_session=True,
    )


def _fill(filler: Path, left: int) -> None:
    state = os.statvfs(filler.parent)
    size = state.f_bavail * state.f_frsize - left
    if size > 0:
        handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
        os.posix_fallocate(handle, 0, size)
        os.close(handle)
