"""Curves follow the definitions of the official script."""

import numpy as np
import pytest

from mtdnn.config.layout import RunFolder
from mtdnn.evaluation.decoding import NO_SCORE
from mtdnn.evaluation.scoring import summary
from mtdnn.machine.files import read_json, write_json
from mtdnn.reporting.answers import read_answers
from mtdnn.reporting.figures import curves
from tests.support.answers import BASELINE, QUESTIONS, make


@pytest.fixture
def first(answered):
    """The first seed of the baseline."""
    return next(iter(read_answers(answered).baseline.seeds.values()))


@pytest.mark.parametrize("metric", ["exact", "f1"])
def test_scores_by_threshold_equal_those_of_the_official_script(first, metric):
    kept = first.questions
    thresholds = np.array([-5.0, -2.0, -1.0, 0.0, 2.0, 5.0])
    expected = [summary(kept.scores, kept.odds, each)[metric] for each in thresholds]
    assert curves.over_thresholds(first, metric, thresholds) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["exact", "f1"])
def test_precision_and_recall_equal_those_of_the_official_script(first, metric):
    ours, theirs = curves.precision_recall(first, metric), official_curve(first.questions, metric)
    assert ours[0] == pytest.approx(theirs[0])
    assert ours[1] == pytest.approx(theirs[1])


def official_curve(questions, metric):
    """The loop of the official script over null odds in ascending order."""
    order = sorted(range(len(questions)), key=questions.odds.__getitem__)
    total, precisions, recalls = 0.0, [], []
    for place, index in enumerate(order):
        if questions.scores.answerable[index]:
            total += getattr(questions.scores, metric)[index]
        last = place == len(order) - 1
        if last or questions.odds[index] != questions.odds[order[place + 1]]:
            precisions.append(100 * total / (place + 1))
            recalls.append(100 * total / sum(questions.scores.answerable))
    return np.array(precisions), np.array(recalls)


def test_every_mixture_has_a_curve_and_the_threshold_in_use_is_marked(answered):
    panels = curves.draw_thresholds(answered).subfigs[0].axes
    assert [axes.get_ylabel() for axes in panels] == ["EM (%)", "F1 (%)"]
    for axes in panels:
        labels = axes.get_legend_handles_labels()[1]
        assert labels == ["QA", "QA+MCC", "QA+SC", "QA+MCC+SC"]
        upright = [set(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
        assert set().union(*upright) == {answered.decoding.null_threshold}


def test_the_threshold_shown_is_the_one_tuned_for_these_questions(tmp_path):
    """The paper's two slices are tuned on each other: the other's threshold has seen these."""
    experiment = make(tmp_path)
    for run in experiment.runs_of(experiment.tables["table2"].rows[0]):
        path = RunFolder(experiment.layout.run(run)).metrics
        metrics = read_json(path)
        slices = metrics["slices"]
        slices["dev"]["tuned"] = {"threshold": 1.5, "exact": 1.0, "f1": 1.0}
        slices["others"] = {**slices["dev"], "tuned": {"threshold": -9.0, "exact": 1, "f1": 1}}
        write_json(path, metrics)
    axes = curves.draw_thresholds(experiment).subfigs[0].axes[0]
    # No row is drawn with a star, so that the mark means nothing else.
    (mark,) = [line for line in axes.lines if line.get_marker() == "*"]
    assert list(mark.get_xdata()) == [1.5]


@pytest.mark.parametrize("without", [["found"], [row["id"] for row in QUESTIONS]])
def test_questions_without_an_answer_do_not_stretch_the_thresholds(tmp_path, without):
    """Their null odds are above every threshold: 1e30."""
    given = {**BASELINE, **dict.fromkeys(without, ("", -NO_SCORE))}
    experiment = make(tmp_path, given, given)
    low, high = curves.draw_thresholds(experiment).subfigs[0].axes[0].get_xlim()
    assert -5 < low < high < 5
