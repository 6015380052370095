"""Scores of single questions, summed within paragraphs, by hand."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtdnn.config.experiment import Slice
from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.measures import MEASURES
from mtdnn.statistics.scores import QuestionSplit
from tests.support.comparisons import answer, make_mixtures, make_questions


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
