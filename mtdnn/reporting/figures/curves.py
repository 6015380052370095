"""The figures of answers: precision and recall, scores by null threshold, groups.

All show the rows of the table of mixtures; see `mtdnn.reporting.answers`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtdnn.config.experiment import Experiment
from mtdnn.reporting.answers import Answered, Answers, RowAnswers, read_answers, why_none
from mtdnn.reporting.cases import SMALL_GROUP, group_differences
from mtdnn.reporting.figures.drawing import (
    absent,
    canvas,
    is_narrow,
    legend_below,
    say_empty,
    side_by_side,
)
from mtdnn.reporting.figures.palette import GREY, Look, row_looks
from mtdnn.reporting.wording import has_answers
from mtdnn.statistics.level import CONFIDENCE

CURVE_POINTS = 400

_METRICS = (("EM", "exact"), ("F1", "f1"))
_SIZE = (7.4, 4.0)
_LIGHT = "#b0b0b0"


def precision_recall(answered: Answered, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall (percent) as more and more questions are answered.

    As in the official script of SQuAD 2.0, questions are answered in the order of their null
    odds; those with equal odds are added together. Precision is the mean score of the questions
    answered so far, recall the sum of their scores over the number of answerable questions.

    Args:
        answered: the answers of one run.
        metric: `exact` or `f1`.

    Returns:
        Two arrays (distinct odds,).
    """
    kept = answered.questions.scores
    answerable = np.array(kept.answerable)
    order = np.argsort(answered.odds, kind="stable")
    score = np.where(answerable, np.array(getattr(kept, metric), float), 0.0)[order]
    total = np.cumsum(score)
    last = np.append(np.diff(answered.odds[order]) > 0, True)
    count = np.arange(1, len(order) + 1)
    return 100 * (total / count)[last], 100 * (total / max(answerable.sum(), 1))[last]


def over_thresholds(answered: Answered, metric: str, thresholds: np.ndarray) -> np.ndarray:
    """Return the score (percent) at each null threshold, from the best non-null answers.

    Args:
        answered: the answers of one run.
        metric: `exact` or `f1`.
        thresholds: (n,) null thresholds.
    """
    kept = answered.questions.scores
    null = ~np.array(kept.answerable)
    gain = np.array(getattr(kept, metric), float) - null
    order = np.argsort(answered.odds, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum(gain[order])])
    places = np.searchsorted(answered.odds[order], thresholds, "right")
    scores: np.ndarray = 100 * (null.sum() + gains[places]) / len(null)
    return scores


