"""Which questions belong to a slice of the evaluation data."""

import re
from collections.abc import Sequence

from mtdnn.config.experiment import Slice, WordCount

# Longer phrases come first. "whom" and "whose" ask about a person, as "who" does.
_INTERROGATIVES = {
    "how many": r"how\s+(?:many|much)",
    "how": "how",
    "who": "who(?:m|se)?",
    "when": "when",
    "where": "where",
    "why": "why",
    "which": "which",
    "what": "what",
}
_FIRST = re.compile(
    rf"\b(?:{'|'.join(f'({pattern})' for pattern in _INTERROGATIVES.values())})\b", re.IGNORECASE
)
QUESTION_TYPES = (*_INTERROGATIVES, "other")
"""The types of questions, by their first interrogative."""


def question_type(question: str) -> str:
    """Return the first interrogative of a question, one of `QUESTION_TYPES`.

    "how much" counts as "how many".
    """
    match = _FIRST.search(question)
    return QUESTION_TYPES[match.lastindex - 1] if match and match.lastindex else "other"


def answer_words(answers: Sequence[str]) -> int:
    """Return the number of words in the shortest gold answer; 0 if there is none."""
    return min((len(answer.split()) for answer in answers), default=0)


def belongs(entry: Slice, title: str, context: str, question: str, answers: Sequence[str]) -> bool:
    """Return whether a question meets every condition of a slice.

    Lengths are in words separated by white space, before any tokenisation.

    Args:
        entry: the slice.
        title: title of the question's article.
        context: the question's context.
        question: the question itself.
        answers: its gold answers; empty if it is unanswerable.
    """
    return (
        (not entry.titles or title in entry.titles)
        and title not in entry.exclude_titles
        and (entry.only is None or bool(answers) == (entry.only == "answerable"))
        and (not entry.question_types or question_type(question) in entry.question_types)
        and _fits(entry.question_words, len(question.split()))
        and _fits(entry.context_words, len(context.split()))
        and (entry.answer_words is None or bool(answers))
        and _fits(entry.answer_words, answer_words(answers))
    )


def _fits(count: WordCount | None, words: int) -> bool:
    return count is None or (count.least <= words and (count.most is None or words <= count.most))
