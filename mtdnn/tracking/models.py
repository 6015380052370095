"""Trained models in MLflow: one logged model for each run, beside which its scores stand.

By default MLflow has a model's place and digests, and no weights. They can be uploaded as a model
of transformers, in safetensors, where a class of transformers has the target's head.
"""

import re
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import WEIGHTS, RunFolder
from mtdnn.config.settings import RunSettings
from mtdnn.machine.files import read_product
from mtdnn.tracking import descriptions
from mtdnn.tracking.client import (
    AUTO_CLASSES,
    LoggedModel,
    LoggedModelOutput,
    MlflowClient,
    MlflowException,
    Run,
    is_unknown,
    results_folder,
    save_flavour,
    save_placeholder,
    tag_values,
)
from mtdnn.tracking.content import Source, parameters

EXTERNAL = "mlflow.model.isExternal"
REGISTERED = "registered"
_NOT_IN_NAMES = r"[/:.%\"']"

TASKS = {
    "question_answering": "question-answering",
    "multiple_choice": "multiple-choice",
    "sequence_classification": "text-classification",
    "regression": "text-classification",
    "token_classification": "token-classification",
}
"""The name of a task family in MLflow and transformers."""

_said: set[str] = set()


class Logged(NamedTuple):
    """A run's model in MLflow.

    Attributes:
        id: the model's id.
        scores: names of the scores that it has already.
    """

    id: str
    scores: frozenset[str]


@dataclass(frozen=True)
class RunModel:
    """The trained model of a run, to be logged.

    Attributes:
        experiment: the experiment.
        settings: the run's settings.
        source: the run's files.
        name: the run's name in MLflow.
    """

    experiment: Experiment
    settings: RunSettings
    source: Source
    name: str

    def ensure(self, client: MlflowClient, run_id: str) -> Logged | None:
        """Return the model of an MLflow run; create it unless it is complete.

        Returns:
            None if the server knows no logged models, which older ones do not; a line says so once.
        """
        run = client.get_run(run_id)
        found = _find(client, run.info.experiment_id, run_id, self.experiment.store_uri)
        if found is None:
            return None
        task, tags = self._task(), self._tags()
        kept: LoggedModel | None = None
        for model in found:
            is_complete = str(model.status) == "READY" and tags.items() <= model.tags.items()
            if kept is None and is_complete:
                kept = model
            elif REGISTERED not in model.tags:
                client.delete_logged_model(model.model_id)
        if kept is None:
            kept = self._create(client, run.info.experiment_id, run_id)
        outputs = run.outputs.model_outputs if run.outputs else []
        if kept.model_id not in {each.model_id for each in outputs}:
            client.log_outputs(run_id, [LoggedModelOutput(kept.model_id, step=0)])
        if self.experiment.tracking_models == "register" and task and REGISTERED not in kept.tags:
            self._register(client, kept, run_id)
        return Logged(kept.model_id, frozenset(metric.key for metric in kept.metrics or ()))

    def _create(self, client: MlflowClient, experiment_id: str, run_id: str) -> LoggedModel:
        files, settings, task = RunFolder(self.source.folder), self.settings, self._task()
        model = client.create_logged_model(
            experiment_id,
            name=re.sub(_NOT_IN_NAMES, "_", self.name),
            source_run_id=run_id,
            tags=self._tags(),
            params=parameters(files.config),
            model_type=settings.corpora[settings.target].family,
        )
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "model")
            if task:
                save_flavour(files.model, target, task, model)
            else:
                save_placeholder(target, model)
            client.log_model_artifacts(model.model_id, str(target))
        return client.finalize_logged_model(model.model_id, "READY")

    def _register(self, client: MlflowClient, model: LoggedModel, run_id: str) -> None:
        """Make the model the newest version of the registered model of its row."""
        settings = self.settings
        name = f"{self.experiment.experiment}-{settings.id.row_path.replace('/', '-')}"
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        if model.artifact_location not in {version.source for version in versions}:
            tags = tag_values({"seed": str(settings.seed), "notice": self.experiment.notice})
            # Not the model's `models:/` address, which MLflow looks for in its default store.
            client.create_model_version(
                name, model.artifact_location, run_id, tags, model_id=model.model_id
            )
        client.set_logged_model_tags(model.model_id, {REGISTERED: name})

    def _task(self) -> str | None:
        """The task for which the weights are uploaded; None if they are not."""
        if self.experiment.tracking_models == "reference":
            return None
        files, settings = RunFolder(self.source.folder), self.settings
        task = TASKS.get(settings.corpora[settings.target].family)
        if not all(path.exists() for path in files.weights()):
            reason = "its weights are not here"
        elif task is None or not _has_head(files, task):
            reason = "no class of transformers has its head"
        else:
            return task
        _say_once(f"{files.model}: {reason}; MLflow gets its place and its digests alone")
        return None

    def _tags(self) -> dict[str, str]:
        """The tags of the model: where it is, and by which digests to know it."""
        experiment, source, settings = self.experiment, self.source, self.settings
        results, task = Path(experiment.results), self._task()
        folder = RunFolder(source.folder).model
        with suppress(ValueError):  # imported from elsewhere
            folder = folder.absolute().relative_to(results.absolute())
        tags: dict[str, object] = {
            EXTERNAL: None if task else "true",
            "stored": "weights" if task else "reference",
            "folder": folder.as_posix(),
            "fingerprint": source.fingerprint,
            "encoder": settings.encoder_name,
            "mixture": settings.mixture,
            "weight": f"{settings.weight:g}",
            "variant": settings.variant,
            "seed": str(settings.seed),
            "notice": experiment.notice,
            "mlflow.note.content": descriptions.of_run(experiment, settings, source.metrics),
            "results": results_folder(experiment),
        }
        digests = source.model.get("files", {})
        tags |= {f"sha256.{name}": digests.get(name) for name in WEIGHTS}
        return tag_values(tags)


def delete_run(client: MlflowClient, experiment: Experiment, run: Run) -> None:
    """Delete an MLflow run with its model; a registered model stays."""
    info = run.info
    for model in _find(client, info.experiment_id, info.run_id, experiment.store_uri) or ():
        if REGISTERED not in model.tags:
            client.delete_logged_model(model.model_id)
    client.delete_run(info.run_id)


def _find(
    client: MlflowClient, experiment_id: str, run_id: str, uri: str
) -> list[LoggedModel] | None:
    """The models of an MLflow run, the newest first; None if the server knows none."""
    try:
        return list(client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"))
    except MlflowException as error:
        if not is_unknown(error):
            raise
    _say_once(
        f"{uri}: this server has no logged models, as before MLflow 3; runs are logged without them"
    )
    return None


def _has_head(files: RunFolder, task: str) -> bool:
    """Whether a model's folder is that of a class of transformers with the task's head."""
    names = read_product(files.model / "config.json").get("architectures") or []
    return any(name.endswith(AUTO_CLASSES[task].removeprefix("AutoModel")) for name in names)


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        print(f"mtdnn: {line}", file=sys.stderr, flush=True)
