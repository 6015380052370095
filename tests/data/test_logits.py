"""Files of logits say from what they come, and notice what was changed."""

import numpy as np
import pytest

from mtdnn.data.logits import Logits, write
from mtdnn.errors import MtdnnError

ORIGIN = {"weights": "a" * 64, "features": "b" * 64}
STARTS = np.array([0, 2, 3, 6])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "deep" / "cola.safetensors"
    write(path, np.arange(12, dtype=np.float32).reshape(6, 2), {**ORIGIN, "code": "c"})
    return path


def test_rows_are_read_item_by_item(path):
    logits = Logits(path)
    logits.check(ORIGIN)
    found = logits.of(STARTS, np.array([2, 0]))
    assert found.tolist() == [[6, 7], [8, 9], [10, 11], [0, 1], [2, 3]]


def test_no_half_written_file_is_left(path):
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def spoil(path, change):
    path.write_bytes(change(path.read_bytes()))
    return path


def check(path, origin=ORIGIN):
    Logits(path).check(origin)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-4], "not a readable file of logits"),
        (lambda data: b"nothing", "not a readable file of logits"),
        (lambda data: data.replace(b'"logits"', b'"others"'), "not a readable file of logits"),
        (lambda data: data[:-1] + b"!", "was changed since it was written; delete it and run"),
    ],
)
def test_a_damaged_file_is_one_line(path, change, message):
    with pytest.raises(MtdnnError, match=message) as error:
        check(spoil(path, change))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ORIGIN)
def test_logits_of_another_model_or_of_other_items_are_refused(path, key):
    with pytest.raises(MtdnnError, match="from another model or from other features") as error:
        check(path, {**ORIGIN, key: "d" * 64})
    assert "\n" not in str(error.value)


def test_a_missing_file_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(MtdnnError, match=r"no such file; `mtdnn logits` writes it"):
        Logits(tmp_path / "cola.safetensors")
