"""Which questions belong to a slice of the evaluation data."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtdnn.config import Slice, WordCount
from mtdnn.errors import MtdnnError

# Longer phrases first. "whom" and "whose" ask for a person as "who" does.
_INTERROGATIVES = {
    "how many": r"how\s+(?:many|much)",
    "how": "how",
    "what": "what",
    "when": "when",
    "where": "where",
    "which": "which",
    "who": "who(?:m|se)?",
    "why": "why",
}
_FIRST = re.compile(
    rf"\b(?:{'|'.join(f'({pattern})' for pattern in _INTERROGATIVES.values())})\b", re.IGNORECASE
)


def question_type(question: str) -> str:
    """The first interrogative of a question, as `Slice.question_types` names it, or `other`."""
    match = _FIRST.search(question)
    return list(_INTERROGATIVES)[match.lastindex - 1] if match else "other"


def answer_words(answers: Sequence[str]) -> int:
    """Words of the shortest gold answer; 0 if there is none."""
    return min((len(answer.split()) for answer in answers), default=0)


def columns(slices: Sequence[Slice]) -> list[str]:
    """Columns of a question-answering corpus that `select` needs for these slices."""
    asks = any(entry.question_types or entry.question_words for entry in slices)
    return ["title", "context", "answer_texts", *(["question"] if asks else [])]


def select(name: str, entry: Slice, rows: Mapping[str, Sequence[Any]]) -> list[int]:
    """Numbers of the rows that belong to a slice.

    Args:
        name: of the slice, for messages.
        entry: what belongs to it.
        rows: `columns` of all questions of its split.

    Raises:
        MtdnnError: it names unknown articles, is empty, or has other counts than expected.
    """
    known = set(rows["title"])
    for title in [*entry.titles, *entry.exclude_titles]:
        if title not in known:
            raise MtdnnError(f"slices.{name}: the split {entry.split} has no article {title!r}")
    chosen = list(_members(entry, rows))
    answerable = sum(bool(rows["answer_texts"][row]) for row in chosen)
    for what, found, expected in (
        ("questions", len(chosen), entry.questions),
        ("answerable questions", answerable, entry.answerable),
    ):
        if expected is not None and found != expected:
            raise MtdnnError(f"slices.{name}: has {found} {what}, {expected} are expected")
    if not chosen:
        raise MtdnnError(f"slices.{name}: has no questions")
    return chosen


def _members(entry: Slice, rows: Mapping[str, Sequence[Any]]) -> Iterator[int]:
    for row, (title, answers) in enumerate(zip(rows["title"], rows["answer_texts"], strict=True)):
        if (
            (not entry.titles or title in entry.titles)
            and title not in entry.exclude_titles
            and (entry.only is None or bool(answers) == (entry.only == "answerable"))
            and (not entry.question_types or _type(rows, row) in entry.question_types)
            and _fits(entry.question_words, lambda r=row: len(rows["question"][r].split()))
            and _fits(entry.context_words, lambda r=row: len(rows["context"][r].split()))
            and _fits(entry.answer_words, lambda a=answers: answer_words(a))
            and not (entry.answer_words and not answers)
        ):
            yield row


def _type(rows: Mapping[str, Sequence[Any]], row: int) -> str:
    return question_type(rows["question"][row])


def _fits(count: WordCount | None, words: Any) -> bool:
    if count is None:
        return True
    return count.least <= words() and (count.most is None or words() <= count.most)
