"""Training of tiny models, from files to files."""

import itertools
import json
import math
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mtdnn.config.layout import Layout
from mtdnn.data.features import training_features
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import predictions as evaluation
from mtdnn.model.batches import batch_of
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.training import loop
from mtdnn.training.loop import largest_steps, random_state, train
from mtdnn.training.schedule import Step
from mtdnn.training.stepper import RecordedSteps
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.recorder import StandIn
from tests.support.tiny import OWN_SIZES, make_run_folder
from tests.support.trained import lines_of, schedule_of

CPU = torch.device("cpu")
WITH_DROPOUT = {"head_dropout": 0.3, "encoder_dropout": 0.1}


@pytest.mark.parametrize("fixture", ["trained", "trained_on_scores_and_tags"])
def test_every_corpus_is_learnt(request, fixture):
    run_dir, run = request.getfixturevalue(fixture)
    lines = lines_of(run_dir)
    for corpus in run.corpora:
        losses = [line["loss"] for line in lines if line["corpus"] == corpus]
        assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:3]), corpus


def test_answers_and_labels_are_learnt(trained):
    run_dir, run = trained
    evaluation.evaluate(run_dir, run, threads=1)
    predictions = pq.read_table(run_dir / "predictions.parquet").to_pylist()
    questions = pq.read_table(Layout.of_run(run_dir).corpus("squad") / "dev.parquet").to_pylist()
    assert [p["id"] for p in predictions] == [q["id"] for q in questions]
    right = [
        (p["answer"] if p["null_odds"] <= 0 else "") == "".join(q["answer_texts"][:1])
        for p, q in zip(predictions, questions, strict=True)
    ]
    assert np.mean(right) > 0.8
    labels = pq.read_table(run_dir / "auxiliary.parquet").to_pandas()
    for corpus, rows in labels.groupby("corpus"):
        assert (rows["label"] == rows["prediction"]).mean() > 0.8, corpus
    assert set(labels["corpus"]) == {"swag", "cola", "mnli"}


def test_scores_and_tags_are_learnt(trained_on_scores_and_tags):
    run_dir, run = trained_on_scores_and_tags
    evaluation.evaluate(run_dir, run, threads=1)
    rows = dict(iter(pq.read_table(run_dir / "auxiliary.parquet").to_pandas().groupby("corpus")))
    assert np.corrcoef(rows["stsb"]["label"], rows["stsb"]["prediction"])[0, 1] > 0.9
    tags, guesses = (np.concatenate(list(rows["ner"][n])) for n in ("tags", "predicted_tags"))
    assert (tags == guesses)[tags > 0].mean() > 0.9


def test_the_model_records_its_origin(trained):
    run_dir, run = trained
    about = json.loads((run_dir / "model" / "run.json").read_text())
    lines = lines_of(run_dir)
    provenance = about["provenance"]
    assert provenance["steps"] == len(lines)
    assert provenance["tokens"] == sum(line["tokens"] for line in lines)
    assert run.training.precision == "auto"
    assert (provenance["threads"], provenance["precision"]) == (1, "fp32")
    assert [part["precision"] for part in provenance["parts"]] == ["fp32"]
    assert re.fullmatch("[0-9a-f]{32}", about["fingerprint"])
    assert set(about["corpora"]) == set(run.corpora)
    names = {"config.json", "model.safetensors", "heads.safetensors", "tokenizer.json", "run.json"}
    assert names <= {path.name for path in (run_dir / "model").iterdir()}


def tiny_run(folder, **settings):
    return make_run_folder(folder, rows=24, training={"batch_size": 8, **settings})


def weights_of(run_dir):
    files = ("model.safetensors", "heads.safetensors")
    return {k: v for f in files for k, v in load_file(run_dir / "model" / f).items()}


def test_a_run_trained_twice_has_bit_identical_weights(tmp_path):
    results = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        run_dir, run = tiny_run(folder)
        torch.manual_seed(len(results))  # another state before it changes nothing
        train(run_dir, run, threads=1)
        lines = [{**line, "seconds": 0} for line in lines_of(run_dir)]
        results.append((lines, weights_of(run_dir)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][name], value) for name, value in results[1][1].items())


