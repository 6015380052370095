"""`mtdnn bench`: takes turns, counts right, and its training benchmark runs everywhere."""

import json
import time

import pytest

from mtdnn.bench import compare
from mtdnn.cli import main


def test_sides_take_turns_and_the_first_round_does_not_count():
    calls = []

    def side(name, seconds):
        def work():
            calls.append(name)
            # The first call of each is slow, as if something had to be warmed up.
            time.sleep(seconds if calls.count(name) > 1 else 0.2)

        return work

    case = compare("case", "peer", [side("a", 0.01)], [side("b", 0.03)], rounds=3, windows="none")
    assert calls == ["b", "a", "a", "b"] * 2
    assert case["ours_s"] == pytest.approx(0.01, rel=0.5)
    assert case["ratio"] == pytest.approx(3, rel=0.5)
    low, high = case["ratio_spread"]
    assert low <= case["ratio"] <= high
    assert (case["case"], case["peer"], case["rounds"], case["windows"]) == (
        "case",
        "peer",
        3,
        "none",
    )


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
    ]
    for case in printed["cases"]:
        assert case["ours_s"] > 0 and case["peer_s"] > 0
        assert case["windows"].startswith("synthetic")
        assert case["encoder"] == "tiny shape, random weights"
