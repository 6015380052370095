"""Null thresholds: the null odds above which a question is left unanswered.

The final answer is "" if the null odds exceed the threshold. Up to the threshold, a question
scores what its non-null answer scores; above it, 1 if it is unanswerable and 0 if not.
"""

from collections.abc import Sequence

import numpy as np


def official_best(
    scores: Sequence[float],
    answerable: Sequence[bool],
    answered: Sequence[bool],
    odds: Sequence[float],
) -> tuple[float, float]:
    """Find the best score at any threshold by the sweep of evaluate-v2.0.py (`find_best_thresh`).

    The sweep starts with no question answered and the threshold 0.0, then adds one answer at a
    time in ascending order of odds. Of equally good thresholds it keeps the first. Among equal
    odds it may stop halfway, at a score that no threshold gives; this function does the same.

    Args:
        scores: EM or F1 of each of N questions' non-null answers, 0 to 1; N is at least 1.
        answerable: N flags, whether the question has a gold answer.
        answered: N flags, whether the non-null answer is not the empty string.
        odds: N null odds, in logits.

    Returns:
        The best score in percent, and the threshold in logits.
    """
    best: float = sum(1 for each in answerable if not each)
    current = best
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
    """Find the threshold with the highest mean score, for use on other questions.

    Unlike the official sweep, this threshold is halfway between neighbouring odds, not on one
    of them, and never separates questions with equal odds. Outside the lowest and highest odds it
    is at a distance of 1. Of equally good thresholds the lowest is taken.

    Args:
        scores: EM or F1 of each of N questions' non-null answers, 0 to 1.
        answerable: N flags, whether the question has a gold answer.
        answered: N flags, whether the non-null answer is not the empty string.
        odds: N null odds, in logits.

    Returns:
        The threshold in logits; 0.0 if no question has a non-null answer.
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
    """Return the area under the ROC curve of null odds as a detector of unanswerable questions.

    Args:
        odds: N null odds, in logits.
        answerable: N flags, whether the question has a gold answer.

    Returns:
        0 to 1, where 0.5 is chance; None if all questions are answerable or all are not.
    """
    from sklearn.metrics import roc_auc_score

    unanswerable = ~np.asarray(answerable, bool)
    if unanswerable.all() or not unanswerable.any():
        return None
    return float(roc_auc_score(unanswerable, np.asarray(odds, float)))
