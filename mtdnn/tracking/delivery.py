"""Delivers runs to MLflow, once or repeatedly while they are being trained."""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder
from mtdnn.errors import Busy, MtdnnError
from mtdnn.machine.locking import Lease
from mtdnn.machine.progress import track
from mtdnn.tracking.client import (
    StoreUnavailable,
    all_runs,
    ensure_experiment,
    open_store,
    results_folder,
)
from mtdnn.tracking.content import Source, run_folders
from mtdnn.tracking.runs import MirroredRun, fingerprint_of, write_run_id
from mtdnn.training.journal import mark_killed

MAX_SECONDS_BETWEEN_TRIES = 120.0


def sync(experiment: Experiment, folders: Iterable[Path] | None = None) -> int:
    """Bring MLflow up to date with these runs, or with all of the experiment.

    Returns:
        The number of runs that have begun.

    Raises:
        StoreUnavailable: the store does not answer; what was not delivered stays in the runs'
            journals.
        MtdnnError: a line for each damaged run; all others are delivered.
    """
    delivery = _Delivery(experiment, folders)
    count = delivery.once(show_progress=True)
    if delivery.damaged:
        raise MtdnnError("\n".join(delivery.damaged))
    return count


def follow(
    experiment: Experiment, folders: Iterable[Path] | None, parent: int | None, every: float
) -> None:
    """Deliver runs repeatedly, until every run is scored or a process ends.

    Args:
        experiment: the experiment.
        folders: folders of runs; all runs of the experiment when absent or empty.
        parent: id of the process that ends this; None for none.
        every: seconds between two deliveries; longer while the store does not answer.
    """
    delivery, pause, is_unavailable = _Delivery(experiment, folders), every, False
    is_last = False
    while True:
        try:
            delivery.once()
            for line in delivery.damaged:
                print(f"mtdnn: {line}", file=sys.stderr, flush=True)
        except StoreUnavailable as error:
            if not is_unavailable:
                print(f"mtdnn: {error}", file=sys.stderr, flush=True)
            is_unavailable, pause = True, min(2 * pause, MAX_SECONDS_BETWEEN_TRIES)
        else:
            if is_unavailable:
                print("mtdnn: the store answers again", file=sys.stderr, flush=True)
            is_unavailable, pause = False, every
        if is_last or (delivery.is_done and not is_unavailable):
            return
        is_last = _ends_within(pause, parent)


def _ends_within(seconds: float, process: int | None) -> bool:
    """Wait, and return whether a process ended meanwhile; return as soon as it does."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if process is not None and not _is_alive(process):
            return True
        time.sleep(min(1.0, left))
    return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    with suppress(OSError):  # a zombie has ended; its parent has not yet collected its status
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


class _Delivery:
    """Delivers runs in passes, each run when its files have changed.

    Attributes:
        damaged: a line for each run that the last pass found damaged.
    """

    def __init__(self, experiment: Experiment, folders: Iterable[Path] | None):
        self._experiment = experiment
        runs = map(experiment.layout.run, experiment.runs())
        self._folders = list(map(Path, folders or runs))
        self._running: dict[Path, MirroredRun] = {}
        self._seen: dict[Path, _State] = {}
        self.damaged: list[str] = []

    @property
    def is_done(self) -> bool:
        """Whether every run is scored and delivered."""
        return all(RunFolder(folder).metrics.exists() for folder in self._folders) and all(
            self._seen.get(folder) == _state(folder) for folder in self._folders
        )

    def once(self, show_progress: bool = False) -> int:
        """Do one pass and return the number of runs that have begun.

        A damaged run does not stop the others. When the store fails for a second run, the pass
        ends.

        Raises:
            StoreUnavailable: the store failed.
        """
        count = 0
        failures: list[StoreUnavailable] = []
        self.damaged = []
        folders: Iterable[Path] = self._folders
        if show_progress:
            folders = track(folders, "logging", len(self._folders), "runs")
        for folder in folders:
            state = _state(folder)
            if not any(state):
                continue
            count += 1
            if self._seen.get(folder) == state:
                continue
            try:
                self._deliver(folder, state)
            except StoreUnavailable as error:
                failures.append(error)
                if len(failures) > 1:
                    break
                continue
            except Busy as error:  # this process was suspended and lost its turn
                self.damaged.append(str(error))
                continue
            except MtdnnError as error:
                self.damaged.append(str(error))
            self._seen[folder] = state
        if failures:
            raise failures[0]
        return count

    def _deliver(self, folder: Path, state: "_State") -> None:
        mirrored = self._running.pop(folder, None)
        others_changed = self._seen.get(folder, state)[1:] != state[1:]
        if mirrored is None or others_changed or not mirrored.read_on():
            mirrored = MirroredRun(self._experiment, folder)
        if mirrored.source.is_empty:
            return
        with open_store(self._experiment) as client:
            run_id = mirrored.update(client, ensure_experiment(client, self._experiment))
        if mirrored.source.is_running:
            self._running[folder] = mirrored
        elif mirrored.source.metrics:
            write_run_id(self._experiment, folder, run_id, mirrored.fingerprint)


_State = tuple[tuple[int, int] | None, ...]


def _state(folder: Path) -> _State:
    """Return date and size of a run's files, the journal first; all None before it has begun."""

    def date_and_size(name: str) -> tuple[int, int] | None:
        try:
            status = os.stat(folder / name)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    names = (RunFolder.journal, RunFolder.description, RunFolder.metrics, RunFolder.failure)
    return tuple(date_and_size(name) for name in names)


def reap(experiment: Experiment) -> list[str]:
    """End the runs that still count as running but no longer are.

    If the process of a run was killed, the end is written to the run's journal and delivered. If
    the folder of a run is missing, the run exists only in MLflow and is ended there.

    A damaged run is left alone, and with it all runs whose folders seem to be missing: one of them
    may be the damaged one.

    Returns:
        A line for each run that was ended or is damaged.
    """
    layout = experiment.layout
    found: list[str] = []
    fingerprints = set()
    damaged = False
    for folder in run_folders(layout):
        try:
            source = Source(folder)
            fingerprints.add(fingerprint_of(source))
        except MtdnnError as error:
            damaged = True
            found.append(str(error))
            continue
        if not source.is_running:
            continue
        about = source.record.about
        try:
            with Lease(layout.lease(folder), "the run is being trained"):
                reason = f"process {about.get('process')} on {about.get('host')} was killed"
                mark_killed(folder, reason)
        except Busy:
            continue
        sync(experiment, [folder])
        found.append(f"{folder}: {reason}")
    if damaged:
        return found
    with open_store(experiment) as client:
        for run in all_runs(client, ensure_experiment(client, experiment)):
            tags = run.data.tags
            if (
                run.info.status == "RUNNING"
                and tags.get("results") == results_folder(experiment)
                and tags.get("fingerprint") not in fingerprints
            ):
                client.set_terminated(run.info.run_id, "KILLED")
                found.append(f"{run.info.run_name}: its folder is no longer in {layout.root}")
    return found
