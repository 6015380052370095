"""The content that MLflow should hold for a run follows from its files alone."""

import json
import random
from collections import Counter

import pytest
from mlflow.utils.validation import _validate_param

from mtdnn.config.layout import RunId
from mtdnn.config.settings import FilesEncoder
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, write_json, write_text
from mtdnn.tracking import content
from mtdnn.tracking.content import Curves, Source
from tests.support.factories import fail_run, make_experiment, make_run
from tests.support.journals import journal_line, make_journal
from tests.support.targets import make_targets

RUN = RunId("base", "qa_sc", 0.8, "default", 1)
START = 1767323045000  # 2026-01-02T03:04:05 UTC, when training of the made-up runs starts


@pytest.mark.parametrize("steps", [5, 10, 11, 29, 30, 101])
def test_curves_are_the_same_live_and_afterwards(monkeypatch, steps):
    monkeypatch.setattr(content, "MAX_POINTS", 10)
    draw = random.Random(steps)
    lines = [{**journal_line(step), "corpus": draw.choice(["a", "b"])} for step in range(steps)]
    counts = Counter(each["corpus"] for each in lines)
    whole = list(Curves(counts, 0).add(lines))
    live, pieces = Curves(counts, 0), []
    while lines:
        size = draw.randint(1, 7)
        pieces += live.add(lines[:size])
        assert pieces == whole[: len(pieces)]
        lines = lines[size:]
    assert pieces == whole
    found = Counter(point.key for point in whole)
    expected = {f"loss/{name}": min(count, 10) for name, count in counts.items()}
    assert found == {**expected, "learning_rate": min(steps, 10)}


@pytest.mark.parametrize("most", [10, 1000])
def test_the_curves_of_joint_steps_have_each_step_once(monkeypatch, most):
    monkeypatch.setattr(content, "MAX_POINTS", most)
    lines = [
        {**journal_line(step), "corpus": name, "grad_norm": float(step)}
        for step in range(30)
        for name in ("a", "b")
    ]
    points = list(Curves({"a": 30, "b": 30}, 0, steps=30).add(lines))
    found = Counter(point.key for point in points)
    assert set(found.values()) == {min(30, most)} and len(found) == 4
    assert len({(point.key, point.step) for point in points}) == len(points)
    norms = [point.value for point in points if point.key == "grad_norm"]
    assert sum(norms) / len(norms) == pytest.approx(14.5)


def test_what_was_measured_after_a_step_is_a_point_of_its_own():
    pairs = {"squad/cola": 0.5, "squad/mnli": None, "cola/mnli": -0.25}
    line = {
        **journal_line(7),
        "gradients": {
            "norm": {"squad": 1.0, "cola": 2.0, "mnli": 0.0},
            "cosine": {"encoder": pairs, "layer 1": {"squad/cola": 0.125}},
        },
        "dev_loss": {"squad": 1.5, "cola": None},
    }
    points = list(Curves({"squad": 10}, 1000).add([journal_line(6), line]))
    measured = [point for point in points if point.key.startswith(("gradient_", "dev_loss/"))]
    assert measured == [
        ("gradient_cosine/cola", 0.5, 8000, 7),
        ("dev_loss/squad", 1.5, 8000, 7),
    ]


def test_params_stay_within_the_limits_of_mlflow(tmp_path):
    experiment = make_experiment(tmp_path, title="x")
    settings = experiment.resolve(RUN)
    write_text(tmp_path / "config.yaml", dump_yaml(settings))
    flat = content.parameters(tmp_path / "config.yaml")
    assert flat["corpora"] == "squad, cola, mrpc, mnli"
    assert flat["encoder.source.repo"] == "someone/bert-base-cased"
    assert not any(name.startswith("corpora.") for name in flat)  # they stand in config.yaml
    assert "notice" not in flat
    assert "encoder.layers" not in flat
    write_text(tmp_path / "config.yaml", "titles: [" + "a_title, " * 2000 + "]\n")
    assert len(content.parameters(tmp_path / "config.yaml")["titles"]) == 6000


# --- scores ----------------------------------------------------------------------------------

SCORES = {
    "em": 70.0,
    "f1": 73,
    "slices": {
        "dev": {"label": "dev", "HasAns_f1": 1.5, "tuned": {"exact": 2.0}, "measurable": True},
        "other": {"label": "other", "HasAns_f1": 3.5, "tuned": None},
    },
    "auxiliary": {"cola": {"accuracy": 81.5, "label": "CoLA"}},
}


