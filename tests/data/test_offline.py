"""`mtdnn fetch`: what an experiment's runs need is downloaded and built once, and only that."""

from pathlib import Path

import pytest

from mtdnn.data.offline import fetch, places
from mtdnn.errors import MtdnnError
from tests.support.tiny import make_encoder, make_tiny_experiment


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Restores the variables that `fetch` sets."""
    for name in ("MTDNN_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, "before")


def experiment(folder, encoder):
    """One run, of the encoder `tiny` and the corpus `squad`; `unused` cannot be fetched."""
    encoders = {
        name: {"label": name, "source": {"kind": "files", "path": str(path)}}
        for name, path in {"tiny": encoder, "unused": folder / "nowhere"}.items()
    }
    small = make_tiny_experiment(folder / "results", encoders=encoders)
    return small.model_copy(update={"lock": str(folder / "experiment.lock.json")})


def test_downloads_are_found_by_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places(tmp_path / "downloads") == {
        "MTDNN_CACHE": f"{tmp_path}/downloads",
        "HF_HUB_CACHE": f"{tmp_path}/downloads/hub",
    }
    assert places(Path("downloads")) == places(tmp_path / "downloads")


def test_only_what_runs_use_is_fetched(tmp_path, capsys):
    small = experiment(tmp_path, make_encoder(tmp_path / "encoder"))
    variables = fetch(small, tmp_path / "downloads")
    assert variables == {**places(tmp_path / "downloads"), "HF_HUB_OFFLINE": "1"}
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("mtdnn:")] == [
        "mtdnn: encoder tiny",
        "mtdnn: corpus squad",
    ]
    assert not (tmp_path / "results").exists()
    assert not list((tmp_path / "downloads").iterdir())


def test_a_bad_encoder_is_found_while_there_is_a_network(tmp_path):
    encoder = make_encoder(tmp_path / "encoder")
    (encoder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(MtdnnError, match=r"encoder tiny: model\.safetensors is damaged"):
        fetch(experiment(tmp_path, encoder), tmp_path / "downloads")
    assert not list((tmp_path / "downloads").iterdir())
