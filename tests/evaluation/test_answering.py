"""`mtdnn predict` gives the answers that `mtdnn evaluate` gives."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mtdnn.cli.main import main
from mtdnn.config.layout import Layout
from mtdnn.config.settings import CorpusSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data.corpora.fetching import read_unlabelled
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import predictions
from mtdnn.training.loop import train
from tests.support.tiny import LABELS, make_run_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir, run = make_run_folder(tmp_path_factory.mktemp("run"), rows=40)
    (run_dir / "config.yaml").write_text(dump_yaml(run), encoding="utf-8")
    train(run_dir, run, threads=1)
    predictions.evaluate(run_dir, run, threads=1)
    return run_dir


def squad_file(target: Path, rows: list[dict], answers: bool) -> Path:
    """Write rows in SQuAD's format, with or without gold answers."""
    paragraphs = []
    for row in rows:
        question = {"id": row["id"], "question": row["question"]}
        if answers:
            pairs = zip(row["answer_texts"], row["answer_starts"], strict=True)
            question["answers"] = [{"text": t, "answer_start": s} for t, s in pairs]
            question["is_impossible"] = not question["answers"]
        paragraphs.append({"context": row["context"], "qas": [question]})
    content = {"version": "v2.0", "data": [{"title": "all", "paragraphs": paragraphs}]}
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


@pytest.mark.parametrize("answers", [True, False])
def test_predict_answers_a_file_as_evaluate_answered_the_dev_set(trained, tmp_path, answers):
    rows = pq.read_table(Layout.of_run(trained).corpus("squad") / "dev.parquet").to_pylist()
    data = squad_file(tmp_path / "questions.json", rows, answers)
    output, odds = tmp_path / "answers.json", tmp_path / "odds.json"
    command = ["predict", "--model", str(trained / "model"), "--data", str(data)]
    command += ["--output", str(output), "--null-odds", str(odds), "--threads", "1"]
    assert main([*command, "--null-threshold", "0.25"]) == 0
    known = {p["id"]: p for p in pq.read_table(trained / "predictions.parquet").to_pylist()}
    given = json.loads(output.read_text(encoding="utf-8"))
    assert given.keys() == known.keys()
    for name, value in json.loads(odds.read_text(encoding="utf-8")).items():
        assert value == pytest.approx(known[name]["null_odds"], abs=1e-5)
        assert given[name] == ("" if value > 0.25 else known[name]["answer"])


def test_predict_without_questions_or_model_is_an_error_in_one_line(trained, tmp_path, capsys):
    data = tmp_path / "empty.json"
    data.write_text('{"data": []}', encoding="utf-8")
    output = tmp_path / "answers.json"
    command = ["--data", str(data), "--output", str(output)]
    assert main(["predict", "--model", str(trained / "model"), *command]) == 2
    assert capsys.readouterr().err.strip().startswith(f"mtdnn: error: {data}: ")
    assert main(["predict", "--model", str(tmp_path), *command]) == 2
    assert capsys.readouterr().err == f"mtdnn: error: {tmp_path / 'run.json'}: no such file\n"
    assert not output.exists()


def predict(trained, corpus, data, output):
    command = ["predict", "--model", str(trained / "model"), "--corpus", corpus, "--threads", "1"]
    return main([*command, "--data", str(data), "--output", str(output)])


def rows_of(trained, corpus):
    return pq.read_table(Layout.of_run(trained).corpus(corpus) / "dev.parquet").to_pylist()


