"""The Hub path, with the real client libraries in processes of their own, against a stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.hub_corpora import (
    CORPORA,
    hub_source,
    pair_rows,
    parquet,
    push_datasets,
    question,
)
from tests.support.hub_server import HubServer
from tests.support.tiny import make_encoder

# Of some rows of each, by split and number, what stands in the repository.
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


class Client:
    """The command line in a fresh process with a cache and an experiment of its own."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder, self.endpoint = folder, hub.url
        self.corpora = json.loads(json.dumps(CORPORA))
        self.encoder = {"label": "tiny", "source": {"kind": "hub", "repo": "made/tiny-bert"}}
        self.lock = folder / "experiment.lock.json"

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        experiment = {
            "experiment": "x",
            "title": "x",
            "results": str(self.folder / "results"),
            "encoders": {"tiny": self.encoder},
            "corpora": self.corpora,
            "mixtures": {"qa": {"label": "QA", "corpora": ["squad"]}},
            "seeds": [1],
            "slices": {"all": {"label": "all"}},
            "tables": {"t": {"title": "t", "rows": [{"encoder": "tiny", "mixture": "qa"}]}},
        }
        path = self.folder / "experiment.yaml"
        path.write_text(yaml.safe_dump(experiment))
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-m", "mtdnn", command[0], str(path), *command[1:]],
            env={
                **kept,
                "HF_ENDPOINT": self.endpoint,
                "HF_HOME": str(self.folder / "hf"),
                # The default waits for minutes before it gives a server up.
                "HF_HUB_DOWNLOAD_TIMEOUT": "2",
                "HF_HUB_ETAG_TIMEOUT": "2",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )

    def manifest(self, name: str, kind: str = "corpora") -> dict:
        return json.loads((self.folder / f"results/x/{kind}/{name}/manifest.json").read_text())

    def rows(self, name: str, split: str) -> list[dict]:
        return pq.read_table(self.folder / f"results/x/corpora/{name}/{split}.parquet").to_pylist()

    def fetched(self, name: str, kind: str = "corpora") -> list[Path]:
        folder = self.folder / f"results/x/{kind}"
        return list(folder.iterdir()) if folder.exists() else []


@pytest.fixture
def hub():
    with HubServer() as server:
        push_datasets(server)
        yield server


@pytest.fixture
def client(tmp_path, hub):
    return Client(tmp_path, hub)


def refused(done: subprocess.CompletedProcess, *parts: str) -> None:
    """The command failed with one line that has all of `parts`."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("mtdnn: error:")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize("name", CORPORA)
def test_every_shape_of_the_paper_is_read_as_it_was_published(client, name):
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


def test_offline_after_a_first_run(client, hub):
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


def test_wrong_names_are_one_line(client):
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


def test_the_lock_outlives_new_commits(client, hub):
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
    # Once the locked commit is gone there is nothing else to take.
    del repository.commits[old]
    assert client.run("corpus", "mrpc", HF_HOME=str(other)).returncode == 0
    refused(client.run("corpus", "mrpc", HF_HOME=str(client.folder / "third")), old[:12])
    assert client.manifest("mrpc")["digest"] == first["digest"]


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
    refused(client.run("corpus", "cola"), "made/text", "only parquet")


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


# --- encoders --------------------------------------------------------------------------------


@pytest.fixture
def encoder_files(tmp_path):
    made = make_encoder(tmp_path / "made")
    return {path.name: path.read_bytes() for path in made.iterdir()}


def test_an_encoder_is_fetched_locked_and_used_offline(client, hub, encoder_files):
    extra = {"pytorch_model.bin": b"pickle", "README.md": b"# tiny", "onnx/model.onnx": b"x"}
    commit = hub.repository("models", "made/tiny-bert").push({**encoder_files, **extra})
    done = client.run("encoder", "tiny")
    assert done.returncode == 0, done.stderr
    manifest = client.manifest("tiny", "encoders")
    assert manifest["source"]["commit"] == commit
    assert "pytorch_model.bin" not in manifest["files"]
    assert not any("pytorch_model.bin" in request for request in hub.requests)
    hub.stop()
    done = client.run("encoder", "tiny", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert client.manifest("tiny", "encoders")["digest"] == manifest["digest"]


def test_an_encoder_of_pickles_is_refused(client, hub, encoder_files):
    files = {n: c for n, c in encoder_files.items() if n != "model.safetensors"}
    hub.repository("models", "made/tiny-bert").push({**files, "pytorch_model.bin": b"pickle"})
    refused(client.run("encoder", "tiny"), "pickle", "pytorch_model.bin")
    assert not client.lock.exists() and not client.fetched("tiny", "encoders")


def test_a_cut_off_encoder_is_refused(client, hub, encoder_files):
    hub.repository("models", "made/tiny-bert").push(encoder_files)
    hub.cut_off.add("model.safetensors")
    refused(client.run("encoder", "tiny"), "model.safetensors")
    assert not client.lock.exists() and not client.fetched("tiny", "encoders")
