"""Windows, pairs and files of features equal the tokenizer's own encodings and definitions."""

import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mtdnn.config.settings import FeatureSettings
from mtdnn.data.corpora.publishers import squad
from mtdnn.data.features import Features
from mtdnn.data.tokenising import Tokenizer, prepare, tokenise, window_starts
from mtdnn.errors import MtdnnError
from tests.support.tiny import (
    SPECIAL,
    make_encoder,
    squad_rows,
    swag_rows,
    word_pieces,
    write_corpus,
)

MIRROR = Path(__file__).parents[3] / "shared" / "data"


def byte_level() -> tokenizers.Tokenizer:
    """A RoBERTa tokenizer without merges: one token for each byte, <s> a </s></s> b </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def keep(backend, folder, **options):
    PreTrainedTokenizerFast(tokenizer_object=backend, **options).save_pretrained(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def kinds(room):
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=False))
    return {
        "uncased": keep(word_pieces(), room / "uncased", **names),
        "cased": keep(word_pieces(lowercase=False), room / "cased", **names),
        "bytes": keep(byte_level(), room / "bytes", cls_token="<s>", sep_token="</s>"),
    }


def windows_of(tokenizer, settings, target, *rows):
    """The windows of (context, question, answer text or None, its start), one dict each."""
    contexts, questions, answers, starts = zip(*rows, strict=True)
    columns = {
        "row": list(range(len(rows))),
        "context": list(contexts),
        "question": list(questions),
        "answer_texts": [[a] if a is not None else [] for a in answers],
        "answer_starts": [[s] if s is not None else [] for s in starts],
    }
    tokenise("question_answering", settings, tokenizer, [columns], target / "windows.arrow")
    table = Features(target / "windows.arrow", "question_answering")
    assert len(table) == table.sequences
    return table._table.to_pylist()


# --- windows ---------------------------------------------------------------------------------


def as_bert_has_it(tokens, capacity, stride):
    """First tokens of windows, written after the definition in BERT's own code."""
    starts, start = [], 0
    while start < tokens:
        length = min(tokens - start, capacity)
        starts.append(start)
        if start + length == tokens:
            break
        start += min(length, stride)
    return starts or [0]


@given(st.integers(0, 300), st.integers(1, 60), st.integers(1, 80))
@settings(max_examples=500)
def test_windows_advance_as_in_bert(tokens, capacity, stride):
    rule = FeatureSettings(stride_tokens=stride)
    assert window_starts(tokens, capacity, rule) == as_bert_has_it(tokens, capacity, stride)


@given(st.integers(0, 300), st.integers(2, 60), st.data())
def test_overlapping_windows_share_what_they_should(tokens, capacity, data):
    overlap = data.draw(st.integers(1, capacity - 1))
    rule = FeatureSettings(stride_rule="overlap", stride_tokens=overlap)
    starts = window_starts(tokens, capacity, rule)
    assert all(a + capacity - b == overlap for a, b in itertools.pairwise(starts))
    assert all(start + capacity < tokens for start in starts[:-1])
    assert starts[-1] + capacity >= tokens


@pytest.mark.parametrize(("overlap", "capacity"), [(10, 10), (11, 10), (1, 0)])
def test_windows_that_cannot_advance_are_refused(overlap, capacity):
    rule = FeatureSettings(stride_rule="overlap", stride_tokens=overlap)
    with pytest.raises(MtdnnError, match=r"too few for an overlap.*raise max_length") as error:
        window_starts(100, capacity, rule)
    assert "\n" not in str(error.value)


# Whitespace of several kinds, accents precomposed and combining, letters that change their
# length in lower case, scripts without spaces, control and zero-width characters.
ALPHABET = "abcz  \t\n\u00a0\u2003éÉe\u0301ßİǅﬁ日本語😀👩\u200d🚀नि.,-'\"()[]\x00\u00ad\ufeff"
TEXT = st.text(st.sampled_from(ALPHABET) | st.characters(exclude_categories=["Cs"]), max_size=60)


@st.composite
def questions(draw):
    context, question = draw(TEXT), draw(TEXT)
    if not context or draw(st.booleans()):
        return context, question, None, None
    start = draw(st.integers(0, len(context) - 1))
    return context, question, context[start : draw(st.integers(start + 1, len(context)))], start


