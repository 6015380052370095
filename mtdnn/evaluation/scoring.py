"""Exact match (EM) and F1 with the arithmetic of SQuAD 2.0's official evaluation script.

Normalisation, order of summation and keys are those of evaluate-v2.0.py (Rajpurkar et al. 2018),
so the numbers are equal to the last bit. `score_answers` scores each question once; `summary` and
`best` then only add up these scores for a slice and a threshold.
"""

import json
import math
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mtdnn.errors import MtdnnError
from mtdnn.evaluation.thresholds import official_best
from mtdnn.machine.files import read_json, write_json

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Scores:
    """Scores of N questions' non-null answers, before any null threshold; each list has N entries.

    Attributes:
        exact: 1 if the answer equals a gold answer after normalisation, else 0.
        f1: highest F1 over words with any gold answer, 0 to 1.
        answerable: whether the question has a gold answer.
        answered: whether the answer is not the empty string.
    """

    exact: list[int]
    f1: list[float]
    answerable: list[bool]
    answered: list[bool]

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, indices: Sequence[int]) -> "Scores":
        """Return the scores of the questions at `indices`, in that order."""
        return Scores(
            exact=[self.exact[index] for index in indices],
            f1=[self.f1[index] for index in indices],
            answerable=[self.answerable[index] for index in indices],
            answered=[self.answered[index] for index in indices],
        )


def normalise(text: str) -> str:
    """Return `text` in lower case, without ASCII punctuation, English articles and extra spaces."""
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def score_answers(golds: Sequence[Sequence[str]], answers: Sequence[str]) -> Scores:
    """Score each question's answer against the gold answer that it matches best.

    Args:
        golds: gold answers of each of N questions; empty if it is unanswerable. Gold answers that
            normalise to nothing are ignored; if none remains, "" is the gold answer.
        answers: answers to the N questions.
    """
    words = lru_cache(maxsize=None)(lambda text: normalise(text).split())
    exact, f1 = [], []
    for gold, answer in zip(golds, answers, strict=True):
        given = words(answer)
        wanted = [each for each in map(words, gold) if each] or [[]]
        exact.append(max(int(each == given) for each in wanted))
        f1.append(max(_word_f1(each, given) for each in wanted))
    return Scores(exact, f1, [bool(gold) for gold in golds], [bool(answer) for answer in answers])


def summary(scores: Scores, odds: Sequence[float], threshold: float) -> dict[str, float]:
    """Return the official totals, where an answer counts as "" if its null odds are too high.

    Args:
        scores: scores of N questions, at least one.
        odds: N null odds, in logits.
        threshold: answers with higher null odds than this count as "".

    Returns:
        `exact` and `f1` (percent) and `total` (questions), then the same keys with the prefixes
        `HasAns_` for answerable and `NoAns_` for unanswerable questions if there are any.
    """
    null = [float(not each) for each in scores.answerable]
    exact, f1 = (
        [null[index] if odds[index] > threshold else score for index, score in enumerate(column)]
        for column in (scores.exact, scores.f1)
    )
    totals = _totals("", exact, f1, range(len(scores)))
    for prefix, kind in (("HasAns_", True), ("NoAns_", False)):
        chosen = [index for index, each in enumerate(scores.answerable) if each is kind]
        if chosen:
            totals |= _totals(prefix, exact, f1, chosen)
    return totals


def best(scores: Scores, odds: Sequence[float]) -> dict[str, float]:
    """Return the official best scores over all thresholds, tuned on these same questions.

    Args:
        scores: scores of N questions, at least one.
        odds: N null odds, in logits.

    Returns:
        `best_exact` and `best_f1` (percent), and the thresholds at which they are reached,
        `best_exact_thresh` and `best_f1_thresh`.
    """
    result: dict[str, float] = {}
    columns: tuple[tuple[str, Sequence[float]], ...] = (("exact", scores.exact), ("f1", scores.f1))
    for name, column in columns:
        score, threshold = official_best(column, scores.answerable, scores.answered, odds)
        result |= {f"best_{name}": score, f"best_{name}_thresh": threshold}
    return result


