"""Windows, pairs and choices equal the tokenizer's own encodings and BERT's definitions."""

import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast

from mtdnn.config.settings import FeatureSettings
from mtdnn.data.corpora.publishers import squad
from mtdnn.data.encoder_types import positions_of
from mtdnn.data.features import NO_TAG, Features
from mtdnn.data.tokenising import Tokenizer, prepare, tokenise, window_starts
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256
from tests.support.tiny import (
    OWN_SIZES,
    VOCABULARY,
    make_encoder,
    squad_rows,
    swag_rows,
    word_pieces,
    write_corpus,
)
from tests.support.vocabularies import BERT_TOKENS, tokenizer_for

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"
RULE = FeatureSettings(max_length=24, max_question_length=8, stride_tokens=6)


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


def save_and_load(backend, folder, **options):
    PreTrainedTokenizerFast(tokenizer_object=backend, **options).save_pretrained(folder)
    return Tokenizer(folder)


def own_class(kind, folder):
    tokenizer_for(kind, VOCABULARY).save_pretrained(folder)
    return Tokenizer(folder)


# BERT's two; byte-level BPE; those whose tokens include the space before a word; sentencepiece
# after splitting at spaces.
COUNT_SPACES = ("modernbert", "deberta-v2")
TOKENIZERS = ["uncased", "cased", "bytes", "roberta", "modernbert", "deberta-v2", "albert"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def kinds(folder):
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token"), BERT_TOKENS, strict=False)
    )
    return {
        "uncased": save_and_load(word_pieces(), folder / "uncased", **names),
        "cased": save_and_load(word_pieces(lowercase=False), folder / "cased", **names),
        "bytes": save_and_load(byte_level(), folder / "bytes", cls_token="<s>", sep_token="</s>"),
        **{kind: own_class(kind, folder / kind) for kind in OWN_SIZES},
    }


def windows_of(tokenizer, settings, target, *rows):
    """Return the windows of (context, question, answer text or None, its start) as dicts."""
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
    return table.table.to_pylist()


# --- windows ---------------------------------------------------------------------------------


def starts_in_bert(tokens, capacity, stride):
    """Return the first token of every window as BERT's own code defines it."""
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
    assert window_starts(tokens, capacity, rule) == starts_in_bert(tokens, capacity, stride)


@given(st.integers(0, 300), st.integers(2, 60), st.data())
def test_overlapping_windows_share_the_overlap(tokens, capacity, data):
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


# Several kinds of whitespace, accents precomposed and combining, letters whose lower case has
# another length, scripts without spaces, control and zero-width characters.
ALPHABET = "abcz  \t\n\u00a0\u2003éÉe\u0301ßİǅﬁ日本語😀👩\u200d🚀नि.,-'\"()[]\x00\u00ad\ufeff"
TEXT = st.text(st.sampled_from(ALPHABET) | st.characters(exclude_categories=["Cs"]), max_size=60)


@st.composite
def questions(draw):
    context, question = draw(TEXT), draw(TEXT)
    if not context or draw(st.booleans()):
        return context, question, None, None
    start = draw(st.integers(0, len(context) - 1))
    return context, question, context[start : draw(st.integers(start + 1, len(context)))], start


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(
    rows=st.lists(questions(), min_size=1, max_size=3),
    max_length=st.integers(16, 40),
    longest_question=st.integers(1, 9),
    stride=st.integers(1, 12),
)
@settings(max_examples=80)
@example(rows=[("a" * 90, "which?", "a" * 90, 0)], max_length=16, longest_question=3, stride=5).via(
    "one word, longer than any window"
)
def test_windows_have_the_tokens_offsets_and_labels_of_their_part(
    kinds, folder, kind, rows, max_length, longest_question, stride
):
    tokenizer = kinds[kind]
    rule = FeatureSettings(
        max_length=max_length, max_question_length=longest_question, stride_tokens=stride
    )
    windows = windows_of(tokenizer, rule, folder, *rows)
    assert [w["example"] for w in windows] == sorted(w["example"] for w in windows)
    for number, (context, question, answer, start) in enumerate(rows):
        here = [w for w in windows if w["example"] == number]
        whole, asked = tokenizer.plain([context, question.lstrip()])
        asked_ids = asked.ids[:longest_question]
        offsets = tokenizer.offsets(context, whole)
        before = [*tokenizer.frame.before, *asked_ids, *tokenizer.frame.between]
        capacity = max_length - len(before) - len(tokenizer.frame.after)
        starts = starts_in_bert(len(offsets), capacity, stride)
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


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(
    context=TEXT.filter(bool), question=TEXT, capacity=st.integers(8, 20), stride=st.integers(1, 7)
)
@settings(max_examples=80)
def test_overlapping_windows_are_the_tokenizers_own(
    kinds, folder, kind, context, question, capacity, stride
):
    tokenizer = kinds[kind]
    question = question.lstrip()
    asked = len(tokenizer.plain([question])[0].ids)
    size = max(asked + tokenizer.frame.size + capacity, 16)
    rule = FeatureSettings(
        max_length=size, max_question_length=1000, stride_rule="overlap", stride_tokens=stride
    )
    windows = windows_of(tokenizer, rule, folder, (context, question, None, None))
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
        ours = zip(window["char_start"], window["char_end"], strict=True)
        for pair, (a, b), here in zip(ours, own["offset_mapping"][number], inside, strict=True):
            if not here:
                assert pair == (-1, -1)
            elif kind in COUNT_SPACES:
                assert a <= pair[0] <= pair[1] <= b
                assert context[slice(*pair)] == context[a:b].strip()
            else:
                assert pair == (a, b)


