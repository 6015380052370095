"""Tables are compared with MLflow cell by cell; if they agree, a summary is logged there."""

import json
import re

import mlflow
import pytest
from mlflow import MlflowClient

from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, write_json, write_text
from mtdnn.reporting import products
from mtdnn.tracking import agreement, runs
from mtdnn.tracking.client import create_store
from tests.support.factories import make_experiment, make_run, make_statistics
from tests.support.targets import make_targets


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Every run of an experiment of two seeds, scored and logged, with tables and a figure."""
    experiment = make_experiment(tmp_path_factory.mktemp("logged"), seeds=[1, 2])
    for number, run in enumerate(experiment.runs()):
        folder = make_run(experiment, run, em=60 + number / 3, steps=4)
        runs.log_run(experiment, folder)
    make_statistics(experiment)
    for name in experiment.tables:
        products.write_table(experiment, name)
    write_text(experiment.layout.figure("figure3", "svg"), "<svg/>")
    return experiment


def summaries(experiment) -> list:
    client = MlflowClient(experiment.store_uri)
    known = client.get_experiment_by_name(experiment.experiment)
    return client.search_runs([known.experiment_id], "tags.kind = 'summary'")


def numbers_of(summary) -> dict[str, float]:
    """The numbers of a summary, which are an artifact."""
    uri = f"{summary.info.artifact_uri}/numbers.json"
    table = json.loads(mlflow.artifacts.load_text(uri))
    assert table["columns"] == ["name", "value"]
    return dict(table["data"])


def test_agreement_is_written_and_a_summary_is_logged_once(logged):
    agreement.write(logged)
    said = read_json(logged.layout.root / "agreement.json")
    assert said["runs"] == len(logged.runs()) and said["cells"] > 100
    (summary,) = summaries(logged)
    assert said["summary"] == summary.info.run_id and summary.info.status == "FINISHED"
    statistics = read_json(logged.layout.root / "statistics.json")
    cell = "base/qa/w1.0/default"
    wanted = statistics["cells"][cell]["paper_dev"]["em"]
    numbers = numbers_of(summary)
    assert summary.data.metrics == {}  # each would be a section of the charts
    assert numbers[f"{cell}/paper_dev/em/mean"] == wanted["mean"]
    first = statistics["tables"]["table2"]["comparisons"][0]
    name = f"table2/{first['to']} vs {first['from']}/{first['slice']}"
    for key in ("difference", "low", "high"):
        assert numbers[f"{name}/em/{key}"] == first["measures"]["em"][key]
    if first["verdict"]["em"]:
        assert summary.data.tags[f"verdict/{name}/em"] == first["verdict"]["em"]
    client = MlflowClient(logged.store_uri)
    for folder, file in (("tables", "table1.csv"), ("figures", "figure3.svg")):
        found = {each.path for each in client.list_artifacts(summary.info.run_id, folder)}
        assert f"{folder}/{file}" in found

    agreement.write(logged)
    assert [each.info.run_id for each in summaries(logged)] == [summary.info.run_id]
    write_text(logged.layout.figure("figure3", "svg"), "<svg></svg>")
    agreement.write(logged)
    (other,) = summaries(logged)
    assert other.info.run_id != summary.info.run_id


def test_a_cell_that_differs_is_named(logged):
    table = logged.layout.table("table2", "csv")
    whole = table.read_text(encoding="utf-8")
    value = re.findall(r"\d+\.\d{6,}", whole)[0]
    write_text(table, whole.replace(value, "61.5", 1))
    with pytest.raises(
        MtdnnError, match=r"table2\.csv: line \d+: \w+: '61.5' in the table, "
    ) as no:
        agreement.write(logged)
    assert len(str(no.value).splitlines()) == 1
    write_text(table, whole)


def test_a_score_that_differs_is_named(logged):
    """A run was scored again and not logged, or MLflow was edited."""
    folder = logged.layout.run(logged.runs()[0])
    whole = read_json(folder / "metrics.json")
    changed = json.loads(json.dumps(whole))
    changed["slices"]["paper_dev"]["HasAns_f1"] += 0.5
    write_json(folder / "metrics.json", changed)
    with pytest.raises(MtdnnError, match=r"slices/paper_dev/HasAns_f1: .* in MLflow"):
        agreement.write(logged)
    write_json(folder / "metrics.json", whole)
    agreement.write(logged)


def test_a_run_that_mlflow_lacks_is_named(logged):
    folder = logged.layout.run(logged.runs()[0])
    run_id = read_json(folder / "mlflow.json")["run_id"]
    MlflowClient(logged.store_uri).delete_run(run_id)
    with pytest.raises(MtdnnError, match="MLflow has 0 runs with its fingerprint, not 1"):
        agreement.write(logged)
    runs.log_run(logged, folder)
    agreement.write(logged)


def test_tables_of_any_target_agree_and_the_view_of_runs_shows_its_measures(tmp_path):
    experiment = make_targets(
        tmp_path, {"nli": [("mnli", []), ("mnli", ["squad"])]}, seeds=[1], evaluate_on=["snli"]
    )
    create_store(experiment)
    for run in experiment.runs():
        runs.log_run(experiment, experiment.layout.run(run))
    products.write_table(experiment, "nli")
    agreement.write(experiment)
    (summary,) = summaries(experiment)
    path = experiment.runs()[0].row_path
    wanted = read_json(experiment.layout.all_statistics)["cells"][path]["snli"]["accuracy"]["mean"]
    assert numbers_of(summary)[f"{path}/snli/accuracy/mean"] == wanted
    known = MlflowClient(experiment.store_uri).get_experiment_by_name(experiment.experiment)
    (view,) = [value for name, value in known.tags.items() if "sharedViewState" in name]
    assert view.index("metrics.`accuracy`") < view.index("metrics.`f1`")
    assert "HasAns" not in view and "`em`" not in view

    path = experiment.layout.table("nli", "csv")
    write_text(path, path.read_text().replace("snli_accuracy,", "other,"))
    with pytest.raises(MtdnnError, match="snli_accuracy: None in the table"):
        agreement.write(experiment)
