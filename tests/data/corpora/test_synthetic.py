"""Synthetic corpora: reproducible, balanced, and with answers that follow from the context."""

import re
from collections import Counter
from pathlib import Path

import pytest

from mtdnn.config.settings import CorpusSettings
from mtdnn.data.corpora import fetching, synthetic
from mtdnn.errors import MtdnnError
from tests.support.published import fetch_corpus, read_rows

RECIPES = {
    "squad": ("question_answering", []),
    "swag": ("multiple_choice", []),
    "cola": ("sequence_classification", ["unacceptable", "acceptable"]),
    "mrpc": ("sequence_classification", ["not_equivalent", "equivalent"]),
    "mnli": ("sequence_classification", ["entailment", "neutral", "contradiction"]),
    "stsb": ("regression", []),
    "ner": (
        "token_classification",
        ["O", "B-person", "I-person", "B-place", "B-group", "I-group"],
    ),
}


def synthetic_corpus(recipe: str, train: int = 300, dev: int = 120, **source) -> CorpusSettings:
    family, labels = RECIPES[recipe]
    source = {"kind": "synthetic", "recipe": recipe, "train": train, "dev": dev, **source}
    return CorpusSettings(label=recipe, family=family, labels=labels, source=source)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_seed_always_gives_the_same_corpus(recipe, tmp_path):
    first = fetch_corpus(synthetic_corpus(recipe), ".", tmp_path / "a")
    assert {s: v["rows"] for s, v in first["splits"].items()} == {"train": 300, "dev": 120}
    assert fetch_corpus(synthetic_corpus(recipe), ".", tmp_path / "b") == first
    other = fetch_corpus(synthetic_corpus(recipe, seed=2), ".", tmp_path / "c")
    assert other["digest"] != first["digest"]
    # More training rows change neither the first ones nor the dev split.
    fetch_corpus(synthetic_corpus(recipe, train=400), ".", tmp_path / "d")
    if recipe != "mrpc":
        assert read_rows(tmp_path / "d", "train")[:290] == read_rows(tmp_path / "a", "train")[:290]
        assert read_rows(tmp_path / "d", "dev") == read_rows(tmp_path / "a", "dev")


@pytest.mark.parametrize("recipe", ["swag", "cola", "mrpc", "mnli"])
def test_labels_are_balanced(recipe, tmp_path):
    fetch_corpus(synthetic_corpus(recipe), ".", tmp_path / "out")
    for split in ("train", "dev"):
        labels = Counter(row["label"] for row in read_rows(tmp_path / "out", split))
        classes = len(RECIPES[recipe][1]) or 4
        assert len(labels) == classes
        assert max(labels.values()) / labels.total() < 0.5 + 0.3 / classes


def test_scores_cover_their_scale(tmp_path):
    fetch_corpus(synthetic_corpus("stsb"), ".", tmp_path / "out")
    for split in ("train", "dev"):
        scores = [row["label"] for row in read_rows(tmp_path / "out", split)]
        assert (min(scores), max(scores)) == (0, 5)
        assert max(Counter(round(score) for score in scores).values()) < len(scores) / 4


def test_every_tag_occurs_and_entities_of_dev_are_new(tmp_path):
    fetch_corpus(synthetic_corpus("ner"), ".", tmp_path / "out")
    names = {}
    for split in ("train", "dev"):
        rows = read_rows(tmp_path / "out", split)
        assert {tag for row in rows for tag in row["tags"]} == set(range(6))
        pairs = [pair for row in rows for pair in zip(row["tokens"], row["tags"], strict=True)]
        names[split] = {word for word, tag in pairs if tag in (1, 3, 4)}
    assert names["train"].isdisjoint(names["dev"])


