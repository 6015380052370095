"""Delivery of runs to MLflow, once or while they are being trained."""

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
from mtdnn.tracking.client import Away, every_run, find_experiment, open_store, results_folder
from mtdnn.tracking.content import Source
from mtdnn.tracking.runs import MirroredRun, fingerprint_of, note_id
from mtdnn.training.journal import mark_killed

MOST_SECONDS_BETWEEN_TRIES = 120.0


def sync(experiment: Experiment, folders: Iterable[Path] | None = None) -> int:
    """Deliver what MLflow lacks of these runs, or of all of them.

    Returns:
        How many runs there were.

    Raises:
        Away: the store does not answer; what was not delivered stays in the runs' journals.
        MtdnnError: a line for each run that is damaged; all others are delivered.
    """
    delivery = _Delivery(experiment, folders)
    found = delivery.once(shown=True)
    if delivery.damaged:
        raise MtdnnError("\n".join(delivery.damaged))
    return found


def follow(
    experiment: Experiment, folders: Iterable[Path] | None, parent: int | None, every: float
) -> None:
    """Deliver what comes until every run is scored, or process `parent` is gone.

    Args:
        every: seconds between two looks; a store that does not answer is asked more rarely.
    """
    delivery, pause, away = _Delivery(experiment, folders), every, False
    is_last = False
    while True:
        try:
            delivery.once()
            for line in delivery.damaged:
                print(f"mtdnn: {line}", file=sys.stderr, flush=True)
        except Away as error:
            if not away:
                print(f"mtdnn: {error}", file=sys.stderr, flush=True)
            away, pause = True, min(2 * pause, MOST_SECONDS_BETWEEN_TRIES)
        else:
            if away:
                print("mtdnn: the store answers again", file=sys.stderr, flush=True)
            away, pause = False, every
        if is_last or (delivery.is_done and not away):
            return
        is_last = _is_gone_within(pause, parent)


def _is_gone_within(seconds: float, process: int | None) -> bool:
    """Wait; at once True when a process is gone."""
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
    with suppress(OSError):  # a zombie has ended, though nobody has asked how
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


class _Delivery:
    """Runs that are delivered pass by pass, each when its files have changed."""

    def __init__(self, experiment: Experiment, folders: Iterable[Path] | None):
        self._experiment = experiment
        runs = map(experiment.layout.run, experiment.runs())
        self._folders = list(map(Path, folders or runs))
        self._going_on: dict[Path, MirroredRun] = {}
        self._seen: dict[Path, _State] = {}
        self.damaged: list[str] = []  # of the last pass

    @property
    def is_done(self) -> bool:
        """Whether every run is scored, and delivered as it is."""
        return all(RunFolder(folder).metrics.exists() for folder in self._folders) and all(
            self._seen.get(folder) == _state(folder) for folder in self._folders
        )

    def once(self, shown: bool = False) -> int:
        """One pass; returns how many runs there are. A run that is damaged stops no other.

        Args:
            shown: whether its progress is shown.
        """
        found, refused, self.damaged = 0, [], []
        folders = self._folders
        for folder in track(folders, "logging", len(folders), "runs") if shown else folders:
            state = _state(folder)
            if not any(state):
                continue
            found += 1
            if self._seen.get(folder) == state:
                continue
            try:
                self._deliver(folder, state)
            except Away as error:
                refused.append(error)
                if len(refused) > 1:
                    break
                continue
            except MtdnnError as error:
                self.damaged.append(str(error))
            self._seen[folder] = state
        if refused:
            raise refused[0]
        return found

    def _deliver(self, folder: Path, state: "_State") -> None:
        mirrored = self._going_on.pop(folder, None)
        others_changed = self._seen.get(folder, state)[1:] != state[1:]
        if mirrored is None or others_changed or not mirrored.goes_on():
            mirrored = MirroredRun(self._experiment, folder)
        if mirrored.source.is_empty:
            return
        with open_store(self._experiment) as client:
            run_id = mirrored.update(client, find_experiment(client, self._experiment))
        if mirrored.source.is_going_on:
            self._going_on[folder] = mirrored
        elif mirrored.source.metrics:
            note_id(self._experiment, folder, run_id, mirrored.fingerprint)


_State = tuple[tuple[int, int] | None, ...]


def _state(folder: Path) -> _State:
    """What a run's files look like from outside, the journal first; all None before it begins."""

    def look(name: str) -> tuple[int, int] | None:
        try:
            found = os.stat(folder / name)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    names = (RunFolder.journal, RunFolder.description, RunFolder.metrics, RunFolder.failure)
    return tuple(look(name) for name in names)


def reap(experiment: Experiment) -> list[str]:
    """Find runs that say they are going on and whose process is dead, or which are gone.

    The first get their end in the journal, which reaches MLflow with the next delivery; the
    second exist only in MLflow, and are ended there.

    Returns:
        A line for each.
    """
    layout, found, here = experiment.layout, [], set()
    for path in sorted(layout.root.glob("runs/*/*/*/*/*/config.yaml")):
        source = Source(path.parent)
        here.add(fingerprint_of(source))
        if not source.is_going_on:
            continue
        about = source.record.about
        try:
            with Lease(layout.state(about["fingerprint"]), "the run is being trained"):
                reason = f"process {about.get('process')} on {about.get('host')} was killed"
                mark_killed(path.parent, reason)
        except Busy:
            continue
        sync(experiment, [path.parent])
        found.append(f"{path.parent}: {reason}")
    with open_store(experiment) as client:
        for run in every_run(client, find_experiment(client, experiment)):
            tags = run.data.tags
            if (
                run.info.status == "RUNNING"
                and tags.get("results") == results_folder(experiment)
                and tags.get("fingerprint") not in here
            ):
                client.set_terminated(run.info.run_id, "KILLED")
                found.append(f"{run.info.run_name}: is no longer in {layout.root}")
    return found
