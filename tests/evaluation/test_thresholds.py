"""Null thresholds: by hand, and against every possible threshold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtdnn.evaluation.scoring import Scores, summary
from mtdnn.evaluation.thresholds import null_odds_auc, official_best, tune


def test_official_sweep_answers_nothing_unless_an_answer_helps():
    assert official_best([0, 1], [True, False], [True, False], [-5.0, 3.0]) == (50.0, 0.0)


def at_threshold(scores, odds, threshold):
    return summary(scores, odds, threshold)["exact"]


@st.composite
def scored(draw):
    """Scores and odds; a question without an answer has the odds of the decoder's sentinel."""
    flags = st.tuples(st.booleans(), st.booleans(), st.booleans())
    odd = st.integers(-3, 3).map(float) | st.floats(-9, 9)
    rows = draw(st.lists(st.tuples(flags, odd), min_size=1, max_size=12))
    exact = [
        int(right if answered and has else not answered and not has)
        for (has, answered, right), _ in rows
    ]
    scores = Scores(exact, exact, [row[0][0] for row in rows], [row[0][1] for row in rows])
    return scores, [odd if flag[1] else 1e30 for flag, odd in rows]


@given(scored())
def test_tuned_threshold_is_as_good_as_any(case):
    scores, odds = case
    threshold = tune(scores.exact, scores.answerable, scores.answered, odds)
    assert abs(threshold) <= 10
    reached = at_threshold(scores, odds, threshold)
    assert reached == max(at_threshold(scores, odds, each) for each in [-1e31, *odds])


def test_tuned_threshold_is_between_odds():
    right, wrong = ([1, 1, 0, 0], [True, True, False, False])
    assert tune(right, wrong, [True] * 4, [-2.0, 1.0, 4.0, 9.0]) == 2.5
    assert tune([0, 0], [False, False], [True] * 2, [3.0, 5.0]) == 2.0
    assert tune([1, 1], [True, True], [True] * 2, [3.0, 5.0]) == 6.0
    assert tune([0, 1], [True, False], [False] * 2, [3.0, 5.0]) == 0.0
    # Neighbouring doubles have no middle.
    low, high = 1.0, 1.0 + 2**-52
    assert tune([1, 0], [True, False], [True] * 2, [low, high]) == low


@given(scored())
def test_area_under_the_curve_counts_pairs(case):
    scores, odds = case
    positive = [o for o, has in zip(odds, scores.answerable, strict=True) if not has]
    negative = [o for o, has in zip(odds, scores.answerable, strict=True) if has]
    area = null_odds_auc(odds, scores.answerable)
    if not positive or not negative:
        assert area is None
    else:
        wins = [(p > n) + (p == n) / 2 for p in positive for n in negative]
        assert area == pytest.approx(sum(wins) / len(wins))
