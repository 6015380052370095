"""The line of a YAML file that sets what a message is about."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from mtdnn.config.yaml_files import compose_yaml, read_yaml
from mtdnn.errors import MtdnnError

_MAX_CHARACTERS = 1000
"""No place of a setting is longer; the rest of a message is not looked at."""


@dataclass(frozen=True)
class _Part:
    """A part of a YAML file: where it starts, and its content."""

    file: str
    line: int
    node: yaml.Node

    @property
    def inner(self) -> dict[str, "_Part"]:
        """What is in a mapping or a list, by key or number."""
        if isinstance(self.node, yaml.MappingNode):
            yaml.SafeLoader("").flatten_mapping(self.node)  # puts the keys of `<<` before its own
            found = [(str(name.value), name, node) for name, node in self.node.value]
        elif isinstance(self.node, yaml.SequenceNode):
            found = [(str(number), node, node) for number, node in enumerate(self.node.value)]
        else:
            found = []
        return {
            key: _Part(self.file, first.start_mark.line + 1, node) for key, first, node in found
        }


@dataclass(frozen=True)
class _Setting:
    """A setting: its value, and the parts of files that set it, the last file first."""

    value: Any
    parts: list[_Part]

    @cached_property
    def inner(self) -> dict[str, "_Setting"]:
        """What is in a mapping or a list, by key or number."""
        items: list[tuple[Any, Any]] = []
        if isinstance(self.value, Mapping):
            items = [*self.value.items()]
        elif isinstance(self.value, list):
            items = [*enumerate(self.value)]
        # Mappings are merged; anything else replaces what earlier files say.
        merged = [*takewhile(lambda part: isinstance(part.node, yaml.MappingNode), self.parts)]
        parts = [part.inner for part in merged or self.parts[:1]]
        return {
            str(key): _Setting(value, [each[str(key)] for each in parts if str(key) in each])
            for key, value in items
        }

    @property
    def place(self) -> _Part | None:
        """The part that sets it; None if it comes from elsewhere."""
        if not self.parts or isinstance(self.value, Mapping):
            return self.parts[0] if self.parts else None
        written = yaml.SafeLoader("").construct_document(self.parts[0].node)
        return self.parts[0] if written == self.value else None


@contextmanager
def naming_lines(
    files: Sequence[Path | str], where: str, settings: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Add the line to messages about settings: `{file}: line {number}: {setting}: {what is wrong}`.

    The line is that of the file that sets the value, or that of the part in which it is missing.
    There is none if the value comes from elsewhere: a default, Snakemake's `--config`.

    Args:
        files: YAML files; the mappings of a later one are merged into those of earlier ones.
        where: what the messages call the files so far.
        settings: the files and `--config` merged; None for one file alone.

    Raises:
        MtdnnError: the one that was raised inside, with lines.
    """
    try:
        yield
    except MtdnnError as error:
        whole: Any = settings if settings is not None or not files else read_yaml(files[0])
        parts = [_Part(str(file), 0, node) for file in files if (node := compose_yaml(file))]
        messages = str(error).split("\n")
        root = _Setting(whole, parts[::-1])
        named = [_with_line(message, where, root) for message in messages]
        raise MtdnnError("\n".join(named)) from None


def _with_line(message: str, where: str, settings: _Setting) -> str:
    """Return a message with its line, if there is one."""
    text = message.removeprefix(f"{where}: ")
    place = None if text == message else _place(text[:_MAX_CHARACTERS], settings)
    return f"{place.file}: line {place.line}: {text}" if place else message


def _place(text: str, settings: _Setting) -> _Part | None:
    """Return what sets the setting that a message is about, or the part in which it is missing.

    Args:
        text: begins with the place, whose parts end with a dot or a colon: `training.epochs: …`.
        settings: all settings.
    """
    found = settings
    while ends := [
        end for end in re.finditer(r"\.|: ", text) if text[: end.start()] in found.inner
    ]:
        # A name may have dots, so the longest counts.
        found, text = found.inner[text[: ends[-1].start()]], text[ends[-1].end() :]
    return None if found is settings else found.place
