"""The training benchmark runs on every machine, and each side does what it says."""

import json

import pytest
import torch

from mtdnn.bench import train
from mtdnn.bench.material import Material
from mtdnn.cli.main import main
from tests.support.packed import Prepared


def test_without_the_update_gradients_are_computed_and_weights_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "BATCH", 4)
    monkeypatch.setattr(train, "STEPS", 2)
    prepared = Prepared(tmp_path)
    material = Material(prepared.run, prepared.encoder, prepared.features, {})
    sides = train.without_and_with_update(material, torch.device("cpu"))
    for steps, is_updated in zip(sides, (False, True), strict=True):
        model = steps[0].func.__self__.trained[0]
        before = [parameter.detach().clone() for parameter in model.parameters()]
        for step in steps:
            step()
        changes = [
            not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
        ]
        assert any(changes) == is_updated
        assert is_updated or any(p.grad is not None for p in model.parameters())


@pytest.mark.patient
@pytest.mark.slow
def test_the_training_benchmark_without_any_corpus(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MTDNN_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    options = ["--folder", str(tmp_path), "--encoder", "tiny", "--rounds", "1", "--threads", "1"]
    assert main(["bench", "train", "--json", *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "1 CPU threads" in printed["device"]
    assert [(case["case"], case["peer"]) for case in printed["cases"]] == [
        ("qa_step", "trainer_padded"),
        ("qa_step", "trainer_dynamic_grouped"),
        ("sc_step", "trainer_dynamic"),
        ("qa_memory", "trainer_padded"),
    ]
    memory = printed["cases"].pop()
    assert memory["memory_mib"] > 100 and memory["peer_memory_mib"] > 100
    for case in printed["cases"]:
        assert case["ours_s"] > 0 and case["peer_s"] > 0
        assert case["windows"].startswith("synthetic")
        assert case["encoder"] == "tiny shape, random weights"
