"""The peer of the tokenising benchmark does the same work: its windows are ours."""

import random

import pyarrow.parquet as pq

from mtdnn.bench import prepare
from mtdnn.config.settings import FeatureSettings
from mtdnn.data.features import Features
from mtdnn.data.tokenising import Tokenizer, portions, tokenise
from tests.support.tiny import make_encoder, squad_rows, write_corpus


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
            # The example's search runs past the end of a window whose last word is the answer.
            if split == "train" and other["start_positions"] <= other["end_positions"]:
                assert (window["start"], window["end"]) == (
                    other["start_positions"],
                    other["end_positions"],
                )
