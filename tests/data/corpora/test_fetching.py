"""Corpora on disk: counts, digests, manifests and held-out articles; bad corpora are refused."""

import json
import random
from pathlib import Path

import pytest

from mtdnn.config.settings import CorpusSettings
from mtdnn.data.corpora.fetching import (
    read_questions,
    read_unlabelled,
    rows_digest,
    summary,
)
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256
from tests.support.configs import overlaid
from tests.support.published import (
    FILES,
    SQUAD,
    check_refused,
    corpus_settings,
    fetch_corpus,
    read_rows,
    write_files,
)

MIRROR = Path(__file__).parents[4] / "shared/data"


@pytest.mark.parametrize(
    ("name", "train", "dev"),
    [
        ("squad", 3, 3),
        ("swag", 2, 2),
        ("cola", 2, 4),
        ("mrpc", 2, 1),
        ("mnli", 2, 2),
        ("stsb", 2, 2),
        ("wnut", 3, 3),
    ],
)
def test_the_manifest_has_counts_and_digests(name, train, dev, tmp_path):
    root = write_files(tmp_path / "data", name)
    manifest = fetch_corpus(
        corpus_settings(name, rows={"train": train, "dev": dev}), root, tmp_path / "out"
    )
    assert {s: v["rows"] for s, v in manifest["splits"].items()} == {"train": train, "dev": dev}
    for split, described in manifest["splits"].items():
        assert described["sha256"] == sha256(tmp_path / f"out/{split}.parquet")
    assert manifest["source"]["sha256"] == {f: sha256(root / f) for f in FILES[name]}
    dropped = {"label '-'": 1} if name == "mnli" else {}
    assert manifest["splits"]["train"]["dropped"] == dropped


def test_the_summary_counts_rows_and_labels(tmp_path):
    labels = [" (unacceptable 1, acceptable 1)", " (unacceptable 2, acceptable 2)"]
    for name, train, dev in (("cola", 2, 4), ("stsb", 2, 2)):
        fetch_corpus(corpus_settings(name), write_files(tmp_path / name, name), tmp_path / "out")
        of_train, of_dev = labels if name == "cola" else ("", "")
        assert list(summary(tmp_path / "out")) == [
            f"{tmp_path}/out/train.parquet: {train} rows{of_train}",
            f"{tmp_path}/out/dev.parquet: {dev} rows{of_dev}",
        ]


def test_held_out_articles_leave_the_training_split(tmp_path):
    root = write_files(tmp_path / "data", "squad")
    manifest = fetch_corpus(
        corpus_settings("squad", held_out_titles=["Berg"]), root, tmp_path / "out"
    )
    assert {s: v["rows"] for s, v in manifest["splits"].items()} == {
        "train": 1,
        "dev": 3,
        "held_out": 2,
    }
    assert [row["id"] for row in read_rows(tmp_path / "out", "held_out")] == ["a", "b"]
    with pytest.raises(MtdnnError, match="no training article 'Bergg'; the nearest is 'Berg'"):
        fetch_corpus(corpus_settings("squad", held_out_titles=["Bergg"]), root, tmp_path / "other")


def test_the_digest_depends_on_the_rows_alone(tmp_path):
    root = write_files(tmp_path / "data", "squad")
    first = fetch_corpus(corpus_settings("squad"), root, tmp_path / "a")["digest"]
    (root / "train.json").write_text(json.dumps(SQUAD, indent=1))
    assert fetch_corpus(corpus_settings("squad"), root, tmp_path / "b")["digest"] == first
    held_out = corpus_settings("squad", held_out_titles=["Berg"])
    assert fetch_corpus(held_out, root, tmp_path / "c")["digest"] != first
    changed = json.dumps(SQUAD).replace("It rains", "It drips").replace('"rains"', '"drips"')
    (root / "train.json").write_text(changed)
    assert fetch_corpus(corpus_settings("squad"), root, tmp_path / "d")["digest"] != first