@pytest.mark.parametrize("kind", OWN_SIZES)
def test_windows_have_the_special_tokens_of_the_encoder(kinds, folder, kind):
    tokenizer = kinds[kind]
    (window,) = windows_of(tokenizer, RULE, folder, (" river", "house", "river", 1))
    asked = " ".join(tokenizer.plain(["house"])[0].tokens)
    if kind in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        layout, second = f"<s> {asked} </s> </s> river </s>", 0
    else:
        layout, second = f"[CLS] {asked} [SEP] river [SEP]", 1
    tokens = tokenizer.call.convert_ids_to_tokens(window["input_ids"])
    # Byte-level and sentencepiece tokens show the space before the word.
    assert [*tokens[:-2], tokens[-2].lstrip("▁Ġ"), tokens[-1]] == layout.split()
    answer = len(tokens) - 2
    assert window["token_type_ids"] == [0] * answer + [second] * 2
    assert (window["start"], window["end"]) == (answer, answer)
    assert (window["char_start"][answer], window["char_end"][answer]) == (1, 6)


@pytest.mark.parametrize("kind", OWN_SIZES)
def test_token_aligned_answers_map_back_to_their_text(kinds, folder, kind):
    text = "Near the  old River, 15 trees grow\n (blue, naïve);\tthere\u00a0stands a house. "
    context = text * 3
    rule = FeatureSettings(max_length=40, max_question_length=4, stride_tokens=7)
    words = re.finditer(r"\w+", context)
    rows = [(context, "which?", word.group(), word.start()) for word in words]
    found = set()
    for window in windows_of(kinds[kind], rule, folder, *rows):
        if window["start"]:
            a, b = window["char_start"][window["start"]], window["char_end"][window["end"]]
            assert (context[a:b], a) == rows[window["example"]][2:]
            found.add(window["example"])
    assert found == set(range(len(rows)))


@pytest.mark.parametrize("asks", ["padding", "truncation"])
def test_padding_and_truncation_of_the_tokenizer_file_have_no_effect(kinds, folder, tmp_path, asks):
    backend = word_pieces()
    if asks == "padding":
        backend.enable_padding(length=64)
    else:
        backend.enable_truncation(max_length=5)
    other = save_and_load(backend, tmp_path)
    row = ("the house stands near a river and old trees", "which house ?", "river", 24)
    rule = FeatureSettings(max_length=16, stride_tokens=4)
    assert windows_of(other, rule, folder, row) == windows_of(kinds["uncased"], rule, folder, row)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(MtdnnError, match="no usable tokenizer") as error:
        Tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path):
    backend = word_pieces()
    backend.post_processor = processors.ByteLevel()
    with pytest.raises(MtdnnError, match=r"adds no special tokens, .* transformers 5.4") as error:
        save_and_load(backend, tmp_path)
    assert "\n" not in str(error.value)


# --- sentences and choices -------------------------------------------------------------------

LINE = st.text(st.sampled_from("abc  é日😀.,'"), min_size=1, max_size=25)