def draw_precision_recall(experiment: Experiment) -> Figure:
    """Draw precision against recall of the answers for EM and F1, a curve for each row."""
    note = (
        "More and more questions are answered from left to right, those with the lowest null odds "
        "first; the first hundredth, where precision is mostly chance, is omitted. Large marks: "
        "the null threshold in use."
    )

    def curve(axes: Axes, row: RowAnswers, metric: str, look: Look) -> None:
        shares = np.linspace(0, 1, CURVE_POINTS)
        resampled = []
        for answered in row.seeds.values():
            precision, recall = (
                values[len(values) // 100 :] for values in precision_recall(answered, metric)
            )
            _faint(axes, recall, precision, look, row)
            place = shares * (len(recall) - 1)
            known = np.arange(len(recall))
            resampled.append([np.interp(place, known, each) for each in (recall, precision)])
        recall, precision = np.mean(resampled, axis=0)
        _strong(axes, recall, precision, look, row)
        here = np.mean([_operating_point(each, metric) for each in row.seeds.values()], axis=0)
        axes.plot(
            *here, look.marker, color=look.colour, markersize=9, markeredgecolor="black", zorder=4
        )

    names = ("recall, {} (%)", "precision, {} (%)")
    return _panels(experiment, read_answers(experiment), "Precision and recall", note, curve, names)


def _operating_point(answered: Answered, metric: str) -> tuple[float, float]:
    """Recall and precision (percent) at the threshold in use."""
    given = ~answered.empty
    answerable = np.array(answered.questions.scores.answerable)
    right = float(getattr(answered, metric)[given & answerable].sum())
    return 100 * right / max(answerable.sum(), 1), 100 * right / max(given.sum(), 1)


def draw_thresholds(experiment: Experiment) -> Figure:
    """Draw EM and F1 at every null threshold, a curve for each row."""
    answers = read_answers(experiment)
    note = (
        "Questions whose null odds exceed the threshold count as unanswered. Dashed: the "
        "threshold in use. Crosses: the best threshold on these same questions, which a fair "
        "score must not use."
    )
    tuned = _tuned(answers) if answers else {}
    if tuned:
        note += " Stars: the threshold tuned on other questions."
    threshold = experiment.decoding.null_threshold

    def curve(axes: Axes, row: RowAnswers, metric: str, look: Look) -> None:
        thresholds = np.linspace(*_extent(row, threshold), CURVE_POINTS)
        values = []
        for answered in row.seeds.values():
            values.append(over_thresholds(answered, metric, thresholds))
            _faint(axes, thresholds, values[-1], look, row)
        mean = np.mean(values, axis=0)
        _strong(axes, thresholds, mean, look, row)
        best = int(np.argmax(mean))
        axes.plot(thresholds[best], mean[best], "x", color=look.colour, markersize=7, zorder=4)
        if row.path in tuned:
            height = np.interp(tuned[row.path], thresholds, mean)
            axes.plot(tuned[row.path], height, "*", color=look.colour, markersize=9, zorder=4)
        axes.axvline(threshold, color=GREY, linewidth=0.9, linestyle="--", zorder=1)

    title = "Scores by null threshold"
    return _panels(experiment, answers, title, note, curve, ("null threshold", "{} (%)"))


def _tuned(answers: Answers) -> dict[str, float]:
    """The mean threshold of each row, by path, that was tuned for these questions on others."""
    means = {
        row.path: row.result.score(answers.slice_name, "threshold", tuned=True).mean
        for row in answers.rows
    }
    return {path: mean for path, mean in means.items() if mean is not None}


def _extent(row: RowAnswers, threshold: float) -> tuple[float, float]:
    """The range of null odds that are worth drawing: of questions for which there is an answer."""
    runs = row.seeds.values()
    odds = np.concatenate([run.odds[np.array(run.questions.scores.answered)] for run in runs])
    if not len(odds):
        return threshold - 1, threshold + 1
    low, high = np.quantile(odds, [0.005, 0.995])
    return float(low), float(high)


def draw_groups(experiment: Experiment) -> Figure:
    """Draw how F1 differs from the baseline in groups of questions, a mark for each mixture."""
    answers = read_answers(experiment)
    if answers is None or not answers.others:
        return _empty(experiment, "Groups of questions")
    groupings = group_differences(answers)
    lines = sum(len(grouping["groups"]) for grouping in groupings)
    small = any(
        group["questions"] < SMALL_GROUP for grouping in groupings for group in grouping["groups"]
    )
    notes = [
        f"{answers.slice_label}. Differences in F1 from {answers.baseline.label}; bars: "
        f"{CONFIDENCE:.0%} intervals by bootstrap of paragraphs, for these seeds. "
        + f"Grey: fewer than {SMALL_GROUP} questions. " * small
        + "Exploratory: no correction for the number of groups."
    ]
    height = 1.5 + 0.11 * lines * max(3, len(answers.others))
    figure, body = canvas(experiment, (7.4, height), "Groups of questions", notes)
    heights = [len(grouping["groups"]) + 0.6 for grouping in groupings]
    looks = row_looks(experiment, [row.result.row.mixture for row in answers.rows])[1:]
    panels = body.subplots(len(groupings), 1, sharex=True, height_ratios=heights)
    for axes, grouping in zip(panels, groupings, strict=True):
        _draw_grouping(axes, grouping, answers, looks)
    panels[-1].set_xlabel(f"difference in F1 from {answers.baseline.label} (points)")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, markersize=5, label=row.label)
        for look, row in zip(looks, answers.others, strict=True)
    ]
    legend_below(body, handles, [row.label for row in answers.others])
    return figure


