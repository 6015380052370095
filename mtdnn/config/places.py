"""The line of a YAML file that sets what a message is about."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from mtdnn.config.yaml_files import compose_yaml, read_yaml
from mtdnn.errors import MtdnnError


@dataclass(frozen=True)
class _Part:
    """A part of a YAML file: where it starts, and its content."""

    file: str
    line: int
    node: yaml.Node


@contextmanager
def naming_lines(
    files: Sequence[Path | str], where: str, settings: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Add the line to messages about settings: `{file}: line {number}: {setting}: {what is wrong}`.

    The line is that of the file that sets the value, or that of the part in which it is missing.
    There is none if the value comes from elsewhere: a default, Snakemake's `--config`.

    Args:
        files: YAML files; the mappings of a later one are merged into those of earlier ones.
        where: how the messages name the files now.
        settings: what came of the files and `--config`; None for one file alone.

    Raises:
        MtdnnError: the one that was raised inside, with lines.
    """
    try:
        yield
    except MtdnnError as error:
        whole: Any = settings if settings is not None or not files else read_yaml(files[0])
        parts = [_Part(str(file), 0, node) for file in files if (node := compose_yaml(file))]
        messages = str(error).split("\n")
        named = [_with_line(message, where, parts[::-1], whole) for message in messages]
        raise MtdnnError("\n".join(named)) from None


def _with_line(message: str, where: str, parts: list[_Part], settings: Any) -> str:
    """Return a message with its line, if there is one."""
    text = message.removeprefix(f"{where}: ")
    found = None if text == message else _find(text, parts, settings)
    return f"{found.file}: line {found.line}: {text}" if found else message


def _find(text: str, parts: list[_Part], value: Any) -> _Part | None:
    """Return the part that sets what `text` begins with, as in `training.epochs: must be …`.

    Args:
        text: the message; a part of its place may also end with a colon.
        parts: the same part of each file, the last file first.
        value: the merged content of the parts.
    """
    found = None
    while key := max(
        (key for key in _inner(value) if text.startswith((f"{key}.", f"{key}: "))),
        key=len,
        default="",
    ):
        parts = [inner for part in parts if (inner := _inner_part(part, key))]
        if not parts:
            return None
        found, value = parts[0], _inner(value)[key]
        # Mappings are merged; anything else replaces what earlier files say.
        parts = [*takewhile(lambda part: isinstance(part.node, yaml.MappingNode), parts)]
        parts = parts or [found]
        text = text[len(key) + 1 :].lstrip()
    if found is None or isinstance(value, Mapping):
        return found
    return found if yaml.SafeLoader("").construct_document(found.node) == value else None


def _inner(value: Any) -> dict[str, Any]:
    """Return what is in a mapping or a list, by key or number."""
    if isinstance(value, Mapping):
        return {str(key): inner for key, inner in value.items()}
    return {str(n): inner for n, inner in enumerate(value)} if isinstance(value, list) else {}


def _inner_part(part: _Part, key: str) -> _Part | None:
    """Return what a part has at a key or number."""
    node, file = part.node, part.file
    if isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
        inner = node.value[int(key)]
        return _Part(file, inner.start_mark.line + 1, inner)
    if isinstance(node, yaml.MappingNode):
        yaml.SafeLoader("").flatten_mapping(node)  # puts the keys of `<<` before its own
        for name, inner in reversed(node.value):
            if name.value == key:
                return _Part(file, name.start_mark.line + 1, inner)
    return None
