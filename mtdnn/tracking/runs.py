"""MLflow as a mirror of the runs' files: one flat MLflow run for each run.

The files are the truth. What MLflow holds can be deleted and rebuilt from them, and logging a
run twice changes nothing: an MLflow run is continued if everything that it holds follows from
the files, and replaced if not. What was sent is not recorded; after a failure the server is
asked what it has.
"""

import importlib.metadata
import json
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder, weight_text
from mtdnn.config.loading import load_run
from mtdnn.config.settings import RunSettings
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_product, sha256, write_json
from mtdnn.reporting.escaping import one_line
from mtdnn.tracking import answers, descriptions
from mtdnn.tracking.client import (
    CURRENT,
    Metric,
    MlflowClient,
    Param,
    Run,
    RunTag,
    ensure_experiment,
    find_others,
    find_runs,
    log_metrics,
    log_params,
    log_tags,
    open_store,
    results_folder,
    tag_values,
)
from mtdnn.tracking.content import Point, Source, parameters, scores
from mtdnn.tracking.datasets import Datasets
from mtdnn.tracking.models import Logged, RunModel, delete_run

MAX_LABEL_CHARACTERS = 100
_FORMAT = 3
"""Raised when MLflow gets more of a run than before, so that runs logged before get it too."""

_VARYING = (RunFolder.config, RunFolder.log, RunFolder.predictions, RunFolder.metrics)
_ARTIFACTS = (*_VARYING, RunFolder.schedule, RunFolder.auxiliary)
# Their digests tell whether what was delivered is up to date.
_FILES = (*_VARYING, RunFolder.failure)


def log_run(experiment: Experiment, run_dir: Path) -> str:
    """Bring MLflow up to date with the files of one run, and write its `mlflow.json`.

    Returns:
        The id of its MLflow run.

    Raises:
        MtdnnError: the run has no settings, or the store does not answer.
    """
    run_dir = Path(run_dir)
    with open_store(experiment) as client:
        mirrored = MirroredRun(experiment, run_dir)
        run_id = mirrored.update(client, ensure_experiment(client, experiment))
    write_run_id(experiment, run_dir, run_id, mirrored.fingerprint)
    return run_id


def differences(experiment: Experiment, folders: Iterable[Path]) -> list[str]:
    """Return a line for each score of these runs that differs between MLflow and `metrics.json`."""
    found = []
    for folder in map(Path, folders):
        try:
            logged = logged_scores(experiment, folder)
        except LookupError as error:
            found.append(str(error))
            continue
        found += [
            f"{folder}: {name}: {value} in {RunFolder.metrics}, {logged.get(name)} in MLflow"
            for name, value in scores(read_product(RunFolder(folder).metrics)).items()
            if logged.get(name) != value
        ]
    return found


def logged_scores(experiment: Experiment, run_dir: Path) -> dict[str, float]:
    """Return the scores that MLflow holds of a run, by name.

    Raises:
        LookupError: MLflow has no run with its fingerprint, or several.
        MtdnnError: the store does not answer.
    """
    fingerprint = fingerprint_of(Source(run_dir))
    with open_store(experiment, writes=False) as client:
        experiment_id = ensure_experiment(client, experiment, check_folder=False)
        runs = find_runs(client, experiment_id, fingerprint)
    if len(runs) != 1:
        raise LookupError(f"{run_dir}: MLflow has {len(runs)} runs with its fingerprint, not 1")
    logged: dict[str, float] = runs[0].data.metrics
    return logged