def test_every_number_is_a_score_and_nothing_else():
    assert content.scores(SCORES) == {
        "em": 70.0,
        "f1": 73.0,
        "HasAns_f1": 1.5,  # of the first slice
        "slices/dev/HasAns_f1": 1.5,
        "slices/dev/tuned/exact": 2.0,
        "slices/other/HasAns_f1": 3.5,
        "auxiliary/cola/accuracy": 81.5,
    }
    assert content.scores({}) == {}


def test_paths_lead_to_the_scores():
    paths = content.paths(SCORES)
    assert paths["HasAns_f1"] == paths["slices/dev/HasAns_f1"] == ("slices", "dev", "HasAns_f1")
    assert paths["slices/dev/tuned/exact"] == ("slices", "dev", "tuned", "exact")


# --- a run's state ---------------------------------------------------------------------------


def test_a_finished_run_has_curves_scores_and_times(tmp_path):
    folder = make_run(make_experiment(tmp_path), RUN, em=70.0, steps=8)
    source = Source(folder)
    assert (source.status, source.reason, source.is_running) == ("FINISHED", None, False)
    assert (source.start, source.end) == (START, START + 2000)
    points = Counter(point.key.split("/")[0] for point in source.read())
    assert points == {"loss": 8, "learning_rate": 8, "grad_norm": 8}
    assert list(source.read()) == []
    scores = {point.key: point.value for point in source.scores()}
    assert scores["em"] == 70.0 and scores["training/steps"] == 8
    assert source.digests.keys() == {"squad", "cola", "mrpc", "mnli"}


@pytest.mark.parametrize(
    ("step", "status"), [("train", "FAILED"), ("evaluate", "FAILED"), ("schedule", "FAILED")]
)
def test_a_failed_run_has_its_reason(tmp_path, step, status):
    source = Source(fail_run(make_experiment(tmp_path), RUN, step, "out of memory"))
    assert (source.status, source.reason) == (status, f"{step}: out of memory")
    assert source.fingerprint is None and not source.is_empty


@pytest.mark.parametrize("file", ["metrics.json", "model/run.json"])
def test_a_file_of_another_form_is_one_line(tmp_path, file):
    folder = make_run(make_experiment(tmp_path), RUN)
    write_text(folder / file, "[]")
    message = rf"{file}: not readable: must be a JSON object; delete it and repeat"
    with pytest.raises(MtdnnError, match=message):
        Source(folder)


def test_a_run_that_has_only_its_settings_is_empty(tmp_path):
    folder = fail_run(make_experiment(tmp_path), RUN, "train", "no reason")
    (folder / "failure.json").unlink()
    assert Source(folder).is_empty


def test_a_run_is_running_until_its_journal_has_an_end(tmp_path):
    folder = fail_run(make_experiment(tmp_path), RUN, "train", "an earlier failure")
    (folder / "failure.json").unlink()
    with pytest.raises(KeyboardInterrupt), make_journal(folder, steps=3) as journal:
        journal.add([journal_line(0)])
        source = Source(folder)
        assert (source.is_running, source.status) == (True, "RUNNING")
        assert [point.step for point in source.read() if point.key == "loss/squad"] == [0]
        journal.add([journal_line(1)])
        assert [point.step for point in source.read() if point.key == "loss/squad"] == [1]
        raise KeyboardInterrupt
    source = Source(folder)
    assert (source.is_running, source.status) == (False, "KILLED")
    assert source.reason == "KeyboardInterrupt"
    write_json(folder / "failure.json", {"step": "train", "reason": "stopped by signal 15"})
    source = Source(folder)
    assert (source.status, source.reason) == ("KILLED", "train: stopped by signal 15")


def test_a_journal_of_other_settings_is_left_out(tmp_path):
    folder = fail_run(make_experiment(tmp_path), RUN, "train", "a failure")
    with make_journal(folder, steps=3, config_digest="of other settings") as journal:
        journal.add([journal_line(step) for step in range(3)])
    source = Source(folder)
    assert source.record.about == {} and list(source.read()) == []


def test_curves_of_an_incomplete_journal_come_from_the_training_log(tmp_path):
    folder = make_run(make_experiment(tmp_path), RunId("base", "qa", 1.0, "default", 1), steps=5)
    fingerprint = read_json(folder / "model" / "run.json")["fingerprint"]
    with make_journal(folder, steps=5, fingerprint=fingerprint) as journal:
        journal.add([journal_line(0)])
    source = Source(folder)
    assert not source.from_journal
    logged = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    losses = [point.value for point in source.read() if point.key == "loss/squad"]
    assert losses == [line["loss"] for line in logged]


