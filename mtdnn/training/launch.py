"""Train one run on several processes, which share the batch of each step.

Each process has a GPU of its own or, on a machine without GPUs, some cores; torchrun starts them
(`launch`). All hold the same weights and take the same step from the same gradient, which
DistributedDataParallel averages. The first process leads: it alone holds the run's folder and
writes. The process that started the others reports what ended training, once.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist

from mtdnn.errors import Busy, MtdnnError
from mtdnn.machine.gpus import take
from mtdnn.model.device import started_by_torchrun
from mtdnn.training.stopping import Stopped, StopSignals

POLL_SECONDS = 0.2
# A process that lost another one gives it time to report why, and is then ended by torchrun.
LINGER_SECONDS = 20.0
# Short, since no process has anything left to do after a failure.
SHUTDOWN_SECONDS = 5


def leads() -> bool:
    """Return whether this process is the only one, or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def is_to_launch(gpus: int) -> bool:
    """Return whether this process should start the ones that train a run on `gpus` GPUs.

    Raises:
        MtdnnError: torchrun started a different number of processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if started_by_torchrun() and size != gpus:
        raise MtdnnError(
            f"training.gpus: {gpus}, but torchrun started {size} processes; call `mtdnn train` by "
            f"itself, or torchrun with --nproc-per-node {gpus}"
        )
    return gpus > 1 and not started_by_torchrun()


@contextmanager
def reported(reason: Callable[[BaseException], str]) -> Iterator[None]:
    """Report an error to the process that started this one, instead of printing it.

    Args:
        reason: returns the line that describes an error.
    """
    if not started_by_torchrun() or "TORCHELASTIC_ERROR_FILE" not in os.environ:
        yield
        return
    _end_with_parent()
    if not leads():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    try:
        yield
    except BaseException as error:
        kind = "Lost" if _lost_another(error) else type(error).__name__
        if kind != "Lost" and not isinstance(error, (MtdnnError, OSError, KeyboardInterrupt)):
            traceback.print_exc()
        status = getattr(error, "status", 2)
        about = {"timestamp": str(int(time.time())), "kind": kind, "status": status}
        report = {"message": {"message": reason(error), "extraInfo": about}}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(report), encoding="utf-8")
        if kind == "Lost":
            time.sleep(LINGER_SECONDS)
        raise SystemExit(status) from None


def _lost_another(error: BaseException) -> bool:
    """Whether an error only says that another process is gone."""
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(word in str(error) for word in ("gloo", "Connection"))
    )


def _end_with_parent() -> None:
    """Make Linux send SIGTERM to this process when the one that started it is killed."""
    set_death_signal = 1
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(set_death_signal, signal.SIGTERM)


def launch(
    run_dir: Path,
    gpus: int,
    threads: int | None,
    checkpoint_seconds: float,
    wait_for_it: bool,
    force: bool,
) -> None:
    """Train a run on several processes with torchrun: on GPUs or, without any, on CPU cores.

    Args:
        run_dir: the run's folder, with its resolved settings.
        gpus: number of processes.
        threads: CPU threads of all processes together; all cores by default.
        checkpoint_seconds: time between two checkpoints.
        wait_for_it: wait for another process that is training the run.
        force: train the run even if it is up to date.

    Raises:
        MtdnnError: the error of the process that failed first.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    take(count=gpus)
    each = max(1, (threads or os.cpu_count() or 1) // gpus)
    os.environ.setdefault("OMP_NUM_THREADS", str(each))
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_SECONDS)
    # DistributedDataParallel warns that it finds no unused parameters.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    options = ["--standalone", "--nproc-per-node", str(gpus), "--max-restarts", "0"]
    train = ["-m", "mtdnn", "train", str(run_dir), "--threads", str(each)]
    train += ["--checkpoint-minutes", str(checkpoint_seconds / 60)]
    train += ["--wait"] if wait_for_it else []
    train += ["--force"] if force else []
    error, signal_number = _run_torchrun(options, train)
    if isinstance(error, ChildFailedError):
        raise _reason(error.failures, gpus, signal_number)
    if error:
        raise error


def _run_torchrun(
    options: list[str], command: list[str]
) -> tuple[BaseException | None, int | None]:
    """Run a command with torchrun, and pass on a signal to its processes.

    Returns:
        The error that ended it and the signal that came, if any.
    """
    from torch.distributed import run as torchrun

    others = _children()
    with (
        TemporaryDirectory(prefix="mtdnn-train-") as notes,
        _silent_logging(),
        StopSignals() as stop,
        # Not in the main thread: there torchrun would handle signals itself and end everything.
        ThreadPoolExecutor(1, thread_name_prefix="torchrun") as thread,
    ):
        started = thread.submit(torchrun.main, [*options, "--log-dir", notes, *command])
        try:
            sent = False
            while not started.done():
                wait([started], POLL_SECONDS)
                if stop.number is not None and not sent:
                    # Ctrl-C would cause a traceback in a process that is only just starting.
                    ctrl_c = stop.number == signal.SIGINT
                    number = signal.SIGTERM if ctrl_c else stop.number
                    sent = _send(_children() - others, number)
        except BaseException:
            _send(_children() - others, signal.SIGKILL)
            raise
        return started.exception(), stop.number


def _reason(failures: dict[int, Any], gpus: int, number: int | None) -> MtdnnError:
    """Return the error that ended training.

    Args:
        failures: what torchrun knows about each failed process, by rank.
        gpus: number of processes.
        number: the signal that this process got, if any.
    """
    reports = {rank: _Report.of(failure) for rank, failure in failures.items()}
    rank = min(reports, key=lambda rank: reports[rank].precedence)
    report, status = reports[rank], failures[rank].exitcode
    if report.kind == "Stopped":
        return Stopped(report.message, number or report.status - 128)
    if report.kind == "Busy":
        return Busy(report.message)
    if report.kind != "Lost" and report.message:
        return MtdnnError(report.message)
    if number is not None and status == -signal.SIGTERM:
        return Stopped(f"training: stopped by signal {number} before its first step", number)
    if report.kind == "Lost":
        what = f"another of {gpus} processes is gone ({' '.join(report.message.split())[:200]})"
    elif status < 0:
        what = f"process {rank} of {gpus} was killed by signal {-status}"
    else:
        what = f"process {rank} of {gpus} ended with status {status}"
    return MtdnnError(f"training: {what}; repeat the command to resume from the last checkpoint")


@dataclass(frozen=True)
class _Report:
    """The report of a failed process, written by `reported`.

    Attributes:
        kind: the class of its error, or "Lost" if it only lost another process; None if it was
            killed before it could report.
        message: the error's line.
        status: its exit status.
    """

    kind: str | None = None
    message: str = ""
    status: int = 2

    @classmethod
    def of(cls, failure: Any) -> "_Report":
        content = failure.error_file_data["message"]
        if not isinstance(content, dict):
            return cls()
        about = content["extraInfo"]
        return cls(about.get("kind"), content["message"], about.get("status", 2))

    @property
    def precedence(self) -> int:
        """Which report explains the failure: an error, then a death, then the loss of another."""
        return 2 if self.kind == "Lost" else 1 if self.kind is None else 0


def _children() -> set[int]:
    """The processes that this one started."""
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return {int(number) for numbers in lists for number in numbers.split()}


def _send(processes: set[int], number: int) -> bool:
    """Send a signal; return whether there were processes to receive it."""
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
    return bool(processes)


@contextmanager
def _silent_logging() -> Iterator[None]:
    """Silence torchrun's own account of a failure; ours is one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