class MirroredRun:
    """A run and its MLflow run, kept while the run is trained.

    After a failure of the store, create a new one: it asks the server what it has.

    Attributes:
        source: the run's files.
        fingerprint: the run's fingerprint.
    """

    def __init__(self, experiment: Experiment, folder: Path):
        self._experiment = experiment
        self._settings = load_run(RunFolder(folder).config)
        # Digests come before reading: what is written in between does not count as delivered.
        self._digests = {name: _digest_of(folder / name) for name in _FILES}
        self.source = Source(folder)
        self.fingerprint = fingerprint_of(self.source)
        self._unsent: list[Point] = list(self.source.read())
        self._run_id: str | None = None
        self._model: Logged | None = None
        self._datasets = Datasets(
            experiment, self._settings, self.source.digests, self.source.metrics
        )

    def read_on(self) -> bool:
        """Read what was added to the journal; return whether the same training is still running."""
        self._unsent += self.source.read()
        return self.source.is_running and not self.source.record.replaced

    def update(self, client: MlflowClient, experiment_id: str) -> str:
        """Send what MLflow lacks, and return the id of the MLflow run.

        Curves come first, then scores, artifacts and status of a run that has ended.
        """
        if self._run_id is None:
            logged = find_runs(client, experiment_id, self.fingerprint)
            if len(logged) == 1 and self._is_delivered(logged[0]):
                return run_id_of(logged[0])
            if not self.source.is_running:
                self._unsent += self.source.scores()
            self._run_id = self._join(client, experiment_id, logged)
        if self.source.model and not self.source.is_running:
            name = _run_name(self._settings)
            model = RunModel(self._experiment, self._settings, self.source, name)
            self._model = model.ensure(client, self._run_id)
        log_metrics(client, self._run_id, self._metrics())
        self._unsent.clear()
        if not self.source.is_running:
            self._finish(client, self._run_id)
        return self._run_id

    def _is_delivered(self, logged: Run) -> bool:
        """Whether an MLflow run is complete: its tag `content` and its status are set last."""
        if self.source.is_running or logged.info.status != self.source.status:
            return False
        expected = {"content": self._content(), CURRENT: "true"}
        return bool(expected.items() <= logged.data.tags.items())

    def _content(self) -> str:
        """Return a digest of everything that is delivered for a run that has ended."""
        stored = self._experiment.tracking_models
        return digest([_FORMAT, stored, self.source.record.steps, self._digests])

    def _metrics(self) -> list[Metric]:
        """Return the unsent points, the scores among them with the model and their dataset.

        A score that the run has and its model lacks is among them: logging was interrupted between
        the two, and the store keeps equal points once.
        """
        if self._model is None:
            return [Metric(*point) for point in self._unsent]
        datasets = self._datasets.of_scores()
        unsent = list(self._unsent)
        unsent += [
            point
            for point in self.source.scores()
            if point.key in datasets and point.key not in self._model.scores and point not in unsent
        ]
        return [
            Metric(*point, self._model.id, *datasets[point.key])
            if point.key in datasets
            else Metric(*point)
            for point in unsent
        ]

    def _join(self, client: MlflowClient, experiment_id: str, logged: list[Run]) -> str:
        """Continue one of the logged runs or create one, and return its id.

        Points that the MLflow run already has are not sent again.
        """
        params = parameters(RunFolder(self.source.folder).config)
        joined = None
        for run in logged:
            points = None if joined else self._points_of(client, run, params)
            if points is None:
                delete_run(client, self._experiment, run)
            else:
                joined = run
                self._unsent = [point for point in self._unsent if point not in points]
        tags = self._tags()
        if joined is None:
            joined = self._create(client, experiment_id, tags)
        else:
            log_tags(client, run_id_of(joined), [RunTag(*each) for each in tags.items()])
            if "failure" in joined.data.tags and "failure" not in tags:
                client.delete_tag(joined.info.run_id, "failure")
        run_id = run_id_of(joined)
        missing = params.items() - joined.data.params.items()
        log_params(client, run_id, [Param(key, value) for key, value in sorted(missing)])
        if joined.info.status != "RUNNING" and self.source.is_running:
            client.update_run(run_id, "RUNNING")
        for run in find_others(client, experiment_id, tags):
            if run.data.tags.get(CURRENT) != "false":
                client.set_tag(run.info.run_id, CURRENT, "false")
        return run_id

    def _create(self, client: MlflowClient, experiment_id: str, tags: dict[str, str]) -> Run:
        start = self.source.start or round(1000 * time.time())
        created = client.create_run(experiment_id, start, tags, run_name=_run_name(self._settings))
        # If the server's answer was lost, MLflow's client has asked twice and created two runs.
        for run in find_runs(client, experiment_id, self.fingerprint):
            if run.info.run_id != created.info.run_id:
                client.delete_run(run.info.run_id)
        return created

    def _points_of(
        self, client: MlflowClient, run: Run, params: dict[str, str]
    ) -> set[Point] | None:
        """Return the points of an MLflow run; None if it holds what does not follow from the files.

        Args:
            client: a client of the store.
            run: the MLflow run.
            params: the params that it should have.
        """
        start = self.source.start
        if not run.data.params.items() <= params.items():
            return None
        if start is not None and run.info.start_time != start:
            return None
        expected = {_comparable(point): point for point in self._unsent}
        found = set()
        for key in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, key):
                point = Point(metric.key, metric.value, metric.timestamp, metric.step)
                if _comparable(point) not in expected:
                    return None
                found.add(expected.pop(_comparable(point)))
        return found

    def _finish(self, client: MlflowClient, run_id: str) -> None:
        """Log datasets, artifacts, answers and status of a run that has ended."""
        source = self.source
        client.log_inputs(run_id, self._datasets.inputs())
        _log_artifacts(client, run_id, source)
        table = self._answers()
        if table:
            client.log_text(run_id, table.as_json(), answers.FILE)
            shown = json.dumps([{"path": answers.FILE, "type": "table"}])
            client.set_tag(run_id, "mlflow.loggedArtifacts", shown)
        text = descriptions.of_run(
            self._experiment, self._settings, source.metrics, [table.note] if table else []
        )
        client.set_tag(run_id, "mlflow.note.content", text)
        client.set_tag(run_id, "content", self._content())
        client.set_terminated(run_id, source.status, source.end or round(1000 * time.time()))

    def _answers(self) -> answers.Table | None:
        """Return the run's answers; None if there are none, or with a line why not."""
        folder = RunFolder(self.source.folder)
        try:
            return answers.read(self._experiment, folder, self._settings, self.source.metrics)
        except MtdnnError as error:
            print(f"mtdnn: {error}; MLflow gets no table of answers", file=sys.stderr, flush=True)
            return None

    def _tags(self) -> dict[str, str]:
        """Return the tags by which runs are grouped, filtered and found, without unknown values."""
        experiment, settings, source = self._experiment, self._settings, self.source
        model = RunFolder(source.folder).model
        tags = {
            "experiment": experiment.experiment,
            "encoder": settings.encoder_name,
            "mixture": settings.mixture,
            "weight": f"{settings.weight:g}",
            "variant": settings.variant,
            "seed": str(settings.seed),
            "fingerprint": self.fingerprint,
            CURRENT: "true",
            "results": results_folder(experiment),
            "commit": source.provenance.get("commit"),
            "device": source.provenance.get("device"),
            "notice": experiment.notice,
            "model": str(model.absolute()) if model.exists() else None,
            "failure": source.reason,
            "mlflow.source.name": "mtdnn",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": source.provenance.get("commit"),
            "mlflow.note.content": descriptions.of_run(experiment, settings, source.metrics),
        }
        tags |= {f"corpus.{corpus}": value for corpus, value in source.digests.items()}
        return tag_values(tags)