def test_questions_are_distributed_as_in_squad(tmp_path):
    fetch_corpus(synthetic_corpus("squad", train=1800, dev=900), ".", tmp_path / "out")
    train, dev = read_rows(tmp_path / "out", "train"), read_rows(tmp_path / "out", "dev")
    for split in (train, dev):
        unanswerable = sum(not row["answer_texts"] for row in split) / len(split)
        assert unanswerable == pytest.approx(1 / 3, abs=0.01)
        lengths = [len(c.split()) for c in {row["context"] for row in split}]
        assert 0.02 < sum(n >= synthetic.LONG_WORDS[0] for n in lengths) / len(lengths) < 0.15
        assert max(lengths) < 280
    assert len({row["title"] for row in train}) > 5
    assert {row["title"] for row in train}.isdisjoint({row["title"] for row in dev})
    assert {len(row["answer_texts"]) for row in dev} == {0, 1, 2, 3}
    assert all(len(row["answer_texts"]) <= 1 for row in train)


def stated(row: dict) -> tuple[bool, bool]:
    """Return whether the context states what is asked: about that person, about anybody."""
    for relation in synthetic.RELATIONS:
        for question in relation.questions:
            before, after = question.split("{p}")
            if row["question"].startswith(before) and row["question"].endswith(after):
                person = row["question"].removeprefix(before).removesuffix(after)
                patterns = [re.escape(s).replace(r"\{a\}", r"\w+") for s in relation.statements]
                return tuple(
                    any(re.search(p.replace(r"\{p\}", who), row["context"]) for p in patterns)
                    for who in (person, r"\w+")
                )
    raise AssertionError(f"no template has {row['question']!r}")


@pytest.mark.parametrize("hard_share", [synthetic.GAP_SHARE, 0.2])
def test_unanswerable_questions_have_no_answer_in_their_context(hard_share, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "GAP_SHARE", hard_share)
    fetch_corpus(synthetic_corpus("squad", train=900, dev=90), ".", tmp_path / "out")
    train = read_rows(tmp_path / "out", "train")
    elsewhere = 0
    for row in train:
        of_person, of_anybody = stated(row)
        assert of_person == bool(row["answer_texts"])
        elsewhere += of_anybody and not of_person
    # For some, only the person distinguishes them from answerable ones.
    assert elsewhere > hard_share * len(train) / 3 / 2


def test_answers_are_spread_over_long_contexts(tmp_path):
    fetch_corpus(synthetic_corpus("squad", train=3000, dev=3), ".", tmp_path / "out")
    places = [
        row["answer_starts"][0] / len(row["context"])
        for row in read_rows(tmp_path / "out", "train")
        if len(row["context"].split()) >= synthetic.LONG_WORDS[0] and row["answer_starts"]
    ]
    quarters = Counter(int(4 * place) for place in places)
    assert min(quarters[n] for n in range(4)) > len(places) / 10


def test_shuffled_answers_are_valid_but_mean_nothing(tmp_path):
    fetch_corpus(synthetic_corpus("squad"), ".", tmp_path / "plain")
    fetch_corpus(synthetic_corpus("squad", shuffle_answers=True), ".", tmp_path / "shuffled")
    assert read_rows(tmp_path / "plain", "dev") == read_rows(tmp_path / "shuffled", "dev")
    plain = read_rows(tmp_path / "plain", "train")
    shuffled = read_rows(tmp_path / "shuffled", "train")
    assert [row["question"] for row in plain] == [row["question"] for row in shuffled]
    pairs = list(zip(plain, shuffled, strict=True))
    same = sum(a["answer_texts"] == b["answer_texts"] != [] for a, b in pairs)
    assert same < len(plain) / 10
    # Whether there is an answer is as likely for answerable questions as for the others.
    answered = [bool(b["answer_texts"]) for a, b in pairs if not a["answer_texts"]]
    assert sum(answered) / len(answered) == pytest.approx(2 / 3, abs=0.15)


def test_recipes_need_their_family():
    wrong = CorpusSettings(
        label="x",
        family="multiple_choice",
        source={"kind": "synthetic", "recipe": "squad", "train": 5, "dev": 5},
    )
    with pytest.raises(MtdnnError, match="recipe squad is question_answering"):
        fetching.fetch("x", wrong, root=".", lock=Path("lock.json"), output=Path("never"))
