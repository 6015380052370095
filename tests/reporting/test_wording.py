"""Words for scores: units, lists, and what is scored."""

from mtdnn.evaluation.measures import MEASURES
from mtdnn.reporting import wording

ANSWERS, LABELS = MEASURES["question_answering"], MEASURES["sequence_classification"]


def test_a_correlation_is_no_percentage():
    assert [wording.axis(measure) for measure in (*ANSWERS, *LABELS)] == [
        *("EM (%)", "F1 (%)", "accuracy (%)", "F1 (%)", "Matthews correlation (× 100)")
    ]
    assert wording.title(LABELS[0]) == "Accuracy (%)"
    assert wording.in_unit(ANSWERS) == "EM and F1 in percent"
    assert wording.in_unit(LABELS) == "Acc. and F1 in percent and Matthews times 100"
    assert wording.in_unit(MEASURES["regression"]) == "Pearson and Spearman times 100"


def test_each_measure_of_several_corpora_occurs_once_in_their_order():
    keys = [measure.key for measure in wording.union([LABELS[2:], ANSWERS, LABELS])]
    assert keys == ["matthews", "exact", "f1", "accuracy"]


def test_words_are_listed_as_in_a_sentence():
    assert wording.listed(["EM"]) == "EM"
    assert wording.listed(["EM", "Acc.", "Matthews"], "or") == "EM, Acc. or Matthews"


def test_a_question_gets_no_full_stop():
    for text in ("What is it?", "“Why?”", "It works!", "A result."):
        assert wording.sentence(text) == text
    assert wording.sentence("A result") == "A result."
    assert wording.sentence("A result (why?)") == "A result (why?)."


def test_only_questions_are_called_questions():
    both = ["question_answering", "multiple_choice"]
    assert (wording.items(both[:1]), wording.clusters(both[:1])) == ("questions", "paragraphs")
    assert (wording.items(both), wording.clusters(both)) == ("items", "clusters")
    assert wording.clustered(both) == "clusters of items"
