"""Entities: those of a library of its own, and of tags that the library does not know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nervaluate import Evaluator

from mtdnn.evaluation.entities import entities

TAGS = ("O", "B-a", "I-a", "B-b", "I-b")


def counts(gold: list[list[str]], predicted: list[list[str]]) -> tuple[int, int, int]:
    """Right, predicted and gold entities of some sentences."""
    sides = [[entities(tags) for tags in side] for side in (gold, predicted)]
    right = sum(len(a & b) for a, b in zip(*sides, strict=True))
    return right, *(sum(map(len, side)) for side in reversed(sides))


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=8),
        min_size=1,
        max_size=4,
    )
)
def test_entities_equal_those_of_nervaluate(sentences):
    gold, predicted = ([[pair[side] for pair in s] for s in sentences] for side in (0, 1))
    theirs = Evaluator(gold, predicted, tags=["a", "b"], loader="list").evaluate()
    strict = theirs["overall"]["strict"]
    assert counts(gold, predicted) == (strict.correct, strict.actual, strict.possible)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["B-a", "I-a", "E-a", "S-b"], {("a", 0, 3), ("b", 3, 4)}),  # BIOES
        (["U-a", "U-a", "B-b", "L-b"], {("a", 0, 1), ("a", 1, 2), ("b", 2, 4)}),  # BILOU
        (["S-a", "I-a"], {("a", 0, 1), ("a", 1, 2)}),
        (["NN", "NN", "O"], {("NN", 0, 1), ("NN", 1, 2)}),  # parts of speech
        (["B-creative-work", "I-creative-work"], {("creative-work", 0, 2)}),
        (["X-ray"], {("X-ray", 0, 1)}),
        ([], set()),
    ],
)
def test_other_schemes(tags, expected):
    assert entities(tags) == expected