def _draw_grouping(
    axes: Axes, grouping: dict[str, Any], answers: Answers, looks: list[Look]
) -> None:
    groups = grouping["groups"]
    number = len(answers.others)
    for place, group in enumerate(groups):
        for order, (row, look) in enumerate(zip(group["rows"][1:], looks, strict=True)):
            if not row["differences"]:
                continue
            y = place + 0.75 * ((order + 0.5) / number - 0.5)
            colour = _LIGHT if group["questions"] < SMALL_GROUP else look.colour
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.2)
            mean = np.mean(row["differences"])
            axes.plot(mean, y, look.marker, color=colour, markersize=5)
    names = [f"{group['name']}  ({group['questions']:,})" for group in groups]
    axes.set_yticks(range(len(groups)), names)
    for group, label in zip(groups, axes.get_yticklabels(), strict=True):
        label.set_color(GREY if group["questions"] < SMALL_GROUP else "black")
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.axvline(0, color=GREY, linewidth=0.9)
    axes.set_title(grouping["title"], loc="left", fontweight="bold")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


# --- shared by the curves --------------------------------------------------------------------


def _panels(
    experiment: Experiment,
    answers: Answers | None,
    title: str,
    note: str,
    curve: Callable[[Axes, RowAnswers, str, Look], None],
    names: tuple[str, str],
) -> Figure:
    """Draw a panel for EM and one for F1; `curve` draws one row into one of them."""
    if answers is None:
        return _empty(experiment, title)
    seeds = " Faint: single seeds; strong: their mean." if len(experiment.seeds) > 1 else ""
    missing = {row.label: row.missing for row in answers.rows}
    size = (_SIZE[0], _SIZE[1] * (1.6 if is_narrow() else 1))
    notes = [f"{answers.slice_label}. {note}{seeds}", *absent("Not drawn", missing)]
    figure, body = canvas(experiment, size, title, notes)
    panels = body.subplots(*side_by_side(2))
    looks = row_looks(experiment, [row.result.row.mixture for row in answers.rows])
    for axes, (name, metric) in zip(panels, _METRICS, strict=True):
        for row, look in zip(answers.rows, looks, strict=True):
            if row.seeds:
                curve(axes, row, metric, look)
        axes.set_xlabel(names[0].format(name))
        axes.set_ylabel(names[1].format(name))
    legend_below(body, *panels[0].get_legend_handles_labels())
    return figure


def _strong(axes: Axes, x: np.ndarray, y: np.ndarray, look: Look, row: RowAnswers) -> None:
    """Draw the curve of a row, with a few markers that tell it apart without colours."""
    axes.plot(
        x,
        y,
        color=look.colour,
        linestyle=look.dash,
        linewidth=1.6,
        marker=look.marker,
        markersize=3.5,
        markevery=0.2,
        label=row.label,
    )


def _faint(axes: Axes, x: np.ndarray, y: np.ndarray, look: Look, row: RowAnswers) -> None:
    """Draw one seed's curve with at most `CURVE_POINTS` points, unless it is the only seed."""
    if len(row.seeds) > 1:
        keep = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
        axes.plot(x[keep], y[keep], color=look.colour, linewidth=0.6, alpha=0.35)


def _empty(experiment: Experiment, title: str) -> Figure:
    figure, body = canvas(experiment, _SIZE, title, [why_none(experiment)])
    say_empty(body.subplots(), *([] if has_answers(experiment) else ["nothing to draw"]))
    return figure
