"""What a run was trained on and what it was scored on, as MLflow's datasets."""

import json

import pytest

from mtdnn.config.layout import RunId
from mtdnn.data.corpora.rows import SCHEMAS
from mtdnn.machine.files import digest, read_json, write_json
from mtdnn.tracking import content, datasets
from mtdnn.tracking.datasets import Datasets
from tests.support.factories import make_experiment, make_run
from tests.support.targets import make_targets

RUN = RunId("base", "qa_sc", 0.8, "default", 1)


def of_run(experiment, run) -> tuple[Datasets, dict]:
    folder = experiment.layout.run(run)
    source = content.Source(folder)
    return Datasets(experiment, experiment.resolve(run), source.digests, source.metrics), (
        source.metrics
    )


def test_training_and_evaluation_are_told_apart(tmp_path):
    experiment = make_targets(
        tmp_path, {"nli": [("mnli", ["cola"])]}, seeds=[1], evaluate_on=["snli"]
    )
    found, _ = of_run(experiment, experiment.runs()[0])
    contexts = {each.dataset.name: each.tags[0].value for each in found.inputs()}
    assert contexts == {
        "mnli/train": "training",
        "cola/train": "training",
        "mnli/dev": "evaluation",
        "cola/dev": "evaluation",
        next(name for name in contexts if name.startswith("snli/")): "evaluation",
    }
    assert list(contexts)[:2] == ["mnli/train", "cola/train"]


def test_each_score_has_the_dataset_that_it_was_measured_on(tmp_path):
    experiment = make_targets(
        tmp_path, {"nli": [("mnli", ["cola"])]}, seeds=[1], evaluate_on=["snli"]
    )
    found, metrics = of_run(experiment, experiment.runs()[0])
    names = {name: title for name, (title, _) in found.of_scores().items()}
    assert names.keys() == content.scores(metrics).keys()
    assert names["accuracy"] == names["slices/dev/accuracy"] == "mnli/dev"
    assert names["auxiliary/cola/matthews"] == "cola/dev"
    assert names["slices/snli/accuracy"].startswith("snli/")
    logged = {(each.dataset.name, each.dataset.digest) for each in found.inputs()}
    assert set(found.of_scores().values()) <= logged


def test_a_dataset_has_schema_rows_source_and_the_digest_of_its_split(tmp_path):
    experiment = make_experiment(tmp_path)
    make_run(experiment, RUN)
    manifest = {
        "source": {"kind": "synthetic", "recipe": "cola"},
        "splits": {"train": {"rows": 100, "sha256": "ab" * 32}, "dev": {"rows": 50}},
        "digest": digest("cola"),
    }
    write_json(experiment.layout.corpus("cola") / "manifest.json", manifest)
    found, _ = of_run(experiment, RUN)
    cola = {each.dataset.name: each.dataset for each in found.inputs()}
    assert cola["cola/train"].digest == "ab" * 6
    assert cola["cola/dev"].digest == digest([digest("cola"), "dev"])[:12]
    assert json.loads(cola["cola/train"].profile)["num_rows"] == 100
    assert json.loads(cola["cola/train"].source)["recipe"] == "cola"
    columns = json.loads(cola["cola/train"].schema)["mlflow_colspec"]
    assert [each["name"] for each in columns] == SCHEMAS["sequence_classification"].names
    # Fetched anew since: what is here now is not what the run saw.
    write_json(
        experiment.layout.corpus("cola") / "manifest.json", {**manifest, "digest": "another"}
    )
    found, _ = of_run(experiment, RUN)
    (train,) = (each.dataset for each in found.inputs() if each.dataset.name == "cola/train")
    assert train.digest == digest([digest("cola"), "train"])[:12]


@pytest.mark.parametrize("family", SCHEMAS)
def test_mlflow_reads_the_schema_of_every_family(family):
    from mlflow.types.schema import Schema

    read = Schema.from_json(json.dumps(datasets.columns(SCHEMAS[family])))
    assert read.input_names() == SCHEMAS[family].names


def test_a_corpus_of_the_hub_has_a_link(tmp_path):
    source = {"kind": "hub", "repo": "some/corpus", "splits": {"train": ["train"], "dev": ["dev"]}}
    experiment = make_experiment(tmp_path)
    corpora = experiment.model_dump(mode="json")["corpora"]
    corpora["cola"]["source"] = source
    experiment = make_experiment(tmp_path, corpora=corpora)
    make_run(experiment, RUN)
    found, _ = of_run(experiment, RUN)
    (train,) = (each.dataset for each in found.inputs() if each.dataset.name == "cola/train")
    assert train.source_type == "hf"
    assert json.loads(train.source)["path"] == "some/corpus"


def test_scores_of_a_corpus_that_is_no_longer_in_the_settings_have_no_dataset(tmp_path):
    before = make_targets(tmp_path, {"nli": [("mnli", ["cola"])]}, seeds=[1], evaluate_on=["snli"])
    (run,) = before.runs()
    source = content.Source(before.layout.run(run))
    settings = before.resolve(run)
    corpora = {name: each for name, each in before.corpora.items() if name != "snli"}
    after = before.model_copy(update={"corpora": corpora})
    names = [
        {each.dataset.name for each in found.inputs()}
        for found in (
            Datasets(experiment, resolved, source.digests, source.metrics)
            for experiment in (before, after)
            for resolved in (settings, settings.model_copy(update={"scored": {}}))
        )
    ]
    assert names[0] == names[2] != names[1] == names[3]
    assert {name.partition("/")[0] for name in names[0] - names[1]} == {"snli"}


def test_a_run_without_scores_has_what_it_was_trained_on(tmp_path):
    experiment = make_experiment(tmp_path)
    (make_run(experiment, RUN) / "metrics.json").unlink()
    found, metrics = of_run(experiment, RUN)
    assert metrics == {} and found.of_scores() == {}
    assert {each.tags[0].value for each in found.inputs()} == {"training"}


def test_scores_of_before_slices_had_a_corpus_have_no_dataset(tmp_path):
    experiment = make_experiment(tmp_path)
    folder = make_run(experiment, RUN)
    assert "corpus" not in read_json(folder / "metrics.json")["slices"]["official"]
    found, _ = of_run(experiment, RUN)
    assert all(name.startswith("auxiliary/") for name in found.of_scores())
