"""Every trained model is known to MLflow once, by place and digests; its weights on request."""

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from transformers import AutoModelForQuestionAnswering

from mtdnn.config.layout import RunId
from mtdnn.machine.files import read_json, write_json
from mtdnn.tracking import content, runs
from mtdnn.tracking.client import create_store
from tests.support.factories import fail_run, make_experiment, make_run
from tests.support.mlflow_server import Proxy, Server
from tests.support.targets import make_targets
from tests.support.tracked_run import TrackedRun

RUN = RunId("base", "qa_sc", 0.8, "default", 1)


def logged(experiment) -> tuple[MlflowClient, list, list]:
    """The client, and all runs and models of an experiment."""
    client = MlflowClient(experiment.store_uri)
    known = client.get_experiment_by_name(experiment.experiment)
    ids = [known.experiment_id]
    return client, list(client.search_runs(ids)), list(client.search_logged_models(ids))


def test_a_run_has_one_model_whose_files_stay_where_they_are(experiment):
    folder = make_run(experiment, RUN)
    described = read_json(folder / "model" / "run.json")
    described["files"] = {"model.safetensors": "ab" * 32, "heads.safetensors": "cd" * 32}
    write_json(folder / "model" / "run.json", described)
    runs.log_run(experiment, folder)
    client, (run,), (model,) = logged(experiment)
    assert str(model.status) == "READY" and model.name == "QA+SC w0_8 base seed1"
    assert model.source_run_id == run.info.run_id
    assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
    assert model.tags["mlflow.model.isExternal"] == "true"
    name = experiment.experiment
    assert model.tags["folder"] == f"{name}/runs/base/qa_sc/w0.8/default/seed1/model"
    assert model.tags["sha256.model.safetensors"] == "ab" * 32
    assert model.tags["sha256.heads.safetensors"] == "cd" * 32
    assert model.tags["fingerprint"] == run.data.tags["fingerprint"]
    assert model.model_type == "question_answering"
    assert model.params == run.data.params
    files = {each.path for each in client.list_logged_model_artifacts(model.model_id)}
    assert files == {"MLmodel"}


def test_logging_again_and_after_an_interruption_makes_no_second_model(experiment, monkeypatch):
    folder = make_run(experiment, RUN)

    def interrupt(*_):
        raise KeyboardInterrupt

    for place in ("log_metrics", "_log_artifacts"):
        with monkeypatch.context() as patch:
            patch.setattr(runs, place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                runs.log_run(experiment, folder)
    _, _, (first,) = logged(experiment)
    for _ in range(2):
        runs.log_run(experiment, folder)
        (folder / "mlflow.json").unlink()
        _, (run,), (model,) = logged(experiment)
        assert model.model_id == first.model_id
        assert [each.model_id for each in run.outputs.model_outputs] == [first.model_id]


def test_a_model_whose_creation_was_interrupted_is_replaced(experiment, monkeypatch):
    folder = make_run(experiment, RUN)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.log_run(experiment, folder)
    _, _, (pending,) = logged(experiment)
    assert str(pending.status) == "PENDING"
    runs.log_run(experiment, folder)
    _, _, (model,) = logged(experiment)
    assert str(model.status) == "READY" and model.model_id != pending.model_id


def test_new_scores_replace_the_model_too(experiment):
    runs.log_run(experiment, make_run(experiment, RUN, em=60.0))
    runs.log_run(experiment, make_run(experiment, RUN, em=61.0))
    _, (run,), (model,) = logged(experiment)
    assert model.source_run_id == run.info.run_id


def test_scores_of_a_model_have_their_datasets_even_after_an_interruption(tmp_path, monkeypatch):
    experiment = make_targets(
        tmp_path, {"nli": [("mnli", ["cola"])]}, seeds=[1], evaluate_on=["snli"]
    )
    create_store(experiment)
    folder = experiment.layout.run(experiment.runs()[0])
    metrics = read_json(folder / "metrics.json")
    log_metrics = runs.log_metrics

    def half(client, run_id, points):
        """The store had the points of the run, and not yet those of the model."""
        bare = [runs.Metric(each.key, each.value, each.timestamp, each.step) for each in points]
        log_metrics(client, run_id, bare)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "log_metrics", half)
        with pytest.raises(KeyboardInterrupt):
            runs.log_run(experiment, folder)
    runs.log_run(experiment, folder)
    client, (run,), (model,) = logged(experiment)
    found = {each.key: each for each in model.metrics}
    wanted = content.scores(metrics)
    assert {key: each.value for key, each in found.items()} == wanted
    assert found["accuracy"].dataset_name == "mnli/dev"
    assert found["auxiliary/cola/matthews"].dataset_name == "cola/dev"
    assert found["slices/snli/accuracy"].dataset_name.startswith("snli/")
    inputs = {(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs}
    assert {(each.dataset_name, each.dataset_digest) for each in found.values()} <= inputs
    for name in wanted:
        assert len(client.get_metric_history(run.info.run_id, name)) == 1


def test_a_failed_run_has_no_model(experiment):
    runs.log_run(experiment, fail_run(experiment, RUN, "train", "out of memory"))
    _, (run,), models = logged(experiment)
    assert run.info.status == "FAILED" and models == []


def test_weights_that_are_not_here_are_not_uploaded_and_a_line_says_so(experiment, capsys):
    asked = experiment.model_copy(update={"tracking_models": "register"})
    folder = make_run(asked, RUN)
    runs.log_run(asked, folder)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "weights" in line]
    assert line.startswith(f"mtdnn: {folder}/model: its weights are not here; ")
    client, _, (model,) = logged(asked)
    assert model.tags["mlflow.model.isExternal"] == "true"
    assert not any(
        each.name.startswith(asked.experiment) for each in client.search_registered_models()
    )


