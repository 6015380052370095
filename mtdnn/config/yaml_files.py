"""YAML files: read safely and within limits, written so that they read back equal."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from mtdnn.config.settings import Closed
from mtdnn.errors import MtdnnError

# No experiment is that large; a file that is was made to exhaust memory or patience.
LARGEST_YAML_BYTES = 1 << 20
MOST_YAML_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a repeated key is a mistake instead of a silent choice.

    Aliases may repeat a part, but not without end, nor inside of itself.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.items():
            if count > 1 and key != "<<":
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)

    def get_single_node(self) -> yaml.Node | None:
        document = super().get_single_node()
        if document is not None and _values(document, {}) > MOST_YAML_VALUES:
            raise yaml.MarkedYAMLError(problem="its aliases make it larger than any experiment")
        return document


def _values(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """How many values a node has once all its aliases are written out."""
    if node not in known:
        known[node] = MOST_YAML_VALUES + 1  # what holds itself has no end
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [each for pair in inner for each in pair]
        known[node] = 1 + sum(_values(each, known) for each in inner)
    return known[node]


def read_yaml(path: Path | str) -> Any:
    """Read one YAML document, or fail with one line that names file and place."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LARGEST_YAML_BYTES + 1)
    except FileNotFoundError:
        raise MtdnnError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise MtdnnError(f"{path}: not readable: {error}") from None
    if len(text) > LARGEST_YAML_BYTES:
        raise MtdnnError(f"{path}: is larger than {LARGEST_YAML_BYTES} bytes, as no experiment is")
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise MtdnnError(f"{path}: {place}not valid YAML: {problem.splitlines()[0]}") from None


def dump_yaml(model: Closed) -> str:
    """A settings object as YAML that `load` and `load_run` read back to an equal one."""
    mapping = model.model_dump(mode="json")
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Safe YAML in which rare line breaks and invisible characters are written as escapes."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
