"""MLflow as a mirror of the runs' files: one flat MLflow run for each run.

The files are the truth. What MLflow holds can be deleted and made again from them, and
logging a run twice changes nothing: a run there is continued when all that it holds follows
from the files, and made anew when not. Nothing is remembered of what was sent; after any
failure the server is asked what it has.
"""

import importlib.metadata
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

# Set before mlflow is imported: it reads some of them at import time. A server that is gone
# would otherwise hold a step up for minutes. What the user has set stays.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}.items():
    os.environ.setdefault(_name, _value)

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mtdnn.config.experiment import Experiment, load_run
from mtdnn.config.layout import RunId
from mtdnn.config.settings import RunSettings
from mtdnn.errors import Busy, MtdnnError
from mtdnn.machine.files import digest, read_json, sha256, write_json
from mtdnn.machine.locking import Lease
from mtdnn.machine.progress import track
from mtdnn.reporting.products import FIGURES
from mtdnn.tracking.content import (
    PROMOTED,
    Point,
    Source,
    parameters,
    scores,
    summary_numbers,
    summary_verdicts,
)
from mtdnn.training.journal import mark_killed

MOST_SECONDS_BETWEEN_TRIES = 120.0

_BATCH = {"metrics": 1000, "params": 100, "tags": 100}  # MLflow's limits for one log_batch
_VIEW = "scores"
_LONGEST_TAG = 8000
_ARTIFACTS = (
    *("config.yaml", "training.jsonl", "predictions.parquet", "metrics.json"),
    *("schedule.parquet", "auxiliary.parquet"),
)
_FILES = (*_ARTIFACTS[:4], "failure.json")


class Away(MtdnnError):
    """The store does not answer."""


def create_store(experiment: Experiment) -> None:
    """Create the MLflow store and experiment unless they exist, and write `store.json`.

    Any number of processes may call this at once on a fresh store: a lock lets one after
    the other create the database, which MLflow itself does not. `page` in `store.json` is
    the part of the user interface's address that opens on the scores.
    """
    with _store(experiment) as client:
        experiment_id = _experiment_id(client, experiment)
        for name, value in _experiment_tags(experiment).items():
            client.set_experiment_tag(experiment_id, name, value)
    page = f"#/experiments/{experiment_id}/runs"
    write_json(
        experiment.layout.root / "store.json",
        {
            "uri": _shown(_uri(experiment)),
            "experiment_id": experiment_id,
            "page": f"{page}?workflowType=machine_learning&viewStateShareKey={_VIEW}",
        },
    )


def log_run(experiment: Experiment, run_dir: Path) -> str:
    """Bring MLflow up to date with the files of one run; its MLflow run's id is returned.

    The id stands in the run's `mlflow.json` as well.

    Raises:
        MtdnnError: the run has no settings, or the store does not answer.
    """
    run_dir = Path(run_dir)
    with _store(experiment) as client:
        mirrored = _Mirrored(experiment, run_dir)
        run_id = mirrored.update(client, _experiment_id(client, experiment))
    _note_id(experiment, run_dir, run_id, mirrored.fingerprint)
    return run_id


def agrees(experiment: Experiment, run_dir: Path) -> list[str]:
    """Where MLflow's scores of a run differ from its `metrics.json`; empty when they agree."""
    return differences(experiment, [run_dir])


def differences(experiment: Experiment, folders: Iterable[Path]) -> list[str]:
    """Where MLflow's scores of these runs differ from their `metrics.json`."""
    found = []
    for folder in map(Path, folders):
        try:
            logged = logged_scores(experiment, folder)
        except LookupError as error:
            found.append(str(error))
            continue
        found += [
            f"{folder}: {name}: {value} in metrics.json, {logged.get(name)} in MLflow"
            for name, value in scores(read_json(folder / "metrics.json")).items()
            if logged.get(name) != value
        ]
    return found


def logged_scores(experiment: Experiment, run_dir: Path) -> dict[str, float]:
    """What MLflow holds of a run, by name.

    Raises:
        LookupError: there is not one run with its fingerprint.
    """
    fingerprint = _fingerprint(Source(run_dir))
    with _store(experiment, writes=False) as client:
        runs = _find(client, _experiment_id(client, experiment, writes=False), fingerprint)
    if len(runs) != 1:
        raise LookupError(f"{run_dir}: MLflow has {len(runs)} runs with its fingerprint, not 1")
    return runs[0].data.metrics


