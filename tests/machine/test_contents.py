"""A digest follows the content, and is computed only when the file may have changed."""

import os
import time

import pytest

from mtdnn.machine import contents
from mtdnn.machine.contents import content_digests
from mtdnn.machine.files import sha256


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A file that has been there for a while, its cache, and the files that were read."""
    monkeypatch.setattr(contents, "UNSETTLED_SECONDS", -1)
    file = tmp_path / "rows.tsv"
    file.write_text("abc\n")
    read = []
    monkeypatch.setattr(contents, "sha256", lambda path: read.append(path) or sha256(path))
    return file, tmp_path / "cache.json", read


def test_a_file_is_read_once(settled):
    file, cache, read = settled
    first = content_digests([file], cache)
    assert first == content_digests([file], cache) == {file: sha256(file)}
    assert read == [file]


def test_the_same_size_and_date_do_not_hide_a_change(settled):
    file, cache, _ = settled
    before, dates = content_digests([file], cache), file.stat()
    file.write_text("acb\n")
    os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert file.stat().st_mtime_ns == dates.st_mtime_ns
    assert content_digests([file], cache) != before
    assert content_digests([file], cache) == {file: sha256(file)}


def test_a_file_that_has_just_changed_is_read_again(tmp_path):
    file, cache = tmp_path / "rows.tsv", tmp_path / "cache.json"
    file.write_text("abc\n")
    content_digests([file], cache)
    assert not cache.exists()
    assert time.time() - file.stat().st_mtime < contents.UNSETTLED_SECONDS


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": "b"}', "\x00"])
def test_a_damaged_cache_costs_nothing_but_time(settled, content):
    file, cache, _ = settled
    cache.write_text(content)
    assert content_digests([file], cache) == {file: sha256(file)}


def test_a_cache_that_cannot_be_written_is_not_an_error(settled):
    file, cache, _ = settled
    cache.mkdir()
    assert content_digests([file], cache) == {file: sha256(file)}


@pytest.mark.parametrize("error", [-600.0, 600.0])
def test_a_wrong_clock_does_not_make_a_file_look_settled(tmp_path, monkeypatch, error):
    """A file on a network has dates of its server's clock."""
    file, cache, right = tmp_path / "rows.tsv", tmp_path / "cache.json", time.time
    file.write_text("abc\n")
    monkeypatch.setattr(time, "time", lambda: right() + error)
    content_digests([file], cache)
    assert not cache.exists()
