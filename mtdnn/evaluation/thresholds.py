"""Null thresholds: from which null odds on is a question left unanswered?

The final answer is "" where the null odds exceed the threshold. A question's score is
that of its non-null answer below the threshold and, above it, 1 if the question is
unanswerable and 0 if not.
"""

from collections.abc import Sequence

import numpy as np


def official_best(
    scores: Sequence[float],
    answerable: Sequence[bool],
    answered: Sequence[bool],
    odds: Sequence[float],
) -> tuple[float, float]:
    """The best score (percent) at any threshold, and that threshold, by the official sweep.

    The sweep starts below all odds, where nothing is answered, with threshold 0.0, and lets
    answers in one at a time in ascending order of odds. Of equally good thresholds the first
    stays. Where odds are equal the official sweep may stop between them, at a score that no
    threshold really gives; so does this one.

    Args:
        scores: exact match or F1 of each question's non-null answer, 0 to 1.
        answerable: has the question a gold answer?
        answered: is its non-null answer not the empty string?
        odds: null odds.
    """
    current = best = sum(1 for each in answerable if not each)
    threshold = 0.0
    for index in sorted(range(len(odds)), key=odds.__getitem__):
        if answerable[index]:
            current += scores[index]
        elif answered[index]:
            current -= 1
        if current > best:
            best, threshold = current, odds[index]
    return 100.0 * best / len(scores), threshold


def tune(
    scores: Sequence[float],
    answerable: Sequence[bool],
    answered: Sequence[bool],
    odds: Sequence[float],
) -> float:
    """The threshold with the highest mean score, to be used on other questions.

    Unlike the official sweep it lies halfway between neighbouring odds, not on one of them,
    and takes questions with equal odds together. Beyond the lowest and the highest odds it
    keeps a distance of 1. Of equally good thresholds the lowest is taken; 0.0 if there is no
    answer to decide about. Arguments are those of `official_best`.
    """
    decided = np.asarray(answered, bool)
    if not decided.any():
        return 0.0
    gain = np.asarray(scores, float) - ~np.asarray(answerable, bool)
    levels, level = np.unique(np.asarray(odds, float)[decided], return_inverse=True)
    gains = np.bincount(level, gain[decided])
    answered_levels = int(np.argmax(np.concatenate([[0.0], np.cumsum(gains)])))
    if answered_levels == 0:
        return float(levels[0]) - 1.0
    lower = float(levels[answered_levels - 1])
    if answered_levels == len(levels):
        return lower + 1.0
    upper = float(levels[answered_levels])
    middle = lower + (upper - lower) / 2
    return middle if middle < upper else lower


def null_odds_auc(odds: Sequence[float], answerable: Sequence[bool]) -> float | None:
    """Area under the ROC curve of null odds as a detector of unanswerable questions.

    Returns:
        0 to 1, where 0.5 is chance; None if all questions are of one kind.
    """
    from sklearn.metrics import roc_auc_score

    unanswerable = ~np.asarray(answerable, bool)
    if unanswerable.all() or not unanswerable.any():
        return None
    return float(roc_auc_score(unanswerable, np.asarray(odds, float)))
