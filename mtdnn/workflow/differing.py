"""Finds where two nested mappings differ."""

from collections.abc import Iterator
from typing import Any


def differences(found: Any, expected: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key of each value that differs, with both values.

    Args:
        found: a value, or a mapping of keys to values or further mappings.
        expected: what it should equal; a key that one of them lacks counts as None there.
        key: the dotted key of both; empty at the top.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in {**found, **expected}:
            inner = f"{key}.{name}".lstrip(".")
            yield from differences(found.get(name), expected.get(name), inner)
    elif found != expected:
        yield key, found, expected
