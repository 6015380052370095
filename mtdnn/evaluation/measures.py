"""The measures of each task family: one number for a set of items, and a score for each item.

The statistics compare means of scores over items (`mtdnn.statistics.inference`). Accuracy, exact
match and the F1 of answers are such means. The other measures are smooth functions of several
means, such as a ratio of counts or a correlation. Each is *linearised*: an item's score is the
measure's value plus the item's influence on it, the derivative of the value with respect to the
item's weight (the delta method: Cochran 1977, section 6.5, for ratios; the infinitesimal
jackknife: Jaeckel 1972, Efron 1982, chapter 6). The influences add up to zero, so the mean of
the scores is the measure, and their cluster-robust variance is, to first order, that of the
measure under resampling of whole clusters. A test compares it with a bootstrap of clusters.

Values are fractions: accuracies and F1 are from 0 to 1, correlations from -1 to 1. All files and
tables show them times 100.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtdnn.config.settings import CorpusSettings
from mtdnn.evaluation.entities import entities

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """N items with their gold values and predictions, from which measures are computed.

    Attributes:
        columns: (N,) arrays by name; which ones depends on the family:
            question_answering      `exact` and `f1`: scores of the final answers, 0 to 1
            multiple_choice, sequence_classification, regression
                                    `label` and `prediction`: numbers of classes, or real numbers
            token_classification    the counts that `tag_counts` returns
        classes: number of labels of the corpus; 0 if it has none.
    """

    columns: dict[str, Array]
    classes: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def take(self, places: NDArray[np.int64]) -> "Items":
        """Return the items at `places`, in that order."""
        columns: dict[str, Array] = {name: each[places] for name, each in self.columns.items()}
        return Items(columns, self.classes)


@dataclass(frozen=True)
class Measure:
    """One number for a set of items.

    Attributes:
        key: its name in `metrics.json`.
        label: its heading.
        name: its name in a sentence.
        linearised: from N items, at least one, to an (N,) array of scores with its value as mean.
        column: its name in `statistics.json`, in tables' files and among published scores.
        lowest: its least possible value; the greatest is 1.
    """

    key: str
    label: str
    name: str
    linearised: Callable[[Items], Array]
    column: str
    lowest: float = 0.0

    @property
    def span(self) -> float:
        """The largest possible difference between two values, as a fraction."""
        return 1 - self.lowest

    def value(self, items: Items) -> float:
        """Return the measure of at least one item, as a fraction."""
        return float(self.linearised(items).mean())


# --- functions of means ----------------------------------------------------------------------


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Linearise a ratio of sums; it is 0 if the denominator is."""
    mean = denominator.mean()
    if not mean:
        return np.zeros(len(denominator))
    ratio = numerator.mean() / mean
    linearised: Array = ratio + (numerator - ratio * denominator) / mean
    return linearised


def _accuracy(items: Items) -> Array:
    right: NDArray[np.bool_] = items["label"] == items["prediction"]
    return right.astype(np.float64)


def _f1(items: Items) -> Array:
    """Linearise the F1 of label 1 if there are two labels, else the mean over labels (macro).

    As in scikit-learn, labels that are neither gold nor predicted do not count.
    """
    labels, predictions = items["label"], items["prediction"]
    used = [1.0] if items.classes == 2 else np.union1d(labels, predictions)
    scores = [
        _ratio(2.0 * ((labels == each) & (predictions == each)), (labels == each) + hits)
        for each in used
        for hits in [(predictions == each).astype(np.float64)]
    ]
    mean: Array = np.mean(scores, axis=0)
    return mean


def _matthews(items: Items) -> Array:
    """Linearise Matthews' correlation of K classes (Gorodkin 2004); 0 if a side is constant.

    With the share of right items, c, and the shares t and p of each class among gold labels and
    predictions, it is (c - t·p) / sqrt((1 - t·t)(1 - p·p)).
    """
    labels, predictions = items["label"], items["prediction"]
    used = np.union1d(labels, predictions)
    gold, given = (
        (side[:, None] == used).astype(np.float64) for side in (labels, predictions)
    )  # (N, K)
    right = (labels == predictions).astype(np.float64)
    t, p = gold.mean(axis=0), given.mean(axis=0)
    covariance, gold_variance, given_variance = right.mean() - t @ p, 1 - t @ t, 1 - p @ p
    scale = gold_variance * given_variance
    if scale <= 0:
        return np.zeros(len(right))
    value = covariance / np.sqrt(scale)
    of_covariance = (right - right.mean()) - (gold - t) @ p - (given - p) @ t
    of_gold, of_given = -2 * (gold - t) @ t, -2 * (given - p) @ p
    influence = of_covariance / np.sqrt(scale) - value / 2 * (
        of_gold / gold_variance + of_given / given_variance
    )
    linearised: Array = value + influence
    return linearised


def _pearson(items: Items) -> Array:
    """Linearise Pearson's correlation; 0 if a side is constant."""
    x, y = (_standardised(items[name]) for name in ("label", "prediction"))
    if x is None or y is None:
        return np.zeros(len(items))
    value = (x * y).mean()
    linearised: Array = x * y - value / 2 * (x**2 + y**2 - 2)
    return linearised