def score_files(
    data: Path, predictions: Path, null_odds: Path | None, threshold: float, output: Path | None
) -> None:
    """Score a predictions file against a SQuAD 2.0 file; print or write the official scores.

    Args:
        data: file in SQuAD's format.
        predictions: JSON object that maps question ids to answers, as evaluate-v2.0.py reads it.
        null_odds: JSON object that maps question ids to null odds; if absent, all are 0 and the
            best scores over all thresholds are left out.
        threshold: answers with higher null odds than this count as "".
        output: JSON file to write; the scores are printed if absent.

    Raises:
        MtdnnError: a file is not readable, has the wrong format or lacks questions.
    """
    golds = _gold_answers(data)
    answers = _by_question(
        predictions, 'a string ("" for no answer)', lambda value: isinstance(value, str), golds
    )
    scores = score_answers(list(golds.values()), [answers[question] for question in golds])
    if null_odds:
        odds: dict[str, float] = _by_question(null_odds, "a finite number", _is_finite, golds)
        result = summary(scores, [odds[question] for question in golds], threshold)
        # Among equal odds, the official sweep keeps the order of the file of odds.
        position = {question: index for index, question in enumerate(golds)}
        result |= best(scores.take([position[question] for question in odds]), [*odds.values()])
    else:
        result = summary(scores, [0.0] * len(scores), threshold)
    if output:
        write_json(output, result)
    else:
        print(json.dumps(result, indent=2))


def _word_f1(gold: list[str], given: list[str]) -> float:
    """Return F1 over words as multisets; 1 if both are empty."""
    if not gold or not given:
        return int(gold == given)
    shared = sum((Counter(gold) & Counter(given)).values())
    if not shared:
        return 0
    precision, recall = shared / len(given), shared / len(gold)
    return (2 * precision * recall) / (precision + recall)


def _totals(
    prefix: str, exact: Sequence[float], f1: Sequence[float], chosen: Sequence[int]
) -> dict[str, float]:
    return {
        f"{prefix}exact": 100.0 * sum(exact[index] for index in chosen) / len(chosen),
        f"{prefix}f1": 100.0 * sum(f1[index] for index in chosen) / len(chosen),
        f"{prefix}total": len(chosen),
    }


def _gold_answers(path: Path) -> dict[str, list[str]]:
    """Read the gold answers' texts by question id, in the order of a SQuAD file."""
    golds: dict[str, list[str]] = {}
    for place, question in _questions(path, read_json(path)):
        identifier, answers = question.get("id"), question.get("answers")
        if not isinstance(identifier, str):
            raise MtdnnError(f"{path}: {place}.id: must be a string; is this a SQuAD file?")
        texts = _texts(answers)
        if texts is None:
            raise MtdnnError(
                f"{path}: {place}.answers: must be a list of objects with a text; "
                "is this a SQuAD file?"
            )
        if identifier in golds:
            raise MtdnnError(f"{path}: {place}.id: the question {identifier!r} occurs twice")
        golds[identifier] = texts
    if not golds:
        raise MtdnnError(f"{path}: data: has no questions")
    return golds


def _questions(path: Path, content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each question of a SQuAD file's content with its place."""
    level = [("", content)]
    for key in ("data", "paragraphs", "qas"):
        below: list[tuple[str, Any]] = []
        for place, item in level:
            place = f"{place}.{key}".lstrip(".")
            items = item.get(key) if isinstance(item, Mapping) else None
            if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
                raise MtdnnError(
                    f"{path}: {place}: must be a list of objects; is this a SQuAD file?"
                )
            below += [(f"{place}.{number}", each) for number, each in enumerate(items)]
        level = below
    yield from level


def _texts(answers: Any) -> list[str] | None:
    """Return the texts of a question's gold answers; None if `answers` is malformed."""
    if not isinstance(answers, list):
        return None
    texts = []
    for answer in answers:
        text = answer.get("text") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            return None
        texts.append(text)
    return texts


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _by_question(
    path: Path, kind: str, is_valid: Callable[[Any], bool], questions: Mapping[str, Any]
) -> dict[str, Any]:
    """Read a value for each question, in the order of the JSON object at `path`.

    Values for other ids are ignored, with a warning on stderr.
    """
    given = read_json(path)
    if not isinstance(given, dict):
        raise MtdnnError(f"{path}: must be a JSON object with {kind} for each question id")
    missing = [question for question in questions if question not in given]
    if missing:
        raise MtdnnError(
            f"{path}: {len(missing)} of {len(questions)} questions are missing, the first is "
            f"{missing[0]!r}; give {kind} for each"
        )
    wanted = {question: value for question, value in given.items() if question in questions}
    for question, value in wanted.items():
        if not is_valid(value):
            raise MtdnnError(f"{path}: {question}: must be {kind}, not {value!r:.60}")
    if len(wanted) < len(given):
        extra = next(question for question in given if question not in questions)
        print(
            f"{path}: {len(given) - len(wanted)} ids are not in the data and are ignored, "
            f"the first is {extra!r}",
            file=sys.stderr,
        )
    return wanted
