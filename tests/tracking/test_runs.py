"""MLflow holds exactly what the files of a run hold, in a SQLite store and on a server."""

import json
import math
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from mtdnn.config.layout import RunId
from mtdnn.machine.files import read_json, write_json
from mtdnn.tracking import content, runs
from mtdnn.tracking.client import create_store
from mtdnn.training.log import read_training
from tests.support.factories import fail_run, make_experiment, make_run
from tests.support.mlflow_server import Server

RUN = RunId("base", "qa_sc", 0.8, "default", 1)


def only_run(experiment):
    client = MlflowClient(experiment.store_uri)
    known = client.get_experiment_by_name(experiment.experiment)
    runs = client.search_runs([known.experiment_id])
    assert len(runs) == 1
    return client, runs[0]


def count_points(client, run):
    return {
        name: len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics
    }


def tags_of_runs(experiment, tag: str) -> dict[str, str | None]:
    """A tag of each run in MLflow, by the run's fingerprint."""
    client = MlflowClient(experiment.store_uri)
    known = client.get_experiment_by_name(experiment.experiment)
    runs = client.search_runs([known.experiment_id])
    return {run.data.tags["fingerprint"]: run.data.tags.get(tag) for run in runs}


def retrain(folder, fingerprint: str) -> None:
    for path in (folder / "metrics.json", folder / "model" / "run.json"):
        write_json(path, read_json(path) | {"fingerprint": fingerprint})


def test_a_run_that_was_trained_again_is_the_current_one_of_its_folder(experiment):
    folder = make_run(experiment, RUN)
    other = make_run(experiment, replace(RUN, seed=2))
    for each in (other, folder):
        retrain(each, each.name)
        runs.log_run(experiment, each)
    assert tags_of_runs(experiment, "current") == {"seed1": "true", "seed2": "true"}
    retrain(folder, "again")
    runs.log_run(experiment, folder)
    expected = {"seed1": "false", "seed2": "true", "again": "true"}
    assert tags_of_runs(experiment, "current") == expected
    retrain(folder, "seed1")
    runs.log_run(experiment, folder)
    expected = {"seed1": "true", "seed2": "true", "again": "false"}
    assert tags_of_runs(experiment, "current") == expected


def test_run_is_mirrored(experiment):
    folder = make_run(experiment, RUN, em=71.25, steps=60)
    write_json(
        experiment.layout.corpus("cola") / "manifest.json",
        {"source": {"kind": "synthetic"}, "splits": {"train": {"rows": 100}}, "digest": "d"},
    )
    runs.log_run(experiment, folder)
    client, run = only_run(experiment)
    metrics = read_json(folder / "metrics.json")
    assert run.info.run_name == "QA+SC w0.8 base seed1"
    assert run.info.status == "FINISHED"
    assert "mlflow.parentRunId" not in run.data.tags
    for name, value in {
        "experiment": experiment.experiment,
        "encoder": "base",
        "mixture": "qa_sc",
        "weight": "0.8",
        "variant": "default",
        "seed": "1",
        "fingerprint": metrics["fingerprint"],
        "commit": "0123456789ab",
        "device": "cpu",
        "notice": experiment.notice,
        "corpus.mnli": metrics["provenance"]["corpora"]["mnli"],
    }.items():
        assert run.data.tags[name] == value
    assert run.data.params["training.learning_rate"] == "3e-05"
    assert run.data.params["weight"] == "0.8"
    assert run.data.params["decoding.null_threshold"] == "0.0"
    scores = metrics["slices"]["official"]
    assert run.data.metrics["em"] == 71.25
    assert run.data.metrics["NoAns_exact"] == metrics["slices"]["paper_dev"]["NoAns_exact"]
    assert run.data.metrics["slices/official/HasAns_f1"] == scores["HasAns_f1"]
    assert run.data.metrics["auxiliary/cola/matthews"] == 50.0
    assert run.data.metrics["training/steps"] == 60
    assert runs.differences(experiment, [folder]) == []
    assert read_json(folder / "mlflow.json") == {
        "run_id": run.info.run_id,
        "uri": experiment.store_uri,
        "fingerprint": metrics["fingerprint"],
    }
    inputs = {each.dataset.name: each for each in run.inputs.dataset_inputs}
    trained = {name for name, each in inputs.items() if each.tags[0].value == "training"}
    assert trained == {f"{name}/train" for name in ("squad", "cola", "mrpc", "mnli")}
    assert set(inputs) - trained == {f"{name}/dev" for name in ("cola", "mrpc", "mnli")}
    assert json.loads(inputs["cola/train"].dataset.profile)["num_rows"] == 100
    description = run.data.tags["mlflow.note.content"]
    assert "| paper dev | &nbsp;&nbsp;71.25 | &nbsp;&nbsp;74.25 |" in description
    assert description.endswith("Made-up scores. Made-up numbers: no model was trained.")
    artifacts = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert artifacts == {
        "config.yaml",
        "schedule.parquet",
        "training.jsonl",
        "predictions.parquet",
        "metrics.json",
        "environment",
        "model",
        "loss.png",
    }
    (model,) = client.list_artifacts(run.info.run_id, "model")
    assert model.path == "model/run.json"


