"""Rates are measured on a run's own features, each corpus in a process of its own."""

import math

import pytest
import torch

from mtdnn.config.layout import Layout
from mtdnn.data.features import Features
from mtdnn.model.multitask import build
from mtdnn.workflow import rates
from tests.support.tiny import make_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Settings of a run on two corpora, its encoder and its features."""
    run_dir, settings = make_run_folder(tmp_path_factory.mktemp("run"), "squad_cola", 0.5, rows=24)
    layout = Layout.of_run(run_dir)
    features = {name: layout.features("tiny", "default", name) for name in settings.corpora}
    return settings, layout.encoder("tiny"), features


def test_only_the_named_corpora_are_measured(run):
    settings, encoder, features = run
    ((corpus, rate),) = rates.measure(settings, encoder, features, ["cola"], threads=1)
    assert corpus == rate["corpus"] == "cola"
    assert rate["threads"] == 1 and rate["device"]
    assert 0 < rate["token_s"] < rate["step_s"] < 10
    assert 50 < rate["memory_mib"] < 5000


@pytest.fixture
def stepper(monkeypatch):
    """A stepper that computes nothing and counts its steps."""

    class Counter:
        steps = 0

        def prepare(self, batch):
            return batch

        def take(self, *_):
            self.steps += 1

    counter = Counter()
    monkeypatch.setattr(rates, "stepper_for", lambda *_: counter)
    return counter


def step_seconds(run) -> float:
    settings, encoder, features = run
    cpu = torch.device("cpu")
    model = build(encoder, settings)
    windows = Features(features["squad"] / "train.arrow", "question_answering")
    return rates.step_seconds(model, settings, "squad", windows, cpu)


def test_steps_are_measured_after_a_warm_up(run, stepper):
    seconds = step_seconds(run)
    assert math.isfinite(seconds) and seconds > 0
    assert stepper.steps == rates.WARM_UP_STEPS + rates.MEASURED_STEPS


def test_slow_steps_are_not_repeated(run, stepper, monkeypatch):
    monkeypatch.setattr(rates, "MAX_SECONDS", 0.0)
    assert step_seconds(run) > 0
    assert stepper.steps == rates.WARM_UP_STEPS + 1
