"""MLflow as a mirror of the runs' files: one flat MLflow run for each finished run.

The files are the truth. What MLflow holds can be deleted and made again from them, and
logging a run twice changes nothing.
"""

import importlib.metadata
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

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

import numpy as np
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mtdnn.config import Experiment, load_run, read_yaml
from mtdnn.errors import MtdnnError
from mtdnn.files import digest, read_json, sha256, write_json
from mtdnn.layout import RunId
from mtdnn.reporting.results import read_training
from mtdnn.settings import RunSettings

MAX_POINTS = 1000
"""Points of a curve; longer ones are averaged in that many equal windows."""

_BATCH = {"metrics": 1000, "params": 100, "tags": 100}  # MLflow's limits for one log_batch
_VIEW = "scores"
_PROMOTED = ("HasAns_f1", "NoAns_exact", "null_odds_auc")  # of the first slice, beside em and f1
_LONGEST_PARAM = 6000
_LONGEST_TAG = 8000
_FILES = ("config.yaml", "training.jsonl", "predictions.parquet", "metrics.json", "failure.json")
_ARTIFACTS = (*_FILES, "schedule.parquet", "auxiliary.parquet")


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
    """Bring MLflow up to date with the files of one finished or failed run.

    A run that MLflow already holds with the same content is left alone; one with other
    content (scored anew, or logged only in part) is deleted there and logged again. The
    MLflow run's id is returned and stands in the run's `mlflow.json`.

    Raises:
        MtdnnError: the run has no settings, or the store does not answer.
    """
    run_dir = Path(run_dir)
    settings = load_run(run_dir / "config.yaml")
    fingerprint = _fingerprint(run_dir)
    content = digest({name: _digest_of(run_dir / name) for name in _FILES})
    with _store(experiment) as client:
        experiment_id = _experiment_id(client, experiment)
        run_id = None
        for known in _find(client, experiment_id, fingerprint):
            # The tag is the last thing that is logged: without it, logging was interrupted.
            if run_id is None and known.data.tags.get("content") == content:
                run_id = known.info.run_id
            else:
                client.delete_run(known.info.run_id)
        if run_id is None:
            run_id = _log(client, experiment_id, experiment, settings, run_dir, fingerprint)
            client.set_tag(run_id, "content", content)
    write_json(
        run_dir / "mlflow.json",
        {"run_id": run_id, "uri": _shown(_uri(experiment)), "fingerprint": fingerprint},
    )
    return run_id


def agrees(experiment: Experiment, run_dir: Path) -> list[str]:
    """Where MLflow's scores of a run differ from its `metrics.json`; empty when they agree."""
    run_dir = Path(run_dir)
    fingerprint = _fingerprint(run_dir)
    expected = _scores(read_json(run_dir / "metrics.json"))
    with _store(experiment) as client:
        runs = _find(client, _experiment_id(client, experiment), fingerprint)
    if len(runs) != 1:
        return [f"{run_dir}: MLflow has {len(runs)} runs with its fingerprint, not 1"]
    logged = runs[0].data.metrics
    return [
        f"{run_dir}: {name}: {value} in metrics.json, {logged.get(name)} in MLflow"
        for name, value in expected.items()
        if logged.get(name) != value
    ]


# --- the store -------------------------------------------------------------------------------


def _uri(experiment: Experiment) -> str:
    """The store's URI; a relative SQLite path would depend on the caller's folder."""
    uri = experiment.store_uri
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri else f"sqlite:///{Path(path).absolute()}"


@contextmanager
def _store(experiment: Experiment) -> Iterator[MlflowClient]:
    """A client of the store; its failures become one line. SQLite is used one by one."""
    uri = _uri(experiment)
    path = uri.removeprefix("sqlite:///")
    local = path != uri
    try:
        if local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock") if local else nullcontext():
            yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        reason = _shown(" ".join(str(error).split()))
        raise MtdnnError(
            f"{_shown(uri)}: MLflow failed: {reason[:200]}{'…' if reason[200:] else ''}; "
            "the files of the runs are complete, so repeat this step when the store answers"
        ) from None


def _shown(uri: str) -> str:
    """A URI, or a text with one, without user and password."""
    return re.sub(r"//[^@/\s]+@", "//", uri)


