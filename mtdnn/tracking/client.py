"""The MLflow store and the experiment in it; the only module that imports mlflow."""

import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse
from urllib.request import url2pathname

# Set before mlflow is imported, which reads some of them at once. With mlflow's own timeouts, a
# server that is down would block a step for minutes. Values that the user has set are kept.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}.items():
    os.environ.setdefault(_name, _value)

from filelock import FileLock
from google.protobuf.json_format import Error as UnexpectedAnswer
from mlflow import MlflowClient as MlflowClient
from mlflow.entities import Dataset as Dataset
from mlflow.entities import DatasetInput as DatasetInput
from mlflow.entities import InputTag as InputTag
from mlflow.entities import LoggedModel as LoggedModel
from mlflow.entities import LoggedModelOutput as LoggedModelOutput
from mlflow.entities import Metric as Metric
from mlflow.entities import Param as Param
from mlflow.entities import Run as Run
from mlflow.entities import RunTag as RunTag
from mlflow.exceptions import MlflowException as MlflowException
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mtdnn.config.credentials import with_credentials, without_credentials
from mtdnn.config.experiment import Experiment
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.measures import measures_of
from mtdnn.machine.files import check_guards, write_json
from mtdnn.machine.locking import Lease
from mtdnn.reporting.escaping import markdown, visible
from mtdnn.reporting.wording import has_answers, sentence, targets, union
from mtdnn.tracking.content import PROMOTED

# It prints a traceback for each failure of the database, which also reaches us as an error.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

