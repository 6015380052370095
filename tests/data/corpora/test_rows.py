"""Rows: columns, ids and labels of records; bad records are refused with place and reason."""

import pytest

from mtdnn.config.settings import CorpusSettings, FilesCorpus
from mtdnn.data.corpora import rows
from mtdnn.data.corpora.rows import Split, normalise, table_of
from mtdnn.errors import MtdnnError
from tests.support.published import check_refused, corpus_settings

PAIR = {"sentence1": "A.", "sentence2": "B.", "gold_label": "neutral"}


def normalised(settings: CorpusSettings, *records: dict) -> Split:
    """The split `train` of a corpus with these records, at places `record 0` and so on."""
    assert isinstance(settings.source, FilesCorpus)
    places = ((f"record {number}", record) for number, record in enumerate(records))
    return normalise("train", settings, settings.source, places)


def test_labels_are_given_by_name_or_by_index():
    records = [{**PAIR, "gold_label": label} for label in ("neutral", 1, "1")]
    split = normalised(corpus_settings("mnli"), *records)
    assert [row["label"] for row in split.rows] == [1, 1, 1]


def test_dropped_labels_are_counted():
    records = [PAIR, {**PAIR, "gold_label": "-"}, PAIR, {**PAIR, "gold_label": "-"}]
    split = normalised(corpus_settings("mnli"), *records)
    assert len(split.rows) == 2
    assert split.dropped == {"label '-'": 2}


def test_rows_without_an_id_are_numbered():
    records = [PAIR, {**PAIR, "gold_label": "-"}, PAIR]
    split = normalised(corpus_settings("mnli"), *records)
    assert [row["id"] for row in split.rows] == ["train-0", "train-1"]


@pytest.mark.parametrize("missing", ["id", "sentence2"])
def test_an_optional_column_of_the_first_record_is_needed_in_all(missing):
    first = {**PAIR, "id": 7}
    second = {key: value for key, value in {**first, "id": 8}.items() if key != missing}
    assert normalised(corpus_settings("mnli"), first).rows[0]["id"] == "7"
    with pytest.raises(MtdnnError, match=f"record 1: missing column '{missing}'; the columns are"):
        normalised(corpus_settings("mnli"), first, second)


def test_texts_longer_than_any_article_are_refused(monkeypatch):
    monkeypatch.setattr(rows, "MAX_TEXT_CHARACTERS", 10)
    normalised(corpus_settings("mnli"), {**PAIR, "sentence1": "x" * 10})
    with pytest.raises(MtdnnError, match="sentence1 has 11 characters, at most 10 are read"):
        normalised(corpus_settings("mnli"), {**PAIR, "sentence1": "x" * 11})


CHOICES = {"sentence": "A.", "choices": ["x", "y", "z"], "label": 0}


def choices_of(*records: dict, **changes) -> Split:
    settings = corpus_settings("swag", **{"source": {"columns": {}}, **changes})
    return normalised(settings, *records)


def test_items_may_have_different_numbers_of_choices():
    split = choices_of(CHOICES, {**CHOICES, "choices": ["x", "y"], "label": 1})
    assert [len(row["choices"]) for row in split.rows] == [3, 2]
    with pytest.raises(MtdnnError, match="record 0: label 2 is not an index from 0 to 1"):
        choices_of({**CHOICES, "choices": ["x", "y"], "label": 2})
    with pytest.raises(MtdnnError, match=r"at least two, not \['x'\]"):
        choices_of({**CHOICES, "choices": ["x"]})


def test_labels_name_the_choices():
    letters = ["A", "B", "C", "D"]
    split = choices_of({**CHOICES, "label": "C"}, {**CHOICES, "label": "A"}, labels=letters)
    assert [row["label"] for row in split.rows] == [2, 0]
    # Names are not indices: 1 is the first.
    numbers = choices_of({**CHOICES, "label": 1}, {**CHOICES, "label": "3"}, labels=list("123"))
    assert [row["label"] for row in numbers.rows] == [0, 2]
    with pytest.raises(MtdnnError, match="record 0: label 'D' is not one of A, B, C"):
        choices_of({**CHOICES, "label": "D"}, labels=letters)
    with pytest.raises(MtdnnError, match="record 0: 3 choices, but labels has 2"):
        choices_of(CHOICES, labels=["A", "B"])


NAMED = [
    {"A": "x", "B": "y", "C": "z"},
    {"label": ["A", "B", "C"], "text": ["x", "y", "z"]},
    [{"label": name, "text": text} for name, text in zip("ABC", "xyz", strict=True)],
]


@pytest.mark.parametrize("choices", NAMED)
def test_choices_may_have_names_of_their_own(choices):
    (row,) = choices_of({**CHOICES, "choices": choices, "label": "B"}).rows
    assert (row["choices"], row["label"]) == (["x", "y", "z"], 1)
    with pytest.raises(MtdnnError, match="record 0: label 'D' is not one of A, B, C"):
        choices_of({**CHOICES, "choices": choices, "label": "D"})


