"""Load an experiment from its YAML file, or report every mistake in one line."""

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mtdnn.config.credentials import take_credentials
from mtdnn.config.experiment import Experiment, meant, nearest
from mtdnn.config.layout import RunId
from mtdnn.config.places import naming_lines
from mtdnn.config.settings import (
    CHARACTERS,
    WORD_OR_NUMBER,
    BalancingKind,
    Closed,
    CombinationKind,
    PolicyKind,
    RunSettings,
)
from mtdnn.config.yaml_files import read_yaml
from mtdnn.errors import MtdnnError

Settings = TypeVar("Settings", bound=Closed)


def load(path: Path | str) -> Experiment:
    """Read and check an experiment's YAML file.

    Raises:
        MtdnnError: one line for each mistake, with the file, its line, the key and what to do.
    """
    mapping = read_yaml(path)
    with naming_lines([path], str(path)):
        experiment = parse(mapping, where=str(path))
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
    own = [row for table in experiment.tables.values() for row in table.own_rows]
    wrong: list[str] = []
    for name, row in itertools.product(experiment.variants, own[:1]):
        run = RunId(row.encoder, row.mixture, row.weight, name, 0)
        try:
            experiment.resolve(run)
        except ValidationError as error:
            wrong += _mistakes(error, f"{where}: variants.{name}", RunSettings, None)
    if wrong:
        raise MtdnnError("\n".join(wrong))
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
    if halves := list(_half_pairs(mapping)):
        raise MtdnnError("\n".join(f"{where}: {line}" for line in halves))
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise MtdnnError("\n".join(_mistakes(error, where, model, mapping))) from None


def _half_pairs(value: Any, place: str = "") -> Iterator[str]:
    """Yield a line for each text that no file can hold, because of half a surrogate pair."""
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        yield f"{place}: contains half a surrogate pair, which is not text".removeprefix(": ")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _half_pairs(key, place)
            yield from _half_pairs(inner, f"{place}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _half_pairs(inner, f"{place}.{number}")


def _mistakes(
    error: ValidationError, where: str, model: type[Closed], mapping: Any
) -> Iterator[str]:
    """Yield a line for each mistake: file, key, what is wrong and what to do.

    Args:
        error: pydantic's mistakes.
        where: the name of the file.
        model: the settings that were checked.
        mapping: what they were read from; None if that is not known.
    """
    items = [(item, *_place(item["loc"], mapping)) for item in error.errors()]
    types: dict[str, dict[str, None]] = {}
    for _, place, kind in items:
        types.setdefault(place, {}).update({_TYPES[kind]: None} if kind else {})
    lines = []
    for item, place, kind in items:
        given, message = item.get("input"), _wording(item)
        if item["type"] == "extra_forbidden":
            message = f"unknown key{nearest(str(item['loc'][-1]), _siblings(model, item['loc']))}"
        elif item["type"] == "missing":
            message = "is missing"
        elif kind:
            message = f"must be {' or '.join(types[place])}"
        elif isinstance(given, str | int | float | bool) or given is None:
            shown = repr(given)
            message = f"{message}, not {shown if len(shown) <= 80 else shown[:79] + '…'}"
            if item["type"] == "literal_error":
                message += meant(str(given), _QUOTED.findall(item["ctx"]["expected"]))
        elif item["type"] == "union_tag_invalid":
            message += meant(item["ctx"]["tag"], _QUOTED.findall(item["ctx"]["expected_tags"]))
        lines += [": ".join(filter(None, (where, place, each))) for each in message.splitlines()]
    yield from dict.fromkeys(lines)


# Kinds of unions, which pydantic puts among the keys of a place.
_KINDS = (
    *("hub", "files", "wheel", "synthetic", "[key]"),
    *get_args(PolicyKind),
    *get_args(CombinationKind),
    *get_args(BalancingKind),
    *WORD_OR_NUMBER,
)
_TYPES = {
    "str": "text",
    "int": "a whole number",
    "list[str]": "a list of texts",
    "list[int]": "a list of whole numbers",
}


def _place(parts: tuple[int | str, ...], mapping: Any) -> tuple[str, str | None]:
    """Return the key of a mistake, and the type in a union that its value does not have.

    pydantic's place has more parts than the keys in the file: kinds of sources, types in unions.
    """
    keys: list[str] = []
    value = mapping
    told = False  # the kind of `value`, which comes first, although a key may have its name
    for number, part in enumerate(parts, 1):
        if isinstance(value, Mapping) and value.get("kind") == part and not told:
            told = True
            continue
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        inside = in_list or (isinstance(value, Mapping) and part in value)
        if not inside and part in _TYPES:
            return ".".join(keys), str(part)
        named = number == len(parts) and part in get_args(PolicyKind)  # the key of that name
        if inside or part not in _KINDS or named:
            keys.append(str(part))
            value, told = value[part] if inside else None, False
    return ".".join(keys), None


_QUOTED = re.compile(r"'([^']*)'")

WORDING = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys to values",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_attributes_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "int_parsing_size": "must be a whole number with fewer digits",
    "invalid_key": "keys must be text",
    "recursion_loop": "must not contain itself",
    "string_pattern_mismatch": "must consist of {characters}",
    "string_too_long": "must have at most {max_length} characters",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "too_short": "needs at least {min_length}",
    "union_tag_invalid": "kind must be one of {expected_tags}",
    "union_tag_not_found": "kind is missing",
}
"""Our words for each type of mistake that pydantic finds in settings."""


def _wording(item: ErrorDetails) -> str:
    """Return what is wrong, in our own words."""
    values = item.get("ctx", {})
    if "error" in values:  # raised by one of our own validators
        return str(values["error"])
    shown = {k: f"{v:g}" if isinstance(v, float) else v for k, v in values.items()}
    if "pattern" in values:
        shown["characters"] = CHARACTERS[values["pattern"]]
    return WORDING.get(item["type"], "is not valid").format(**shown)


def _siblings(model: type[Closed], place: tuple[int | str, ...]) -> list[str]:
    """Return the keys allowed at `place`, found by walking the models from the root."""
    models = [model]
    for part in place[:-1]:
        inner: list[type[Closed]] = []
        for each in models:
            field = each.model_fields.get(str(part))
            inner += [each] if field is None else _models_in(field.annotation)
        of_kind = [each for each in inner if part in _kinds_of(each)]
        models = of_kind or inner or models
    return [key for each in models for key in each.model_fields]


def _kinds_of(model: type[Closed]) -> tuple[Any, ...]:
    """Return the names of a settings class in a union; empty if it is in none."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def _models_in(annotation: Any) -> list[type[Closed]]:
    """Return the settings classes that occur anywhere in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Closed):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]
