"""Predictions do not depend on the batches, and belong to the right rows."""

import copy

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from mtdnn.config.layout import Layout, RunFolder
from mtdnn.data.features import Features
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import predictions
from mtdnn.evaluation.decoding import predictions_table
from mtdnn.evaluation.predictions import (
    answer,
    batches_by_length,
    classify,
    evaluate,
    of_all_words,
)
from mtdnn.machine.files import write_json
from mtdnn.model.batches import batch_of
from mtdnn.model.saving import save
from mtdnn.training.loop import train
from tests.support.packed import Prepared, changed
from tests.support.tiny import FAMILIES, make_run_folder

CPU = torch.device("cpu")
AUXILIARY = [name for name, family in FAMILIES.items() if family != "question_answering"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run whose model gives varied predictions, and its dev features."""
    prepared = Prepared(
        tmp_path_factory.mktemp("evaluation"),
        features={"max_length": 24, "max_question_length": 8, "stride_tokens": 6},
    )
    prepared.dev = {
        name: Features(
            prepared.layout.features("tiny", "default", name) / "dev.arrow", FAMILIES[name]
        )
        for name in FAMILIES
    }
    prepared.tokenizer = AutoTokenizer.from_pretrained(prepared.encoder)
    prepared.trained = model = changed(prepared)
    with torch.no_grad():
        for name, head in model.heads.items():
            torch.nn.init.normal_(head.linear.weight, std=0.5)
            logits = model(name, batch_of(prepared.dev[name], range(12)))
            head.linear.bias.sub_(logits.mean(dim=0))
    (prepared.run_dir / "model").mkdir()
    save(model, prepared.run, prepared.encoder, prepared.run_dir / "model")
    write_json(RunFolder(prepared.run_dir).description, {"fingerprint": "made by hand"})
    return prepared


@pytest.mark.parametrize("corpus", FAMILIES)
@pytest.mark.parametrize("tokens", [1, 60, 4096])
def test_batches_by_length_hold_every_item_once(prepared, corpus, tokens):
    features = prepared.dev[corpus]
    batches = list(batches_by_length(features, tokens))
    items = np.concatenate(batches)
    assert sorted(items) == list(range(len(features)))
    lengths = [features.pick([item], ["input_ids"]).lengths.sum() for item in items]
    assert lengths == sorted(lengths, reverse=True)
    sizes = [features.pick(batch, ["input_ids"]).lengths.sum() for batch in batches]
    assert max(sizes) < tokens + max(lengths)
    if tokens == 1:
        assert {len(batch) for batch in batches} == {1}


def batched(monkeypatch, tokens):
    monkeypatch.setattr(predictions, "TOKENS_PER_BATCH", {"cpu": tokens})


def test_answers_do_not_depend_on_batches(prepared, monkeypatch):
    features, outcomes = prepared.dev["squad"], []
    assert len(features) > 12  # some question has several windows
    for tokens in (1, 100, 4096):
        batched(monkeypatch, tokens)
        outcomes.append(answer(prepared.trained, "squad", features, 12, prepared.run, CPU))
    for other in outcomes[1:]:
        assert np.array_equal(other.char_start, outcomes[0].char_start)
        assert np.array_equal(other.char_end, outcomes[0].char_end)
        np.testing.assert_allclose(other.score, outcomes[0].score, atol=1e-4)
        np.testing.assert_allclose(other.null_score, outcomes[0].null_score, atol=1e-4)


@pytest.mark.parametrize("corpus", ["swag", "cola", "mnli"])
def test_labels_do_not_depend_on_batches(prepared, monkeypatch, corpus):
    tables = []
    for tokens in (1, 100, 4096):
        batched(monkeypatch, tokens)
        table = classify(prepared.trained, corpus, prepared.dev[corpus], prepared.run, CPU)
        tables.append(table.to_pylist())
    assert tables[0] == tables[1] == tables[2]
    assert len({row["prediction"] for row in tables[0]}) > 1
    rows = pq.read_table(prepared.layout.corpus(corpus) / "dev.parquet").to_pylist()
    assert [(row["row"], row["label"]) for row in tables[0]] == [
        (number, row["label"]) for number, row in enumerate(rows)
    ]
    for row in tables[0]:  # each item alone, from the definition
        batch = batch_of(prepared.dev[corpus], [row["row"]])
        logits = prepared.trained(corpus, batch)
        assert logits.flatten().argmax().item() == row["prediction"]


def test_scores_are_the_logits_of_each_item_alone(prepared, monkeypatch):
    batched(monkeypatch, 100)
    table = classify(prepared.trained, "stsb", prepared.dev["stsb"], prepared.run, CPU).to_pylist()
    rows = pq.read_table(prepared.layout.corpus("stsb") / "dev.parquet").to_pylist()
    assert [(row["row"], row["label"]) for row in table] == [
        (number, row["label"]) for number, row in enumerate(rows)
    ]
    for row in table:
        logits = prepared.trained("stsb", batch_of(prepared.dev["stsb"], [row["row"]]))
        assert row["prediction"] == pytest.approx(logits.item(), abs=1e-4)


def test_tags_are_those_of_the_first_token_of_each_word(prepared, monkeypatch):
    batched(monkeypatch, 100)
    table = classify(prepared.trained, "ner", prepared.dev["ner"], prepared.run, CPU).to_pylist()
    rows = pq.read_table(prepared.layout.corpus("ner") / "dev.parquet").to_pylist()
    assert [row["row"] for row in table] == list(range(12))
    for row in table:
        words = rows[row["row"]]["tokens"]
        assert row["words"] == list(range(len(words)))
        logits = prepared.trained("ner", batch_of(prepared.dev["ner"], [row["row"]]))
        pieces = [len(prepared.tokenizer.tokenize(word)) for word in words]
        firsts = 1 + np.cumsum(pieces) - pieces
        assert row["predicted_tags"] == logits.argmax(dim=1)[firsts].tolist()
    assert len({tag for row in table for tag in row["predicted_tags"]}) > 1


def test_unseen_words_are_outside_of_any_entity():
    predicted = pa.table({"row": [0], "words": [[0, 2]], "predicted_tags": [[1, 2]]})
    for labels, unseen in ((["B-a", "O", "I-a"], 1), (["DET", "NOUN", "VERB"], 0)):
        (row,) = of_all_words(predicted, [[1, 1, 2, 2]], labels).to_pylist()
        assert row == {"row": 0, "tags": [1, 1, 2, 2], "predicted_tags": [1, unseen, 2, unseen]}


@pytest.mark.parametrize("corpus", FAMILIES)
def test_a_model_whose_training_diverged_predicts_nothing(prepared, corpus):
    """The largest of several NaN is the first, which would pass for a prediction."""
    model = copy.deepcopy(prepared.trained)
    torch.nn.init.constant_(model.head(corpus).linear.bias, torch.nan)
    with pytest.raises(MtdnnError, match=f"logits of {corpus} that are not finite.*lower"):
        if corpus == "squad":
            answer(model, corpus, prepared.dev[corpus], 12, prepared.run, CPU)
        else:
            classify(model, corpus, prepared.dev[corpus], prepared.run, CPU)


def test_evaluate_writes_answers_and_labels(prepared):
    evaluate(prepared.run_dir, prepared.run, threads=1)
    written = pq.read_table(prepared.run_dir / "predictions.parquet")
    rows = pq.read_table(prepared.layout.corpus("squad") / "dev.parquet")
    features = prepared.dev["squad"]
    best = answer(prepared.trained, "squad", features, len(rows), prepared.run, CPU)
    ids, contexts = rows["id"].to_pylist(), rows["context"].to_pylist()
    assert written.equals(predictions_table("squad", "dev", ids, contexts, best))
    assert written["id"].to_pylist() == ids
    for row, context in zip(written.to_pylist(), contexts, strict=True):
        assert row["answer"] == context[row["answer_start"] : row["answer_end"]] != ""
        assert row["null_odds"] == row["null_score"] - row["score"]
    labels = pq.read_table(prepared.run_dir / "auxiliary.parquet").to_pandas()
    assert labels.groupby("corpus").size().to_dict() == dict.fromkeys(AUXILIARY, 12)


def test_a_model_without_its_description_is_not_evaluated(prepared):
    """Its predictions would belong to no training that anyone knows of."""
    evaluate(prepared.run_dir, prepared.run, threads=1)
    files = RunFolder(prepared.run_dir)
    before, description = files.predictions.read_bytes(), files.description.read_bytes()
    files.description.unlink()
    with pytest.raises(MtdnnError, match=r"run\.json: no such file; repeat the step"):
        evaluate(prepared.run_dir, prepared.run, threads=1)
    assert files.predictions.read_bytes() == before
    files.description.write_bytes(description)


def test_a_run_without_auxiliary_corpora_writes_an_empty_table(tmp_path):
    run_dir, run = make_run_folder(
        tmp_path, "squad", 1.0, rows=8, training={"batch_size": 8, "epochs": 1}
    )
    squad = run.corpora["squad"].model_copy(update={"held_out_titles": ["an article"]})
    run = run.model_copy(update={"corpora": {"squad": squad}})
    layout = Layout.of_run(run_dir)
    held_out = layout.features("tiny", "default", "squad") / "held_out.arrow"
    held_out.write_bytes((held_out.parent / "train.arrow").read_bytes())
    corpus = layout.corpus("squad")
    (corpus / "held_out.parquet").write_bytes((corpus / "train.parquet").read_bytes())
    train(run_dir, run, threads=1)
    evaluate(run_dir, run, threads=1)
    labels = pq.read_table(run_dir / "auxiliary.parquet")
    assert len(labels) == 0
    assert labels.schema.equals(predictions.LABELS)
    splits = pq.read_table(run_dir / "predictions.parquet")["split"].to_pylist()
    assert splits == ["dev"] * 8 + ["held_out"] * 8
    held_out.unlink()
    with pytest.raises(MtdnnError, match=r"held_out\.arrow: no such file"):
        evaluate(run_dir, run, threads=1)
    (corpus / "dev.parquet").unlink()
    with pytest.raises(MtdnnError, match=r"dev\.parquet: no such file; `mtdnn corpus`"):
        evaluate(run_dir, run, threads=1)
