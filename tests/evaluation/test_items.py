"""Targets that are not question answering: predicted, scored and compared, on tiny data."""

import random
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, matthews_corrcoef

from mtdnn.config.layout import Layout
from mtdnn.config.settings import METRICS, Family
from mtdnn.data import tokenising
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import items, metrics, predictions
from mtdnn.evaluation.measures import ACCURACY, MEASURES, Items
from mtdnn.evaluation.predictions import evaluate, is_evaluated
from mtdnn.machine.files import read_json
from mtdnn.statistics.comparisons import compare_tables
from mtdnn.training.loop import train
from tests.support.tiny import (
    FAMILIES,
    LABELS,
    ROWS,
    make_run_folder,
    make_tiny_experiment,
    write_corpus,
)

SNLI = {
    "label": "SNLI",
    "family": "sequence_classification",
    "labels": LABELS["mnli"],
    "source": {"kind": "synthetic", "recipe": "mnli", "train": 9, "dev": 9, "test": 9},
}
CORPORA = {
    **{
        name: {
            "label": name,
            "family": FAMILIES[name],
            "labels": LABELS.get(name, []),
            "source": {"kind": "synthetic", "recipe": name, "train": 9, "dev": 9},
        }
        for name in FAMILIES
    },
    "snli": SNLI,
}
MIXTURES = {
    "mnli": {"label": "MNLI", "corpora": ["mnli"]},
    "all": {"label": "MNLI+", "corpora": ["mnli", "squad", "swag"], "target": "mnli"},
}
CHANGES = {
    "corpora": CORPORA,
    "mixtures": MIXTURES,
    "evaluate_on": ["snli"],
    "training": {"batch_size": 8, "epochs": 1},
    "tables": {
        "t": {
            "title": "t",
            "rows": [
                {"encoder": "tiny", "mixture": "mnli"},
                {"encoder": "tiny", "mixture": "all", "weight": 0.5},
            ],
        }
    },
}