@pytest.mark.parametrize("corpus", ["mnli", "cola", "swag"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_other_items_are_predicted_as_evaluate_predicted_the_dev_set(
    trained, tmp_path, corpus, suffix
):
    rows = [{k: v for k, v in row.items() if v is not None} for row in rows_of(trained, corpus)]
    for row in rows:
        del row["label"]
        if suffix == "csv" and "choices" in row:
            pytest.skip("a table has no lists")
    data, output = tmp_path / f"items.{suffix}", tmp_path / "predicted.json"
    with open(data, "w", encoding="utf-8", newline="") as file:
        if suffix == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    assert predict(trained, corpus, data, output) == 0
    known = pq.read_table(trained / "auxiliary.parquet").to_pylist()
    known = [int(each["prediction"]) for each in known if each["corpus"] == corpus]
    if corpus in LABELS:
        known = [LABELS[corpus][each] for each in known]
    expected = dict(zip((row["id"] for row in rows), known, strict=True))
    assert json.loads(output.read_text(encoding="utf-8")) == expected


def corpus_of(family: str, columns: dict) -> CorpusSettings:
    labels = [] if family == "regression" else ["no", "yes"]
    splits = {"train": ["a"], "dev": ["b"]}
    source = {"kind": "files", "format": "jsonl", "splits": splits, "columns": columns}
    return CorpusSettings(label="C", family=family, labels=labels, source=source)


PAIRS = {"sentence1": "premise", "sentence2": "hypothesis", "label": "gold"}


def test_columns_may_have_the_names_of_the_corpus_and_rows_no_ids(tmp_path):
    corpus = corpus_of("sequence_classification", PAIRS)
    data = tmp_path / "items.jsonl"
    pair = {"id": "row-0", "sentence1": "It rains.", "sentence2": "It pours.", "label": 0}
    for names in (("premise", "hypothesis"), ("sentence1", "sentence2")):
        record = dict(zip(names, ("It rains.", "It pours."), strict=True))
        data.write_text(json.dumps(record) + "\n", encoding="utf-8")
        assert read_unlabelled(data, corpus) == [pair]


@pytest.mark.parametrize("identifier", ["pairID", ["document", "sentence"]])
def test_an_id_of_the_corpus_is_optional_in_a_file(tmp_path, identifier):
    mapped = {**PAIRS, "id": identifier, "cluster": "promptID"}
    corpus = corpus_of("sequence_classification", mapped)
    data = tmp_path / "items.jsonl"
    record = {"premise": "It rains.", "hypothesis": "It pours."}
    ids = {"pairID": "p7", "document": "p", "sentence": 7}
    for given, expected in (({}, "row-0"), (ids, "p7" if identifier == "pairID" else "p-7")):
        data.write_text(json.dumps({**record, **given}) + "\n", encoding="utf-8")
        (row,) = read_unlabelled(data, corpus)
        assert (row["id"], row["sentence2"]) == (expected, "It pours.")


@pytest.mark.parametrize(
    ("family", "columns", "lines", "message"),
    [
        (
            "sequence_classification",
            PAIRS,
            [{"premise": "A.", "gold": "yes"}],
            "line 1: missing column 'hypothesis'; the columns are 'premise', 'gold'",
        ),
        (
            "regression",
            PAIRS,
            [{"sentence1": "A."}],
            "line 1: missing column 'sentence2'; the columns are 'sentence1'",
        ),
        (
            "sequence_classification",
            {},
            [{"sentence1": "A."}, {"text": "B."}],
            "line 2: missing column 'sentence1'; the columns are 'text'",
        ),
        (
            "multiple_choice",
            {"sentence": "sent1", "start": "sent2", "choices": ["a", "b"]},
            [{"sent1": "A.", "a": "x", "b": "y"}],
            "line 1: missing column 'sent2'; the columns are 'sent1', 'a', 'b'",
        ),
        (
            "token_classification",
            {"tokens": "words"},
            [{"text": "A b"}],
            "line 1: missing column 'words'; the columns are 'text'",
        ),
    ],
)
def test_a_missing_column_is_named_with_the_columns_of_the_file(
    tmp_path, family, columns, lines, message
):
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(MtdnnError) as refused:
        read_unlabelled(data, corpus_of(family, columns))
    assert str(refused.value) == f"{data}: {message}"


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({}, "Mirl\nlives\n\nin\nUlm\n"),
        ({"tokens": 1, "tags": 2}, "Mirl\nlives\n\nin\nUlm\n"),
        ({"tokens": 1, "tags": 2}, "0 Mirl no\n1 lives no\n\n0 in no\n1 Ulm yes\n"),
        ({}, "Mirl\tX\nlives\tX\n\nin\tX\nUlm\tX\n"),
    ],
)
def test_a_tagger_reads_one_word_a_line_with_or_without_tags(tmp_path, columns, text):
    data = tmp_path / "items.conll"
    data.write_text(text, encoding="utf-8")
    rows = read_unlabelled(data, corpus_of("token_classification", columns))
    assert [row["tokens"] for row in rows] == [["Mirl", "lives"], ["in", "Ulm"]]
    assert [row["id"] for row in rows] == ["row-0", "row-1"]


def test_only_a_tagger_reads_one_word_a_line_and_no_table(tmp_path):
    for family, suffix, known in (
        ("sequence_classification", ".conll", ".jsonl, .csv, .tsv"),
        ("token_classification", ".csv", ".jsonl, .conll"),
    ):
        with pytest.raises(MtdnnError, match=f"must end in {known}, which says its format"):
            read_unlabelled(tmp_path / f"items{suffix}", corpus_of(family, {}))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("items.txt", "a", "items.txt: must end in .jsonl, .csv, .tsv, which says its format"),
        ("items.jsonl", "", "items.jsonl: has no rows"),
        ("items.jsonl", '{"sentence1": 3}', "items.jsonl: line 1: sentence1 must be text, not 3"),
        ("items.csv", "id,text\n1,a\n", "items.csv: line 2: missing column 'sentence1'"),
    ],
)
def test_a_file_of_other_rows_is_refused_in_one_line(
    trained, tmp_path, capsys, name, text, message
):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert predict(trained, "cola", tmp_path / name, tmp_path / "out.json") == 2
    assert message in capsys.readouterr().err.strip()
    assert not (tmp_path / "out.json").exists()
    assert predict(trained, "mrpc", tmp_path / name, tmp_path / "out.json") == 2
    assert "unknown corpus 'mrpc'; known are squad" in capsys.readouterr().err