# --- the store -------------------------------------------------------------------------------


def _uri(experiment: Experiment) -> str:
    """The store's URI; a relative SQLite path would depend on the caller's folder."""
    uri = experiment.store_uri
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri else f"sqlite:///{Path(path).absolute()}"


@contextmanager
def _store(experiment: Experiment, writes: bool = True) -> Iterator[MlflowClient]:
    """A client of the store for one process at a time; its failures become one line.

    A lock lies beside a SQLite store. Where a server answers, those who write the same
    experiment's runs take turns: each first looks whether a run is there, then makes it.
    """
    uri = _uri(experiment)
    path = uri.removeprefix("sqlite:///")
    try:
        if path != uri:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            turns: Any = FileLock(f"{path}.lock")
        elif writes:
            turns = Lease(experiment.layout.root / "delivery", "runs are being logged", wait=True)
        else:
            turns = nullcontext()
        with turns:
            yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        reason = _shown(" ".join(str(error).split()))
        raise Away(
            f"{_shown(uri)}: MLflow failed: {reason[:200]}{'…' if reason[200:] else ''}; "
            "the files of the runs are complete, so repeat this step when the store answers"
        ) from None


def _shown(uri: str) -> str:
    """A URI, or a text with one, without user and password."""
    return re.sub(r"//[^@/\s]+@", "//", uri)