def test_other_counts_digests_and_splits_are_refused(tmp_path):
    root = write_files(tmp_path / "data", "cola")
    with pytest.raises(MtdnnError, match="dev has 4 rows, expected 5"):
        fetch_corpus(corpus_settings("cola", rows={"dev": 5}), root, tmp_path / "out")
    digests = {"in.tsv": "0" * 64}
    with pytest.raises(MtdnnError, match=r"in\.tsv: its sha256 is"):
        fetch_corpus(corpus_settings("cola", source={"sha256": digests}), root, tmp_path / "out")
    with pytest.raises(MtdnnError, match=r"no such file.*MTDNN_DATA"):
        fetch_corpus(corpus_settings("cola"), tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(MtdnnError, match="splits: dev is missing"):
        splits = {"splits": {"train": ["train.tsv"]}}
        fetch_corpus(corpus_settings("cola", source=splits), root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "file"), [("squad", "train.json"), ("cola", "train.tsv")])
def test_an_empty_split_is_refused(name, file, tmp_path):
    text = FILES[name][file]
    empty = '{"data": []}' if name == "squad" else ""
    check_refused(tmp_path, name, file, text, empty, "split train is empty")


def test_questions_are_read_with_or_without_answers(tmp_path):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(SQUAD))
    with_answers = read_questions(path)
    content = json.loads(path.read_text())
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                del question["answers"]
                question.pop("is_impossible", None)
    path.write_text(json.dumps(content))
    assert read_questions(path) == with_answers
    assert [row["id"] for row in with_answers] == ["a", "b", "c"]
    assert not any(row["answer_texts"] for row in with_answers)
    path.write_text('{"data": []}')
    with pytest.raises(MtdnnError, match="has no questions"):
        read_questions(path)


@pytest.mark.parametrize(
    ("family", "columns", "record", "expected"),
    [
        ("multiple_choice", {}, {"sentence": "S", "choices": ["x", "y"]}, {"choices": ["x", "y"]}),
        (
            "multiple_choice",
            {},
            {"sentence": "S", "choices": {"A": "x", "B": "y"}, "label": "B"},
            {"choices": ["x", "y"]},
        ),
        (
            "multiple_choice",
            {"sentence": "q.stem", "choices": ["o.A", "o.B"], "label": "key"},
            {"q": {"stem": "S"}, "o": {"A": "x", "B": "y"}},
            {"sentence": "S", "choices": ["x", "y"]},
        ),
        (
            "token_classification",
            {"tokens": "text.words", "tags": "text.tags"},
            {"text": {"words": ["x", "y"]}},
            {"tokens": ["x", "y"]},
        ),
    ],
)
def test_items_without_labels_are_read_in_every_form(tmp_path, family, columns, record, expected):
    """Choices with names, and columns within columns."""
    source = {"kind": "files", "format": "jsonl", "splits": {}, "columns": columns}
    corpus = CorpusSettings(label="C", family=family, labels=["A", "B"], source=source)
    (tmp_path / "new.jsonl").write_text(json.dumps(record) + "\n")
    (row,) = read_unlabelled(tmp_path / "new.jsonl", corpus)
    assert expected.items() <= row.items()


def test_a_synthetic_test_split_is_optional_and_changes_no_other(tmp_path):
    settings = CorpusSettings(
        label="NLI",
        family="sequence_classification",
        labels=["entailment", "neutral", "contradiction"],
        source={"kind": "synthetic", "recipe": "mnli", "train": 12, "dev": 9},
    )
    without = fetch_corpus(settings, "", tmp_path / "without")
    assert list(without["splits"]) == ["train", "dev"]
    source = settings.source.model_copy(update={"test": 7})
    more = settings.model_copy(update={"source": source})
    assert more.splits == ("train", "dev", "test")
    with_test = fetch_corpus(more, "", tmp_path / "with")
    assert with_test["splits"]["test"]["rows"] == 7
    for split in ("train", "dev"):
        assert read_rows(tmp_path / "with", split) == read_rows(tmp_path / "without", split)
    assert read_rows(tmp_path / "with", "test") != read_rows(tmp_path / "with", "dev")[:7]


