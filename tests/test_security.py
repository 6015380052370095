"""SECURITY.md: each promise names a test that exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_test_that_a_promise_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text("utf-8"))
    assert len(named) > 15
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {getattr(node, "name", None) for node in tree.body}, f"{path}::{name}"


def test_every_promise_names_a_test():
    sections = (ROOT / "SECURITY.md").read_text(encoding="utf-8").split("\n- ")[1:]
    for promise in sections:
        assert "`tests/" in promise or promise.startswith("It **can**"), promise