def _comparable(point: Point) -> tuple[str, float | str, int, int]:
    """Return a point in a form in which NaN equals itself."""
    value: float | str = "nan" if math.isnan(point.value) else point.value
    return point.key, value, point.time, point.step


def run_id_of(run: Run) -> str:
    """Return the id of an MLflow run."""
    return str(run.info.run_id)


def write_run_id(experiment: Experiment, run_dir: Path, run_id: str, fingerprint: str) -> None:
    """Write `mlflow.json`, which says where MLflow has a run, unless it is up to date."""
    logged = {
        "run_id": run_id,
        "uri": experiment.store_uri,
        "fingerprint": fingerprint,
    }
    path = RunFolder(run_dir).logged
    if not path.exists() or read_product(path) != logged:
        write_json(path, logged)


def _run_name(settings: RunSettings) -> str:
    """Return a run's name in MLflow, for instance `QA+SC w0.8 base seed1`."""
    weight = weight_text(settings.weight)
    label = one_line(settings.mixture_label)
    if len(label) > MAX_LABEL_CHARACTERS:  # MLflow's names have at most 250
        label = f"{label[:MAX_LABEL_CHARACTERS]}…"
    parts = [label, f"w{weight}", settings.encoder_name]
    parts += [] if settings.variant == "default" else [settings.variant]
    return " ".join([*parts, f"seed{settings.seed}"])


def _log_artifacts(client: MlflowClient, run_id: str, source: Source) -> None:
    """Log the run's files, its environment and its loss curves, but not its weights."""
    run_dir = source.folder
    files = RunFolder(run_dir)
    for name in _ARTIFACTS:
        if (run_dir / name).exists():
            client.log_artifact(run_id, str(run_dir / name))
    if files.description.exists():
        client.log_artifact(run_id, str(files.description), RunFolder.model)
    client.log_dict(run_id, source.provenance, "environment/training.json")
    packages = sorted(
        {f"{each.name}=={each.version}" for each in importlib.metadata.distributions()},
        key=str.lower,
    )
    head = "# packages of the environment that logged this run"
    client.log_text(run_id, "\n".join([head, *packages, ""]), "environment/packages.txt")
    if files.log.exists():
        from mtdnn.reporting.figures.training import run_loss

        client.log_figure(run_id, run_loss(run_dir), "loss.png")


def fingerprint_of(source: Source) -> str:
    """Return a run's fingerprint, or a digest of its settings if it failed before it had one."""
    config = RunFolder(source.folder).config
    return source.fingerprint or f"config-{sha256(config)[:16]}"


def _digest_of(path: Path) -> str | None:
    return sha256(path) if path.exists() else None
