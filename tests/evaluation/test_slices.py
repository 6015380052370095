"""Which questions belong to a slice."""

import pytest

from mtdnn.config.experiment import Slice
from mtdnn.evaluation.slices import answer_words, belongs, question_type


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("How many people live there?", "how many"),
        ("In how  much time?", "how many"),
        ("Whose idea was it, and when?", "who"),
        ("Then what did he do?", "what"),
        ("Name the river.", "other"),
        ("Somehow it is whatever?", "other"),
    ],
)
def test_types_of_questions(question, kind):
    assert question_type(question) == kind


def test_the_shortest_answer_counts():
    assert answer_words(["in the north of Mali", "north Mali", "the north"]) == 2
    assert answer_words([]) == 0


@pytest.mark.parametrize(
    ("conditions", "is_member"),
    [
        ({}, True),
        ({"titles": ["Tea", "Rice"]}, True),
        ({"titles": ["Rice"]}, False),
        ({"exclude_titles": ["Tea"]}, False),
        ({"only": "answerable"}, True),
        ({"only": "unanswerable"}, False),
        ({"question_types": ["how many"]}, False),
        ({"question_types": ["how many", "how"]}, True),
        ({"question_words": {"least": 4, "most": 4}}, True),
        ({"question_words": {"least": 5}}, False),
        ({"context_words": {"most": 6}}, True),
        ({"context_words": {"most": 5}}, False),
        ({"answer_words": {"least": 1, "most": 1}}, True),
        ({"answer_words": {"least": 2}}, False),
        ({"titles": ["Tea"], "only": "unanswerable"}, False),
    ],
)
def test_a_member_meets_every_condition(conditions, is_member):
    entry = Slice(label="one", **conditions)
    context = "Tea is hot in the morning."
    assert belongs(entry, "Tea", context, "How hot is tea?", ["very hot", "hot"]) is is_member


def test_an_unanswerable_question_has_no_answer_length():
    entry = Slice(label="one", answer_words={"least": 0})
    assert not belongs(entry, "Tea", "Tea is hot.", "Who drinks tea?", [])
