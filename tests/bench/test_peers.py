"""The peers of the benchmarks do the same work: their windows and answers are ours."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtdnn.bench import decode, prepare
from mtdnn.cli.main import main
from mtdnn.config.layout import Layout
from mtdnn.config.settings import DecodingSettings, FeatureSettings
from mtdnn.data.features import Features
from mtdnn.data.tokenising import Tokenizer, portions, tokenise
from tests.support.tiny import make_encoder, make_run_folder, squad_rows, write_corpus


def test_windows_of_the_example_are_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "MAX_LENGTH", 24)
    monkeypatch.setattr(prepare, "OVERLAP", 6)
    draw = random.Random(1)
    splits = {split: squad_rows(30, draw) for split in ("train", "dev")}
    corpus = write_corpus(tmp_path / "squad", "question_answering", **splits)
    encoder = make_encoder(tmp_path / "encoder")
    settings = FeatureSettings(max_length=24, stride_rule="overlap", stride_tokens=6)
    for split in ("train", "dev"):
        rows, target = corpus / f"{split}.parquet", tmp_path / "windows.arrow"
        tokenise("question_answering", settings, Tokenizer(encoder), portions(rows), target)
        ours = Features(target, "question_answering").table.to_pylist()
        theirs = prepare.Peer(encoder).prepare(rows, split, tmp_path / "peer.arrow").to_list()
        assert len(ours) == len(theirs) > len(pq.read_table(rows))
        for window, other in zip(ours, theirs, strict=True):
            size = sum(other["attention_mask"])
            assert window["input_ids"] == other["input_ids"][:size]
            # The example's own search runs over the end of a window whose last word is the answer.
            if split == "train" and other["start_positions"] <= other["end_positions"]:
                assert (window["start"], window["end"]) == (
                    other["start_positions"],
                    other["end_positions"],
                )


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
    some = 0
    for number, name in enumerate(windows.ids):
        if ours["answer_start"][number] < 0:
            continue  # no admissible pair: the example answers with null
        some += 1
        assert odds[name] == pytest.approx(ours["null_odds"][number], abs=1e-4)
        if abs(odds[name]) > 1e-4:
            assert bool(answers[name]) == (odds[name] < 0)
        if answers[name]:
            assert answers[name] == ours["answer"][number]
    assert some > 20


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
