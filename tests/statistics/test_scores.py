"""Scores of single questions, summed within paragraphs, by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import matthews_corrcoef

from mtdnn.config.experiment import Slice
from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.measures import MEASURES, measures_of
from mtdnn.evaluation.predictions import LABELS
from mtdnn.statistics.scores import QuestionSplit, open_split
from tests.support.comparisons import answer, make_mixtures, make_questions
from tests.support.tiny import make_tiny_experiment


def test_final_scores_are_summed_within_paragraphs(tmp_path):
    experiment = make_mixtures(tmp_path)
    rows = make_questions(experiment, paragraphs=8, per_paragraph=3)
    # Questions 0 and 2 of each paragraph are unanswerable: correct if their odds are 1, not -1.
    right = [number % 3 != 2 for number in range(len(rows))]
    folder = answer(experiment, experiment.runs()[0], rows, right)
    split = QuestionSplit(experiment.layout.corpus("squad"), "dev")
    answered, measures = split.predicted(folder, "squad"), MEASURES["question_answering"]
    everything = split.members(Slice(label="all"))
    assert everything.sizes.tolist() == [3] * 8
    assert split.sums(answered, everything, 0.0, measures).tolist() == [[2.0] * 8] * 2
    assert split.sums(answered, everything, 1.0, measures).tolist() == [[1.0] * 8] * 2
    assert split.sums(answered, everything, -2.0, measures).tolist() == [[2.0] * 8] * 2
    first = split.members(Slice(label="one", titles=["Article 0"]))  # paragraphs 0 and 7
    assert first.items.tolist() == [0, 1, 2, 21, 22, 23]
    assert first.clusters.tolist() == [0, 0, 0, 1, 1, 1]


def test_predictions_of_other_questions_are_refused(tmp_path):
    experiment = make_mixtures(tmp_path)
    rows = make_questions(experiment, paragraphs=8, per_paragraph=3)
    folder = answer(experiment, experiment.runs()[0], rows, np.ones(len(rows), bool))
    path = RunFolder(folder).predictions
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    split = QuestionSplit(experiment.layout.corpus("squad"), "dev")
    with pytest.raises(MtdnnError, match="must have each dev question of the corpus once"):
        split.predicted(folder, "squad")


def test_linearised_scores_are_summed_within_clusters(tmp_path):
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 3, (2, 30))
    rows = [
        {"sentence1": str(n), "label": int(label), "cluster": f"c{n % 7}"}
        for n, label in enumerate(labels)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dev.parquet")
    rows = [
        {"corpus": "mnli", "split": "dev", "row": n, "label": label, "prediction": prediction}
        for n, (label, prediction) in enumerate(zip(labels, predictions, strict=True))
    ]
    table = pa.Table.from_pylist(rows[::-1], LABELS)
    pq.write_table(table, RunFolder(tmp_path).auxiliary)
    settings = make_tiny_experiment(tmp_path).corpora["mnli"]
    split = open_split(tmp_path, "dev", settings)
    members = split.members(Slice(label="all"))
    assert members.sizes.tolist() == [5, 5, 4, 4, 4, 4, 4]
    measures = measures_of(settings)
    sums = split.sums(split.predicted(tmp_path, "mnli"), members, 0.0, measures)
    assert sums.shape == (3, 7)
    right = np.bincount(np.arange(30) % 7, labels == predictions)
    assert sums[0].tolist() == right.tolist()
    expected = matthews_corrcoef(labels, predictions)
    assert sums[2].sum() / 30 == pytest.approx(expected)
