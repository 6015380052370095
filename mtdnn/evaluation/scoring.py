"""Exact match and F1 with the arithmetic of SQuAD 2.0's official evaluation script.

Same normalisation, same order of summation, same keys: the numbers are equal to the last
bit (Rajpurkar et al. 2018, evaluate-v2.0). Scores of single questions are computed once
(`score_answers`); slices and thresholds then only add them up (`summary`, `best`).
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
    """Scores of N questions' non-null answers, before any null threshold."""

    exact: list[int]
    """0 or 1: equal to a gold answer after normalisation?"""
    f1: list[float]
    """0 to 1: highest F1 over words with any gold answer."""
    answerable: list[bool]
    """Has the question a gold answer?"""
    answered: list[bool]
    """Is the answer not the empty string?"""

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, indices: Sequence[int]) -> "Scores":
        """The scores of some of the questions, in the order of `indices`."""
        columns = (self.exact, self.f1, self.answerable, self.answered)
        return Scores(*([column[index] for index in indices] for column in columns))


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and superfluous white space."""
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def score_answers(golds: Sequence[Sequence[str]], answers: Sequence[str]) -> Scores:
    """Score each question's answer against its gold answers, the best of which counts.

    Args:
        golds: gold answers of each question; none if it is unanswerable. A gold answer that
            normalises to nothing does not count; if none is left, "" is the gold answer.
        answers: the answer of each question.
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
    """The official totals: answers whose null odds exceed the threshold count as "".

    Returns:
        `exact`, `f1` (percent), `total`, then the same with HasAns_ and NoAns_ for the
        answerable and the unanswerable questions, as far as there are any.
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
    """The official best scores over all thresholds, tuned on these very questions."""
    result = {}
    for name, column in (("exact", scores.exact), ("f1", scores.f1)):
        score, threshold = official_best(column, scores.answerable, scores.answered, odds)
        result |= {f"best_{name}": score, f"best_{name}_thresh": threshold}
    return result


def score_files(
    data: Path, predictions: Path, null_odds: Path | None, threshold: float, output: Path | None
) -> None:
    """Score a predictions file against a SQuAD 2.0 file; print the scores or write them.

    Args:
        data: file in SQuAD format.
        predictions: JSON object of question ids to answers.
        null_odds: JSON object of question ids to null odds; without it, all are 0 and the
            best scores over all thresholds are left out.
        threshold: answers with larger null odds count as "".
        output: where to write the scores as JSON; they are printed when absent.

    Raises:
        MtdnnError: a file is not what it should be, or lacks questions.
    """
    golds = _gold_answers(data)
    answers = _by_question(
        predictions, 'a string ("" for no answer)', lambda value: isinstance(value, str), golds
    )
    scores = score_answers(list(golds.values()), [answers[question] for question in golds])
    if null_odds:
        odds = _by_question(null_odds, "a finite number", _is_finite, golds)
        result = summary(scores, [odds[question] for question in golds], threshold)
        # Where odds are equal, the official sweep goes by the order of the odds' file.
        position = {question: index for index, question in enumerate(golds)}
        result |= best(scores.take([position[question] for question in odds]), [*odds.values()])
    else:
        result = summary(scores, [0.0] * len(scores), threshold)
    if output:
        write_json(output, result)
    else:
        print(json.dumps(result, indent=2))


def _word_f1(gold: list[str], given: list[str]) -> float:
    """F1 over words as multisets; 1 if both are empty."""
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
    """Texts of the gold answers of each question id, in the order of a SQuAD file."""
    golds: dict[str, list[str]] = {}
    for place, question in _questions(path, read_json(path)):
        identifier, answers = question.get("id"), question.get("answers")
        if not isinstance(identifier, str):
            raise MtdnnError(f"{path}: {place}.id: must be a string; is this a SQuAD file?")
        if not _are_answers(answers):
            raise MtdnnError(
                f"{path}: {place}.answers: must be a list of objects with a text; "
                "is this a SQuAD file?"
            )
        if identifier in golds:
            raise MtdnnError(f"{path}: {place}.id: the question {identifier!r} stands twice")
        golds[identifier] = [answer["text"] for answer in answers]
    if not golds:
        raise MtdnnError(f"{path}: data: has no questions")
    return golds


def _questions(path: Path, content: Any) -> Iterator[tuple[str, dict]]:
    """Each question of a SQuAD file's content with its place."""
    level = [("", content)]
    for key in ("data", "paragraphs", "qas"):
        below = []
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


def _are_answers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and isinstance(each.get("text"), str) for each in value
    )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _by_question(
    path: Path, kind: str, is_valid: Callable[[Any], bool], questions: Mapping[str, Any]
) -> dict[str, Any]:
    """A value for each question, in the order of the JSON object at `path`; others are ignored."""
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
