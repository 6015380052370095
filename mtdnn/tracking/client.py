"""The MLflow store and the experiment in it; the one module that imports mlflow."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
from mlflow.entities import Dataset as Dataset
from mlflow.entities import DatasetInput as DatasetInput
from mlflow.entities import InputTag as InputTag
from mlflow.entities import Metric as Metric
from mlflow.entities import Param as Param
from mlflow.entities import RunTag as RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mtdnn.config.experiment import Experiment
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import write_json
from mtdnn.machine.locking import Lease
from mtdnn.tracking.content import PROMOTED

_BATCH = {"metrics": 1000, "params": 100, "tags": 100}  # MLflow's limits for one log_batch
_VIEW = "scores"


class Away(MtdnnError):
    """The store does not answer."""


def create_store(experiment: Experiment) -> None:
    """Create the MLflow store and experiment unless they exist, and write `store.json`.

    Any number of processes may call this at once on a fresh store: a lock lets one after
    the other create the database, which MLflow itself does not. `page` in `store.json` is
    the part of the user interface's address that opens on the scores.
    """
    with open_store(experiment) as client:
        experiment_id = find_experiment(client, experiment)
        for name, value in _experiment_tags(experiment).items():
            client.set_experiment_tag(experiment_id, name, value)
    page = f"#/experiments/{experiment_id}/runs"
    write_json(
        experiment.layout.store,
        {
            "uri": without_credentials(experiment.store_uri),
            "experiment_id": experiment_id,
            "page": f"{page}?workflowType=machine_learning&viewStateShareKey={_VIEW}",
        },
    )


@contextmanager
def open_store(experiment: Experiment, writes: bool = True) -> Iterator[MlflowClient]:
    """A client of the store for one process at a time; its failures become one line.

    A lock lies beside a SQLite store. Where a server answers, those who write the same
    experiment's runs take turns: each first looks whether a run is there, then makes it.
    """
    uri = experiment.store_uri
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
        reason = without_credentials(" ".join(str(error).split()))
        shown = f"{reason[:200]}…" if reason[200:] else reason
        raise Away(
            f"{without_credentials(uri)}: MLflow failed: {shown}; "
            "the files of the runs are complete, so repeat this step when the store answers"
        ) from None


def without_credentials(uri: str) -> str:
    """A URI, or a text with one, without user and password."""
    return re.sub(r"//[^@/\s]+@", "//", uri)


def find_experiment(client: MlflowClient, experiment: Experiment, writes: bool = True) -> str:
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
        if not experiment.store_uri.startswith(("http:", "https:")):
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
        "mlflow.note.content": note_of(experiment),
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{_VIEW}": json.dumps(view),
    }


def find_runs(client: MlflowClient, experiment_id: str, fingerprint: str) -> list:
    """The runs in MLflow with this fingerprint, the newest first."""
    return list(client.search_runs([experiment_id], f"tags.fingerprint = '{fingerprint}'"))


def every_run(client: MlflowClient, experiment_id: str) -> Iterator[Any]:
    """All runs of an experiment, which come page by page."""
    token = None
    while True:
        page = client.search_runs([experiment_id], page_token=token)
        yield from page
        if not (token := page.token):
            return


def results_folder(experiment: Experiment) -> str:
    """The experiment's folder, by which its runs are known on a server that others use too."""
    return str(experiment.layout.root.absolute())


def send(client: MlflowClient, run_id: str, kind: str, entities: list) -> None:
    for start in range(0, len(entities), _BATCH[kind]):
        client.log_batch(run_id, **{kind: entities[start : start + _BATCH[kind]]})


def note_of(experiment: Experiment) -> str:
    return " ".join(filter(None, [f"{experiment.title}.", experiment.notice]))