# MLflow's limits for one call of log_batch.
MAX_METRICS_PER_BATCH = 1000
MAX_PARAMS_PER_BATCH = 100
MAX_TAGS_PER_BATCH = 100
MAX_TAG_CHARACTERS = 8000
AUTO_CLASSES = {
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
"""The class of transformers that opens an uploaded model, by its task in MLflow."""

CURRENT = "current"
"""The tag that tells whether a run is what its folder holds; another run may have replaced it."""

_OF_FOLDER = ("encoder", "mixture", "weight", "variant", "seed")
_VIEW = "scores"
_RUNS_IN_CHARTS = 20
# UnexpectedAnswer and OverflowError: a server answered with JSON of another shape than MLflow's
# client expects, or with numbers that are too large.
_FAILURES = (
    *(MlflowException, UnexpectedAnswer, OverflowError),
    *(SQLAlchemyError, sqlite3.Error, OSError, ImportError),
)

T = TypeVar("T")


class StoreUnavailable(MtdnnError):
    """The store does not answer, or refuses."""


def create_store(experiment: Experiment) -> None:
    """Create the MLflow store and experiment unless they exist, and write `store.json`.

    Any number of processes may call this at once on a fresh store: a lock lets one process
    at a time create the database, which MLflow itself does not. `page` in `store.json` is
    the part of the user interface's address that opens on the scores.

    Raises:
        StoreUnavailable: the store does not answer.
        MtdnnError: the store next to the results was created in another folder.
    """
    with open_store(experiment) as client:
        experiment_id = ensure_experiment(client, experiment)
        page = (
            f"#/experiments/{experiment_id}/runs"
            f"?workflowType=machine_learning&viewStateShareKey={_VIEW}"
        )
        for name, value in _experiment_tags(experiment, page).items():
            client.set_experiment_tag(experiment_id, name, value)
    write_json(
        experiment.layout.store,
        {"uri": experiment.store_uri, "experiment_id": experiment_id, "page": page},
    )


@contextmanager
def open_store(experiment: Experiment, writes: bool = True) -> Iterator[MlflowClient]:
    """Yield a client of the store; a failure of the store becomes one line.

    Only one process at a time uses a SQLite store: its lock is next to it. On a server, processes
    that write runs of the same experiment take turns, because each first looks for a run and
    creates it if it is missing.

    Args:
        experiment: the experiment.
        writes: whether the client may write; on a server, readers need not take turns, and a
            SQLite store in a folder of somebody else is read from a copy.

    Raises:
        StoreUnavailable: the store does not answer, or refuses.
    """
    uri = experiment.store_uri
    path = uri.removeprefix("sqlite:///")
    turn: AbstractContextManager[object] = nullcontext()
    try:
        if path != uri and not writes and not os.access(Path(path).parent, os.W_OK):
            with _copy_of(path) as copy:
                yield MlflowClient(copy)
            return
        if path != uri:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            turn = FileLock(f"{path}.lock")
        elif writes:
            turn = Lease(experiment.layout.root / "delivery", "runs are being logged", wait=True)
        with turn:
            yield MlflowClient(with_credentials(uri))
    except _FAILURES as error:
        reason = without_credentials(" ".join(str(_origin(error)).split()))
        shown = f"{reason[:200]}…" if reason[200:] else reason
        raise StoreUnavailable(
            f"{uri}: MLflow failed: {shown}; "
            "the files of the runs are complete, so repeat this step when the store answers"
        ) from None


def _origin(error: BaseException) -> BaseException:
    """Return the database's own error, if layers above it have made it long."""
    origin: BaseException | None = error
    while origin is not None:
        if isinstance(origin, DBAPIError) and origin.orig is not None:
            return origin.orig
        origin = origin.__cause__
    return error


@contextmanager
def _copy_of(database: str) -> Iterator[str]:
    """Yield the URI of a copy of a SQLite store, for a user who may only read its folder."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "mlflow.db")
        address = f"{Path(database).absolute().as_uri()}?mode=ro"
        with (
            closing(sqlite3.connect(address, uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        yield f"sqlite:///{copy}"


def ensure_experiment(
    client: MlflowClient, experiment: Experiment, check_folder: bool = True
) -> str:
    """Return the MLflow experiment's id; create or restore the experiment if necessary.

    Args:
        client: a client of the store.
        experiment: the experiment.
        check_folder: whether to check where a store next to the results keeps artifacts.

    Raises:
        MtdnnError: the store next to the results was created in another folder.
    """
    found = client.get_experiment_by_name(experiment.experiment)
    folder = Path(experiment.results).absolute() / "mlartifacts" / experiment.experiment
    if found and check_folder and not experiment.tracking_uri:
        _check_folder(experiment, found.artifact_location, folder)
    if found is None:
        artifacts = None  # a server has its own place for artifacts
        if not experiment.store_uri.startswith(("http:", "https:")):
            artifacts = folder.as_uri()
        try:
            return _known(client.create_experiment(experiment.experiment, artifacts))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(experiment.experiment)
            if found is None:
                raise
    experiment_id = _known(found.experiment_id)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(experiment_id)
    return experiment_id


def _known(experiment_id: str) -> str:
    if not experiment_id:  # something that is not MLflow, but answers with JSON
        raise MlflowException("the server's answer names no experiment")
    return experiment_id


def _check_folder(experiment: Experiment, artifacts: str, folder: Path) -> None:
    """Refuse a store that would write artifacts of moved or copied results to the old folder."""
    found = Path(url2pathname(urlparse(artifacts).path))
    if found != folder and found.resolve() != folder.resolve():
        raise MtdnnError(
            f"{experiment.results}/mlflow.db: was created for {found.parents[1]}, so artifacts "
            "would go there; delete it, and `mtdnn sync EXPERIMENT.yaml` rebuilds it from the runs"
        )


def _experiment_tags(experiment: Experiment, page: str) -> dict[str, str]:
    """Return the notice, and a view of the runs that shows scores and how the runs differ.

    By default MLflow's page shows neither a metric nor a tag, and its charts begin with the scores
    of auxiliary corpora. At its plain address MLflow opens an experiment as one with agents; the
    notice therefore has a link to the view.

    Args:
        experiment: the experiment.
        page: address of the view.
    """
    measures = union(measures_of(experiment.corpora[name]) for name in targets(experiment))
    names = [measure.column for measure in measures]
    names += PROMOTED if has_answers(experiment) else ()
    columns = [f"metrics.`{name}`" for name in names]
    columns += [f"tags.`{name}`" for name in ("mixture", "weight", "encoder", "variant", "seed")]
    view: dict[str, Any] = {"selectedColumns": columns}
    view |= {"searchFilter": f"tags.{CURRENT} = 'true'"}
    view |= {"orderByKey": columns[0], "orderByAsc": False, **_charts(names)}
    return {
        "mlflow.note.content": note(experiment, f"[Runs and scores]({page})."),
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{_VIEW}": json.dumps(view),
    }


def _charts(metrics: Sequence[str]) -> dict[str, Any]:
    """Return the page of charts with a first section of some metrics; MLflow adds all others."""
    charts = [
        {
            "uuid": f"{_VIEW}-{name}",
            "type": "BAR",
            "metricKey": name,
            "metricSectionId": _VIEW,
            "runsCountToCompare": _RUNS_IN_CHARTS,
            "deleted": False,
            "isGenerated": False,
        }
        for name in metrics
    ]
    section = {"uuid": _VIEW, "name": "Scores", "display": True, "deleted": False}
    section |= {"isReordered": True, "isGenerated": False}
    return {
        "compareRunCharts": charts,
        "compareRunSections": [section],
        "isAccordionReordered": True,
    }


def find_runs(client: MlflowClient, experiment_id: str, fingerprint: str) -> list[Run]:
    """Return the runs in MLflow with this fingerprint, the newest first."""
    return list(client.search_runs([experiment_id], f"tags.fingerprint = '{fingerprint}'"))


def find_others(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
    """Return the runs in MLflow that a run's folder held before, with other fingerprints.

    Args:
        client: a client of the store.
        experiment_id: the experiment in which to search.
        tags: the tags of the run in the folder.
    """
    names = [f"tags.{key} = '{tags[key]}'" for key in _OF_FOLDER]
    query = " and ".join([*names, f"tags.fingerprint != '{tags['fingerprint']}'"])
    runs = client.search_runs([experiment_id], query)
    return [run for run in runs if run.data.tags.get("results") == tags["results"]]


def all_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    """Yield all runs of an experiment, however many pages MLflow needs for them."""
    token = None
    while True:
        page = client.search_runs([experiment_id], page_token=token)
        yield from page
        token = page.token
        if not page or not token:
            return


def results_folder(experiment: Experiment) -> str:
    """Return the experiment's folder, the tag that tells its runs from others on a server."""
    return str(experiment.layout.root.absolute())


def log_metrics(client: MlflowClient, run_id: str, metrics: Sequence[Metric]) -> None:
    """Log metrics in as few calls as MLflow allows."""
    for batch in _batches(metrics, MAX_METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=batch)


def log_params(client: MlflowClient, run_id: str, params: Sequence[Param]) -> None:
    """Log params in as few calls as MLflow allows."""
    for batch in _batches(params, MAX_PARAMS_PER_BATCH):
        client.log_batch(run_id, params=batch)


def log_tags(client: MlflowClient, run_id: str, tags: Sequence[RunTag]) -> None:
    """Log tags in as few calls as MLflow allows."""
    for batch in _batches(tags, MAX_TAGS_PER_BATCH):
        client.log_batch(run_id, tags=batch)


def _batches(entities: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(entities), size):
        check_guards()  # what lost its turn while suspended must not log again what others logged
        yield entities[start : start + size]


def is_unknown(error: MlflowException) -> bool:
    """Return whether the server says that it has no such address, or nothing there."""
    return bool(error.get_http_status_code() == HTTPStatus.NOT_FOUND)  # type: ignore[no-untyped-call]


def save_placeholder(folder: Path, model: LoggedModel) -> None:
    """Write the description of a model whose files are elsewhere, which the registry asks for."""
    from mlflow.models.utils import get_external_mlflow_model_spec

    folder.mkdir()
    get_external_mlflow_model_spec(model).save(str(folder / "MLmodel"))


def save_flavour(trained: Path, folder: Path, task: str, model: LoggedModel) -> None:
    """Write a trained model as MLflow's flavour of transformers, with weights in safetensors.

    transformers has no pipeline for questions since its version 5, and never had one for choices.
    Such a model has the flavour, which opens its class and its tokenizer, but no `predict`.

    Args:
        trained: the folder of the trained model.
        folder: where to write it; does not exist yet.
        task: a key of `AUTO_CLASSES`.
        model: the model in MLflow.
    """
    import torch
    import transformers
    from huggingface_hub import ModelCard
    from mlflow.models import Model
    from mlflow.transformers import save_model
    from transformers.pipelines import SUPPORTED_TASKS

    logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)  # misses a license
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    network = getattr(transformers, AUTO_CLASSES[task]).from_pretrained(trained)
    network.name_or_path = model.name  # else MLflow writes down the folder, and asks the Hub for it
    has_pipeline = task in SUPPORTED_TASKS
    save_model(
        {"model": network, "tokenizer": tokenizer},
        str(folder),
        task=task if has_pipeline else "feature-extraction",
        model_card=ModelCard(f"# {model.name}\n"),
        mlflow_model=Model(model_id=model.model_id, run_id=model.source_run_id),
        # Named here: else MLflow opens the model in another process to see what it imports.
        pip_requirements=[
            f"{each.__name__}=={each.__version__.partition('+')[0]}"
            for each in (transformers, torch)
        ],
    )
    if not has_pipeline:
        saved = Model.load(str(folder))
        del saved.flavors["python_function"]
        saved.signature = None
        saved.flavors["transformers"]["task"] = task
        saved.save(str(folder / "MLmodel"))


def tag_values(values: Mapping[str, object]) -> dict[str, str]:
    """Return tags that every store can hold; those without a value are left out."""
    return {
        name: visible(str(value))[:MAX_TAG_CHARACTERS] for name, value in values.items() if value
    }


def note(experiment: Experiment, link: str = "") -> str:
    """Return the note that MLflow shows with the experiment and each of its runs, in Markdown.

    Args:
        experiment: the experiment.
        link: Markdown to show between title and notice.
    """
    # Each character may become two.
    title, notice = (
        text[: MAX_TAG_CHARACTERS // 5] for text in (experiment.title, experiment.notice or "")
    )
    return " ".join(filter(None, [markdown(sentence(title)), link, markdown(notice)]))
