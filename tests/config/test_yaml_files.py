"""YAML files: broken ones are refused in one line, written ones read back equal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtdnn.config import yaml_files
from mtdnn.config.settings import HubEncoder
from mtdnn.config.yaml_files import dump_yaml, read_yaml
from mtdnn.errors import MtdnnError

UNFIT = ('int ""', 'float ""', "bool maybe", "timestamp today", "set [b]", "map [b]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 1: not valid YAML: the key 'a' occurs twice"),
        ("a: [1\nb: 2\n", "line 2: not valid YAML: expected ',' or ']', but got ':'"),
        ("a: \x00\n", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []\n", "not valid YAML: could not determine"),
        *((f"a: !!{tag}\n", "a value does not fit its tag") for tag in UNFIT),
    ],
)
def test_broken_yaml_is_one_line(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(MtdnnError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MtdnnError, match=r"none.yaml: no such file$"):
        read_yaml(tmp_path / "none.yaml")


def test_bytes_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(MtdnnError, match=r"binary.yaml: not readable: 'utf-8' codec"):
        read_yaml(path)


def test_a_file_over_the_limit_is_refused_and_one_below_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml_files, "MAX_YAML_BYTES", 8)
    path = tmp_path / "large.yaml"
    path.write_text("a: 12345")
    assert read_yaml(path) == {"a": 12345}
    path.write_text("a: 123ä", encoding="utf-8")  # eight characters would be nine bytes
    assert read_yaml(path) == {"a": "123ä"}
    path.write_text("a: 1234ä", encoding="utf-8")
    with pytest.raises(MtdnnError, match=r"large.yaml: larger than 8 bytes, the limit"):
        read_yaml(path)


def test_aliases_and_merged_keys_are_read(tmp_path):
    path = tmp_path / "aliases.yaml"
    path.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@given(st.text())
def test_any_text_survives_being_written_and_read(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("yaml") / "encoder.yaml"
    encoder = HubEncoder(kind="hub", repo=text)
    path.write_text(dump_yaml(encoder), encoding="utf-8")
    assert HubEncoder.model_validate(read_yaml(path)) == encoder
