"""The first rows of local files: a corpus that cannot be read is found before anything starts."""

import json

import pytest

from mtdnn.config.settings import CorpusSettings
from mtdnn.data.corpora.first_rows import FIRST_ROWS, mistakes

SENTENCES = {"label": "Sentences", "family": "sequence_classification", "labels": ["bad", "good"]}
QUESTIONS = {"label": "Questions", "family": "question_answering"}
CHOICES = {"label": "Choices", "family": "multiple_choice"}


def found(folder, described, content, **source):
    """Return the mistakes in one file, which is both splits."""
    (folder / "file").write_text(content, encoding="utf-8")
    splits = {"train": ["file"]}
    corpus = CorpusSettings(source={"kind": "files", "splits": splits, **source}, **described)
    return list(mistakes(corpus, {"file": folder / "file"}))


@pytest.mark.parametrize(
    ("described", "content", "source", "wrong"),
    [
        (
            SENTENCES,
            "text\tclass\nA.\tgood\n",
            {"format": "tsv"},
            [
                ".columns.sentence1: file has no column 'sentence1'; name one of 'text', 'class'",
                ".columns.label: file has no column 'label'; name one of 'text', 'class'",
            ],
        ),
        (
            SENTENCES,
            "A.\tgood\n",
            {"format": "tsv", "header": False, "columns": {"sentence1": 0, "label": 2}},
            [".columns.label: file has no column 2; name one of 0, 1"],
        ),
        (
            SENTENCES,
            "sentence1\tlabel\nA.\tgood\n",
            {"format": "csv"},
            [
                r".splits.train: file has a single column, 'sentence1\tlabel'; format csv is "
                "separated by commas"
            ],
        ),
        (
            SENTENCES,
            "sentence1,label\nA.,good\n",
            {"format": "csv", "columns": {"id": ["a", "label"]}},
            [".columns.id: file has no column 'a'; name one of 'sentence1', 'label'"],
        ),
        (
            SENTENCES,
            '{"sentence1": "A."}\n{"sentence1": "A.", "label": 1}\n',
            {"format": "jsonl"},
            [".columns.label: file has no column 'label'; name one of 'sentence1'"],
        ),
        (CHOICES, "", {"format": "jsonl"}, [".splits.train: file has no rows"]),
        (
            QUESTIONS,
            '{"data": []}',
            {"format": "squad"},
            [".splits.train: file has no rows"],
        ),
    ],
)
def test_missing_columns_are_all_named(tmp_path, described, content, source, wrong):
    assert found(tmp_path, described, content, **source) == wrong


@pytest.mark.parametrize(
    ("described", "content", "source", "message"),
    [
        (QUESTIONS, '{"version": "2"}', {"format": "squad"}, "'data' must be a list of objects"),
        (QUESTIONS, "id,question\n", {"format": "squad"}, "not readable as JSON"),
        (SENTENCES, "not JSON\n", {"format": "jsonl"}, "line 1: not valid JSON"),
        (SENTENCES, "sentence1\tlabel\nA.\tgreat\n", {"format": "tsv"}, "line 2: label 'great'"),
    ],
)
def test_a_file_of_another_format_or_with_a_bad_row_is_named(
    tmp_path, described, content, source, message
):
    (line,) = found(tmp_path, described, content, **source)
    assert line.startswith(f".splits.train: {tmp_path}/file: ") and message in line


def test_only_the_first_rows_are_read(tmp_path):
    row = json.dumps({"sentence1": "A.", "label": 1}) + "\n"
    assert found(tmp_path, SENTENCES, row * FIRST_ROWS + "broken", format="jsonl") == []
    assert found(tmp_path, SENTENCES, row * (FIRST_ROWS - 1) + "broken", format="jsonl")