def test_uploaded_weights_are_a_registered_model_of_transformers_without_pickle(tmp_path):
    tracked = TrackedRun(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    tracked.train()
    write_json(tracked.run_dir / "metrics.json", {"em": 1.0, "f1": 2.0, "slices": {}})
    tracked.sync()
    client, _, (before,) = logged(tracked.experiment)
    assert before.tags["mlflow.model.isExternal"] == "true"
    tracked.experiment = tracked.experiment.model_copy(update={"tracking_models": "register"})
    for _ in range(2):  # the second time changes nothing
        tracked.sync()
        client, (run,), (model,) = logged(tracked.experiment)
        assert "mlflow.model.isExternal" not in model.tags and str(model.status) == "READY"
        (name,) = (each.name for each in client.search_registered_models())
        assert name == f"{tracked.experiment.experiment}-tiny-squad_cola-w0.5-default"
        (version,) = client.search_model_versions(f"name = '{name}'")
        assert (version.run_id, version.source) == (run.info.run_id, model.artifact_location)
    folder = tmp_path / "downloaded"
    mlflow.set_tracking_uri(tracked.experiment.store_uri)
    mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=str(folder))
    described = next(folder.rglob("MLmodel")).read_text()
    assert str(tracked.run_dir) not in described and "question-answering" in described
    endings = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert ".safetensors" in endings and not endings & {".bin", ".pkl", ".pt", ".pth"}
    components = mlflow.transformers.load_model(f"models:/{name}/1", return_type="components")
    assert components["task"] == "question-answering"
    ours = AutoModelForQuestionAnswering.from_pretrained(tracked.run_dir / "model")
    ids = torch.tensor([[2, 20, 21, 22, 3]])
    with torch.no_grad():
        loaded = components["model"].cpu().eval()(ids).start_logits
        assert torch.equal(loaded, ours.eval()(ids).start_logits)


@pytest.mark.slow
def test_a_server_before_mlflow_3_gets_all_but_the_models(template, tmp_path, capsys):
    with Server(tmp_path, make_experiment(template).store_uri) as server, Proxy(server) as proxy:
        proxy.mood = "old"
        experiment = make_experiment(tmp_path, experiment="old", tracking_uri=proxy.address)
        folders = [make_run(experiment, run, em=60.0) for run in experiment.runs()[:2]]
        for folder in folders:
            runs.log_run(experiment, folder)
        said = capsys.readouterr().err.splitlines()
        assert said == [
            f"mtdnn: {proxy.address}: this server has no logged models, as before MLflow 3; "
            "runs are logged without them"
        ]
        assert runs.differences(experiment, folders) == []
        # Replacing a run asks for its model, too.
        runs.log_run(experiment, make_run(experiment, experiment.runs()[0], em=61.0))
        proxy.mood = None
        _, found, models = logged(experiment)
        assert len(found) == 2 and models == []
        assert {run.info.status for run in found} == {"FINISHED"}
