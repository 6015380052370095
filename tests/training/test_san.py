"""A stochastic answer network is trained, resumed and predicts like every other head."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mtdnn.errors import MtdnnError
from mtdnn.evaluation import predictions as evaluation
from mtdnn.model import attention
from mtdnn.model.optimizer import optimizer_for
from mtdnn.training.loop import random_state, train
from mtdnn.training.stepper import RecordedSteps
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.packed import Prepared
from tests.support.recorder import StandIn, state_of
from tests.support.tiny import make_run_folder
from tests.support.trained import lines_of

TRAINING = {"batch_size": 8, "heads": {"mnli": "san"}}


def run_in(folder, **changes):
    return make_run_folder(folder, mixture="squad_mnli", training={**TRAINING, **changes})


def test_a_run_that_is_interrupted_ends_like_an_undisturbed_one(tmp_path):
    one, run = run_in(tmp_path / "one", epochs=1)
    train(one, run, threads=1)
    other, run = run_in(tmp_path / "other", epochs=1)
    train_with_stops(other, run, [3])
    assert_same(outcome(one), outcome(other))


def test_pairs_are_learnt_and_predicted(tmp_path):
    own = {"epochs": 4, "learning_rate": 0.01, "head_dropout": 0.1}
    run_dir, run = make_run_folder(
        tmp_path,
        "squad_mnli",
        weight=0.25,
        rows=120,
        encoder={"num_hidden_layers": 1},
        training={**TRAINING, **own},
    )
    train(run_dir, run, threads=1)
    losses = [line["loss"] for line in lines_of(run_dir) if line["corpus"] == "mnli"]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:3])
    evaluation.evaluate(run_dir, run, threads=1)
    labels = pq.read_table(run_dir / "auxiliary.parquet").to_pandas()
    assert (labels["label"] == labels["prediction"]).mean() > 0.8


def test_single_sentences_are_refused_in_one_line(tmp_path):
    run_dir, run = make_run_folder(tmp_path, mixture="squad_cola", rows=12)
    heads = {"heads": {"cola": "san"}}
    training = type(run.training).model_validate({**run.training.model_dump(), **heads})
    with pytest.raises(MtdnnError, match=r"heads.cola: is for pairs .* no sentence2") as error:
        train(run_dir, run.model_copy(update={"training": training}), threads=1)
    assert "\n" not in str(error.value)


def test_recorded_steps_equal_unrecorded_ones_with_dropout(tmp_path, monkeypatch):
    """Replays draw new masks, for the turns too, and nothing in them is decided by the host."""
    monkeypatch.setenv("MTDNN_PLAIN", "attention, dropout, embedding, optimizer")
    monkeypatch.setattr(attention, "one_by_one", attention.side_by_side)  # as on a GPU
    san = {"kind": "san", "turns": 3, "prediction_dropout": 0.4}
    prepared = Prepared(tmp_path, training={"batch_size": 8, "heads": {"mnli": san}})
    outcomes = []
    for records in (True, False):
        model = prepared.model("packed").train()
        recorder = StandIn()
        settings = prepared.run.training
        optimizer = optimizer_for(model, settings)
        stepper = RecordedSteps(model, optimizer, settings, torch.device("cpu"), recorder)
        recorder.stepper = stepper
        if not records:
            stepper._recorder = None
        losses = []
        for step in range(5):
            random_state(1, step)
            batch = stepper.prepare(
                prepared.batch("mnli", np.random.default_rng(step).permutation(6))
            )
            losses.append(stepper.take("mnli", batch, 1e-3)[0].item())
        assert len(recorder.recordings) == records
        outcomes.append((losses, state_of(stepper)))
    assert outcomes[0][0] == outcomes[1][0]
    assert all(torch.equal(value, outcomes[1][1][name]) for name, value in outcomes[0][1].items())