def _experiment_id(client: MlflowClient, experiment: Experiment) -> str:
    """The MLflow experiment's id, created or restored when needed."""
    known = client.get_experiment_by_name(experiment.experiment)
    if known is None:
        artifacts = None  # a server has its own place for artifacts
        if not _uri(experiment).startswith(("http:", "https:")):
            folder = Path(experiment.results).absolute() / "mlartifacts" / experiment.experiment
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


def _experiment_tags(experiment: Experiment) -> dict[str, str]:
    """The notice, and a view of the runs that shows scores and what runs differ in.

    Left alone, MLflow's page shows neither a metric nor a tag.
    """
    columns = [f"metrics.`{name}`" for name in ("em", "f1", *_PROMOTED)]
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


# --- one run ---------------------------------------------------------------------------------


def _log(
    client: MlflowClient,
    experiment_id: str,
    experiment: Experiment,
    settings: RunSettings,
    run_dir: Path,
    fingerprint: str,
) -> str:
    metrics = _optional_json(run_dir / "metrics.json")
    model = _optional_json(run_dir / "model" / "run.json")
    provenance = {**model.get("provenance", {}), **metrics.get("provenance", {})}
    digests = {**model.get("corpora", {}), **provenance.get("corpora", {})}
    start = _milliseconds(provenance.get("started"))
    end = start + round(1000 * (provenance.get("seconds") or 0))
    failed = (run_dir / "failure.json").exists()
    tags = _tags(experiment, settings, run_dir, fingerprint, provenance, digests)
    run = client.create_run(experiment_id, start, tags, run_name=_run_name(settings))
    run_id = run.info.run_id
    params = [Param(key, value) for key, value in parameters(run_dir / "config.yaml").items()]
    _send(client, run_id, "params", params)
    client.log_inputs(run_id, list(_inputs(experiment, settings, digests)))
    points = list(_curves(read_training(run_dir), start))
    points += [Metric(name, value, end, 0) for name, value in _scores(metrics).items()]
    points += [
        Metric(f"training/{name}", provenance[name], end, 0)
        for name in ("seconds", "steps", "tokens")
        if provenance.get(name) is not None
    ]
    _send(client, run_id, "metrics", points)
    _log_artifacts(client, run_id, run_dir, provenance)
    client.set_terminated(run_id, "FAILED" if failed else "FINISHED", end)
    return run_id


def _send(client: MlflowClient, run_id: str, kind: str, entities: list) -> None:
    for start in range(0, len(entities), _BATCH[kind]):
        client.log_batch(run_id, **{kind: entities[start : start + _BATCH[kind]]})


def _run_name(settings: RunSettings) -> str:
    """For instance `QA+SC w0.8 base seed1`."""
    weight = RunId("", "", settings.qa_weight, "", 0).path.split("/")[2]
    parts = [settings.mixture_label, weight, settings.encoder_name]
    parts += [] if settings.variant == "default" else [settings.variant]
    return " ".join([*parts, f"seed{settings.seed}"])


def _tags(
    experiment: Experiment,
    settings: RunSettings,
    run_dir: Path,
    fingerprint: str,
    provenance: dict[str, Any],
    digests: dict[str, str],
) -> dict[str, str]:
    """What runs are grouped, filtered and found by; the values that are known."""
    failure = _optional_json(run_dir / "failure.json")
    tags = {
        "experiment": experiment.experiment,
        "encoder": settings.encoder_name,
        "mixture": settings.mixture,
        "qa_weight": f"{settings.qa_weight:g}",
        "variant": settings.variant,
        "seed": str(settings.seed),
        "fingerprint": fingerprint,
        "commit": provenance.get("commit"),
        "device": provenance.get("device"),
        "notice": experiment.notice,
        "model": str((run_dir / "model").absolute()) if (run_dir / "model").exists() else None,
        "failure": f"{failure['step']}: {failure['reason']}" if failure else None,
        "mlflow.source.name": "mtdnn",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": provenance.get("commit"),
        "mlflow.note.content": _note(experiment),
    }
    tags |= {f"corpus.{corpus}": value for corpus, value in digests.items()}
    return {name: str(value)[:_LONGEST_TAG] for name, value in tags.items() if value}


