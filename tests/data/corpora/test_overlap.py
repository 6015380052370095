"""What splits share with training splits: found, counted, and too much of it refused."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtdnn.config.layout import Layout
from mtdnn.config.settings import CorpusSettings
from mtdnn.data.corpora.overlap import Training, refusal, texts, within
from tests.support.tiny import FAMILIES, LABELS, ROWS, write_corpus


def settings_of(name: str) -> CorpusSettings:
    source = {"kind": "synthetic", "recipe": name, "train": 9, "dev": 9}
    return CorpusSettings(
        label=name, family=FAMILIES[name], labels=LABELS.get(name, []), source=source
    )


def shared(layout: Layout, name: str, seen: int) -> CorpusSettings:
    """A corpus of 100 items in each split, the last of which are items of both."""
    train, dev = (ROWS[name](100, random.Random(split)) for split in ("train", "dev"))
    dev = [{**row, "id": f"dev-{row['id']}"} for row in dev]
    start = 100 - seen
    dev[start:] = [{**row, "id": f"dev-{row['id']}"} for row in train[start:]]
    write_corpus(layout.corpus(name), FAMILIES[name], train=train, dev=dev)
    return settings_of(name)


def test_texts_of_items_are_compared_without_ids_labels_and_clusters(tmp_path):
    rows = ROWS["mnli"](2, random.Random(0))
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(pa.Table.from_pylist(rows), paths[0])
    changed = [{**row, "id": "other", "label": 0, "cluster": "c"} for row in rows]
    changed[1]["sentence2"] += "!"
    pq.write_table(pa.Table.from_pylist(changed), paths[1])
    first, second = map(texts, paths)
    assert first[0] == second[0] and first[1] != second[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_each_row_of_a_split_is_found_in_the_training_splits_of_its_family(tmp_path, name):
    layout = Layout(tmp_path)
    corpus = shared(layout, name, seen=3)
    dev = layout.corpus(name) / "dev.parquet"
    known = Training({name: corpus}, layout).seen(FAMILIES[name], dev)
    assert known == [False] * 97 + [True] * 3
    others = {each: settings_of(each) for each in FAMILIES if FAMILIES[each] != FAMILIES[name]}
    assert not any(Training(others, layout).seen(FAMILIES[name], dev))


def test_items_are_found_in_another_corpus_of_their_family(tmp_path):
    layout = Layout(tmp_path)
    corpora = {"cola": shared(layout, "cola", 0), "mnli": shared(layout, "mnli", 0)}
    rows = pq.read_table(layout.corpus("mnli") / "train.parquet").to_pylist()
    write_corpus(layout.corpus("snli"), FAMILIES["mnli"], train=[], dev=rows[:2])
    dev = layout.corpus("snli") / "dev.parquet"
    assert Training(corpora, layout).seen("sequence_classification", dev) == [True, True]


def test_ids_of_questions_count_within_a_corpus_and_contexts_everywhere(tmp_path):
    layout = Layout(tmp_path)
    corpora = {"squad": shared(layout, "squad", 0)}
    known = pq.read_table(layout.corpus("squad") / "train.parquet").to_pylist()[0]
    rows = [
        {**known, "id": "new"},
        {**known, "context": "Another house."},
        {**known, "id": "other", "context": "Yet another house."},
    ]
    for name, found in (("squad", [True, True, False]), ("news", [True, False, False])):
        folder = write_corpus(layout.corpus(name), "question_answering", more=rows)
        training = Training(corpora, layout)
        assert training.seen("question_answering", folder / "more.parquet") == found


def test_a_few_items_may_be_shared_but_no_question():
    assert refusal(0, 100) is None and refusal(5, 100) is None
    assert refusal(6, 100) == (
        "6 of its 100 items have the texts of items that the run was trained on; remove these from "
        "the training split"
    )
    assert refusal(0, 100, questions=True) is None
    assert refusal(1, 100, questions=True) == (
        "1 of its 100 questions have the context or the id of a question that the run was trained "
        "on; remove these from the training split, or their articles from the slice"
    )


@pytest.mark.parametrize(("name", "allowed"), [("mnli", 5), ("squad", 0)])
def test_a_fetched_corpus_that_shares_too_much_is_named_with_a_row(tmp_path, name, allowed):
    layout = Layout(tmp_path)
    assert list(within(name, shared(layout, name, allowed), layout)) == []
    (line,) = within(name, shared(layout, name, allowed + 1), layout)
    row = 99 - allowed
    path, why = (
        layout.corpus(name) / "dev.parquet",
        refusal(allowed + 1, 100, questions=not allowed),
    )
    assert line == (
        f"{path}: a run that is trained on {name} has no score on all of it, as {why}; "
        f"the first is row {row}, 'dev-{name[0].replace('s', 'q')}{row}'"
    )
