"""Two folders exchanged in a single step, or not at all."""

import os

import pytest

from mtdnn.machine import exchange as module
from mtdnn.machine.exchange import exchange


def test_two_folders_are_exchanged(tmp_path):
    for name in "ab":
        (tmp_path / name / f"of {name}").mkdir(parents=True)
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system exchanges nothing")
    assert os.listdir(tmp_path / "a") == ["of b"]
    assert os.listdir(tmp_path / "b") == ["of a"]


def test_a_missing_folder_is_named_and_the_other_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match="missing"):
        exchange(tmp_path / "a", tmp_path / "missing")
    assert os.listdir(tmp_path) == ["a"]


def test_a_system_without_the_call_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module.ctypes, "CDLL", lambda *_, **__: object())
    assert not exchange(tmp_path / "a", tmp_path / "b")