def test_measures_of_any_target_have_names_without_prefix(tmp_path):
    experiment = make_targets(tmp_path, {"cola": [("cola", ["mnli"])]}, seeds=[1])
    folder = experiment.layout.run(experiment.runs()[0])
    metrics = read_json(folder / "metrics.json")
    scores = content.scores(metrics)
    assert scores["matthews"] == scores["slices/dev/matthews"] == metrics["matthews"]
    assert scores["auxiliary/mnli/accuracy"] == metrics["auxiliary"]["mnli"]["accuracy"]
    assert not {"em", "exact", "HasAns_f1"} & set(scores)
    numbers = dict(content.summary_numbers(read_json(experiment.layout.all_statistics)))
    row = experiment.runs()[0].row_path
    assert numbers[f"{row}/dev/matthews/mean"] == metrics["matthews"]


def test_correlations_and_entities_have_names_of_their_own(tmp_path):
    rows = {"t": [("stsb", ["wnut"]), ("wnut", ["stsb"])]}
    experiment = make_targets(tmp_path, rows, seeds=[1])
    similarity, entities = (
        content.scores(read_json(experiment.layout.run(run) / "metrics.json"))
        for run in experiment.runs()
    )
    assert similarity["pearson"] == similarity["slices/dev/pearson"] > similarity["spearman"] > 0
    assert entities["entity_f1"] == entities["slices/dev/entity_f1"] != entities["accuracy"]
    assert entities["auxiliary/stsb/floor"] == similarity["auxiliary/wnut/floor"] == 0
    assert similarity["auxiliary/wnut/majority"] == 37.5
    numbers = dict(content.summary_numbers(read_json(experiment.layout.all_statistics)))
    row = experiment.runs()[1].row_path
    assert numbers[f"{row}/dev/entity_f1/mean"] == entities["entity_f1"]


# --- the whole experiment --------------------------------------------------------------------


def test_the_numbers_and_verdicts_of_the_summary_have_names():
    scores = {"difference": 1.5, "low": 0.5, "high": None}
    comparison = {"from": "QA", "to": "QA+SC", "slice": "dev"}
    comparison["measures"] = {"em": scores, "f1": scores}
    statistics = {
        "cells": {"base/qa": {"dev": {"em": {"mean": 70.0, "deviation": None}}}},
        "tables": {
            "table1": {
                "comparisons": [
                    {**comparison, "threshold": "zero", "verdict": {"em": "supported"}},
                    {**comparison, "threshold": "tuned", "verdict": None},
                ]
            }
        },
    }
    numbers = dict(content.summary_numbers(statistics))
    assert numbers["base/qa/dev/em/mean"] == 70.0
    assert numbers["table1/QA+SC vs QA/dev/em/difference"] == 1.5
    assert numbers["table1/QA+SC vs QA/dev/tuned/f1/low"] == 0.5
    assert len(numbers) == 1 + 2 * 2 * 2
    verdicts = list(content.summary_verdicts(statistics))
    assert verdicts == [("verdict/table1/QA+SC vs QA/dev/em", "supported")]


def test_folders_of_runs_are_found_by_their_settings(tmp_path):
    experiment = make_experiment(tmp_path)
    assert content.run_folders(experiment.layout) == []
    folders = [make_run(experiment, run, steps=4) for run in experiment.runs()[:2]]
    (folders[0].parent / "seed9").mkdir()
    assert content.run_folders(experiment.layout) == sorted(folders)


def test_params_have_names_that_mlflow_accepts(tmp_path):
    experiment = make_experiment(tmp_path)
    settings = experiment.resolve(experiment.runs()[0])
    names = ["train/d.json", "a;b=c.json", "x//../é \x1b.json", "z" * 300]
    source = FilesEncoder(kind="files", path="x", sha256=dict.fromkeys(names, "0" * 64))
    encoder = settings.encoder.model_copy(update={"source": source})
    write_text(
        tmp_path / "config.yaml", dump_yaml(settings.model_copy(update={"encoder": encoder}))
    )
    written = content.parameters(tmp_path / "config.yaml")
    assert "encoder.source.sha256.train/d.json" in written
    assert sum("sha256" in name for name in written) == len(names)
    for name, value in written.items():
        _validate_param(name, value)