def _standardised(values: Array) -> Array | None:
    """Return values with mean 0 and variance 1; None if they are constant."""
    if (values == values[0]).all():
        return None
    centred = values - values.mean()
    standardised: Array = centred / np.sqrt((centred**2).mean())
    return standardised


def _spearman(items: Items) -> Array:
    """Linearise Spearman's rank correlation, ties with their mean rank; 0 if a side is constant.

    It is Pearson's correlation of the ranks, but an item's weight also moves the ranks of all
    items above it.
    """
    x, y = items["label"], items["prediction"]
    if (x == x[0]).all() or (y == y[0]).all():
        return np.zeros(len(items))
    u, v = _mid_ranks(x), _mid_ranks(y)
    # Derivatives of the means of u·v, u² and v², whose ranks are functions of the weights.
    of_uv = u * v + _mean_above(x, v) + _mean_above(y, u)
    of_uu, of_vv = u**2 + 2 * _mean_above(x, u), v**2 + 2 * _mean_above(y, v)
    covariance, u_variance, v_variance = (u * v).mean(), (u**2).mean(), (v**2).mean()
    value = covariance / np.sqrt(u_variance * v_variance)
    influence = (of_uv - of_uv.mean()) / np.sqrt(u_variance * v_variance) - value / 2 * (
        (of_uu - of_uu.mean()) / u_variance + (of_vv - of_vv.mean()) / v_variance
    )
    linearised: Array = value + influence
    return linearised


def _mid_ranks(values: Array) -> Array:
    """Return the share of values below each, ties counting half, less its mean of one half."""
    ordered = np.sort(values)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    ranks: Array = (below + up_to) / (2 * len(values)) - 0.5
    return ranks


def _mean_above(values: Array, other: Array) -> Array:
    """Return for each item the mean over all items of `other` where its value is below theirs.

    Ties count half, other items nothing: (1/N) sum over j of other[j] h(values[i], values[j]).
    """
    order = np.argsort(values, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(other[order])])
    ordered = values[order]
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    above: Array = (total[-1] - (total[below] + total[up_to]) / 2) / len(values)
    return above


# --- tags of tokens --------------------------------------------------------------------------


def tag_counts(
    gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]], names: Sequence[str]
) -> dict[str, Array]:
    """Count each sentence's entities and tokens (words).

    Args:
        gold: number of the tag of each token of each of N sentences.
        predicted: the predicted ones, as many.
        names: the tags' names, such as `B-PER`, by number.

    Returns:
        (N,) arrays: `gold`, `predicted` and `found` entities (those predicted exactly), and
        `tokens`, of which `right` have the gold tag and `outside` are gold `O`.
    """
    counts = []
    for tags, guesses in zip(gold, predicted, strict=True):
        wanted, given = (entities([names[each] for each in side]) for side in (tags, guesses))
        right = sum(tag == guess for tag, guess in zip(tags, guesses, strict=True))
        outside = sum(names[tag] == "O" for tag in tags)
        counts.append((len(wanted), len(given), len(wanted & given), len(tags), right, outside))
    columns = np.array(counts, np.float64).reshape(-1, 6).T
    keys = ("gold", "predicted", "found", "tokens", "right", "outside")
    return dict(zip(keys, columns, strict=True))


# --- the measures of each family -------------------------------------------------------------

EXACT = Measure("exact", "EM", "EM", lambda items: items["exact"], "em")
ANSWER_F1 = Measure("f1", "F1", "F1", lambda items: items["f1"], "f1")
ACCURACY = Measure("accuracy", "Acc.", "accuracy", _accuracy, "accuracy")
F1 = Measure("f1", "F1", "F1", _f1, "f1")
# Not MCC, which is multiple-choice classification in the paper's mixtures.
MATTHEWS = Measure("matthews", "Matthews", "Matthews correlation", _matthews, "matthews", -1.0)
PEARSON = Measure("pearson", "Pearson", "Pearson correlation", _pearson, "pearson", -1.0)
SPEARMAN = Measure("spearman", "Spearman", "Spearman correlation", _spearman, "spearman", -1.0)
ENTITY_F1 = Measure(
    "entity_f1",
    "Entity F1",
    "entity F1",
    lambda items: _ratio(2 * items["found"], items["gold"] + items["predicted"]),
    "entity_f1",
)
TOKEN_ACCURACY = Measure(
    "accuracy",
    "Acc.",
    "accuracy by token",
    lambda items: _ratio(items["right"], items["tokens"]),
    "accuracy",
)

MEASURES: dict[str, tuple[Measure, ...]] = {
    "question_answering": (EXACT, ANSWER_F1),
    "multiple_choice": (ACCURACY,),
    "sequence_classification": (ACCURACY, F1, MATTHEWS),
    "regression": (PEARSON, SPEARMAN),
    "token_classification": (ENTITY_F1, TOKEN_ACCURACY),
}
"""The measures of each family; the first is the headline, unless the corpus chooses another."""


def measures_of(corpus: CorpusSettings) -> tuple[Measure, ...]:
    """Return the measures of a corpus, the headline first: those it names, or its family's."""
    by_key = {measure.key: measure for measure in MEASURES[corpus.family]}
    return tuple(by_key[key] for key in corpus.metrics or by_key)