@pytest.mark.parametrize("kind", ["uncased", "cased", "bytes"])
@given(
    rows=st.lists(questions(), min_size=1, max_size=3),
    max_length=st.integers(16, 40),
    longest_question=st.integers(1, 9),
    stride=st.integers(1, 12),
)
@settings(max_examples=80)
@example(rows=[("a" * 90, "which?", "a" * 90, 0)], max_length=16, longest_question=3, stride=5).via(
    "one word that no window holds"
)
def test_every_window(kinds, room, kind, rows, max_length, longest_question, stride):
    tokenizer = kinds[kind]
    rule = FeatureSettings(
        max_length=max_length, max_question_length=longest_question, stride_tokens=stride
    )
    windows = windows_of(tokenizer, rule, room, *rows)
    assert [w["example"] for w in windows] == sorted(w["example"] for w in windows)
    for number, (context, question, answer, start) in enumerate(rows):
        here = [w for w in windows if w["example"] == number]
        whole, asked = tokenizer.plain([context, question.lstrip()])
        asked_ids = asked.ids[:longest_question]
        offsets = whole.offsets
        before = [*tokenizer.frame.before, *asked_ids, *tokenizer.frame.between]
        capacity = max_length - len(before) - len(tokenizer.frame.after)
        starts = as_bert_has_it(len(offsets), capacity, stride)
        assert len(here) == len(starts)
        gold = None
        if answer is not None:
            touched = [
                token
                for token, (a, b) in enumerate(offsets)
                if b > start and a < start + len(answer)
            ]
            gold = (touched[0], touched[-1]) if touched else None
        for window, first in zip(here, starts, strict=True):
            part = slice(first, first + capacity)
            assert window["input_ids"] == [*before, *whole.ids[part], *tokenizer.frame.after]
            size = len(offsets[part])
            outside = [-1] * len(before)
            ends = [-1] * len(tokenizer.frame.after)
            assert window["char_start"] == [*outside, *(a for a, _ in offsets[part]), *ends]
            assert window["char_end"] == [*outside, *(b for _, b in offsets[part]), *ends]
            lengths = {len(window[name]) for name in ("input_ids", "token_type_ids", "char_end")}
            assert len(lengths) == 1 and max(lengths) <= max_length
            if gold and first <= gold[0] and gold[1] < first + size:
                assert window["input_ids"][window["start"]] == whole.ids[gold[0]]
                a, b = window["char_start"][window["start"]], window["char_end"][window["end"]]
                assert (a, b) == (offsets[gold[0]][0], offsets[gold[1]][1])
            else:
                assert (window["start"], window["end"]) == (0, 0)
        covered = {
            place
            for window in here
            for a, b in zip(window["char_start"], window["char_end"], strict=True)
            for place in range(a, b)
        }
        assert covered >= {place for a, b in offsets for place in range(a, b)}