def test_a_corpus_with_clusters_has_the_column_and_its_digest_is_that_of_its_rows(tmp_path):
    records = [
        {"id": n, "sentence1": f"S{n}.", "label": n % 2, "cluster": n // 2} for n in range(4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    settings = CorpusSettings(
        label="C",
        family="sequence_classification",
        labels=["a", "b"],
        source={
            "kind": "files",
            "format": "jsonl",
            "splits": {"train": ["rows.jsonl"], "dev": ["rows.jsonl"]},
        },
    )
    manifest = fetch_corpus(settings, str(tmp_path), tmp_path / "out")
    rows = {split: read_rows(tmp_path / "out", split) for split in ("train", "dev")}
    assert [row["cluster"] for row in rows["dev"]] == ["0", "0", "1", "1"]
    assert rows_digest(rows) == manifest["digest"]


# --- fractions -------------------------------------------------------------------------------


def divided(folder, lines: list[dict], name: str, **changes) -> dict[str, set[str]]:
    """The ids of each split of a corpus whose only file has these records."""
    folder.mkdir()
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"format": "jsonl", "header": True, "splits": {"train": ["all.jsonl"]}, "columns": {}}
    fetch_corpus(corpus_settings(name, source=source, **changes), folder, folder / "out")
    splits = ("train", *changes["fractions"])
    return {split: {row["id"] for row in read_rows(folder / "out", split)} for split in splits}


def test_splits_are_divided_by_fraction_whatever_the_order_of_the_rows(tmp_path):
    lines = [{"id": n, "sentence1": f"A {n}.", "label": n % 2} for n in range(200)]
    fractions = {"dev": 0.1, "test": 0.2}
    splits = divided(tmp_path / "a", lines, "cola", fractions=fractions)
    assert {split: len(ids) for split, ids in splits.items()} == {
        "train": 140,
        "dev": 20,
        "test": 40,
    }
    assert set.union(*splits.values()) == {str(n) for n in range(200)}
    shuffled = random.Random(1).sample(lines, 200)
    assert divided(tmp_path / "b", shuffled, "cola", fractions=fractions) == splits
    other = divided(tmp_path / "c", lines, "cola", fractions=fractions, fractions_seed=2)
    assert len(splits["dev"] & other["dev"]) < 10


def test_questions_about_one_context_and_rows_of_one_cluster_stay_together(tmp_path):
    questions = [
        {
            "id": n,
            "context": f"Context {n // 5}.",
            "question": f"Which {n}?",
            "answer": "Context",
            "answer_start": 0,
        }
        for n in range(100)
    ]
    pairs = [
        {"id": n, "cluster": n % 20, "sentence1": f"A {n}.", "label": n % 2} for n in range(100)
    ]
    for name, lines, group in (
        ("squad", questions, lambda n: n // 5),
        ("cola", pairs, lambda n: n % 20),
    ):
        splits = divided(tmp_path / name, lines, name, fractions={"dev": 0.12})
        groups = {split: {group(int(n)) for n in ids} for split, ids in splits.items()}
        assert groups["dev"].isdisjoint(groups["train"])
        assert len(splits["dev"]) == 15  # the fewest whole groups of 5 with at least 12 rows


def test_a_fraction_of_a_split_that_exists_is_refused(tmp_path):
    root = write_files(tmp_path / "data", "cola")
    with pytest.raises(MtdnnError, match="fractions: dev is a split of the source already"):
        fetch_corpus(corpus_settings("cola", fractions={"dev": 0.5}), root, tmp_path / "out")


@pytest.mark.skipif(not MIRROR.exists(), reason="needs ../shared/data: STS-B and WNUT 2017")
def test_the_real_sts_b_and_wnut_2017_are_read_whole(tmp_path):
    corpora = overlaid("excerpt.yaml", "families.yaml").corpora
    for name, rows in (("stsb", 5749), ("wnut", 3394)):
        corpus = corpora[name]
        splits = fetch_corpus(corpus, MIRROR / corpus.source.root, tmp_path / name)["splits"]
        assert sum(each["rows"] for each in splits.values()) == rows
        assert splits["train"]["rows"] > 500 and splits["dev"]["rows"] > 500
    scores = {row["label"] for row in read_rows(tmp_path / "stsb", "dev")}
    assert (min(scores), max(scores)) == (0, 5) and len(scores) > 10
    tags = [tag for row in read_rows(tmp_path / "wnut", "dev") for tag in row["tags"]]
    assert set(tags) == set(range(len(corpora["wnut"].labels)))
    assert 0.9 < tags.count(0) / len(tags) < 0.98  # O
