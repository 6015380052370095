"""Feature files: items are picked across chunks; broken and changed files are refused."""

import itertools
import random

import pytest

from mtdnn.config.layout import Layout
from mtdnn.config.settings import FeatureSettings
from mtdnn.data.features import Features, check_unchanged, training_features
from mtdnn.data.tokenising import prepare
from mtdnn.errors import MtdnnError
from tests.support.tiny import (
    make_encoder,
    make_run_folder,
    ner_rows,
    squad_rows,
    stsb_rows,
    swag_rows,
    write_corpus,
)

RULE = FeatureSettings(max_length=24, max_question_length=8, stride_tokens=6)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


MAKE = {
    "question_answering": squad_rows,
    "multiple_choice": swag_rows,
    "regression": stsb_rows,
    "token_classification": ner_rows,
}


@pytest.fixture(params=MAKE)
def features(request, encoder, tmp_path, monkeypatch):
    """Features of 23 rows in chunks of four."""
    make = MAKE[request.param]
    corpus = write_corpus(tmp_path / "corpus", request.param, train=make(23, random.Random(3)))
    monkeypatch.setattr("mtdnn.data.tokenising.ROWS_AT_A_TIME", 4)
    prepare(request.param, RULE, encoder, corpus, tmp_path / "out")
    return Features(tmp_path / "out" / "train.arrow", request.param)


def test_lengths_and_items_are_those_of_the_rows(features):
    rows = features.table.to_pylist()
    assert features.sequences == len(rows)
    assert features.lengths.tolist() == [len(row["input_ids"]) for row in rows]
    if features.family == "multiple_choice":
        assert features.item_starts.tolist() == list(range(0, 23 * 4 + 1, 4))
        assert len(features) == 23
    else:
        assert features.item_starts.tolist() == list(range(len(rows) + 1))
        assert len(features) == len(rows)


def test_items_are_picked_across_chunks_in_the_given_order(features):
    rows = features.table.to_pylist()
    items = [22, 0, 3, 4, 5, 3, *range(len(features) - 1, 6, -1)]
    picked = features.pick(items)
    numbers = [
        sequence
        for item in items
        for sequence in range(features.item_starts[item], features.item_starts[item + 1])
    ]
    assert len(picked.items) == len(items) + 1 and picked.items[-1] == len(numbers)
    assert picked.lengths.tolist() == [len(rows[n]["input_ids"]) for n in numbers]
    assert picked.columns.keys() == rows[0].keys()
    for name, values in picked.columns.items():
        expected = [rows[n][name] for n in numbers]
        if isinstance(expected[0], list):
            expected = list(itertools.chain(*expected))
        assert values.tolist() == expected, name


def test_only_the_given_columns_are_read(features):
    name = features.table.column_names[-1]
    assert features.pick([0], (name,)).columns.keys() == {name}


def test_a_broken_feature_file_is_refused_in_one_line(encoder, tmp_path):
    rows = squad_rows(3, random.Random(1))
    corpus = write_corpus(tmp_path / "corpus", "question_answering", train=rows)
    prepare("question_answering", RULE, encoder, corpus, tmp_path / "out")
    path = tmp_path / "out" / "train.arrow"
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"something else"):
        path.unlink()  # not overwritten in place: the file may still be mapped
        path.write_bytes(broken)
        with pytest.raises(MtdnnError, match=r"train\.arrow: not a readable feature") as error:
            Features(path, "question_answering")
        assert "\n" not in str(error.value)


def test_a_missing_feature_file_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(MtdnnError, match=r"train\.arrow: no such file; `mtdnn features` writes it"):
        Features(tmp_path / "train.arrow", "question_answering")


def test_a_run_has_training_features_of_every_corpus(tmp_path):
    run_dir, run = make_run_folder(tmp_path, mixture="squad_cola", rows=4)
    layout = Layout.of_run(run_dir)
    features = training_features(layout, run)
    assert {name: each.family for name, each in features.items()} == {
        "squad": "question_answering",
        "cola": "sequence_classification",
    }
    assert len(features["cola"]) == 4


@pytest.mark.parametrize("kind", ["features", "corpus"])
def test_changed_files_of_the_given_splits_are_refused(tmp_path, kind):
    run_dir, run = make_run_folder(tmp_path, mixture="squad", weight=1.0, rows=4)
    layout = Layout.of_run(run_dir)
    files = {
        "features": layout.features("tiny", "default", "squad") / "dev.arrow",
        "corpus": layout.corpus("squad") / "dev.parquet",
    }
    check_unchanged(layout, run, "train", "dev")
    files[kind].write_bytes(files[kind].read_bytes() + b" ")
    check_unchanged(layout, run, "train")
    with pytest.raises(MtdnnError, match=f"{files[kind].name}: was cut off or changed since"):
        check_unchanged(layout, run, "train", "dev")
