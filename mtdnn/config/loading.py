"""From a YAML file to a checked `Experiment`, or one line for each mistake."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtdnn.config.experiment import Experiment, nearest
from mtdnn.config.layout import RunId
from mtdnn.config.settings import Closed, RunSettings
from mtdnn.config.yaml_files import read_yaml
from mtdnn.errors import MtdnnError


def load(path: Path | str) -> Experiment:
    """Read and check an experiment's YAML file.

    Raises:
        MtdnnError: one line for each mistake, with file, key and remedy.
    """
    experiment = parse(read_yaml(path), where=str(path))
    return with_lock(experiment, path)


def with_lock(experiment: Experiment, path: Path | str) -> Experiment:
    """The experiment with its lock file's place filled in: beside its YAML file at `path`."""
    if experiment.lock:
        return experiment
    return experiment.model_copy(update={"lock": str(Path(path).with_suffix(".lock.json"))})


def parse(mapping: Any, where: str) -> Experiment:
    """Check an experiment that was already read; `where` names its file in messages."""
    experiment = validate(Experiment, mapping, where)
    for name in experiment.variants:
        some_row = next(row for table in experiment.tables.values() for row in table.rows)
        run = RunId(some_row.encoder, some_row.mixture, some_row.qa_weight, name, 0)
        try:
            experiment.resolve(run)
        except ValidationError as error:
            raise MtdnnError("\n".join(_mistakes(error, f"{where}: variants.{name}"))) from None
    return experiment


def load_run(path: Path | str) -> RunSettings:
    """Read a run's resolved `config.yaml`."""
    return validate(RunSettings, read_yaml(path), str(path))


def validate(model: type[Closed], mapping: Any, where: str) -> Any:
    """`model` from a mapping, or an `MtdnnError` with one line for each mistake."""
    if not isinstance(mapping, Mapping):
        raise MtdnnError(f"{where}: must be a mapping of keys to values")
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise MtdnnError("\n".join(_mistakes(error, where))) from None


_KINDS = ("hub", "files", "wheel", "synthetic")


def _mistakes(error: ValidationError, where: str) -> Iterator[str]:
    """One line for each mistake: file, key, what is wrong, what would be right."""
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if part not in _KINDS)
        message = item["msg"].removeprefix("Value error, ")
        given = item.get("input")
        if item["type"] == "extra_forbidden":
            message = f"unknown key{nearest(str(item['loc'][-1]), _siblings(error, item['loc']))}"
        elif item["type"] == "missing":
            message = "is missing"
        elif isinstance(given, str | int | float | bool) or given is None:
            shown = repr(given)
            message = f"{message}, not {shown if len(shown) <= 80 else shown[:79] + '…'}"
        for line in message.splitlines():
            yield ": ".join(part for part in (where, key, line) if part)


def _siblings(error: ValidationError, place: tuple) -> list[str]:
    """Keys allowed at `place`, found by walking the models from the root."""
    models: list[Any] = [_MODELS[error.title]]
    for part in place[:-1]:
        following: list[Any] = []
        for model in models:
            fields = getattr(model, "model_fields", {})
            if part in fields:
                following += _models_in(fields[part].annotation)
            elif not isinstance(part, str) or part not in fields:
                following.append(model)
        models = following or models
    return [key for model in models for key in model.model_fields]


def _models_in(annotation: Any) -> list[type[Closed]]:
    """Settings classes named anywhere inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Closed):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


_MODELS = {model.__name__: model for model in (Experiment, RunSettings)}
