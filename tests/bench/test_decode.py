"""The peer of the decoding benchmark does the same work: its answers are ours."""

import json

import numpy as np
import pytest

from mtdnn.bench import decode
from mtdnn.cli.main import main
from mtdnn.config.layout import Layout
from mtdnn.config.settings import DecodingSettings
from tests.support.tiny import make_run_folder


def test_answers_of_the_example_are_ours(tmp_path):
    windows = {"max_length": 24, "max_question_length": 8, "stride_tokens": 6}
    run_dir, _ = make_run_folder(tmp_path, "squad", 1.0, rows=30, features=windows)
    folder = Layout.of_run(run_dir).features("tiny", "default", "squad")
    windows = decode.Windows(folder / "dev.arrow", tmp_path / "windows.arrow")
    assert len(windows.example) > len(windows.ids) == 30
    logits = np.random.default_rng(1).normal(0, 3, (2, len(windows.flat))).astype(np.float32)
    settings = DecodingSettings(n_best=6, max_answer_tokens=4)
    ours = decode.ours(windows, logits, settings).to_pydict()
    answers, odds, _ = decode.theirs(windows, windows.padded(logits), settings)
    answered = 0
    for number, name in enumerate(windows.ids):
        if ours["answer_start"][number] < 0:
            continue  # no admissible pair: the example answers with null
        answered += 1
        assert odds[name] == pytest.approx(ours["null_odds"][number], abs=1e-4)
        if abs(odds[name]) > 1e-4:
            assert bool(answers[name]) == (odds[name] < 0)
        if answers[name]:
            assert answers[name] == ours["answer"][number]
    assert answered > 20


@pytest.mark.patient
def test_the_decoding_benchmark_without_any_corpus(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MTDNN_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("mtdnn.bench.material.SYNTHETIC_ITEMS", 60)
    monkeypatch.setattr(decode, "PREDICTED", 20)
    options = ["--folder", str(tmp_path), "--encoder", "tiny", "--rounds", "1", "--threads", "1"]
    assert main(["bench", "decode", "--json", *options]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert [case["case"] for case in cases] == ["decode", "predict"]
    for case in cases:
        assert case["ratio"] > 0 and case["windows"].startswith("synthetic")
