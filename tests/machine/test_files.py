"""Files: complete or absent, readable or refused in one line, identified by digests."""

import errno
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from mtdnn.errors import MtdnnError
from mtdnn.machine import files
from mtdnn.machine.files import (
    digest,
    flush,
    read_columns,
    read_json,
    read_portions,
    read_product,
    replacing,
    save_tensors,
    sha256,
    write_json,
    write_text,
)


def write_folder(target: Path, *names: str) -> None:
    with replacing(target) as draft:
        draft.mkdir()
        for name in names:
            (draft / name).write_text(name)


def test_a_file_appears_when_its_block_ends(tmp_path):
    target = tmp_path / "new" / "file"
    with replacing(target) as draft:
        draft.write_text("content")
        assert draft.name == target.name and not target.exists()
    assert target.read_text() == "content"
    assert os.listdir(target.parent) == ["file"]


def test_a_file_stays_as_it_was_when_its_block_fails(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_replaces_another_as_a_whole(tmp_path):
    target = tmp_path / "folder"
    write_folder(target, "a", "b")
    write_folder(target, "c")
    assert os.listdir(target) == ["c"]
    with pytest.raises(RuntimeError), replacing(target) as draft:
        draft.mkdir()
        raise RuntimeError
    assert os.listdir(target) == ["c"]
    assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_is_there_at_every_moment_while_it_is_replaced(tmp_path, monkeypatch):
    """Unless the file system cannot exchange folders, no step of a replacement leaves a gap."""
    target = tmp_path / "folder"
    write_folder(target, "a")
    for name in ("rename", "replace"):
        monkeypatch.setattr(files.os, name, None)  # in two steps there is a moment between them
    write_folder(target, "b")
    assert os.listdir(target) == ["b"]
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_folder_comes_back_where_folders_cannot_be_exchanged(tmp_path, monkeypatch, error):
    monkeypatch.setattr(files, "exchange", lambda *_: False)
    target = tmp_path / "folder"
    write_folder(target, "a")
    write_folder(target, "b")
    assert os.listdir(target) == ["b"]
    rename = os.rename

    def interrupted(old, new):
        if Path(old).parent != tmp_path and new == target and Path(old).name == "folder":
            raise error
        rename(old, new)

    monkeypatch.setattr(files.os, "rename", interrupted)
    with pytest.raises(type(error)):
        write_folder(target, "c")
    assert os.listdir(target) == ["b"]
    assert os.listdir(tmp_path) == ["folder"]


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, replacing(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file")


def test_a_flush_reaches_every_file_of_a_folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "folder", "a", "b")
    write_folder(tmp_path / "folder" / "inner", "c")
    flushed = []
    monkeypatch.setattr(files.os, "fsync", flushed.append)
    flush(tmp_path / "folder")
    flush(tmp_path / "folder" / "a")
    assert len(flushed) == 4


def test_json_survives_being_written_and_read(tmp_path):
    value = {"b": [1, 2.5, None, "ä"], "a": {"nested": True}}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert "ä" in text and text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), [float("inf")]])
def test_json_without_finite_numbers_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", value)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "file.json"
    with pytest.raises(MtdnnError, match=r"file.json: no such file$"):
        read_json(path)
    path.write_bytes(content)
    with pytest.raises(MtdnnError, match=r"file.json: not readable as JSON: "):
        read_json(path)


def test_a_product_that_is_missing_or_broken_can_be_made_again(tmp_path):
    path = tmp_path / "file.json"
    with pytest.raises(MtdnnError, match=r"file.json: no such file; repeat the step that writes"):
        read_product(path)
    path.write_bytes(b"{")
    with pytest.raises(MtdnnError, match=r"not readable as JSON: .*; delete it and repeat the st"):
        read_product(path)
    path.write_bytes(b"[]")
    with pytest.raises(MtdnnError, match=r"must be a JSON object; delete it and repeat the step"):
        read_product(path)
    path.write_bytes(b"{}")
    assert read_product(path) == {}


def test_columns_of_a_table_are_read_and_missing_ones_are_named(tmp_path):
    path = tmp_path / "table.parquet"
    with pytest.raises(MtdnnError, match=r"table.parquet: no such file$"):
        read_columns(path, ["a"])
    pq.write_table(pa.table({"a": [1], "b": [2]}), path)
    assert read_columns(path, ["a"]).to_pydict() == {"a": [1]}
    assert [each.to_pydict() for each in read_portions(path, 1, ["b"])] == [{"b": [2]}]
    with pytest.raises(MtdnnError, match=r"table.parquet: .*No match for FieldRef.Name\(c\)"):
        read_columns(path, ["a", "c"])
    with pytest.raises(MtdnnError, match=r"table.parquet: has no column c"):
        list(read_portions(path, 1, ["a", "c"]))
    write_text(path, "PAR1")
    with pytest.raises(MtdnnError, match=r"table.parquet: not readable: ") as caught:
        read_columns(path, ["a"])
    assert "\n" not in str(caught.value)


def test_a_file_whose_rows_are_damaged_is_named_even_when_read_in_portions(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = {"text": [f"the text of row {number}" for number in range(5000)]}
    pq.write_table(pa.table(rows), path, compression="zstd")
    read = [row for batch in read_portions(path, 700) for row in batch["text"].to_pylist()]
    assert read == rows["text"]
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    assert pq.read_schema(path).names == ["text"]
    with pytest.raises(MtdnnError, match=r"rows.parquet: not readable: "):
        list(read_portions(path, 700))


def test_tensors_survive_being_written_and_read(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3).t().requires_grad_()  # not contiguous
    save_tensors({"a": tensor}, tmp_path / "file.safetensors", {"step": "3"})
    with safe_open(tmp_path / "file.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("a"), tensor)
        assert file.metadata() == {"step": "3"}


def test_tensors_in_a_missing_folder_are_an_error_of_the_disk(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught:
        save_tensors({"a": torch.zeros(1)}, tmp_path / "none" / "file")
    assert caught.value.filename == str(tmp_path / "none" / "file")


def test_a_digest_depends_on_values_and_not_on_the_order_of_keys(tmp_path):
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    different = [{"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1, 2], [2, 1], None, "ä", "a"]
    assert len({digest(value) for value in different}) == len(different)
    # A constant, because any other digest would redo all existing runs.
    assert digest({"b": "ä", "a": [1, 2.5]})[:16] == "e738b52034d02476"
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file").startswith("ba7816bf8f01cfea")
