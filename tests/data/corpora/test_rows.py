"""Rows: columns, ids and labels of records; bad records are refused with place and reason."""

import pytest

from mtdnn.config.settings import CorpusSettings, FilesCorpus
from mtdnn.data.corpora import rows
from mtdnn.data.corpora.rows import Split, normalise
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


def test_questions_have_equally_many_choices():
    settings = corpus_settings("swag", source={"columns": {}})
    three = {"sentence": "A.", "choices": ["x", "y", "z"], "label": 0}
    with pytest.raises(MtdnnError, match="record 1: 2 choices, but earlier records have 3"):
        normalised(settings, three, {**three, "choices": ["x", "y"]})
    with pytest.raises(MtdnnError, match=r"at least two, not \['x'\]"):
        normalised(settings, {**three, "choices": ["x"]})


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