@pytest.mark.parametrize("kind", [kind for kind in OWN_SIZES if kind != "bert"])
def test_other_encoders_train_resume_and_answer(tmp_path, kind):
    settings = {"epochs": 1, "batch_size": 4, "encoder_dropout": 0.1}
    one, run = make_run_folder(tmp_path / "one", rows=12, kind=kind, training=settings)
    train(one, run, threads=1)
    evaluation.evaluate(one, run, threads=1)
    assert len(pq.read_table(one / "predictions.parquet")) == 12
    assert len(pq.read_table(one / "auxiliary.parquet")) == 36

    other, run = make_run_folder(tmp_path / "other", rows=12, kind=kind, training=settings)
    train_with_stops(other, run, [2])
    assert_same(outcome(one), outcome(other))


# --- recorded steps --------------------------------------------------------------------------


def recorded_run(folder, monkeypatch, records):
    """Train a run as a GPU does; return its weights, its lines and the batches of recordings."""
    recorder = StandIn()

    def stepper(model, optimizer, settings, device, team, factors):
        made = RecordedSteps(model, optimizer, settings, device, recorder, factors)
        made._recorder = recorder if records else None
        recorder.stepper = made
        return made

    monkeypatch.setattr(loop, "stepper_for", stepper)
    run_dir, run = tiny_run(folder, **WITH_DROPOUT, epochs=4)
    train(run_dir, run, threads=1)
    lines = [{**line, "seconds": 0} for line in lines_of(run_dir)]
    return weights_of(run_dir), lines, recorder.batches


def test_a_run_has_the_same_weights_if_its_steps_are_recorded(tmp_path, monkeypatch, like_a_gpu):
    weights, lines, batches = recorded_run(tmp_path / "a", monkeypatch, True)
    expected, others, none = recorded_run(tmp_path / "b", monkeypatch, False)
    assert lines == others
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert batches and not none
    first, *rest = (batch.tokens for batch in batches if "start" in batch.targets)
    assert first >= max(rest, default=0)


def test_the_largest_batch_of_each_corpus_is_known_before_training(trained):
    run_dir, run = trained
    features = training_features(Layout.of_run(run_dir), run)
    steps = schedule_of(run_dir)
    largest = {
        step.corpus: batch_of(features[step.corpus], step.rows).tokens
        for step in largest_steps(steps, features)
    }
    for corpus in run.corpora:
        tokens = [batch_of(features[corpus], s.rows).tokens for s in steps if s.corpus == corpus]
        assert largest[corpus] == max(tokens)


# --- random states ---------------------------------------------------------------------------


def test_random_states_differ_by_seed_step_and_process():
    def drawn(seed, step, rank=0):
        random_state(seed, step, rank)
        return torch.rand(1).item()

    seeds, steps, ranks = (0, 1, 11, 2**32 - 1), (0, 1, 11, 10**6), (0, 1, 11)
    states = list(itertools.product(seeds, steps, ranks))
    assert len({drawn(*state) for state in states}) == len(states)
    assert drawn(1, 11) == drawn(1, 11)