def test_columns_may_be_nested():
    columns = {
        "sentence": "question.stem",
        "choices": [f"question.options.{name}" for name in "BA"],
        "label": "key",
    }
    record = {"question": {"stem": "A.", "options": {"A": "x", "B": "y"}}, "key": 1}
    (row,) = choices_of(record, source={"columns": columns}).rows
    assert (row["sentence"], row["choices"], row["label"]) == ("A.", ["y", "x"], 1)
    with pytest.raises(MtdnnError, match=r"record 0: missing column 'question\.options\.A'"):
        choices_of({**record, "question": {"options": {"B": "y"}}}, source={"columns": columns})
    dotted = {"question.stem": "B.", **record}  # a name with a dot wins
    assert choices_of(dotted, source={"columns": columns}).rows[0]["sentence"] == "B."


def test_a_cluster_is_kept_where_a_corpus_has_one():
    split = normalised(corpus_settings("mnli"), {**PAIR, "cluster": 7}, {**PAIR, "cluster": "b"})
    assert [row["cluster"] for row in split.rows] == ["7", "b"]
    table = table_of(split.rows, "sequence_classification")
    assert table["cluster"].to_pylist() == ["7", "b"]
    assert "cluster" not in normalised(corpus_settings("mnli"), PAIR).rows[0]
    named = corpus_settings("mnli", source={"columns": {"cluster": ["sentence1", "gold_label"]}})
    record = {**PAIR, "label": 0}
    assert normalised(named, record).rows[0]["cluster"] == "A.-neutral"


# --- answers in columns ----------------------------------------------------------------------

FLAT = {
    "id": "a",
    "context": "Berg keeps a goat. NONE",
    "question": "What?",
    "answer": "a goat",
    "answer_start": 11,
}


def answers_of(record: dict, **changes) -> tuple[list[str], list[int]]:
    (row,) = normalised(corpus_settings("squad", no_answer="NONE", **changes), record).rows
    assert row["context"] == "Berg keeps a goat. "
    return row["answer_texts"], row["answer_starts"]


ANSWERS = [
    ({}, (["a goat"], [11])),
    ({"answer_start": "11"}, (["a goat"], [11])),
    ({"answer_start": "(11, 17)"}, (["a goat"], [11])),
    ({"answer_start": [11, 17]}, (["a goat"], [11])),
    ({"answer": ["goat", "Berg"], "answer_start": [13, 0]}, (["goat", "Berg"], [13, 0])),
    ({"answer": ["goat"], "answer_start": ["[13, 17]"]}, (["goat"], [13])),
    ({"answer": "NONE", "answer_start": "(19, 23)"}, ([], [])),
    ({"answer": "", "answer_start": ""}, ([], [])),
    ({"answer": None, "answer_start": None}, ([], [])),
    ({"answer": [], "answer_start": []}, ([], [])),
]


@pytest.mark.parametrize(("changes", "expected"), ANSWERS)
def test_answers_are_a_text_and_a_start_or_span(changes, expected):
    assert answers_of({**FLAT, **changes}) == expected


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("(11, 17)", (["a goat"], [11])),
        ([[13, 17], [0, 4]], (["goat", "Berg"], [13, 0])),
        ("NONE", ([], [])),
        ([], ([], [])),
    ],
)
def test_a_span_needs_no_text(span, expected):
    record = {key: value for key, value in FLAT.items() if key != "answer"}
    assert answers_of({**record, "answer_start": span}) == expected


MISMATCHES = [
    ({"answer_start": 10}, "the answer 'a goat' is not at character 10; the context has ' a goa'"),
    ({"answer_start": "(11, 16)"}, r"'a goat' does not fill its span '\(11, 16\)'"),
    ({"answer_start": -3}, "is not at character -3"),
]


@pytest.mark.parametrize(("changes", "message"), MISMATCHES)
def test_answers_elsewhere_are_refused_or_dropped_and_counted(changes, message):
    wrong, right = {**FLAT, **changes}, {**FLAT, "id": "b"}
    with pytest.raises(MtdnnError, match=f"record 0: .*{message}"):
        normalised(corpus_settings("squad"), wrong, right)
    split = normalised(corpus_settings("squad", drop_mismatches=True), wrong, right)
    assert [row["id"] for row in split.rows] == ["b"]
    assert split.dropped == {"answer not at its place": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_start": "eleven"}, "whole number or a span"),
        ({"answer_start": "(1, 2, 3)"}, "whole number or a span"),
        ({"answer": ["goat"], "answer_start": [13, 0]}, "equally many values"),
        ({"answer": 7}, "an answer must be text, not 7"),
    ],
)
def test_what_is_no_answer_is_refused_even_where_mismatches_are_dropped(changes, message):
    with pytest.raises(MtdnnError, match=f"record 0: .*{message}"):
        normalised(corpus_settings("squad", drop_mismatches=True), {**FLAT, **changes})


