"""Scores: hand-worked cases, the definition written out, the full dev set."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtdnn.cli.main import main
from mtdnn.evaluation.scoring import Scores, best, normalise, score_answers, summary

DEV = Path(__file__).parents[3] / "shared/data/squad_v2/dev-v2.0.json"
needs_dev = pytest.mark.skipif(
    not DEV.exists(), reason="needs ../shared/data: the SQuAD 2.0 dev set"
)

# --- the definition, written out in full -----------------------------------------------------


def plain_words(text):
    kept = [c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"]
    return re.sub(r"\b(?:the|an|a)\b", " ", "".join(kept)).split()


def plain_f1(gold, given):
    if gold == [] or given == []:
        return 1.0 if gold == given else 0.0
    left, shared = Counter(gold), 0
    for word in given:
        if left[word] > 0:
            left[word] -= 1
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / len(given), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def plain_scores(questions, answers, odds, threshold):
    """All official keys; without odds, as the official script without a file of odds."""
    exact, f1, kind = [], [], []
    for identifier, texts in questions.items():
        golds = [plain_words(text) for text in texts if plain_words(text)] or [[]]
        words = plain_words(answers[identifier])
        exact.append(max(1.0 if gold == words else 0.0 for gold in golds))
        f1.append(max(plain_f1(gold, words) for gold in golds))
        kind.append("HasAns" if texts else "NoAns")
    nulled = [odds is not None and odds[identifier] > threshold for identifier in questions]
    result = {}
    for prefix in ("", "HasAns_", "NoAns_"):
        chosen = [n for n, each in enumerate(kind) if prefix in ("", each + "_")]
        if not chosen:
            continue
        for name, column in (("exact", exact), ("f1", f1)):
            total = 0.0
            for n in chosen:
                total += (1.0 if kind[n] == "NoAns" else 0.0) if nulled[n] else column[n]
            result[prefix + name] = 100.0 * total / len(chosen)
        result[prefix + "total"] = len(chosen)
    if odds is not None:
        number = {identifier: n for n, identifier in enumerate(questions)}
        for name, column in (("exact", exact), ("f1", f1)):
            score = float(kind.count("NoAns"))
            highest, at = score, 0.0
            for identifier in sorted((i for i in odds if i in number), key=odds.get):
                n = number[identifier]
                if kind[n] == "HasAns":
                    score += column[n]
                elif answers[identifier] != "":
                    score -= 1
                if score > highest:
                    highest, at = score, odds[identifier]
            result[f"best_{name}"] = 100.0 * highest / len(kind)
            result[f"best_{name}_thresh"] = at
    return result


# --- single answers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Quick, brown FOX!", "quick brown fox"),
        ("a an the", ""),
        ("Theatre of a theatre", "theatre of theatre"),
        ("U.S.A.", "usa"),
        ("well-known", "wellknown"),
        ("the-end", "theend"),
        ("“quoted” – a dash", "“quoted” – dash"),
        ("\u00a0tab\tand\nline ", "tab and line"),
        ("ÜBER an Éclair", "über éclair"),
        ("", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@given(st.text() | st.text("aAnthe., -'T\n"))
def test_normalise_is_idempotent_and_agrees_with_the_definition(text):
    once = normalise(text)
    assert once.split() == plain_words(text)
    assert normalise(once) == once


@pytest.mark.parametrize(
    ("golds", "answer", "exact", "f1"),
    [
        (["blue whale"], "The blue whale.", 1, 1.0),
        (["blue whale"], "whale", 0, 2 / 3),
        (["blue whale", "whale"], "whale", 1, 1.0),
        (["to be or not to be"], "to to to", 0, 4 / 9),
        (["blue whale"], "red fox", 0, 0.0),
        (["blue whale"], "", 0, 0.0),
        (["the"], "", 1, 1.0),
        (["the"], "fox", 0, 0.0),
        (["the", "fox"], "", 0, 0.0),
        ([], "", 1, 1.0),
        ([], "the", 1, 1.0),
        ([], "fox", 0, 0.0),
    ],
)
def test_single_answers(golds, answer, exact, f1):
    scores = score_answers([golds], [answer])
    assert scores.exact == [exact]
    assert scores.f1 == pytest.approx([f1], abs=0, rel=1e-15)
    assert scores.answerable == [bool(golds)]
    assert scores.answered == [bool(answer)]


# --- totals ----------------------------------------------------------------------------------

FOUR = Scores(
    exact=[1, 0, 0, 1],
    f1=[1.0, 0.5, 0, 1.0],
    answerable=[True, True, False, False],
    answered=[True, True, True, False],
)


def test_summary_by_hand():
    assert summary(FOUR, [0.0, 0.0, 2.0, 0.0], 1.0) == {
        "exact": 75.0,
        "f1": 87.5,
        "total": 4,
        "HasAns_exact": 50.0,
        "HasAns_f1": 75.0,
        "HasAns_total": 2,
        "NoAns_exact": 100.0,
        "NoAns_f1": 100.0,
        "NoAns_total": 2,
    }
    assert summary(FOUR, [2.0, 2.0, 1.0, 2.0], 1.0)["exact"] == 25.0


def test_questions_of_one_kind_have_no_totals_of_the_other():
    assert "NoAns_total" not in summary(FOUR.take([0, 1]), [0.0, 0.0], 0.0)
    assert "HasAns_total" not in summary(FOUR.take([2]), [0.0], 0.0)


def test_best_by_hand():
    assert best(FOUR, [-3.0, 1.0, 4.0, 0.0]) == {
        "best_exact": 75.0,
        "best_exact_thresh": -3.0,
        "best_f1": 87.5,
        "best_f1_thresh": 1.0,
    }


# --- the full official dev set ---------------------------------------------------------------


@pytest.fixture(scope="module")
def dev():
    """Gold answers of every question of the official dev set, in its order."""
    articles = json.loads(DEV.read_text(encoding="utf-8"))["data"]
    return {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }


def run_score(tmp_path, capsys, predictions, odds=None, threshold=None):
    arguments = ["score", "--data", str(DEV), "--predictions", str(tmp_path / "p.json")]
    (tmp_path / "p.json").write_text(json.dumps(predictions), encoding="utf-8")
    if odds is not None:
        (tmp_path / "o.json").write_text(json.dumps(odds), encoding="utf-8")
        arguments += ["--null-odds", str(tmp_path / "o.json")]
    if threshold is not None:
        arguments += ["--null-threshold", str(threshold)]
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


@needs_dev
def test_dev_perfect(dev, tmp_path, capsys):
    perfect = {identifier: (golds or [""])[0] for identifier, golds in dev.items()}
    scores = run_score(tmp_path, capsys, perfect)
    assert {key: value for key, value in scores.items() if value != 100.0} == {
        "total": 11873,
        "HasAns_total": 5928,
        "NoAns_total": 5945,
    }


@needs_dev
def test_dev_empty_and_all_null(dev, tmp_path, capsys):
    floor = 100.0 * 5945 / 11873
    empty = run_score(tmp_path, capsys, dict.fromkeys(dev, ""))
    null = run_score(
        tmp_path, capsys, dict.fromkeys(dev, "something"), dict.fromkeys(dev, 7.0), threshold=6.5
    )
    for scores in (empty, null):
        assert scores["exact"] == scores["f1"] == floor
        assert scores["HasAns_exact"] == scores["HasAns_f1"] == 0.0
        assert scores["NoAns_exact"] == scores["NoAns_f1"] == 100.0
    assert list(empty)[-1] == "NoAns_total"
    assert null["best_exact"] == floor
    assert null["best_exact_thresh"] == 0.0


@needs_dev
@pytest.mark.parametrize("seed", [1, 2])
def test_dev_perturbed_equals_the_definition_to_the_last_bit(dev, tmp_path, capsys, seed):
    draw = random.Random(seed)
    vocabulary = ["the", "a", "of", "in", "Zürich", "1066", ","]
    answers, odds = {}, {}
    for identifier, golds in dev.items():
        words = draw.choice(golds or ["", "some made-up words"]).split()
        if draw.random() < 0.5:
            words = words[draw.randint(0, 2) :] + draw.choices(vocabulary, k=draw.randint(0, 3))
        answers[identifier] = " ".join(words)
        odds[identifier] = round(draw.gauss(-1 if golds else 1, 2), 2)  # rounded: many are equal
    shuffled = list(odds)
    draw.shuffle(shuffled)
    odds = {identifier: odds[identifier] for identifier in shuffled}

    for threshold in (-1.0, 0.25):
        given = run_score(tmp_path, capsys, answers, odds, threshold)
        expected = plain_scores(dev, answers, odds, threshold)
        assert given == expected
        assert list(given) == [*list(given)[:9], *list(expected)[-4:]]
    assert run_score(tmp_path, capsys, answers) == plain_scores(dev, answers, None, 1.0)


# --- the command's input ---------------------------------------------------------------------

SMALL = {
    "version": "v2.0",
    "data": [
        {
            "title": "Tea",
            "paragraphs": [
                {
                    "context": "Tea is hot.",
                    "qas": [
                        {"id": "q1", "question": "What?", "answers": [{"text": "Tea"}]},
                        {"id": "q2", "question": "Who?", "answers": []},
                    ],
                }
            ],
        }
    ],
}


def score_small(tmp_path, capsys, data=SMALL, predictions=None, odds=None):
    """Exit status, scores and messages of `mtdnn score` on made-up files."""
    names = {"data": data, "predictions": predictions or {"q1": "tea", "q2": ""}, "odds": odds}
    for name, content in names.items():
        (tmp_path / name).write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
    arguments = ["score", "--data", "data", "--predictions", "predictions"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        status = main(arguments + (["--null-odds", "odds"] if odds is not None else []))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_keys_are_in_the_official_order(tmp_path, capsys):
    status, out, err = score_small(tmp_path, capsys, odds={"q2": 3, "q1": 0.5})
    assert (status, err) == (0, "")
    assert list(json.loads(out).items()) == [
        ("exact", 100.0),
        ("f1", 100.0),
        ("total", 2),
        ("HasAns_exact", 100.0),
        ("HasAns_f1", 100.0),
        ("HasAns_total", 1),
        ("NoAns_exact", 100.0),
        ("NoAns_f1", 100.0),
        ("NoAns_total", 1),
        ("best_exact", 100.0),
        ("best_exact_thresh", 0.5),
        ("best_f1", 100.0),
        ("best_f1_thresh", 0.5),
    ]


def test_unknown_ids_are_ignored_with_a_warning(tmp_path, capsys):
    predictions = {"q1": "tea", "q2": "", "q3": 7}
    status, out, err = score_small(tmp_path, capsys, predictions=predictions)
    assert (status, json.loads(out)["total"]) == (0, 2)
    assert err == "predictions: 1 ids are not in the data and are ignored, the first is 'q3'\n"


REPEATED = json.loads(json.dumps(SMALL).replace("q2", "q1"))
NUMBERED = json.loads(json.dumps(SMALL).replace('"q2"', "2"))
TEXTLESS = json.loads(json.dumps(SMALL).replace('"text"', '"words"'))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"predictions": {"q2": ""}},
            "predictions: 1 of 2 questions are missing, the first is 'q1'",
        ),
        ({"predictions": {"q1": None, "q2": ""}}, "predictions: q1: must be a string"),
        ({"predictions": ["tea"]}, "predictions: must be a JSON object"),
        ({"predictions": '{"q1": "te'}, "predictions: not readable as JSON"),
        ({"odds": {"q1": 1}}, "odds: 1 of 2 questions are missing, the first is 'q2'"),
        ({"odds": {"q1": 1, "q2": "3"}}, "odds: q2: must be a finite number, not '3'"),
        ({"odds": {"q1": 1, "q2": True}}, "odds: q2: must be a finite number, not True"),
        ({"odds": '{"q1": NaN, "q2": 0}'}, "odds: q1: must be a finite number, not nan"),
        ({"data": {"q1": "tea"}}, "data: data: must be a list of objects; is this a SQuAD file?"),
        ({"data": {"data": [{"title": "x"}]}}, "data: data.0.paragraphs: must be a list"),
        ({"data": {"data": []}}, "data: data: has no questions"),
        ({"data": REPEATED}, "data: data.0.paragraphs.0.qas.1.id: the question 'q1' occurs twice"),
        ({"data": NUMBERED}, "data: data.0.paragraphs.0.qas.1.id: must be a string"),
        ({"data": TEXTLESS}, "data: data.0.paragraphs.0.qas.0.answers: must be a list of objects"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, capsys, files, message):
    status, out, err = score_small(tmp_path, capsys, **files)
    assert (status, out) == (2, "")
    assert err.startswith(f"mtdnn: error: {message}")
    assert err.count("\n") == 1