def test_each_step_of_training_has_its_own_random_state(tmp_path, monkeypatch):
    run_dir, run = tiny_run(tmp_path, epochs=1)
    calls = []
    monkeypatch.setattr("mtdnn.training.loop.random_state", lambda *state: calls.append(state))
    train(run_dir, run, threads=1)
    assert calls == [(run.seed, line["step"], 0) for line in lines_of(run_dir)]


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("corpus", ["cola", "squad"])
def test_a_loss_that_is_not_finite_ends_training_in_one_line(tmp_path, monkeypatch, corpus):
    run_dir, run = tiny_run(tmp_path)
    first = next(step.step for step in schedule_of(run_dir) if step.corpus == corpus)
    whole = MultiTaskModel.loss

    def broken(self, name, batch):
        return whole(self, name, batch) * (math.nan if name == corpus else 1)

    monkeypatch.setattr(MultiTaskModel, "loss", broken)
    with pytest.raises(MtdnnError, match=rf"step {first} \({corpus}\): loss nan") as error:
        train(run_dir, run, threads=1)
    assert "\n" not in str(error.value)
    assert not (run_dir / "model").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("features/tiny/default/cola/train.arrow", "train.arrow: no such file; `mtdnn features`"),
        ("encoders/tiny/config.json", "no usable config.json"),
        ("encoders/tiny/manifest.json", "manifest.json: no such file"),
    ],
)
def test_missing_inputs_are_named_in_one_line(tmp_path, missing, message):
    run_dir, run = tiny_run(tmp_path)
    (Layout.of_run(run_dir).root / missing).unlink()
    with pytest.raises(MtdnnError, match=message) as error:
        train(run_dir, run, threads=1)
    assert "\n" not in str(error.value)


def test_a_missing_schedule_is_drawn(tmp_path):
    run_dir, run = tiny_run(tmp_path)
    drawn = (run_dir / "schedule.parquet").read_bytes()
    (run_dir / "schedule.parquet").unlink()
    train(run_dir, run, threads=1)
    assert (run_dir / "schedule.parquet").read_bytes() == drawn


def test_the_schedule_of_other_features_is_replaced(tmp_path):
    run_dir, run = tiny_run(tmp_path / "small")
    expected = (run_dir / "schedule.parquet").read_bytes()
    large, _ = make_run_folder(tmp_path / "large", rows=60, training={"batch_size": 8})
    shutil.copy(large / "schedule.parquet", run_dir / "schedule.parquet")
    train(run_dir, run, threads=1)
    assert (run_dir / "schedule.parquet").read_bytes() == expected


def test_sequences_longer_than_the_encoder_allows_are_refused(tmp_path):
    with pytest.raises(MtdnnError, match=r"max_length: 40 is more than the 32 positions") as error:
        make_run_folder(tmp_path, encoder={"max_position_embeddings": 32})
    assert "\n" not in str(error.value)


# --- activation checkpointing ----------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["bert", "electra", "roberta", "distilbert", "modernbert", "deberta-v2"]
)
def test_recomputed_activations_do_not_change_a_bit(tmp_path, kind):
    """With dropout, whose masks are drawn again."""
    results = []
    for name, saving in (("kept", False), ("recomputed", True)):
        settings = {"batch_size": 4, "epochs": 1, "activation_checkpointing": saving}
        run_dir, run = make_run_folder(
            tmp_path / name, rows=12, kind=kind, training={**settings, **WITH_DROPOUT}
        )
        train(run_dir, run, threads=1)
        results.append(outcome(run_dir))
    assert_same(*results)


def test_encoders_that_cannot_recompute_activations_are_refused(tmp_path):
    run_dir, run = make_run_folder(
        tmp_path, rows=12, kind="albert", training={"activation_checkpointing": True}
    )
    with pytest.raises(MtdnnError, match="activation_checkpointing: albert encoders") as error:
        train(run_dir, run, threads=1)
    assert "\n" not in str(error.value)


# --- batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["", "prefetch"])
def test_batches_come_in_the_order_of_the_steps(undropped, monkeypatch, switch):
    monkeypatch.setenv("MTDNN_PLAIN", switch)
    steps = [Step(i, 0, "cola", np.array([i, i + 1])) for i in range(7)]
    batches = list(loop.batches_of(steps, undropped.features, lambda batch: batch))
    for step, batch in zip(steps, batches, strict=True):
        expected = batch_of(undropped.features["cola"], step.rows)
        assert torch.equal(batch.input_ids, expected.input_ids)


def test_a_batch_that_cannot_be_assembled_ends_training(undropped):
    steps = [Step(i, 0, "cola", np.array([10**6])) for i in range(4)]
    with pytest.raises(IndexError):
        list(loop.batches_of(steps, undropped.features, lambda batch: batch))
