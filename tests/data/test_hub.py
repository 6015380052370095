"""Encoders from the Hub: verified, locked, and offline after the first use."""

import errno
import json
import os

import pytest
from huggingface_hub import constants

from mtdnn.data import hub as hub_files
from mtdnn.errors import MtdnnError
from tests.support.hub_client import Client, refused
from tests.support.hub_server import HubServer
from tests.support.tiny import make_encoder


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def client(tmp_path, hub):
    return Client(tmp_path, hub)


@pytest.fixture
def encoder_files(tmp_path):
    folder = make_encoder(tmp_path / "source")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


def test_a_decoder_is_refused_before_its_weights_are_downloaded(client, hub, encoder_files):
    config = json.loads(encoder_files["config.json"]) | {"is_decoder": True}
    files = {**encoder_files, "config.json": json.dumps(config).encode()}
    hub.repository("models", "made/tiny-bert").push(files)
    refused(client.run("encoder", "tiny"), "bert is a decoder", "use an encoder")
    assert not any("model.safetensors" in request for request in hub.requests)
    assert not client.lock.exists() and not client.fetched("tiny", "encoders")


def test_a_cut_off_encoder_is_refused(client, hub, encoder_files):
    hub.repository("models", "made/tiny-bert").push(encoder_files)
    hub.cut_off.add("model.safetensors")
    refused(client.run("encoder", "tiny"), "model.safetensors")
    assert not client.lock.exists() and not client.fetched("tiny", "encoders")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("Data processing error: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_with_the_remedy(error):
    """The client's own words for it differ: parts of it are written in Rust."""
    with pytest.raises(MtdnnError) as refusal, hub_files.translated("some file"):
        raise error
    assert str(refusal.value) == (
        f"some file: no space left for {constants.HF_HUB_CACHE}; free some, or set HF_HUB_CACHE to "
        "a folder on a larger disk"
    )