@pytest.mark.parametrize("kind", ["uncased", "bytes"])
@given(rows=st.lists(st.tuples(LINE, LINE), min_size=1, max_size=4), single=st.booleans())
@settings(max_examples=40)
def test_sentences_are_the_tokenizers_own(kinds, folder, kind, rows, single):
    first, second = (list(side) for side in zip(*rows, strict=True))
    columns = {
        "row": list(range(len(rows))),
        "sentence1": first,
        "sentence2": [None] * len(rows) if single else second,
        "label": [number % 2 for number in range(len(rows))],
    }
    rule, target = FeatureSettings(max_length=16), folder / "sentences.arrow"
    tokenise("sequence_classification", rule, kinds[kind], [columns], target)
    table = Features(target, "sequence_classification").table.to_pylist()
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
def test_choices_are_the_tokenizers_own(kinds, folder, rows):
    sentences, choices, labels = (list(side) for side in zip(*rows, strict=True))
    columns = {
        "row": list(range(7, 7 + len(rows))),
        "sentence": sentences,
        "choices": choices,
        "label": labels,
    }
    target = folder / "choices.arrow"
    tokenise("multiple_choice", FeatureSettings(max_length=24), kinds["uncased"], [columns], target)
    table = Features(target, "multiple_choice")
    assert len(table) == len(rows) and table.sequences == sum(map(len, choices))
    assert table.item_starts.tolist() == [0, *np.cumsum(list(map(len, choices)))]
    sequences = iter(table.table.to_pylist())
    for number, (sentence, endings, label) in enumerate(rows):
        for choice in endings:
            own = kinds["uncased"].call(
                sentence, choice, truncation=True, max_length=24, return_token_type_ids=True
            )
            row = next(sequences)
            assert row["input_ids"] == own["input_ids"]
            assert row["token_type_ids"] == own["token_type_ids"]
            assert (row["example"], row["label"]) == (number + 7, label)


WORD = st.text(
    st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=6
).filter(str.strip)


@pytest.mark.parametrize("kind", ["uncased", "cased", "bytes"])
@given(sentences=st.lists(st.lists(WORD, min_size=1, max_size=8), min_size=1, max_size=4))
@example(sentences=[["un\u0301ing", "\u00a8", "house"], ["a", "b"]])
@example(sentences=[["\ufe0f", "red"]])  # a character that tokenizers may remove
@settings(max_examples=40)
def test_a_tag_is_at_the_first_token_of_its_word(kinds, folder, kind, sentences):
    rows = {
        "row": list(range(len(sentences))),
        "tokens": sentences,
        "tags": [[n % 3 for n in range(len(words))] for words in sentences],
    }
    target, rule = folder / "words.arrow", FeatureSettings(max_length=32)
    counts = tokenise("token_classification", rule, kinds[kind], [rows], target)
    table = Features(target, "token_classification").table.to_pylist()
    cut = 0
    for number, (words, row) in enumerate(zip(sentences, table, strict=True)):
        text = " ".join(words)
        own = kinds[kind].call(text, return_offsets_mapping=True, return_token_type_ids=True)
        cut += len(own["input_ids"]) > 32
        last = own["input_ids"][-1]
        assert row["input_ids"] == [*own["input_ids"][:31], last][: len(own["input_ids"])]
        assert row["token_type_ids"] == own["token_type_ids"][:32]
        # One by one, from the definition: each word's first token with one of its characters.
        expected, start = {}, 0
        for place, word in enumerate(words):
            for token, (a, b) in enumerate(own["offset_mapping"][: len(row["input_ids"]) - 1]):
                if token and a < b and start < b <= start + len(word):
                    expected[token] = place
                    break
            start += len(word) + 1
        found = {token: place for token, place in enumerate(row["word"]) if place >= 0}
        assert found == expected
        assert row["tags"] == [
            expected[token] % 3 if token in expected else NO_TAG
            for token in range(len(row["tags"]))
        ]
        assert row["example"] == number
    assert counts.get("cut", 0) == cut


def test_words_are_the_tokenizers_own_split_ones(kinds, folder):
    """As Hugging Face's token classification does it, with `is_split_into_words`."""
    words = ["housing", "stands", "U.S.", "near", "ünder", "red"]
    rows = {"row": [0], "tokens": [words], "tags": [[0, 1, 2, 0, 1, 2]]}
    target = folder / "split.arrow"
    tokenise("token_classification", FeatureSettings(), kinds["uncased"], [rows], target)
    (row,) = Features(target, "token_classification").table.to_pylist()
    own = kinds["uncased"].call(words, is_split_into_words=True)
    assert row["input_ids"] == own["input_ids"]
    numbers = own.word_ids()
    firsts = [n for n, word in enumerate(numbers) if word is not None and word != numbers[n - 1]]
    assert [place for place, tag in enumerate(row["tags"]) if tag != NO_TAG] == firsts


def test_a_cut_sentence_is_counted_and_said(encoder, tmp_path, capsys):
    long = {"id": "a", "tokens": ["house"] * 40, "tags": [1] * 40}
    short = {"id": "b", "tokens": ["house"], "tags": [1]}
    corpus = write_corpus(tmp_path / "corpus", "token_classification", train=[long, short])
    prepare("token_classification", RULE, encoder, corpus, tmp_path / "out")
    counts = json.loads((tmp_path / "out" / "features.json").read_text())["splits"]["train"]
    assert (counts["sequences"], counts["cut"]) == (2, 1)
    assert "1 of the 2 sentences" in capsys.readouterr().err


