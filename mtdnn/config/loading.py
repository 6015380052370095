"""Load an experiment from its YAML file, or report every mistake in one line."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mtdnn.config.credentials import take_credentials
from mtdnn.config.experiment import Experiment, nearest
from mtdnn.config.layout import RunId
from mtdnn.config.settings import Closed, RunSettings
from mtdnn.config.yaml_files import read_yaml
from mtdnn.errors import MtdnnError

Settings = TypeVar("Settings", bound=Closed)


def load(path: Path | str) -> Experiment:
    """Read and check an experiment's YAML file.

    Raises:
        MtdnnError: one line for each mistake, with the file, the key and what to do.
    """
    experiment = parse(read_yaml(path), where=str(path))
    return with_lock(experiment, path)


def with_lock(experiment: Experiment, path: Path | str) -> Experiment:
    """Return the experiment with a lock file: by default the one next to its YAML file `path`."""
    if experiment.lock:
        return experiment
    return experiment.model_copy(update={"lock": str(Path(path).with_suffix(".lock.json"))})


def parse(mapping: Any, where: str) -> Experiment:
    """Check an experiment that was read from YAML.

    User and password of the tracking server move to the environment of this process.

    Args:
        mapping: the content of the YAML file.
        where: the name of the file, for messages.

    Raises:
        MtdnnError: one line for each mistake.
    """
    uri = mapping.get("tracking_uri") if isinstance(mapping, Mapping) else None
    if isinstance(uri, str):
        mapping = {**mapping, "tracking_uri": take_credentials(uri, f"{where}: tracking_uri")}
    experiment = validate(Experiment, mapping, where)
    for name in experiment.variants:
        row = next(row for table in experiment.tables.values() for row in table.rows)
        run = RunId(row.encoder, row.mixture, row.qa_weight, name, 0)
        try:
            experiment.resolve(run)
        except ValidationError as error:
            raise MtdnnError("\n".join(_mistakes(error, f"{where}: variants.{name}"))) from None
    return experiment


def load_run(path: Path | str) -> RunSettings:
    """Read the resolved settings of a run.

    Raises:
        MtdnnError: the file is missing, broken or mistaken.
    """
    try:
        mapping = read_yaml(path)
    except MtdnnError as error:
        raise MtdnnError(f"{error}; `mtdnn resolve` writes it again") from None
    return validate(RunSettings, mapping, str(path))


def validate(model: type[Settings], mapping: Any, where: str) -> Settings:
    """Return a `model` from a mapping.

    Raises:
        MtdnnError: one line for each mistake; `where` names the file in it.
    """
    if not isinstance(mapping, Mapping):
        raise MtdnnError(f"{where}: must be a mapping of keys to values")
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise MtdnnError("\n".join(_mistakes(error, where))) from None


_KINDS = ("hub", "files", "wheel", "synthetic")


def _mistakes(error: ValidationError, where: str) -> Iterator[str]:
    """Yield a line for each mistake: file, key, what is wrong and what to do."""
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if part not in _KINDS)
        message = _wording(item)
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


_WORDING = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys to values",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_attributes_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "string_pattern_mismatch": "must consist of the characters that {pattern} allows",
    "string_type": "must be text",
    "too_short": "needs at least {min_length}",
    "union_tag_invalid": "kind must be one of {expected_tags}",
    "union_tag_not_found": "kind is missing",
}


def _wording(item: ErrorDetails) -> str:
    """Return what is wrong, in our own words."""
    template = _WORDING.get(item["type"])
    if template is None:
        return item["msg"].removeprefix("Value error, ")
    return template.format(**item.get("ctx", {}))


def _siblings(error: ValidationError, place: tuple[int | str, ...]) -> list[str]:
    """Return the keys allowed at `place`, found by walking the models from the root."""
    models: list[type[Closed]] = [_MODELS[error.title]]
    for part in place[:-1]:
        inner: list[type[Closed]] = []
        for model in models:
            field = model.model_fields.get(str(part))
            inner += [model] if field is None else _models_in(field.annotation)
        models = inner or models
    return [key for model in models for key in model.model_fields]


def _models_in(annotation: Any) -> list[type[Closed]]:
    """Return the settings classes that occur anywhere in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Closed):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


_MODELS: dict[str, type[Closed]] = {model.__name__: model for model in (Experiment, RunSettings)}
