"""Corpora from the Hub: read, verified, locked, and offline after the first use."""

import json

import pytest

from mtdnn.data import hub as hub_module
from mtdnn.errors import MtdnnError
from tests.support.hub_client import Client, refused
from tests.support.hub_corpora import (
    CORPORA,
    hub_source,
    pair_rows,
    parquet,
    push_datasets,
    question,
)
from tests.support.hub_server import HubServer

# Some rows of each corpus as published: split, number, columns.
PUBLISHED = {
    "squad": [
        ("train", 3, {"answer_texts": ["1803"], "question": question(3, None)["question"]}),
        ("dev", 2, {"answer_texts": [], "answer_starts": []}),
    ],
    "swag": [
        ("dev", 2, {"label": 2, "choices": [f"He does thing {n}." for n in range(4)]}),
    ],
    "cola": [("train", 5, {"label": 1, "sentence1": "Sentence 5.", "sentence2": None})],
    "mrpc": [("dev", 1, {"label": 1, "sentence2": "Other sentence 1."})],
    "mnli": [("dev", 2, {"label": 2, "sentence1": "Sentence 2."})],
}


@pytest.fixture
def hub():
    with HubServer() as server:
        push_datasets(server)
        yield server


@pytest.fixture
def client(tmp_path, hub):
    return Client(tmp_path, hub)


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_of_the_paper_is_read_as_published(client, name):
    done = client.run("corpus", name)
    assert done.returncode == 0, done.stderr
    manifest = client.manifest(name)
    assert {s: v["rows"] for s, v in manifest["splits"].items()} == {"train": 6, "dev": 4}
    repo = CORPORA[name]["source"]["repo"]
    assert manifest["source"]["commit"] in client.lock.read_text()
    assert repo == manifest["source"]["repo"]
    assert len(manifest["source"]["sha256"]) == 2
    for split, number, published in PUBLISHED[name]:
        row = client.rows(name, split)[number]
        assert {key: row[key] for key in published} == published


def test_no_network_is_needed_after_the_first_run(client, hub):
    assert client.run("corpus", "mrpc").returncode == 0
    digest = client.manifest("mrpc")["digest"]
    hub.requests.clear()
    assert client.run("corpus", "mrpc").returncode == 0
    assert not any("nyu-mll/glue" in request for request in hub.requests)
    hub.stop()
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        done = client.run("corpus", "mrpc", **environment)
        assert done.returncode == 0, done.stderr
        assert client.manifest("mrpc")["digest"] == digest
    refused(client.run("corpus", "swag", HF_HUB_OFFLINE="1"), "allenai/swag", "cannot be reached")
    refused(client.run("corpus", "swag"), "allenai/swag")


def test_wrong_names_are_refused_in_one_line(client):
    client.corpora["mrpc"]["source"]["revision"] = "v9"
    refused(client.run("corpus", "mrpc"), "nyu-mll/glue", "v9", "no such revision")
    client.corpora["cola"]["source"]["repo"] = "nyu-mll/gleu"
    refused(client.run("corpus", "cola"), "nyu-mll/gleu", "no such repository")
    client.corpora["mnli"]["source"]["name"] = "mnlii"
    refused(client.run("corpus", "mnli"), "mnlii")
    client.corpora["swag"]["source"]["splits"]["dev"] = ["valid"]
    refused(client.run("corpus", "swag"), "valid", "train, validation")
    assert not client.lock.exists() and not client.fetched("mrpc")


@pytest.mark.parametrize("fault", ["cut off", "other content"])
def test_damaged_files_are_refused(client, hub, fault):
    file = "mrpc/train-00000-of-00001.parquet"
    if fault == "cut off":
        hub.cut_off.add(file)
    else:
        hub.swapped[file] = parquet(pair_rows(7, "sentence1", "sentence2", 2))
    refused(client.run("corpus", "mrpc"), file)
    assert not client.lock.exists() and not client.fetched("mrpc")
    hub.cut_off.clear()
    hub.swapped.clear()
    done = client.run("corpus", "mrpc")
    assert done.returncode == 0, done.stderr


def test_new_commits_do_not_change_a_locked_corpus(client, hub):
    assert client.run("corpus", "mrpc").returncode == 0
    first = client.manifest("mrpc")
    repository = hub.repository("datasets", "nyu-mll/glue")
    files = dict(repository.commits[repository.branches["main"]])
    files["mrpc/train-00000-of-00001.parquet"] = parquet(pair_rows(9, "sentence1", "sentence2", 2))
    old = repository.branches["main"]
    repository.push(files)
    other = client.folder / "other"
    done = client.run("corpus", "mrpc", HF_HOME=str(other))
    assert done.returncode == 0, done.stderr
    assert client.manifest("mrpc")["digest"] == first["digest"]
    # Without the locked commit, only a cache that has it will do.
    del repository.commits[old]
    assert client.run("corpus", "mrpc", HF_HOME=str(other)).returncode == 0
    refused(client.run("corpus", "mrpc", HF_HOME=str(client.folder / "third")), old[:12])
    assert client.manifest("mrpc")["digest"] == first["digest"]