# --- files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(folder):
    return make_encoder(folder / "encoder")


@pytest.mark.parametrize("family", ["question_answering", "multiple_choice"])
def test_portions_give_the_same_features(encoder, tmp_path, monkeypatch, family):
    make = {"question_answering": squad_rows, "multiple_choice": swag_rows}[family]
    rows = make(23, random.Random(3))
    corpus = write_corpus(tmp_path / "corpus", family, train=rows, dev=rows[:5])
    files = []
    for size in (1000, 4):
        monkeypatch.setattr("mtdnn.data.tokenising.ROWS_AT_A_TIME", size)
        output = tmp_path / f"features{size}"
        prepare(family, RULE, encoder, corpus, output)
        files.append(Features(output / "train.arrow", family))
    whole, portions = files
    assert whole.table.column("example").num_chunks == 1
    assert portions.table.column("example").num_chunks == 6
    assert whole.table.to_pylist() == portions.table.to_pylist()


def test_features_are_described(encoder, tmp_path):
    rows = squad_rows(23, random.Random(3))
    corpus = write_corpus(tmp_path / "corpus", "question_answering", train=rows, dev=rows[:5])
    prepare("question_answering", RULE, encoder, corpus, tmp_path / "out")
    description = json.loads((tmp_path / "out" / "features.json").read_text())
    features = Features(tmp_path / "out" / "train.arrow", "question_answering")
    assert description["splits"]["train"] == {
        "sequences": features.sequences,
        "tokens": features.lengths.sum(),
        "sha256": sha256(tmp_path / "out" / "train.arrow"),
    }
    assert set(description["splits"]) == {"train", "dev"}
    assert description["family"] == "question_answering"
    assert description["settings"] == RULE.model_dump()
    for key, folder in (("corpus_digest", corpus), ("encoder_digest", encoder)):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert description[key] == manifest["digest"]


def test_features_are_not_made_of_a_part_of_a_corpus(encoder, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", "multiple_choice")
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["splits"] = {split: {"rows": 1} for split in ("train", "dev")}
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MtdnnError, match=r"train\.parquet: no such file; `mtdnn corpus`"):
        prepare("multiple_choice", RULE, encoder, corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_tokens_than_the_encoder_has_positions_are_refused(encoder, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", "multiple_choice")
    longer = FeatureSettings(max_length=97)
    with pytest.raises(MtdnnError, match=r"features\.max_length: 97 is more than the 96 positions"):
        prepare("multiple_choice", longer, encoder, corpus, tmp_path / "out")


# MPNet's code supports only 1 as the padding token's id.
@pytest.mark.parametrize(
    ("kind", "padding"),
    [
        *(("bert", 0), ("distilbert", 0), ("albert", 0), ("roberta", 0), ("roberta", 1)),
        *(("xlm-roberta", 1), ("camembert", 1), ("mpnet", 1)),
    ],
)
def test_the_longest_sequence_is_what_the_encoder_accepts(kind, padding, tmp_path):
    folder = make_encoder(tmp_path, kind=kind, max_position_embeddings=24, pad_token_id=padding)
    longest = positions_of(json.loads((folder / "config.json").read_text()))
    encoder = AutoModel.from_pretrained(folder).eval()
    encoder(torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        encoder(torch.full((1, longest + 1), 5))


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": None}, 512),
        ({"model_type": "bert", "max_position_embeddings": "512"}, None),
        ({"model_type": "bert"}, None),
    ],
)
def test_a_configuration_with_unusual_values_is_no_traceback(config, positions):
    assert positions_of(config) == positions


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"no data in {PUBLISHED}")
def test_windows_contain_the_answers_of_published_questions(tmp_path):
    """Real text: tokens and answer differ only where the annotator cut a word."""
    rows = []
    for _, record in itertools.islice(squad(PUBLISHED / "squad_v2" / "dev-v2.0.json"), 0, 4000, 4):
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
    for window in windows.table.to_pylist():
        if not window["start"]:
            continue
        row = rows[window["example"]]
        context, begin = row["context"], row["answer_starts"][0]
        end = begin + len(row["answer_texts"][0])
        a, b = window["char_start"][window["start"]], window["char_end"][window["end"]]
        assert a <= begin and b >= end, row["id"]
        for edge, outer in ((begin, a), (end, b)):
            if edge != outer:
                assert not re.search(r"[\s!-/:-@\[-`{-~]", context[edge - 1 : edge + 1]), row["id"]
        found.add(window["example"])
    answerable = {number for number, row in enumerate(rows) if row["answer_texts"]}
    # With single letters as tokens, some answers are longer than any window.
    assert found <= answerable and len(found) > 0.99 * len(answerable)
