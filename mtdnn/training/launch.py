"""One training on several processes: each step's batch is cut between them.

Each process has a GPU of its own or, where there is none, some cores; torchrun starts them
(`launch`). All hold the same weights and make the same step of the optimiser from the same
gradient, which DistributedDataParallel averages. The first one leads: it alone holds the run's
folder and writes. What ends the training is said once, by the process that started the others.
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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist

from mtdnn.errors import Busy, MtdnnError
from mtdnn.machine.gpus import take
from mtdnn.model.device import started_by_torchrun
from mtdnn.training.stopping import Stopped, StopSignals

POLL_SECONDS = 0.2
# A process that lost another one leaves it the time to say why, and is then ended by torchrun.
LINGER_SECONDS = 20.0
# After a failure no process has anything left to do.
SHUTDOWN_SECONDS = 5


def leads() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def is_to_launch(gpus: int) -> bool:
    """Whether this process is to start those that train a run with `gpus` GPUs.

    Raises:
        MtdnnError: torchrun started another number of them.
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
    """Tell an error to the process that started this one, instead of printing it.

    Args:
        reason: gives the line that tells an error.
    """
    if not started_by_torchrun() or "TORCHELASTIC_ERROR_FILE" not in os.environ:
        yield
        return
    _end_with_parent()
    if not leads():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the very end
    try:
        yield
    except BaseException as error:
        kind = "Lost" if _is_loss(error) else type(error).__name__
        if kind != "Lost" and not isinstance(error, (MtdnnError, OSError, KeyboardInterrupt)):
            traceback.print_exc()
        status = getattr(error, "status", 2)
        about = {"timestamp": str(int(time.time())), "kind": kind, "status": status}
        told = {"message": {"message": reason(error), "extraInfo": about}}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(told), encoding="utf-8")
        if kind == "Lost":
            time.sleep(LINGER_SECONDS)
        raise SystemExit(status) from None


def _is_loss(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone."""
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(word in str(error) for word in ("gloo", "Connection"))
    )


def _end_with_parent() -> None:
    """Have SIGTERM sent to this process when the one that started it is killed; on Linux."""
    set_death_signal = 1
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(set_death_signal, signal.SIGTERM)


def launch(
    run_dir: Path, gpus: int, threads: int | None, checkpoint_seconds: float, wait_for_it: bool
) -> None:
    """Train a run on several processes, by torchrun; where there is no GPU, on CPU cores.

    Args:
        run_dir: the run's folder, with its `config.yaml`.
        gpus: how many processes.
        threads: CPU threads of all together; all cores when absent.
        checkpoint_seconds, wait_for_it: as for `mtdnn.training.loop.train`.

    Raises:
        MtdnnError: what the process raised that failed first.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    take(count=gpus)
    each = max(1, (threads or os.cpu_count() or 1) // gpus)
    os.environ.setdefault("OMP_NUM_THREADS", str(each))
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_SECONDS)
    # DistributedDataParallel wonders that it finds no unused parameters.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    command = ["--standalone", "--nproc-per-node", str(gpus), "--max-restarts", "0"]
    train = ["-m", "mtdnn", "train", str(run_dir), "--threads", str(each)]
    train += ["--checkpoint-minutes", str(checkpoint_seconds / 60)]
    train += ["--wait"] if wait_for_it else []
    others = _children()
    with (
        TemporaryDirectory(prefix="mtdnn-train-") as notes,
        _silent_logging(),
        StopSignals() as stop,
        # Not in the main thread: there torchrun would answer signals itself, by ending everything.
        ThreadPoolExecutor(1, thread_name_prefix="torchrun") as thread,
    ):
        started = thread.submit(torchrun.main, [*command, "--log-dir", notes, *train])
        try:
            told = False
            while not started.done():
                wait([started], POLL_SECONDS)
                if stop.number is not None and not told:
                    # Ctrl-C would be a traceback in a process that is only just starting.
                    number = {signal.SIGINT: signal.SIGTERM}.get(stop.number, stop.number)
                    told = _tell(_children() - others, number)
        except BaseException:
            _tell(_children() - others, signal.SIGKILL)
            raise
        error = started.exception()
    if isinstance(error, ChildFailedError):
        raise _reason(error.failures, gpus, stop.number)
    if error:
        raise error


def _reason(failures: dict[int, Any], gpus: int, number: int | None) -> MtdnnError:
    """What ended a training, from those of its processes that failed first."""

    def told(rank: int) -> dict[str, Any]:
        message = failures[rank].error_file_data["message"]
        return message if isinstance(message, dict) else {"extraInfo": {}}

    def weight(rank: int) -> int:
        kind = told(rank)["extraInfo"].get("kind")
        return 2 if kind == "Lost" else 1 if kind is None else 0

    rank = min(failures, key=weight)
    message, about = told(rank).get("message"), told(rank)["extraInfo"]
    status = failures[rank].exitcode
    if about.get("kind") == "Stopped":
        return Stopped(message, number or about["status"] - 128)
    if about.get("kind") == "Busy":
        return Busy(message)
    if about.get("kind") == "Lost" or message is None:
        if number is not None and status == -signal.SIGTERM:
            return Stopped(f"training: stopped by signal {number} before its first step", number)
        how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if about.get("kind") == "Lost":
            rank, how = "another", f"gone ({' '.join(message.split())[:200]})"
        return MtdnnError(
            f"training: process {rank} of {gpus} was {how}"
            "; the same command goes on from the last checkpoint"
        )
    return MtdnnError(message)


def _children() -> set[int]:
    """Processes that this one started."""
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return {int(number) for some in lists for number in some.split()}


def _tell(processes: set[int], number: int) -> bool:
    """Send a signal; returns whether there was anyone to get it."""
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
    return bool(processes)


@contextmanager
def _silent_logging() -> Iterator[None]:
    """Without torchrun's own account of what went wrong; ours is one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
