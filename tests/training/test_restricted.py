"""Runs that train a part of the encoder's weights, or adapters in their place."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mtdnn.config.layout import Layout
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import predictions as evaluation
from mtdnn.model import attention
from mtdnn.model.multitask import restrict
from mtdnn.model.optimizer import optimizer_for
from mtdnn.training.loop import random_state, train
from mtdnn.training.stepper import RecordedSteps
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.packed import Prepared
from tests.support.processes import together
from tests.support.recorder import StandIn, state_of
from tests.support.tiny import make_run_folder
from tests.support.trained import lines_of

WAYS = {
    "frozen layers": {"frozen_layers": 1},
    "shared adapters": {"lora": {"rank": 2, "dropout": 0.2}},
    "adapters of each corpus": {"lora": {"rank": 2, "dropout": 0.2, "per": "corpus"}},
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def run_in(folder, way, **changes):
    settings = {"batch_size": 8, "epochs": 1, "encoder_dropout": 0.1, **way, **changes}
    return make_run_folder(folder, mixture="squad_cola_mnli", rows=24, training=settings)


def test_a_run_that_is_interrupted_ends_like_an_undisturbed_one(tmp_path, way):
    one, run = run_in(tmp_path / "one", way)
    train(one, run, threads=1)
    other, run = run_in(tmp_path / "other", way)
    train_with_stops(other, run, [3])
    assert_same(outcome(one), outcome(other))


def test_what_is_frozen_keeps_every_bit(tmp_path, way):
    run_dir, run = run_in(tmp_path, way, learning_rate=1e-2)
    train(run_dir, run, threads=1)
    before = load_file(Layout.of_run(run_dir).encoder("tiny") / "model.safetensors")
    after = load_file(run_dir / "model" / "model.safetensors")
    # The pooler is no part of the encoder, and a softmax ignores the bias of the keys.
    every = {name for name in before if not name.startswith("pooler") and "key.bias" not in name}
    trained = ("query.weight", "value.weight") if "lora" in way else ("encoder.layer.1.",)
    changed = {name for name in every if any(part in name for part in trained)}
    kept = {name for name in every if torch.equal(before[name], after[f"bert.{name}"])}
    assert kept == every - changed


def test_an_adapter_that_no_step_uses_stays_zero(tmp_path):
    run_dir, run = run_in(tmp_path, WAYS["adapters of each corpus"])
    train(run_dir, run, threads=1)
    drawn = {line["corpus"] for line in lines_of(run_dir)}
    heads = load_file(run_dir / "model" / "heads.safetensors")
    for corpus in run.corpora:
        adapters = [v for n, v in heads.items() if n.endswith(f"lora_B.{corpus}.weight")]
        assert len(adapters) == 4
        assert all(bool(matrix.any()) == (corpus in drawn) for matrix in adapters)


def test_every_corpus_is_learnt_and_predicted_by_adapters(tmp_path):
    run_dir, run = make_run_folder(
        tmp_path,
        "squad_cola_mnli",
        weight=0.25,
        rows=120,
        encoder={"num_hidden_layers": 1},
        training={
            **{"batch_size": 8, "epochs": 5, "learning_rate": 0.02, "head_dropout": 0.1},
            "lora": {"rank": 16, "alpha": 32, "per": "corpus"},
        },
    )
    train(run_dir, run, threads=1)
    lines = lines_of(run_dir)
    for corpus in run.corpora:
        losses = [line["loss"] for line in lines if line["corpus"] == corpus]
        assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:3]), corpus
    evaluation.evaluate(run_dir, run, threads=1)
    labels = pq.read_table(run_dir / "auxiliary.parquet").to_pandas()
    for corpus, rows in labels.groupby("corpus"):
        assert (rows["label"] == rows["prediction"]).mean() > 0.7, corpus


def test_recorded_steps_equal_unrecorded_ones(tmp_path, monkeypatch, way):
    monkeypatch.setenv("MTDNN_PLAIN", "attention, dropout, embedding, optimizer")
    monkeypatch.setattr(attention, "one_by_one", attention.side_by_side)  # as on a GPU
    prepared = Prepared(tmp_path, training={"batch_size": 8, **way})
    outcomes = []
    for records in (True, False):
        model = prepared.model("packed").train()
        restrict(model, prepared.run)
        recorder, settings = StandIn(), prepared.run.training
        optimizer = optimizer_for(model, settings)
        stepper = RecordedSteps(model, optimizer, settings, torch.device("cpu"), recorder)
        recorder.stepper = stepper
        if not records:
            stepper._recorder = None
        losses = []
        for step in range(12):
            random_state(1, step)
            corpus = ("squad", "mnli")[step % 2]
            items = np.random.default_rng(step).permutation(6)
            batch = stepper.prepare(prepared.batch(corpus, items))
            losses.append(stepper.take(corpus, batch, 1e-3)[0].item())
        assert bool(recorder.recordings) == records
        outcomes.append((losses, state_of(stepper)))
    assert outcomes[0][0] == outcomes[1][0]
    assert all(torch.equal(value, outcomes[1][1][name]) for name, value in outcomes[0][1].items())


def test_layers_that_the_encoder_lacks_end_training_in_one_line(tmp_path):
    run_dir, run = run_in(tmp_path, {"frozen_layers": 9})
    with pytest.raises(MtdnnError, match=r"frozen_layers: 9 is more than the 2 layers") as error:
        train(run_dir, run, threads=1)
    assert "\n" not in str(error.value)


def test_two_processes_train_what_one_does(tmp_path, way):
    lora = {**way["lora"], "dropout": 0} if "lora" in way else None
    own = {"lora": lora} if lora else way
    results = []
    for count in (1, 2):
        settings = {**own, "gpus": count, "encoder_dropout": 0, "head_dropout": 0}
        run_dir, run = run_in(tmp_path / str(count), settings, encoder_dropout=0)
        if count == 1:
            train(run_dir, run, threads=1)
        else:
            assert together(count, run_dir, run) == [0] * count
        results.append([line["loss"] for line in lines_of(run_dir)])
    np.testing.assert_allclose(*results, rtol=1e-4)