def test_a_split_that_is_read_twice_is_counted_once(client):
    splits = client.corpora["mrpc"]["source"]["splits"]
    splits["test"] = splits["dev"]
    assert client.run("corpus", "mrpc").returncode == 0
    (entry,) = json.loads(client.lock.read_text()).values()
    assert entry["rows"] == {"train": 6, splits["dev"][0]: 4}
    del splits["test"]
    done = client.run("corpus", "mrpc")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("field", ["sha256", "rows"])
def test_the_lock_is_enforced(client, field):
    assert client.run("corpus", "mrpc").returncode == 0
    lock = json.loads(client.lock.read_text())
    (entry,) = lock.values()
    first = next(iter(entry[field]))
    entry[field][first] = "0" * 64 if field == "sha256" else 7
    client.lock.write_text(json.dumps(lock))
    refused(client.run("corpus", "mrpc"), "locked")


def test_only_plain_data_is_read(client, hub):
    hub.repository("datasets", "made/code").push({"code.py": b"print('never')"})
    client.corpora["mrpc"]["source"].update(repo="made/code", name=None)
    done = client.run("corpus", "mrpc")
    refused(done, "made/code")
    assert "never" not in done.stdout
    hub.repository("datasets", "made/text").push({"train.txt": b"a\n", "validation.txt": b"a\n"})
    client.corpora["cola"]["source"].update(repo="made/text", name=None)
    refused(client.run("corpus", "cola"), "made/text", "only Parquet")


def test_json_lines_and_csv_repositories(client, hub):
    rows = pair_rows(3, "sentence1", "sentence2", 2)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    hub.repository("datasets", "made/lines").push({"train.jsonl": lines, "test.jsonl": lines})
    client.corpora["mrpc"]["source"] = hub_source("made/lines", None, {}, dev="test")
    done = client.run("corpus", "mrpc")
    assert done.returncode == 0, done.stderr
    table = b'sentence,label\nA sentence.,1\n"Another, quoted.",0\n'
    hub.repository("datasets", "made/table").push({"train.csv": table, "test.csv": table})
    client.corpora["cola"]["source"] = hub_source(
        "made/table", None, {"sentence1": "sentence"}, dev="test"
    )
    done = client.run("corpus", "cola")
    assert done.returncode == 0, done.stderr
    assert client.manifest("cola")["splits"]["train"]["rows"] == 2


# --- a server in the Hub's place ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../../evil.parquet", "a/../../evil.parquet"])
def test_names_that_leave_the_repository_are_refused(client, hub, name):
    card = f"""---
configs:
- config_name: mrpc
  data_files:
  - {{split: train, path: "{name}"}}
  - {{split: validation, path: "{name}"}}
---
"""
    rows = parquet(pair_rows(9, "sentence1", "sentence2", 2))
    hub.repository("datasets", "nyu-mll/glue").push({"README.md": card.encode(), name: rows})
    refused(client.run("corpus", "mrpc"), "nyu-mll/glue")
    assert not list(client.folder.rglob("evil*"))
    assert not client.lock.exists() and not client.fetched("mrpc")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ETag", '"../../../../evil"'),
        ("ETag", 'W/"..\\evil"'),
        ("X-Linked-ETag", '"/tmp/mtdnn-evil"'),
        ("X-Repo-Commit", "../../../evil"),
    ],
)
def test_headers_that_lead_out_of_the_cache_are_refused(client, hub, header, value):
    hub.headers[header] = value
    refused(client.run("corpus", "mrpc"), f"{header} must be a digest", "refused")
    assert not list(client.folder.rglob("*evil*"))


def test_compressed_listings_are_not_unpacked(client, hub):
    hub.compressed = True
    refused(client.run("corpus", "mrpc"), "the server compressed its answer unasked; refused")


SMALL_LIMIT = """
import sys
from mtdnn.cli.main import main
from mtdnn.data import hub_client
hub_client.MAX_FILE_BYTES = 10_000_000
sys.exit(main(sys.argv[1:]))
"""


def test_a_file_that_never_ends_is_given_up(client, hub):
    client.program = ["-c", SMALL_LIMIT]
    hub.endless.add("mrpc/train-00000-of-00001.parquet")
    refused(client.run("corpus", "mrpc"), "the server sends more than 10000000 bytes; refused")
    assert not client.lock.exists() and not client.fetched("mrpc")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..\\x", "a\0b"])
def test_no_file_outside_a_repository_is_asked_for(name):
    place = hub_module.Repository("dataset", "a/b", "0" * 40)
    with pytest.raises(MtdnnError, match="contains a path that leaves it"):
        hub_module.fetch(place, [name], {})
