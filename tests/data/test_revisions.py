"""The lock file: entries are kept, sorted and checked."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from mtdnn.data import revisions
from mtdnn.data.revisions import Locked
from mtdnn.errors import MtdnnError

MODEL = Locked(commit="a" * 40, sha256={"model.safetensors": "1" * 64})
DATASET = Locked(
    commit="b" * 40,
    sha256={"train.parquet": "2" * 64},
    splits={"train": ["train.parquet"]},
    rows={"train": 3},
)


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "experiment.lock.json"


def test_a_key_without_an_entry_is_not_locked(lock):
    assert revisions.read(lock, "models/a@main") is None
    revisions.write(lock, "models/a@main", MODEL)
    assert revisions.read(lock, "models/b@main") is None


def test_entries_are_read_as_they_were_written(lock):
    revisions.write(lock, "models/a@main", MODEL)
    revisions.write(lock, "datasets/b@main", DATASET)
    assert revisions.read(lock, "models/a@main") == MODEL
    assert revisions.read(lock, "datasets/b@main") == DATASET
    content = json.loads(lock.read_text())
    assert list(content) == ["datasets/b@main", "models/a@main"]
    assert content["models/a@main"].keys() == {"commit", "sha256"}


def test_an_entry_is_replaced_as_a_whole(lock):
    revisions.write(lock, "key", DATASET)
    revisions.write(lock, "key", MODEL)
    assert revisions.read(lock, "key") == MODEL


def test_entries_written_at_the_same_time_are_all_kept(lock):
    keys = [f"models/{number}@main" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: revisions.write(lock, key, MODEL), keys))
    assert json.loads(lock.read_text()).keys() == set(keys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"experiment\.lock\.json: must be a JSON object"),
        ("{", r"experiment\.lock\.json: not readable as JSON"),
        ('{"key": {"commit": "main", "sha256": {}}}', r"json: key: commit: must consist of"),
        ('{"key": {"commit": "%s"}}' % ("a" * 40), r"json: key: sha256: is missing"),
        (
            '{"key": {"commit": "%s", "sha256": {"config.json": "1"}}}' % ("a" * 40),
            r"json: key: sha256\.config\.json: must consist of",
        ),
    ],
)
def test_damaged_lock_files_are_refused_in_one_line(lock, content, message):
    lock.write_text(content)
    with pytest.raises(MtdnnError, match=message) as error:
        revisions.read(lock, "key")
    assert "\n" not in str(error.value)
