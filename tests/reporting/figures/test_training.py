"""Figures of training show what the schedules and logs hold."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtdnn.config.layout import RunId
from mtdnn.reporting.figures import training
from mtdnn.training.log import read_training
from tests.support.tiny import make_run_folder, make_tiny_experiment


def test_bars_show_the_share_of_each_corpus_and_the_intended_share(drawn):
    (axes,) = training.draw_corpus_shares(drawn).subfigs[0].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    place = labels.index("QA+MCC, w 0.8, BERT base, seed 2")
    folder = drawn.layout.run(RunId("base", "qa_mcc", 0.8, "default", 2))
    names = [step["corpus"] for step in read_training(folder)]
    bars = [bar for bar in axes.patches if abs(bar.get_y() + bar.get_height() / 2 - place) < 0.01]
    shares = [100 * names.count(corpus) / len(names) for corpus in ("squad", "swag")]
    assert [bar.get_width() for bar in bars] == pytest.approx(shares)
    marks = {line.get_xdata()[0] for line in axes.lines if abs(line.get_ydata()[0] - place) < 0.5}
    assert list(marks) == pytest.approx([80.0])


def test_each_phase_has_a_bar_and_the_shares_that_its_policy_intends(tmp_path):
    phases = [
        {"corpora": ["cola"], "epochs": 1},
        {"policy": {"kind": "temperature", "temperature": 1, "caps": {"cola": 10}}, "steps": 8},
        {"corpora": ["squad"], "epochs": 1},
    ]
    row = {"encoder": "tiny", "mixture": "squad_cola"}
    tables = {"t": {"title": "t", "rows": [row]}}
    changes = {"schedule": {"phases": phases}, "tables": tables}
    run_dir, _ = make_run_folder(tmp_path, "squad_cola", 1.0, rows=30, **changes)
    (axes,) = training.draw_corpus_shares(make_tiny_experiment(tmp_path, **changes)).subfigs[0].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"squad+cola, phase {number}" for number in (1, 2, 3)]
    marks = [(line.get_xdata()[0], round(line.get_ydata()[0])) for line in axes.lines]
    assert {place for _, place in marks} == {1}  # the other phases have a single corpus
    sizes = json.loads(pq.read_schema(run_dir / "schedule.parquet").metadata[b"sizes"])
    share = 100 * sizes["squad"] / (sizes["squad"] + 10)
    assert [mark for mark, _ in marks] == pytest.approx([share] * len(marks))


def test_losses_have_a_panel_for_each_kind_of_run_and_a_curve_for_each_seed(drawn):
    panels = {axes.get_title(): axes for axes in training.draw_losses(drawn).subfigs[0].axes}
    panel = panels["QA+MCC, w 0.8\nBERT base"]
    for seed in (1, 2, 3):
        steps = read_training(drawn.layout.run(RunId("base", "qa_mcc", 0.8, "default", seed)))
        losses = [step["loss"] for step in steps if step["corpus"] == "swag"]
        assert any(list(line.get_ydata()) == losses for line in panel.lines)


def test_the_moving_average_equals_its_definition():
    values = np.array([5.0, 1.0, 4.0, 2.0, 8.0])
    expected = [3.0, 10 / 3, 7 / 3, 14 / 3, 5.0]
    assert training.moving_average(np.arange(5), values, 3) == pytest.approx(expected)
    assert training.moving_average(np.arange(5), values, 1) == pytest.approx(values)


def test_a_corpus_that_is_rarely_drawn_is_averaged_over_as_many_training_steps():
    steps, values = np.array([0, 10, 12, 40]), np.array([1.0, 2.0, 4.0, 8.0])
    assert training.moving_average(steps, values, 4) == pytest.approx([1.0, 3.0, 3.0, 8.0])