@pytest.mark.parametrize("kind", ["uncased", "cased", "bytes"])
@given(
    context=TEXT.filter(bool), question=TEXT, capacity=st.integers(8, 20), stride=st.integers(1, 7)
)
@settings(max_examples=80)
def test_overlapping_windows_are_the_tokenizers_own(
    kinds, room, kind, context, question, capacity, stride
):
    tokenizer = kinds[kind]
    question = question.lstrip()
    asked = len(tokenizer.plain([question])[0].ids)
    size = max(asked + tokenizer.frame.size + capacity, 16)
    rule = FeatureSettings(
        max_length=size, max_question_length=1000, stride_rule="overlap", stride_tokens=stride
    )
    windows = windows_of(tokenizer, rule, room, (context, question, None, None))
    own = tokenizer.call(
        question,
        context,
        truncation="only_second",
        max_length=size,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    assert [w["input_ids"] for w in windows] == own["input_ids"]
    assert [w["token_type_ids"] for w in windows] == own["token_type_ids"]
    for number, window in enumerate(windows):
        inside = [side == 1 for side in own.sequence_ids(number)]
        offsets = [
            pair if here else (-1, -1)
            for pair, here in zip(own["offset_mapping"][number], inside, strict=True)
        ]
        assert list(zip(window["char_start"], window["char_end"], strict=True)) == offsets


def test_token_aligned_answers_map_back_to_their_text(kinds, room):
    context = "Near the old River, 15 trees grow (blue, naïve); there stands a house." * 3
    rule = FeatureSettings(max_length=30, max_question_length=4, stride_tokens=7)
    words = re.finditer(r"\w+", context)
    rows = [(context, "which?", word.group(), word.start()) for word in words]
    found = set()
    for window in windows_of(kinds["uncased"], rule, room, *rows):
        if window["start"]:
            a, b = window["char_start"][window["start"]], window["char_end"][window["end"]]
            assert (context[a:b], a) == rows[window["example"]][2:]
            found.add(window["example"])
    assert found == set(range(len(rows)))


@pytest.mark.parametrize("asks", ["padding", "truncation"])
def test_what_a_tokenizer_file_asks_for_does_not_reach_the_windows(kinds, room, tmp_path, asks):
    backend = word_pieces()
    if asks == "padding":
        backend.enable_padding(length=64)
    else:
        backend.enable_truncation(max_length=5)
    other = keep(backend, tmp_path)
    row = ("the house stands near a river and old trees", "which house ?", "river", 24)
    rule = FeatureSettings(max_length=16, stride_tokens=4)
    assert windows_of(other, rule, room, row) == windows_of(kinds["uncased"], rule, room, row)


def test_a_tokenizer_without_offsets_or_files_is_refused(tmp_path):
    with pytest.raises(MtdnnError, match="no usable tokenizer") as error:
        Tokenizer(tmp_path)
    assert "\n" not in str(error.value)


# --- sentences and choices -------------------------------------------------------------------

LINE = st.text(st.sampled_from("abc  é日😀.,'"), min_size=1, max_size=25)


@pytest.mark.parametrize("kind", ["uncased", "bytes"])
@given(rows=st.lists(st.tuples(LINE, LINE), min_size=1, max_size=4), single=st.booleans())
@settings(max_examples=40)
def test_sentences_are_the_tokenizers_own(kinds, room, kind, rows, single):
    first, second = (list(side) for side in zip(*rows, strict=True))
    columns = {
        "row": list(range(len(rows))),
        "sentence1": first,
        "sentence2": [None] * len(rows) if single else second,
        "label": [number % 2 for number in range(len(rows))],
    }
    rule, target = FeatureSettings(max_length=16), room / "sentences.arrow"
    tokenise("sequence_classification", rule, kinds[kind], [columns], target)
    table = Features(target, "sequence_classification")._table.to_pylist()
    for number, row in enumerate(table):
        pair = (first[number],) if single else (first[number], second[number])
        own = kinds[kind].call(*pair, truncation=True, max_length=16, return_token_type_ids=True)
        assert row["input_ids"] == own["input_ids"]
        assert row["token_type_ids"] == own["token_type_ids"]
        assert (row["example"], row["label"]) == (number, number % 2)


@given(
    rows=st.lists(
        st.tuples(LINE, st.lists(LINE, min_size=2, max_size=4), st.integers(0, 1)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=40)
def test_choices_are_the_tokenizers_own(kinds, room, rows):
    sentences, choices, labels = (list(side) for side in zip(*rows, strict=True))
    columns = {
        "row": list(range(7, 7 + len(rows))),
        "sentence": sentences,
        "choices": choices,
        "label": labels,
    }
    target = room / "choices.arrow"
    tokenise("multiple_choice", FeatureSettings(max_length=24), kinds["uncased"], [columns], target)
    table = Features(target, "multiple_choice")
    assert len(table) == len(rows) and table.sequences == sum(map(len, choices))
    assert table.item_starts.tolist() == [0, *np.cumsum(list(map(len, choices)))]
    every = iter(table._table.to_pylist())
    for number, (sentence, some, label) in enumerate(rows):
        for choice in some:
            own = kinds["uncased"].call(
                sentence, choice, truncation=True, max_length=24, return_token_type_ids=True
            )
            row = next(every)
            assert row["input_ids"] == own["input_ids"]
            assert row["token_type_ids"] == own["token_type_ids"]
            assert (row["example"], row["label"]) == (number + 7, label)


# --- files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(room):
    return make_encoder(room / "encoder")


RULE = FeatureSettings(max_length=24, max_question_length=8, stride_tokens=6)


@pytest.mark.parametrize("family", ["question_answering", "multiple_choice"])
def test_files_in_portions_are_the_same_file(encoder, tmp_path, monkeypatch, family):
    make = {"question_answering": squad_rows, "multiple_choice": swag_rows}[family]
    rows = make(23, random.Random(3))
    corpus = write_corpus(tmp_path / "corpus", family, train=rows, dev=rows[:5])
    tables = []
    for portion in (1000, 4):
        monkeypatch.setattr("mtdnn.data.tokenising.ROWS_AT_A_TIME", portion)
        output = tmp_path / f"features{portion}"
        prepare(family, RULE, encoder, corpus, output)
        tables.append(Features(output / "train.arrow", family))
    whole, parts = tables
    assert whole._table.column("example").num_chunks == 1
    assert parts._table.column("example").num_chunks == 6
    assert whole._table.to_pylist() == parts._table.to_pylist()
    assert whole.lengths.tolist() == parts.lengths.tolist()
    assert len(whole) == len(parts)

    # Items across the edges of chunks, in any order, one of them twice.
    items = [22, 0, 3, 4, 5, 3, *range(len(whole) - 1, 6, -1)]
    expected = whole._table.to_pylist()
    for table in tables:
        picked = table.pick(items)
        numbers = [
            sequence
            for item in items
            for sequence in range(table.item_starts[item], table.item_starts[item + 1])
        ]
        assert len(picked.items) == len(items) + 1 and picked.items[-1] == len(numbers)
        assert picked.lengths.tolist() == [len(expected[n]["input_ids"]) for n in numbers]
        for name, values in picked.columns.items():
            one_by_one = [expected[n][name] for n in numbers]
            if isinstance(one_by_one[0], list):
                one_by_one = list(itertools.chain(*one_by_one))
            assert values.tolist() == one_by_one, name
    assert set(whole.pick([0], ("label",) if "label" in expected[0] else ("end",)).columns) == (
        {"label"} if "label" in expected[0] else {"end"}
    )

    about = json.loads((tmp_path / "features4" / "features.json").read_text())
    assert about["splits"]["train"]["sequences"] == whole.sequences
    assert about["splits"]["train"]["tokens"] == whole.lengths.sum()
    assert set(about["splits"]) == {"train", "dev"}
    assert about["family"] == family and about["settings"] == RULE.model_dump()
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert about["corpus_digest"] == manifest["digest"]


def test_a_broken_feature_file_is_refused_in_one_line(encoder, tmp_path):
    corpus = write_corpus(
        tmp_path / "corpus", "question_answering", train=squad_rows(3, random.Random(1))
    )
    prepare("question_answering", RULE, encoder, corpus, tmp_path / "out")
    path = tmp_path / "out" / "train.arrow"
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"something else"):
        path.unlink()  # not overwritten in place: the file may still be mapped
        path.write_bytes(broken)
        with pytest.raises(MtdnnError, match=r"train\.arrow: not a readable feature") as error:
            Features(path, "question_answering")
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not MIRROR.exists(), reason="the mirror ../shared/data is not here")
def test_answers_of_real_questions_are_in_their_windows(tmp_path):
    """Real text: an answer differs from its window's only where it begins or ends in a word."""
    rows = []
    for _, record in itertools.islice(squad(MIRROR / "squad_v2" / "dev-v2.0.json"), 0, 4000, 4):
        answers = record.pop("answers")
        rows.append(
            {
                **record,
                "paragraph": 0,
                "answer_texts": answers["text"][:1],
                "answer_starts": answers["answer_start"][:1],
            }
        )
    corpus = write_corpus(tmp_path / "corpus", "question_answering", train=rows)
    make_encoder(tmp_path / "encoder", max_position_embeddings=384)
    prepare("question_answering", FeatureSettings(), tmp_path / "encoder", corpus, tmp_path / "out")
    found = set()
    windows = Features(tmp_path / "out" / "train.arrow", "question_answering")
    for window in windows._table.to_pylist():
        if not window["start"]:
            continue
        row = rows[window["example"]]
        context, begin = row["context"], row["answer_starts"][0]
        end = begin + len(row["answer_texts"][0])
        a, b = window["char_start"][window["start"]], window["char_end"][window["end"]]
        assert a <= begin and b >= end, row["id"]
        for edge, outer in ((begin, a), (end, b)):
            if edge != outer:  # the annotator cut a word
                assert not re.search(r"[\s!-/:-@\[-`{-~]", context[edge - 1 : edge + 1]), row["id"]
        found.add(window["example"])
    answerable = {number for number, row in enumerate(rows) if row["answer_texts"]}
    # Pieces of single letters make long windows: some answers are longer than any of them.
    assert found <= answerable and len(found) > 0.99 * len(answerable)
