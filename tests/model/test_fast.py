"""Fast paths equal their reference paths, and can be switched off."""

import numpy as np
import pytest
import torch

from mtdnn.errors import MtdnnError
from mtdnn.model.batches import batch_of
from mtdnn.model.fast import PATHS, TRIALS, fast, tried
from mtdnn.model.optimizer import learning_rate, optimizer_for
from mtdnn.training.stepper import stepper_for

CPU = torch.device("cpu")


def test_the_switch_turns_off_what_it_names(monkeypatch):
    assert all(map(fast, PATHS))
    monkeypatch.setenv("MTDNN_PLAIN", "dropout, prefetch")
    assert [path for path in PATHS if not fast(path)] == ["dropout", "prefetch"]
    monkeypatch.setenv("MTDNN_PLAIN", "all")
    assert not any(map(fast, PATHS))
    monkeypatch.setenv("MTDNN_PLAIN", "droput")
    with pytest.raises(MtdnnError, match="unknown droput; use all, or some of dropout, att"):
        fast("dropout")


def test_a_trial_path_runs_where_it_is_named(monkeypatch):
    assert not any(map(tried, TRIALS))
    monkeypatch.setenv("MTDNN_TRIAL", "tables, products")
    assert [path for path in TRIALS if tried(path)] == ["products", "tables"]
    assert all(map(fast, PATHS))
    monkeypatch.setenv("MTDNN_TRIAL", "all")
    assert all(map(tried, TRIALS))
    monkeypatch.setenv("MTDNN_TRIAL", "tabels")
    with pytest.raises(MtdnnError, match="MTDNN_TRIAL: unknown tabels; use all, or some of casts"):
        tried("tables")


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_fast_and_reference_paths_have_the_same_losses_over_fifty_steps(
    undropped, monkeypatch, batching
):
    outcomes = []
    for switch, how in (("", "packed"), ("all", batching)):
        monkeypatch.setenv("MTDNN_PLAIN", switch)
        monkeypatch.setattr("mtdnn.model.optimizer.PORTION_ELEMENTS", 500)
        model = undropped.model(how).train()
        settings = undropped.run.training.model_copy(update={"learning_rate": 1e-3})
        optimizer, losses = optimizer_for(model, settings), []
        stepper = stepper_for(model, optimizer, settings, CPU)
        random = np.random.default_rng(1)
        for step in range(50):
            corpus = ("squad", "swag", "cola", "mnli")[step % 4]
            batch = batch_of(undropped.features[corpus], random.choice(12, 6, replace=False))
            rate = learning_rate(step, 50, settings)
            loss, _ = stepper.take(corpus, batch, rate)
            losses.append(loss.item())
        outcomes.append(losses)
    np.testing.assert_allclose(*outcomes, atol=1e-5, rtol=1e-5)
