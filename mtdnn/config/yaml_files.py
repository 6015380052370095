"""YAML files, read safely and within limits, and written so that reading restores them."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from mtdnn.config.settings import Closed
from mtdnn.errors import MtdnnError

# No experiment is larger; a larger file would only exhaust memory or time.
MAX_YAML_BYTES = 1 << 20
MAX_YAML_VALUES = 100_000
_OF_TAGS = (LookupError, AttributeError, TypeError)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys, which YAML would silently overwrite.

    Aliases may repeat a part, but neither recursively nor beyond `MAX_YAML_VALUES`.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.items():
            if count > 1 and key != "<<":
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} occurs twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)

    def get_single_node(self) -> yaml.Node | None:
        document = super().get_single_node()
        if document is not None and _values(document, {}) > MAX_YAML_VALUES:
            problem = f"expands to more than {MAX_YAML_VALUES} values"
            raise yaml.MarkedYAMLError(problem=problem)
        return document


def _values(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Return the number of values of a node after all its aliases are expanded."""
    if node not in known:
        known[node] = MAX_YAML_VALUES + 1  # a node that contains itself has infinitely many
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [each for pair in inner for each in pair]
        known[node] = 1 + sum(_values(each, known) for each in inner)
    return known[node]


def read_yaml(path: Path | str) -> Any:
    """Read a file with one YAML document.

    Raises:
        MtdnnError: the file is missing, too large or not valid YAML; one line with file and place.
    """
    try:
        return yaml.load(_read(path), Loader=_Loader)
    # The library looks up a value that does not fit its tag (`!!bool maybe`) without checking it.
    except (yaml.YAMLError, RecursionError, ValueError, *_OF_TAGS) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        problem = "a value does not fit its tag" if isinstance(error, _OF_TAGS) else problem
        raise MtdnnError(f"{path}: {place}not valid YAML: {problem.splitlines()[0]}") from None


def compose_yaml(path: Path | str) -> yaml.Node | None:
    """Return the nodes of a file that `read_yaml` has read, which know their lines."""
    node: yaml.Node | None = yaml.compose(_read(path), Loader=_Loader)
    return node


def _read(path: Path | str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        raise MtdnnError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise MtdnnError(f"{path}: not readable: {error}") from None
    if len(content) > MAX_YAML_BYTES:
        raise MtdnnError(f"{path}: larger than {MAX_YAML_BYTES} bytes, the limit for an experiment")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MtdnnError(f"{path}: not readable: {error}") from None


def dump_yaml(model: Closed) -> str:
    """Return a settings object as YAML, from which `load` or `load_run` restores an equal one."""
    mapping = model.model_dump(mode="json")
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """A safe dumper that escapes unusual line breaks and invisible characters."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
