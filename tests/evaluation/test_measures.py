"""Measures: equal to independent references, linear scores, and their variance by bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from mtdnn.evaluation.entities import entities
from mtdnn.evaluation.measures import (
    ACCURACY,
    ENTITY_F1,
    F1,
    MATTHEWS,
    MEASURES,
    PEARSON,
    SPEARMAN,
    TOKEN_ACCURACY,
    Items,
    tag_counts,
)

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def items_of(label, prediction, classes=0):
    columns = {"label": np.array(label, float), "prediction": np.array(prediction, float)}
    return Items(columns, classes)


def draw_classes(random, size, classes, right=0.6):
    labels = random.integers(0, classes, size)
    guesses = random.integers(0, classes, size)
    return items_of(labels, np.where(random.random(size) < right, labels, guesses), classes)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_classification_is_scored_as_scikit_learn_does(classes, seed):
    items = draw_classes(np.random.default_rng(seed), 40, classes, right=0.2 * seed)
    pair = items["label"], items["prediction"]
    average = "binary" if classes == 2 else "macro"
    expected = metrics.f1_score(*pair, average=average, zero_division=0)
    assert F1.value(items) == pytest.approx(expected, abs=1e-12)
    assert MATTHEWS.value(items) == pytest.approx(metrics.matthews_corrcoef(*pair), abs=1e-12)
    assert ACCURACY.value(items) == pytest.approx(metrics.accuracy_score(*pair), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "predictions", "classes"),
    [
        ([0, 0, 1, 1], [0, 0, 0, 0], 2),
        ([1, 1, 1], [1, 1, 1], 2),
        ([0, 0], [0, 0], 2),
        ([0, 1, 2], [3, 3, 3], 4),
        ([2], [2], 3),
    ],
)
def test_constant_labels_and_predictions_score_as_in_scikit_learn(labels, predictions, classes):
    items = items_of(labels, predictions, classes)
    average = "binary" if classes == 2 else "macro"
    expected = metrics.f1_score(labels, predictions, average=average, zero_division=0)
    assert F1.value(items) == pytest.approx(expected)
    assert MATTHEWS.value(items) == pytest.approx(metrics.matthews_corrcoef(labels, predictions))
    assert np.isfinite(MATTHEWS.linearised(items)).all()


def test_the_least_value_of_a_correlation_is_that_of_the_reverse():
    items = items_of([0, 1, 0, 1], [1, 0, 1, 0], 2)
    measures = {m.key: m for m in (*MEASURES["sequence_classification"], *MEASURES["regression"])}
    for measure in measures.values():
        assert measure.value(items) == pytest.approx(measure.lowest)
    spans = {key: measure.span for key, measure in measures.items()}
    assert spans == {"accuracy": 1, "f1": 1, "matthews": 2, "pearson": 2, "spearman": 2}


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_correlations_are_those_of_scipy_with_and_without_ties(decimals):
    random = np.random.default_rng(decimals)
    x = np.round(random.normal(3, 2, 200), decimals)
    items = items_of(x, np.round(x + random.normal(0, 2, 200), decimals))
    pair = items["label"], items["prediction"]
    assert PEARSON.value(items) == pytest.approx(stats.pearsonr(*pair).statistic, abs=1e-12)
    assert SPEARMAN.value(items) == pytest.approx(stats.spearmanr(*pair).statistic, abs=1e-12)


def test_constant_predictions_correlate_with_nothing():
    items = items_of([1.0, 2.5, 3.0], [2.2, 2.2, 2.2])
    assert PEARSON.value(items) == SPEARMAN.value(items) == 0


def draw_tags(random, sentences):
    gold = [random.integers(0, 5, random.integers(1, 12)) for _ in range(sentences)]
    guesses = [
        np.where(random.random(len(s)) < 0.7, s, random.integers(0, 5, len(s))) for s in gold
    ]
    return [s.tolist() for s in gold], [s.tolist() for s in guesses]


@pytest.mark.parametrize("seed", range(5))
def test_entity_f1_is_that_of_the_sums_over_sentences(seed):
    gold, guesses = draw_tags(np.random.default_rng(seed), 30)
    items = Items(tag_counts(gold, guesses, NAMES))
    sides = [
        {
            (number, *each)
            for number, s in enumerate(side)
            for each in entities([NAMES[t] for t in s])
        }
        for side in (gold, guesses)
    ]
    everything = sorted(sides[0] | sides[1])
    pair = [[each in side for each in everything] for side in sides]
    assert ENTITY_F1.value(items) == pytest.approx(metrics.f1_score(*pair), abs=1e-12)
    flat = [np.concatenate(side) for side in (gold, guesses)]
    assert TOKEN_ACCURACY.value(items) == pytest.approx(metrics.accuracy_score(*flat), abs=1e-12)


def by_weights(measure, items, weights):
    """A measure of items that occur `weights` times each."""
    return measure.value(items.take(np.repeat(np.arange(len(items)), weights)))


CLASSES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=30)
NUMBERS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-50, 50)), min_size=2, max_size=30)


@given(CLASSES)
def test_the_mean_of_the_scores_is_the_value_for_classes(pairs):
    labels, predictions = np.array(pairs).T
    pair = labels.tolist(), predictions.tolist()
    items = items_of(*pair, classes=3)
    expected = metrics.f1_score(*pair, average="macro", zero_division=0)
    assert F1.linearised(items).mean() == pytest.approx(expected, abs=1e-12)
    expected = metrics.matthews_corrcoef(*pair)
    assert MATTHEWS.linearised(items).mean() == pytest.approx(expected, abs=1e-9)


@given(NUMBERS)
def test_the_mean_of_the_scores_is_the_value_for_numbers(pairs):
    labels, predictions = np.array(pairs, float).T
    items = items_of(labels, predictions)
    constant = len(set(labels)) == 1 or len(set(predictions)) == 1
    for measure, reference in ((PEARSON, stats.pearsonr), (SPEARMAN, stats.spearmanr)):
        expected = 0 if constant else reference(labels, predictions).statistic
        assert measure.linearised(items).mean() == pytest.approx(expected, abs=1e-9)


def sentences(random, size):
    return Items(tag_counts(*draw_tags(random, size), NAMES))


def correlated(random, size):
    x = np.round(random.normal(size=size), 1)
    return items_of(x, x + random.normal(0, 1, size))


DRAWS = {
    "f1": (F1, lambda random, size: draw_classes(random, size, 2)),
    "macro f1": (F1, lambda random, size: draw_classes(random, size, 4)),
    "matthews": (MATTHEWS, lambda random, size: draw_classes(random, size, 3)),
    "pearson": (PEARSON, correlated),
    "spearman": (SPEARMAN, correlated),
    "entity_f1": (ENTITY_F1, sentences),
    "token accuracy": (TOKEN_ACCURACY, sentences),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_score_is_the_derivative_of_the_value_by_the_items_weight(name):
    measure, draw = DRAWS[name]
    items = draw(np.random.default_rng(3), 25)
    value, scores = measure.value(items), measure.linearised(items)
    # An item that occurs once more than the others, of 400 times, weighs 1/(400 N) more.
    copies, size = 400, len(items)
    for place in range(0, size, 4):
        weights = np.full(size, copies)
        weights[place] += 1
        change = (by_weights(measure, items, weights) - value) * (copies * size + 1)
        assert change == pytest.approx(scores[place] - value, rel=0.02, abs=0.01)


@pytest.mark.parametrize("name", DRAWS)
def test_standard_errors_agree_with_a_bootstrap_of_clusters(name):
    measure, draw = DRAWS[name]
    random = np.random.default_rng(11)
    clusters, size = 150, 4
    # Each cluster has two items, twice each, so that items are not independent.
    items = draw(random, clusters * 2).take(np.repeat(np.arange(clusters * 2), 2))
    number = np.arange(len(items)) // size
    influence = measure.linearised(items) - measure.value(items)
    sums = np.bincount(number, influence)
    error = np.sqrt(clusters / (clusters - 1) * (sums**2).sum()) / len(items)
    plain = np.sqrt((influence**2).sum()) / len(items)
    values = [
        measure.value(items.take((picked[:, None] * size + np.arange(size)).ravel()))
        for picked in random.integers(0, clusters, (1500, clusters))
    ]
    assert error == pytest.approx(np.std(values), rel=0.1)
    assert error > 1.2 * plain