def _note(experiment: Experiment) -> str:
    return " ".join(filter(None, [f"{experiment.title}.", experiment.notice]))


def parameters(config: Path) -> dict[str, str]:
    """A run's resolved settings, flattened: `training.learning_rate`, `corpora.squad.label`, …

    Settings that are absent, and texts that describe rather than determine, are left out.
    """
    flat: dict[str, str] = {}

    def descend(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                descend(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None and value != []:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[prefix] = text[:_LONGEST_PARAM]

    settings = read_yaml(config)
    descend("", {key: value for key, value in settings.items() if key != "notice"})
    return flat


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


def _curves(steps: list[dict[str, Any]], start: int) -> Iterator[Metric]:
    """Loss of each corpus, learning rate and gradient norm over steps, with the real times."""
    for corpus in dict.fromkeys(step["corpus"] for step in steps):
        own = [step for step in steps if step["corpus"] == corpus]
        yield from _curve(f"loss/{corpus}", own, "loss", start)
    yield from _curve("learning_rate", steps, "lr", start)
    yield from _curve("grad_norm", steps, "grad_norm", start)


def _curve(name: str, steps: list[dict[str, Any]], key: str, start: int) -> Iterator[Metric]:
    """At most MAX_POINTS points: each the mean of a window, at the window's last step."""
    known = [step for step in steps if step.get(key) is not None]
    for window in np.array_split(np.arange(len(known)), min(len(known), MAX_POINTS) or 1):
        if len(window):
            last = known[window[-1]]
            value = float(np.mean([known[place][key] for place in window]))
            time_ms = start + round(1000 * (last.get("seconds") or 0))
            yield Metric(name, value, time_ms, last["step"])


def _scores(metrics: dict[str, Any]) -> dict[str, float]:
    """All numbers of `metrics.json`: `em`, `f1`, `slices/{slice}/…`, `auxiliary/{corpus}/…`."""
    scores = {"em": metrics.get("em"), "f1": metrics.get("f1")}
    first = next(iter(metrics.get("slices", {}).values()), {})
    scores |= {name: first.get(name) for name in _PROMOTED}
    for name, values in metrics.get("slices", {}).items():
        scores |= {f"slices/{name}/{key}": value for key, value in values.items()}
        tuned = values.get("tuned") or {}
        scores |= {f"slices/{name}/tuned/{key}": value for key, value in tuned.items()}
    for name, values in metrics.get("auxiliary", {}).items():
        scores |= {f"auxiliary/{name}/{key}": value for key, value in values.items()}
    return {
        name: float(value)
        for name, value in scores.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _log_artifacts(
    client: MlflowClient, run_id: str, run_dir: Path, provenance: dict[str, Any]
) -> None:
    """The run's files, its environment and its loss curves; weights stay where they are."""
    for name in _ARTIFACTS:
        if (run_dir / name).exists():
            client.log_artifact(run_id, str(run_dir / name))
    if (run_dir / "model" / "run.json").exists():
        client.log_artifact(run_id, str(run_dir / "model" / "run.json"), "model")
    client.log_dict(run_id, provenance, "environment/training.json")
    packages = sorted(
        {f"{each.name}=={each.version}" for each in importlib.metadata.distributions()},
        key=str.lower,
    )
    head = "# packages of the environment that logged this run"
    client.log_text(run_id, "\n".join([head, *packages, ""]), "environment/packages.txt")
    if (run_dir / "training.jsonl").exists():
        from mtdnn.reporting.figures import run_loss

        client.log_figure(run_id, run_loss(run_dir), "loss.png")


def _fingerprint(run_dir: Path) -> str:
    """The run's fingerprint; a run that failed before it had one is known by its settings."""
    for place in (run_dir / "metrics.json", run_dir / "model" / "run.json"):
        fingerprint = _optional_json(place).get("fingerprint")
        if fingerprint:
            return fingerprint
    return f"config-{sha256(run_dir / 'config.yaml')[:16]}"


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _digest_of(path: Path) -> str | None:
    return sha256(path) if path.exists() else None


def _milliseconds(started: str | None) -> int:
    moment = datetime.fromisoformat(started).timestamp() if started else time.time()
    return round(1000 * moment)
