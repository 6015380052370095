"""Decoding equals a brute force written from its definition, however windows are batched."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtdnn.config.settings import DecodingSettings
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import decoding
from mtdnn.evaluation.decoding import (
    NO_SCORE,
    Answers,
    Decoder,
    SpanLogits,
    decode,
    predictions_table,
)

# Few distinct values, so that ties are frequent.
LOGIT = st.integers(-2, 2).map(float) | st.floats(-8, 8, width=32)


@st.composite
def windows(draw, example):
    """One window as a dict: [CLS], question, [SEP], a piece of context, [SEP]."""
    before, inside = draw(st.integers(1, 3)), draw(st.integers(0, 7))
    first_word = draw(st.integers(0, 4))
    outside = [-1] * before
    length = before + inside + 1
    return {
        "start": draw(st.lists(LOGIT, min_size=length, max_size=length)),
        "end": draw(st.lists(LOGIT, min_size=length, max_size=length)),
        "char_start": outside + [3 * (first_word + n) for n in range(inside)] + [-1],
        "char_end": outside + [3 * (first_word + n) + 2 for n in range(inside)] + [-1],
        "example": example,
    }


@st.composite
def questions(draw):
    """Windows of 1 to 4 questions in any order, at least one of each."""
    n = draw(st.integers(1, 4))
    extra = draw(st.lists(st.integers(0, n - 1), max_size=5))
    order = draw(st.permutations([*range(n), *extra]))
    return n, [draw(windows(example)) for example in order]


SETTINGS = st.builds(
    DecodingSettings, n_best=st.integers(1, 12), max_answer_tokens=st.integers(1, 9)
)


def as_logits(batch):
    def flat(key, kind):
        return np.array([value for window in batch for value in window[key]], kind)

    return SpanLogits(
        start=flat("start", np.float32),
        end=flat("end", np.float32),
        offsets=np.cumsum([0] + [len(window["start"]) for window in batch]),
        char_start=flat("char_start", np.int32),
        char_end=flat("char_end", np.int32),
        example=np.array([window["example"] for window in batch], np.int32),
    )


def brute_force(n, batch, settings):
    """(char_start, char_end, score, null_score) of each question, from the definition."""
    results = []
    for question in range(n):
        best, null_score = (-1, -1, NO_SCORE), math.inf
        for window in (each for each in batch if each["example"] == question):
            null_score = min(null_score, window["start"][0] + window["end"][0])
            pairs = []
            for start in top(window["start"], settings.n_best):
                for end in top(window["end"], settings.n_best):
                    in_context = window["char_start"][start] >= 0 and window["char_end"][end] >= 0
                    if in_context and 0 <= end - start < settings.max_answer_tokens:
                        pairs.append((-(window["start"][start] + window["end"][end]), start, end))
            if pairs:
                negative, start, end = min(pairs)
                span = (window["char_start"][start], window["char_end"][end], -negative)
                best = min(best, span, key=lambda each: (-each[2], each[0], each[1]))
        results.append((*best, null_score))
    return results


def top(values, n):
    return sorted(range(len(values)), key=lambda index: (-values[index], index))[:n]


def rows(answers: Answers):
    columns = (answers.char_start, answers.char_end, answers.score, answers.null_score)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(questions(), SETTINGS)
def test_equals_brute_force(case, settings):
    n, batch = case
    assert rows(decode(as_logits(batch), n, settings)) == brute_force(n, batch, settings)


@given(questions(), SETTINGS, st.data())
def test_batches_their_order_and_chunks_do_not_matter(case, settings, data):
    n, batch = case
    expected = rows(decode(as_logits(batch), n, settings))
    shuffled = data.draw(st.permutations(batch))
    cuts = data.draw(st.lists(st.integers(0, len(batch)), max_size=4).map(sorted))
    decoder = Decoder(n, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_MAX_CHUNK_VALUES", data.draw(st.sampled_from([1, 20, 200])))
        for begin, end in itertools.pairwise([0, *cuts, len(batch)]):
            decoder.add(as_logits(shuffled[begin:end]))
    assert rows(decoder.answers()) == expected


def window(start, end, char_start=(-1, 0, 3, 6), char_end=(-1, 2, 5, 8), example=0):
    return {
        "start": start,
        "end": end,
        "char_start": list(char_start),
        "char_end": list(char_end),
        "example": example,
    }


def test_positions_outside_the_context_count_among_the_n_best():
    batch = [window([9.0, 1, 2, 3], [9.0, 1, 2, 3])]
    assert rows(decode(as_logits(batch), 1, DecodingSettings(n_best=2))) == [(6, 8, 6.0, 18.0)]
    assert rows(decode(as_logits(batch), 1, DecodingSettings(n_best=1))) == [(-1, -1, -1e30, 18.0)]


def test_null_score_is_the_lowest_of_all_windows():
    batch = [window([float(n), 0, 0, 0], [0.0, 0, 0, 0]) for n in (2, -3, 1)]
    answers = decode(as_logits(batch), 1, DecodingSettings())
    assert answers.null_score.tolist() == [-3.0]
    assert answers.null_odds.tolist() == [-3.0]


def test_answers_are_no_longer_than_allowed_and_never_backwards():
    batch = [window([0.0, 5, 0, 4], [0.0, 6, 0, 8])]
    assert rows(decode(as_logits(batch), 1, DecodingSettings()))[0][:3] == (0, 8, 13.0)
    short = DecodingSettings(max_answer_tokens=2)
    assert rows(decode(as_logits(batch), 1, short))[0][:3] == (6, 8, 12.0)


def test_scores_are_added_in_double_precision():
    start, end = np.float32(16777216), np.float32(1)
    batch = [window([0.0, start, 0, 0], [0.0, end, 0, 0])]
    assert rows(decode(as_logits(batch), 1, DecodingSettings()))[0][2] == 16777217.0


def test_logits_that_are_not_finite_and_questions_without_windows_are_refused():
    batch = [window([0.0, math.nan, 0, 0], [0.0] * 4)]
    with pytest.raises(MtdnnError, match="not finite"):
        decode(as_logits(batch), 1, DecodingSettings())
    batch = [window([0.0] * 4, [0.0] * 4, example=1)]
    with pytest.raises(MtdnnError, match="2 of 3 questions have no window, the first is number 0"):
        decode(as_logits(batch), 3, DecodingSettings())


def test_predictions_table_holds_the_answers_text():
    answers = Answers(
        np.array([4, -1], np.int32),
        np.array([9, -1], np.int32),
        np.array([2.5, NO_SCORE]),
        np.array([1.0, -1.0]),
    )
    table = predictions_table("squad", "dev", ["q1", "q2"], ["Die Zwölf Brüder", "x"], answers)
    assert table.to_pylist() == [
        {
            "corpus": "squad",
            "split": "dev",
            "id": "q1",
            "answer": "Zwölf",
            "answer_start": 4,
            "answer_end": 9,
            "score": 2.5,
            "null_score": 1.0,
            "null_odds": -1.5,
        },
        {
            "corpus": "squad",
            "split": "dev",
            "id": "q2",
            "answer": "",
            "answer_start": -1,
            "answer_end": -1,
            "score": NO_SCORE,
            "null_score": -1.0,
            "null_odds": 1e30,
        },
    ]


@pytest.mark.parametrize(
    ("module", "foreign"),
    [
        ("mtdnn.evaluation.decoding", ["torch", "sklearn", "mtdnn.evaluation.scoring"]),
        ("mtdnn.evaluation.scoring", ["torch", "sklearn", "mtdnn.evaluation.decoding"]),
    ],
)
def test_decoding_and_scoring_import_neither_each_other_nor_heavy_libraries(module, foreign):
    code = f"import sys, {module}; print([m for m in {foreign} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