def _experiment_id(client: MlflowClient, experiment: Experiment, writes: bool = True) -> str:
    """The MLflow experiment's id, created or restored when needed.

    Raises:
        MtdnnError: the store beside the results was made in another folder.
    """
    known = client.get_experiment_by_name(experiment.experiment)
    folder = Path(experiment.results).absolute() / "mlartifacts" / experiment.experiment
    if known and writes and not experiment.tracking_uri:
        _check_place(experiment, known.artifact_location, folder)
    if known is None:
        artifacts = None  # a server has its own place for artifacts
        if not _uri(experiment).startswith(("http:", "https:")):
            artifacts = folder.as_uri()
        try:
            return client.create_experiment(experiment.experiment, artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = client.get_experiment_by_name(experiment.experiment)
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return known.experiment_id


def _check_place(experiment: Experiment, artifacts: str, folder: Path) -> None:
    """Raise when the artifacts of moved or copied results would go to where they once were."""
    place = Path(url2pathname(urlparse(artifacts).path))
    if place != folder and place.resolve() != folder.resolve():
        raise MtdnnError(
            f"{experiment.results}/mlflow.db: was made for {place.parents[1]}, where artifacts "
            "would go; delete it, and `mtdnn sync EXPERIMENT.yaml` makes it anew from the runs"
        )


def _experiment_tags(experiment: Experiment) -> dict[str, str]:
    """The notice, and a view of the runs that shows scores and what runs differ in.

    Left alone, MLflow's page shows neither a metric nor a tag.
    """
    columns = [f"metrics.`{name}`" for name in ("em", "f1", *PROMOTED)]
    columns += [f"tags.`{name}`" for name in ("mixture", "qa_weight", "encoder", "variant", "seed")]
    view = {"selectedColumns": columns, "orderByKey": "metrics.`em`", "orderByAsc": False}
    return {
        "mlflow.note.content": _note(experiment),
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{_VIEW}": json.dumps(view),
    }


def _find(client: MlflowClient, experiment_id: str, fingerprint: str) -> list:
    """The runs in MLflow with this fingerprint, the newest first."""
    return list(client.search_runs([experiment_id], f"tags.fingerprint = '{fingerprint}'"))


# --- the whole experiment --------------------------------------------------------------------


def log_summary(experiment: Experiment) -> str:
    """A run in MLflow of the whole experiment, made anew when something of it has changed.

    It holds means, differences with intervals, and verdicts of `statistics.json`, and as
    artifacts the tables, comparisons and figures. Its MLflow run's id is returned.

    Raises:
        MtdnnError: there is no `statistics.json`, or the store does not answer.
    """
    root = experiment.layout.root
    statistics = read_json(root / "statistics.json")
    files = _summary_files(experiment)
    content = digest({str(path.relative_to(root)): sha256(path) for path in files})
    with _store(experiment) as client:
        experiment_id = _experiment_id(client, experiment)
        logged = None
        for known in list(client.search_runs([experiment_id], "tags.kind = 'summary'")):
            if known.data.tags.get("results") != _results(experiment):
                continue
            if logged is None and known.data.tags.get("content") == content:
                logged = known.info.run_id
            else:
                client.delete_run(known.info.run_id)
        if logged:
            return logged
        tags = {"kind": "summary", "results": _results(experiment), "experiment": root.name}
        tags |= {"mlflow.note.content": _note(experiment), "notice": experiment.notice or ""}
        tags |= {"mlflow.source.name": "mtdnn", "mlflow.source.type": "LOCAL"}
        name = f"summary of {experiment.experiment}"
        run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        now = round(1000 * time.time())
        numbers = summary_numbers(statistics)
        _send(client, run_id, "metrics", [Metric(*each, now, 0) for each in numbers])
        verdicts = summary_verdicts(statistics)
        _send(client, run_id, "tags", [RunTag(*each) for each in verdicts])
        for path in files:
            folder = str(path.parent.relative_to(root))
            client.log_artifact(run_id, str(path), None if folder == "." else folder)
        client.set_tag(run_id, "content", content)
        client.set_terminated(run_id)
    return run_id


def _summary_files(experiment: Experiment) -> list[Path]:
    """Tables, comparisons and figures that exist, and the numbers behind them."""
    layout = experiment.layout
    wanted = [layout.root / "statistics.json"]
    for end in ("md", "csv", "tex"):
        wanted += [layout.table(name, end) for name in experiment.tables]
        wanted += [layout.comparison(name, end) for name in experiment.tables]
    for end in ("svg", "png", "pdf"):
        wanted += [layout.figure(name, end) for name in [*experiment.figures, *FIGURES]]
    return [path for path in wanted if path.exists()]


# --- runs that go on -------------------------------------------------------------------------


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
        self._going_on: dict[Path, _Mirrored] = {}
        self._seen: dict[Path, _State] = {}
        self.damaged: list[str] = []  # of the last pass

    @property
    def is_done(self) -> bool:
        """Whether every run is scored, and delivered as it is."""
        return all((folder / "metrics.json").exists() for folder in self._folders) and all(
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
            mirrored = _Mirrored(self._experiment, folder)
        if mirrored.source.is_empty:
            return
        with _store(self._experiment) as client:
            run_id = mirrored.update(client, _experiment_id(client, self._experiment))
        if mirrored.source.is_going_on:
            self._going_on[folder] = mirrored
        elif mirrored.source.metrics:
            _note_id(self._experiment, folder, run_id, mirrored.fingerprint)


_State = tuple[tuple[int, int] | None, ...]


def _state(folder: Path) -> _State:
    """What a run's files look like from outside, the journal first; all None before it begins."""

    def look(name: str) -> tuple[int, int] | None:
        try:
            found = os.stat(folder / name)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    names = ("journal.jsonl", "model/run.json", "metrics.json", "failure.json")
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
        here.add(_fingerprint(source))
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
    with _store(experiment) as client:
        for run in _every(client, _experiment_id(client, experiment)):
            tags = run.data.tags
            if (
                run.info.status == "RUNNING"
                and tags.get("results") == _results(experiment)
                and tags.get("fingerprint") not in here
            ):
                client.set_terminated(run.info.run_id, "KILLED")
                found.append(f"{run.info.run_name}: is no longer in {layout.root}")
    return found


def _every(client: MlflowClient, experiment_id: str) -> Iterator[Any]:
    """All runs of an experiment, which come page by page."""
    token = None
    while True:
        page = client.search_runs([experiment_id], page_token=token)
        yield from page
        if not (token := page.token):
            return


# --- one run ---------------------------------------------------------------------------------


class _Mirrored:
    """One run and its MLflow run, kept while the run goes on.

    Every failure of the store makes it useless; another one asks the server what it has.
    """

    def __init__(self, experiment: Experiment, folder: Path):
        self._experiment = experiment
        self._settings = load_run(folder / "config.yaml")
        # Before they are read: what is written meanwhile is not taken for delivered.
        self._digests = {name: _digest_of(folder / name) for name in _FILES}
        self.source = Source(folder)
        self.fingerprint = _fingerprint(self.source)
        self._unsent: list[Point] = list(self.source.read())
        self._run_id: str | None = None

    def goes_on(self) -> bool:
        """Read on; whether the run still is what it was."""
        self._unsent += self.source.read()
        return self.source.is_going_on and not self.source.record.replaced

    def update(self, client: MlflowClient, experiment_id: str) -> str:
        """Send what MLflow lacks: curves, then scores and artifacts of an ended run, status."""
        if self._run_id is None:
            known = _find(client, experiment_id, self.fingerprint)
            if len(known) == 1 and self._is_finished(known[0]):
                return known[0].info.run_id
            if not self.source.is_going_on:
                self._unsent += self.source.scores()
            self._run_id = self._join(client, experiment_id, known)
        _send(client, self._run_id, "metrics", [Metric(*point) for point in self._unsent])
        self._unsent.clear()
        if not self.source.is_going_on:
            self._finish(client, self._run_id)
        return self._run_id

    def _is_finished(self, known: Any) -> bool:
        """Whether nothing is to be done: of what is logged, tag `content` and status come last."""
        if self.source.is_going_on or known.info.status != self.source.status:
            return False
        return known.data.tags.get("content") == self._content()

    def _content(self) -> str:
        return digest([self.source.record.steps, self._digests])

    def _join(self, client: MlflowClient, experiment_id: str, runs: list) -> str:
        """The MLflow run, continued or made; what it has already is not sent again."""
        params = parameters(self.source.folder / "config.yaml")
        joined = None
        for known in runs:
            had = None if joined else self._points_of(client, known, params)
            if had is None:
                client.delete_run(known.info.run_id)
            else:
                joined = known
                self._unsent = [point for point in self._unsent if point not in had]
        tags = self._tags()
        if joined is None:
            start = self.source.start or round(1000 * time.time())
            name = _run_name(self._settings)
            joined = client.create_run(experiment_id, start, tags, run_name=name)
            # Where an answer was lost, MLflow's client has asked a second time, and there are two.
            for known in _find(client, experiment_id, self.fingerprint):
                if known.info.run_id != joined.info.run_id:
                    client.delete_run(known.info.run_id)
        else:
            _send(client, joined.info.run_id, "tags", [RunTag(*each) for each in tags.items()])
            if "failure" in joined.data.tags and "failure" not in tags:
                client.delete_tag(joined.info.run_id, "failure")
        run_id = joined.info.run_id
        lacking = params.items() - joined.data.params.items()
        _send(client, run_id, "params", [Param(key, value) for key, value in sorted(lacking)])
        if joined.info.status != "RUNNING" and self.source.is_going_on:
            client.update_run(run_id, "RUNNING")
        return run_id

    def _points_of(
        self, client: MlflowClient, known: Any, params: dict[str, str]
    ) -> set[Point] | None:
        """The points that an MLflow run has; None when something does not follow from the files."""
        start = self.source.start
        if not known.data.params.items() <= params.items():
            return None
        if start is not None and known.info.start_time != start:
            return None
        expected = {_comparable(point): point for point in self._unsent}
        found = set()
        for key in known.data.metrics:
            for metric in client.get_metric_history(known.info.run_id, key):
                point = Point(metric.key, metric.value, metric.timestamp, metric.step)
                if _comparable(point) not in expected:
                    return None
                found.add(expected.pop(_comparable(point)))
        return found

    def _finish(self, client: MlflowClient, run_id: str) -> None:
        """Corpora, artifacts and status of a run that has ended."""
        source = self.source
        client.log_inputs(run_id, list(_inputs(self._experiment, self._settings, source.digests)))
        _log_artifacts(client, run_id, source)
        client.set_tag(run_id, "content", self._content())
        client.set_terminated(run_id, source.status, source.end or round(1000 * time.time()))

    def _tags(self) -> dict[str, str]:
        """What runs are grouped, filtered and found by; the values that are known."""
        experiment, settings, source = self._experiment, self._settings, self.source
        model = source.folder / "model"
        tags = {
            "experiment": experiment.experiment,
            "encoder": settings.encoder_name,
            "mixture": settings.mixture,
            "qa_weight": f"{settings.qa_weight:g}",
            "variant": settings.variant,
            "seed": str(settings.seed),
            "fingerprint": self.fingerprint,
            "results": _results(experiment),
            "commit": source.provenance.get("commit"),
            "device": source.provenance.get("device"),
            "notice": experiment.notice,
            "model": str(model.absolute()) if model.exists() else None,
            "failure": source.reason,
            "mlflow.source.name": "mtdnn",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": source.provenance.get("commit"),
            "mlflow.note.content": _note(experiment),
        }
        tags |= {f"corpus.{corpus}": value for corpus, value in source.digests.items()}
        return {name: str(value)[:_LONGEST_TAG] for name, value in tags.items() if value}


def _comparable(point: Point) -> tuple:
    """A point for comparison: a value that is not a number equals itself."""
    value = "nan" if math.isnan(point.value) else point.value
    return point.key, value, point.time, point.step


def _note_id(experiment: Experiment, run_dir: Path, run_id: str, fingerprint: str) -> None:
    logged = {"run_id": run_id, "uri": _shown(_uri(experiment)), "fingerprint": fingerprint}
    path = run_dir / "mlflow.json"
    if not path.exists() or read_json(path) != logged:
        write_json(path, logged)


def _results(experiment: Experiment) -> str:
    """The experiment's folder, by which its runs are known on a server that others use too."""
    return str(experiment.layout.root.absolute())


def _send(client: MlflowClient, run_id: str, kind: str, entities: list) -> None:
    for start in range(0, len(entities), _BATCH[kind]):
        client.log_batch(run_id, **{kind: entities[start : start + _BATCH[kind]]})


def _run_name(settings: RunSettings) -> str:
    """For instance `QA+SC w0.8 base seed1`."""
    weight = RunId("", "", settings.qa_weight, "", 0).path.split("/")[2]
    parts = [settings.mixture_label, weight, settings.encoder_name]
    parts += [] if settings.variant == "default" else [settings.variant]
    return " ".join([*parts, f"seed{settings.seed}"])


def _note(experiment: Experiment) -> str:
    return " ".join(filter(None, [f"{experiment.title}.", experiment.notice]))


def _inputs(
    experiment: Experiment, settings: RunSettings, digests: dict[str, str]
) -> Iterator[DatasetInput]:
    """The run's corpora by name and digest, with their numbers of rows; no row is read."""
    for name, corpus in settings.corpora.items():
        manifest = _optional_json(experiment.layout.corpus(name) / "manifest.json")
        rows = {split: each["rows"] for split, each in manifest.get("splits", {}).items()}
        value = digests.get(name) or manifest.get("digest") or "unknown"
        source = manifest.get("source") or corpus.source.model_dump(mode="json", exclude_none=True)
        dataset = Dataset(
            name=name,
            digest=value[:12],  # MLflow shows it beside the name; the whole digest is a tag
            source_type=corpus.source.kind,
            source=json.dumps(source),
            profile=json.dumps({"rows": rows, "family": corpus.family}),
        )
        yield DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _log_artifacts(client: MlflowClient, run_id: str, source: Source) -> None:
    """The run's files, its environment and its loss curves; weights stay where they are."""
    run_dir = source.folder
    for name in _ARTIFACTS:
        if (run_dir / name).exists():
            client.log_artifact(run_id, str(run_dir / name))
    if (run_dir / "model" / "run.json").exists():
        client.log_artifact(run_id, str(run_dir / "model" / "run.json"), "model")
    client.log_dict(run_id, source.provenance, "environment/training.json")
    packages = sorted(
        {f"{each.name}=={each.version}" for each in importlib.metadata.distributions()},
        key=str.lower,
    )
    head = "# packages of the environment that logged this run"
    client.log_text(run_id, "\n".join([head, *packages, ""]), "environment/packages.txt")
    if (run_dir / "training.jsonl").exists():
        from mtdnn.reporting.figures.registry import run_loss

        client.log_figure(run_id, run_loss(run_dir), "loss.png")


def _fingerprint(source: Source) -> str:
    """A run's fingerprint; one that failed before it had one is known by its settings."""
    return source.fingerprint or f"config-{sha256(source.folder / 'config.yaml')[:16]}"


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _digest_of(path: Path) -> str | None:
    return sha256(path) if path.exists() else None