def test_curves_have_one_point_a_step_with_real_steps_and_times(experiment):
    folder = make_run(experiment, RUN, steps=60)
    runs.log_run(experiment, folder)
    client, run = only_run(experiment)
    steps = read_training(folder)
    names = [step["corpus"] for step in steps]
    points = count_points(client, run)
    for corpus in ("squad", "cola", "mrpc", "mnli"):
        assert points[f"loss/{corpus}"] == names.count(corpus)
    assert points["learning_rate"] == points["grad_norm"] == 60
    history = client.get_metric_history(run.info.run_id, "loss/squad")
    own = [step for step in steps if step["corpus"] == "squad"]
    assert [point.step for point in history] == [step["step"] for step in own]
    assert [point.value for point in history] == [step["loss"] for step in own]
    start = 1767323045000  # 2026-01-02T03:04:05 UTC
    assert [point.timestamp - start for point in history] == [
        round(1000 * step["seconds"]) for step in own
    ]
    assert (run.info.start_time, run.info.end_time) == (start, start + 15_000)


def test_long_curves_are_averaged_in_equal_windows(experiment, monkeypatch):
    monkeypatch.setattr(content, "MAX_POINTS", 10)
    folder = make_run(experiment, RunId("base", "qa", 1.0, "default", 1), steps=25)
    runs.log_run(experiment, folder)
    client, run = only_run(experiment)
    history = client.get_metric_history(run.info.run_id, "loss/squad")
    losses = [step["loss"] for step in read_training(folder)]
    assert len(history) == 10
    # 25 steps in ten windows: five of three, then five of two.
    assert [point.step for point in history] == [2, 5, 8, 11, 14, 16, 18, 20, 22, 24]
    assert history[0].value == pytest.approx(sum(losses[:3]) / 3)
    assert history[-1].value == pytest.approx(sum(losses[-2:]) / 2)


def test_logging_twice_changes_nothing(experiment):
    folder = make_run(experiment, RUN)
    first = runs.log_run(experiment, folder)
    client, run = only_run(experiment)
    before = count_points(client, run)
    (folder / "mlflow.json").unlink()
    assert runs.log_run(experiment, folder) == first
    client, run = only_run(experiment)
    assert count_points(client, run) == before
    assert sum(before.values()) == 3 * 60 + len(
        [name for name in before if not name.startswith(("loss/", "learning_rate", "grad_norm"))]
    )
    assert read_json(folder / "mlflow.json")["run_id"] == first


def test_new_scores_replace_the_run_in_mlflow(experiment):
    folder = make_run(experiment, RUN, em=60.0)
    first = runs.log_run(experiment, folder)
    make_run(experiment, RUN, em=61.0)
    assert runs.differences(experiment, [folder]) != []
    second = runs.log_run(experiment, folder)
    assert first != second
    _, run = only_run(experiment)
    assert run.info.run_id == second
    assert run.data.metrics["em"] == 61.0
    assert runs.differences(experiment, [folder]) == []


def test_interrupted_logging_is_repeated(experiment, monkeypatch):
    folder = make_run(experiment, RUN)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_log_artifacts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.log_run(experiment, folder)
    assert not (folder / "mlflow.json").exists()
    runs.log_run(experiment, folder)
    client, run = only_run(experiment)
    assert run.info.status == "FINISHED"
    assert count_points(client, run)["learning_rate"] == 60


def test_failed_run_is_logged_as_failed(experiment):
    folder = fail_run(experiment, RUN, "train", "CUDA out of memory")
    runs.log_run(experiment, folder)
    _, run = only_run(experiment)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"] == "train: CUDA out of memory"
    (folder / "failure.json").unlink()
    runs.log_run(experiment, folder)
    _, run = only_run(experiment)
    assert run.info.status == "FINISHED"


def test_scores_that_are_not_measurable_are_left_out(experiment):
    folder = make_run(experiment, RUN, not_measurable={"paper_dev": "seen in training"})
    runs.log_run(experiment, folder)
    _, run = only_run(experiment)
    assert "em" not in run.data.metrics
    assert not any(name.startswith("slices/paper_dev") for name in run.data.metrics)
    assert runs.differences(experiment, [folder]) == []


def test_loss_that_is_not_a_number_is_kept(experiment):
    folder = make_run(experiment, RunId("base", "qa", 1.0, "default", 1), steps=2)
    line = {"step": 2, "epoch": 1, "corpus": "squad", "loss": math.nan, "lr": 0.0}
    with open(folder / "training.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    runs.log_run(experiment, folder)
    client, run = only_run(experiment)
    history = client.get_metric_history(run.info.run_id, "loss/squad")
    assert [math.isnan(next(p.value for p in history if p.step == n)) for n in (1, 2)] == [
        False,
        True,
    ]


@pytest.fixture(scope="module")
def server(template):
    """A real MLflow server on a loopback port, over the module's store."""
    with Server(template, make_experiment(template).store_uri) as running:
        yield running.address


@pytest.mark.slow
def test_remote_server_holds_the_same(server, tmp_path):
    experiment = make_experiment(tmp_path, experiment="remote", tracking_uri=server)
    create_store(experiment)
    folder = make_run(experiment, RUN, steps=60)
    first = runs.log_run(experiment, folder)
    assert runs.log_run(experiment, folder) == first
    client, run = only_run(experiment)
    names = [step["corpus"] for step in read_training(folder)]
    history = client.get_metric_history(run.info.run_id, "loss/squad")
    assert len(history) == names.count("squad")
    assert runs.differences(experiment, [folder]) == []
    copy = client.download_artifacts(run.info.run_id, "metrics.json", str(tmp_path))
    assert read_json(copy) == read_json(folder / "metrics.json")
