"""MLflow as a mirror of the runs' files: one flat MLflow run for each run.

The files are the truth. What MLflow holds can be deleted and made again from them, and
logging a run twice changes nothing: a run there is continued when all that it holds follows
from the files, and made anew when not. Nothing is remembered of what was sent; after any
failure the server is asked what it has.
"""

import importlib.metadata
import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import MANIFEST, RunFolder, weight_text
from mtdnn.config.loading import load_run
from mtdnn.config.settings import RunSettings
from mtdnn.machine.files import digest, read_json, sha256, write_json
from mtdnn.tracking.client import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    MlflowClient,
    Param,
    RunTag,
    find_experiment,
    find_runs,
    note_of,
    open_store,
    results_folder,
    send,
    without_credentials,
)
from mtdnn.tracking.content import Point, Source, parameters, scores

_LONGEST_TAG = 8000
_ARTIFACTS = (
    *(RunFolder.config, RunFolder.log, RunFolder.predictions, RunFolder.metrics),
    *(RunFolder.schedule, RunFolder.auxiliary),
)
_FILES = (*_ARTIFACTS[:4], RunFolder.failure)


def log_run(experiment: Experiment, run_dir: Path) -> str:
    """Bring MLflow up to date with the files of one run; its MLflow run's id is returned.

    The id stands in the run's `mlflow.json` as well.

    Raises:
        MtdnnError: the run has no settings, or the store does not answer.
    """
    run_dir = Path(run_dir)
    with open_store(experiment) as client:
        mirrored = MirroredRun(experiment, run_dir)
        run_id = mirrored.update(client, find_experiment(client, experiment))
    note_id(experiment, run_dir, run_id, mirrored.fingerprint)
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
            for name, value in scores(read_json(RunFolder(folder).metrics)).items()
            if logged.get(name) != value
        ]
    return found


def logged_scores(experiment: Experiment, run_dir: Path) -> dict[str, float]:
    """What MLflow holds of a run, by name.

    Raises:
        LookupError: there is not one run with its fingerprint.
    """
    fingerprint = fingerprint_of(Source(run_dir))
    with open_store(experiment, writes=False) as client:
        runs = find_runs(client, find_experiment(client, experiment, writes=False), fingerprint)
    if len(runs) != 1:
        raise LookupError(f"{run_dir}: MLflow has {len(runs)} runs with its fingerprint, not 1")
    return runs[0].data.metrics


class MirroredRun:
    """One run and its MLflow run, kept while the run goes on.

    Every failure of the store makes it useless; another one asks the server what it has.
    """

    def __init__(self, experiment: Experiment, folder: Path):
        self._experiment = experiment
        self._settings = load_run(RunFolder(folder).config)
        # Before they are read: what is written meanwhile is not taken for delivered.
        self._digests = {name: _digest_of(folder / name) for name in _FILES}
        self.source = Source(folder)
        self.fingerprint = fingerprint_of(self.source)
        self._unsent: list[Point] = list(self.source.read())
        self._run_id: str | None = None

    def goes_on(self) -> bool:
        """Read on; whether the run still is what it was."""
        self._unsent += self.source.read()
        return self.source.is_going_on and not self.source.record.replaced

    def update(self, client: MlflowClient, experiment_id: str) -> str:
        """Send what MLflow lacks: curves, then scores and artifacts of an ended run, status."""
        if self._run_id is None:
            known = find_runs(client, experiment_id, self.fingerprint)
            if len(known) == 1 and self._is_finished(known[0]):
                return known[0].info.run_id
            if not self.source.is_going_on:
                self._unsent += self.source.scores()
            self._run_id = self._join(client, experiment_id, known)
        send(client, self._run_id, "metrics", [Metric(*point) for point in self._unsent])
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
        params = parameters(RunFolder(self.source.folder).config)
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
            for known in find_runs(client, experiment_id, self.fingerprint):
                if known.info.run_id != joined.info.run_id:
                    client.delete_run(known.info.run_id)
        else:
            send(client, joined.info.run_id, "tags", [RunTag(*each) for each in tags.items()])
            if "failure" in joined.data.tags and "failure" not in tags:
                client.delete_tag(joined.info.run_id, "failure")
        run_id = joined.info.run_id
        lacking = params.items() - joined.data.params.items()
        send(client, run_id, "params", [Param(key, value) for key, value in sorted(lacking)])
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
            "results": results_folder(experiment),
            "commit": source.provenance.get("commit"),
            "device": source.provenance.get("device"),
            "notice": experiment.notice,
            "model": str(model.absolute()) if model.exists() else None,
            "failure": source.reason,
            "mlflow.source.name": "mtdnn",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": source.provenance.get("commit"),
            "mlflow.note.content": note_of(experiment),
        }
        tags |= {f"corpus.{corpus}": value for corpus, value in source.digests.items()}
        return {name: str(value)[:_LONGEST_TAG] for name, value in tags.items() if value}


def _comparable(point: Point) -> tuple:
    """A point for comparison: a value that is not a number equals itself."""
    value = "nan" if math.isnan(point.value) else point.value
    return point.key, value, point.time, point.step


def note_id(experiment: Experiment, run_dir: Path, run_id: str, fingerprint: str) -> None:
    logged = {
        "run_id": run_id,
        "uri": without_credentials(experiment.store_uri),
        "fingerprint": fingerprint,
    }
    path = RunFolder(run_dir).logged
    if not path.exists() or read_json(path) != logged:
        write_json(path, logged)


def _run_name(settings: RunSettings) -> str:
    """For instance `QA+SC w0.8 base seed1`."""
    weight = weight_text(settings.qa_weight)
    parts = [settings.mixture_label, f"w{weight}", settings.encoder_name]
    parts += [] if settings.variant == "default" else [settings.variant]
    return " ".join([*parts, f"seed{settings.seed}"])


def _inputs(
    experiment: Experiment, settings: RunSettings, digests: dict[str, str]
) -> Iterator[DatasetInput]:
    """The run's corpora by name and digest, with their numbers of rows; no row is read."""
    for name, corpus in settings.corpora.items():
        manifest = _optional_json(experiment.layout.corpus(name) / MANIFEST)
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
    if RunFolder(run_dir).description.exists():
        client.log_artifact(run_id, str(RunFolder(run_dir).description), "model")
    client.log_dict(run_id, source.provenance, "environment/training.json")
    packages = sorted(
        {f"{each.name}=={each.version}" for each in importlib.metadata.distributions()},
        key=str.lower,
    )
    head = "# packages of the environment that logged this run"
    client.log_text(run_id, "\n".join([head, *packages, ""]), "environment/packages.txt")
    if RunFolder(run_dir).log.exists():
        from mtdnn.reporting.figures.training import run_loss

        client.log_figure(run_id, run_loss(run_dir), "loss.png")


def fingerprint_of(source: Source) -> str:
    """A run's fingerprint; one that failed before it had one is known by its settings."""
    return source.fingerprint or f"config-{sha256(source.folder / 'config.yaml')[:16]}"


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _digest_of(path: Path) -> str | None:
    return sha256(path) if path.exists() else None
