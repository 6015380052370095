"""Differences between nested mappings have dotted keys."""

import pytest

from mtdnn.workflow.differing import differences


@pytest.mark.parametrize(
    ("found", "expected", "result"),
    [
        ({"a": 1, "b": {"c": [2]}}, {"b": {"c": [2]}, "a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, [("a.c", 2, 3)]),
        ({"a": 1}, {"b": None}, [("a", 1, None)]),
        ({"a": {"b": 1}}, {"a": 5}, [("a", {"b": 1}, 5)]),
        ([1], [2], [("", [1], [2])]),
    ],
)
def test_each_value_that_differs_is_named(found, expected, result):
    assert list(differences(found, expected)) == result