def with_snli(folder):
    """Write the corpus that is only scored, and its features."""
    experiment = make_tiny_experiment(folder, **CHANGES)
    layout, draw = experiment.layout, random.Random("snli")
    splits = {split: ROWS["mnli"](14, draw) for split in ("train", "dev", "test")}
    write_corpus(layout.corpus("snli"), "sequence_classification", **splits)
    tokenising.prepare(
        family="sequence_classification",
        settings=experiment.features,
        encoder=layout.encoder("tiny"),
        corpus=layout.corpus("snli"),
        output=layout.features("tiny", "default", "snli"),
    )
    return experiment


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The experiment, with two scored runs, and the folder of each."""
    folder, runs = tmp_path_factory.mktemp("items"), {}
    for mixture, weight in (("mnli", 1.0), ("all", 0.5)):
        run_dir, run = make_run_folder(folder, mixture, weight, rows=24, **CHANGES)
        experiment = with_snli(folder)
        train(run_dir, run, threads=1)
        evaluate(run_dir, run, threads=1)
        assert is_evaluated(run_dir, run)
        metrics.write(run_dir, experiment)
        runs[mixture] = run_dir
    return experiment, runs


def predicted(run_dir, corpus, split):
    rows = pq.read_table(run_dir / "auxiliary.parquet").to_pandas()
    rows = rows[(rows["corpus"] == corpus) & (rows["split"] == split)].sort_values("row")
    gold = pq.read_table(Layout.of_run(run_dir).corpus(corpus) / f"{split}.parquet")
    assert rows["label"].tolist() == gold["label"].to_pylist()
    return rows["label"], rows["prediction"]


@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_classification_target_is_scored_by_its_own_measures(scored, mixture):
    experiment, runs = scored
    written = read_json(runs[mixture] / "metrics.json")
    assert written["run"]["target"] == "mnli"
    assert written["measures"] == ["accuracy", "f1", "matthews"]
    for name, corpus, split in (("dev", "mnli", "dev"), ("snli", "snli", "test")):
        found = written["slices"][name]
        assert (found["corpus"], found["split"]) == (corpus, split)
        labels, predictions = predicted(runs[mixture], corpus, split)
        assert found["questions"] == found["clusters"] == len(labels)
        assert found["accuracy"] == pytest.approx(100 * accuracy_score(labels, predictions))
        assert found["matthews"] == pytest.approx(100 * matthews_corrcoef(labels, predictions))
    assert written["accuracy"] == written["slices"]["dev"]["accuracy"]
    assert "em" not in written
    assert set(written["provenance"]["corpora"]) == {
        *experiment.resolve(run_of(experiment, mixture)).corpora,
        "snli",
    }


def run_of(experiment, mixture):
    return next(run for run in experiment.runs() if run.mixture == mixture)


def test_an_auxiliary_qa_corpus_has_exact_match_and_f1(scored):
    _, runs = scored
    auxiliary = read_json(runs["all"] / "metrics.json")["auxiliary"]
    assert list(auxiliary) == ["squad", "swag"]
    assert auxiliary["squad"]["measures"] == ["exact", "f1"]
    assert 0 <= auxiliary["squad"]["exact"] <= auxiliary["squad"]["f1"] <= 100
    dev = pq.read_table(Layout.of_run(runs["all"]).corpus("squad") / "dev.parquet")
    unanswerable = sum(not texts for texts in dev["answer_texts"].to_pylist())
    assert auxiliary["squad"]["floor"] == pytest.approx(100 * unanswerable / 24)
    answers = pq.read_table(runs["all"] / "predictions.parquet")
    assert set(answers["corpus"].to_pylist()) == {"squad"} and len(answers) == 24


def test_rows_are_compared_by_the_measures_of_their_target(scored):
    experiment, runs = scored
    [(_, entry)] = compare_tables(experiment, ["t"])
    assert entry["left_out"] == []
    assert [each["slice"] for each in entry["comparisons"]] == ["dev", "snli"]
    scores = [read_json(runs[name] / "metrics.json")["slices"] for name in ("mnli", "all")]
    for each in entry["comparisons"]:
        assert each["kind"] == "baseline" and each["headline"] == "accuracy"
        assert (each["target"], each["family"]) == ("mnli", "sequence_classification")
        assert each["labels"] == {"accuracy": "Acc.", "f1": "F1", "matthews": "Matthews"}
        for key in ("accuracy", "f1", "matthews"):
            before, after = (score[each["slice"]][key] for score in scores)
            assert each["measures"][key]["difference"] == pytest.approx(after - before)
        assert each["verdict"]["text"].endswith("differs from MNLI in accuracy.")
    cell = entry["cells"]["tiny/all/w0.5/default"]["snli"]["matthews"]
    assert cell["mean"] == pytest.approx(scores[1]["snli"]["matthews"])


PREDICTED = {"corpus": "x", "split": "dev"}


def auxiliary(folder, rows):
    path = folder / "auxiliary.parquet"
    pq.write_table(pa.Table.from_pylist(rows, predictions.LABELS), path)
    return path


def test_items_are_read_in_the_order_of_the_corpus(tmp_path):
    rows = [
        {**PREDICTED, "row": 1, "label": 0, "prediction": 2},
        {**PREDICTED, "split": "test", "row": 0, "label": 2, "prediction": 2},
        {**PREDICTED, "row": 0, "label": 1, "prediction": 1},
        {**PREDICTED, "corpus": "y", "row": 0, "label": 2, "prediction": 2},
    ]
    settings = make_tiny_experiment(tmp_path).corpora["mnli"]
    path = auxiliary(tmp_path, rows)
    found = items.read_items(path, "x", "dev", settings, 2)
    assert found["label"].tolist() == [1, 0] and found["prediction"].tolist() == [1, 2]
    assert found.classes == 3
    with pytest.raises(MtdnnError, match="x: must have each of the 3 dev rows once, has 2 of them"):
        items.read_items(path, "x", "dev", settings, 3)
    with pytest.raises(MtdnnError, match="x: must have each of the 1 dev rows once, has 2 of them"):
        items.read_items(path, "x", "dev", settings, 1)


def test_clusters_are_those_of_the_corpus_or_single_items(tmp_path):
    rows = ROWS["mnli"](4, random.Random(0))
    path = tmp_path / "dev.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert items.clusters_of(path).tolist() == [0, 1, 2, 3]
    names = ["b", "a", "b", "c"]
    rows = [{**row, "cluster": name} for row, name in zip(rows, names, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert items.clusters_of(path).tolist() == [0, 1, 0, 2]
    path.write_text("no table")
    with pytest.raises(MtdnnError, match=r"dev.parquet: not readable"):
        items.clusters_of(path)


@pytest.mark.parametrize(("seen", "measurable"), [(0, True), (5, True), (6, False)])
def test_a_slice_with_many_texts_of_training_items_is_not_measurable(seen, measurable):
    found = Items({"label": np.ones(100), "prediction": np.ones(100)}, 2)
    scored = items.score(found, [ACCURACY], seen, 40)
    if measurable:
        assert scored == {"questions": 100, "clusters": 40, "seen": seen, "accuracy": 100.0}
    else:
        assert scored["measurable"] is False
        assert scored["reason"].startswith("6 of its 100 items have the texts of items that")


def test_every_family_has_the_measures_that_its_settings_know():
    assert {family: tuple(m.key for m in each) for family, each in MEASURES.items()} == METRICS
    assert set(get_args(Family)) <= set(MEASURES)