# --- words and scores ------------------------------------------------------------------------


def test_tags_are_given_by_name_or_by_index():
    record = {"tokens": ["Mirl", "rains"], "tags": ["B-person", 0]}
    (row,) = normalised(corpus_settings("wnut"), record).rows
    assert (row["tokens"], row["tags"]) == (["Mirl", "rains"], [9, 0])
    for tags, message in (
        (["B-person", "B-dog"], "tag 2, 'B-dog', is not one of O, B-corporation"),
        (["B-person"], "2 tokens, but 1 tags"),
        ("O O", "tags must be a list of at least one, not 'O O'"),
    ):
        with pytest.raises(MtdnnError, match=f"record 0: {message}"):
            normalised(corpus_settings("wnut"), {**record, "tags": tags})
    with pytest.raises(MtdnnError, match="token 1 is empty"):
        normalised(corpus_settings("wnut"), {**record, "tokens": [" ", "rains"]})


@pytest.mark.parametrize("label", ["five", "nan", "inf", "1e30", None, True, [1]])
def test_a_score_is_a_number(label):
    settings = corpus_settings("stsb", source={"columns": {}})
    record = {"sentence1": "A.", "label": " 4.5"}
    (row,) = normalised(settings, record).rows
    assert (row["label"], row["sentence2"]) == (4.5, None)
    with pytest.raises(MtdnnError, match=r"record 0: label .* is not a number"):
        normalised(settings, {**record, "label": label})


REFUSED = [
    (
        "squad",
        "train.json",
        '"answer_start": 18',
        '"answer_start": 17',
        "'a'.*is not at character 17",
    ),
    ("squad", "train.json", '"answer_start": 18', '"answer_start": -30', "is not at character -30"),
    ("squad", "train.json", '"answer_start": 18', '"answer_start": 18.0', "whole number, not 18.0"),
    ("squad", "train.json", '"id": "b"', '"id": "a"', "duplicate id 'a'"),
    ("squad", "train.json", '"id": "b", ', "", "missing column 'id'"),
    ("squad", "train.json", '"What does it do?"', '" "', "'c': question is empty"),
    ("squad", "train.json", '"What does it do?"', "7", "question must be text, not 7"),
    ("squad", "train.json", '"It rains."', '""', "context is empty"),
    ("squad", "train.json", '"It rains."', '"It \\ud800"', "half a surrogate"),
    ("swag", "train.csv", ",2\n", ",4\n", "line 2: label '4' is not an index from 0 to 3"),
    ("swag", "train.csv", ",2\n", ",two\n", "line 2: label 'two'"),
    ("swag", "train.csv", "ending3,label", "ending4,label", "line 2: missing column 'ending3'"),
    ("swag", "train.csv", "It eats.", "", "line 3: choice 2 is empty"),
    ("cola", "train.tsv", "ks08\t0", "ks08\t2", "line 2: label '2' is not one of unacceptable"),
    ("cola", "train.tsv", "ks08\t0", "ks08\t-1", "line 2: label '-1'"),
    ("cola", "train.tsv", "Cat the sat.", "", "line 2: sentence1 is empty"),
    ("mrpc", "train.txt", "#2 String", "#3 String", "line 2: missing column '#2 String'"),
    ("mrpc", "train.txt", "30\t31", "10\t11", "line 4: duplicate id '10-11'"),
    ("mnli", "train.jsonl", "contradiction", "contra", "line 3: label 'contra' is not one of ent"),
    ("mnli", "train.jsonl", '"contradiction"', "true", "line 3: label True"),
    ("stsb", "train.csv", "0.25", "a quarter", "line 2: label 'a quarter' is not a number"),
    ("wnut", "train.conll", "B-location", "B-locatoin", "line 5: tag 2, 'B-locatoin', is not one"),
]


@pytest.mark.parametrize(("name", "file", "old", "new", "message"), REFUSED)
def test_bad_input_is_refused_with_file_row_and_reason(name, file, old, new, message, tmp_path):
    check_refused(tmp_path, name, file, old, new, message)


@pytest.mark.parametrize("column", ["cluster", ["gold_label", "premise"]])
def test_a_cluster_is_a_column_or_several_and_rows_of_other_corpora_have_none(column):
    records = [{**PAIR, "cluster": 7, "premise": "p"}, {**PAIR, "cluster": "x", "premise": "p"}]
    columns = {"label": "gold_label", "cluster": column}
    split = normalised(corpus_settings("mnli", source={"columns": columns}), *records)
    expected = ["7", "x"] if column == "cluster" else ["neutral-p"] * 2
    assert [row["cluster"] for row in split.rows] == expected
    assert "cluster" not in normalised(corpus_settings("mnli"), PAIR).rows[0]
