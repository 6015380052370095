"""From a publisher's record to a row of ours, or a refusal that says where and why.

A reader yields records: the place (file and line or question) and the columns as the
publisher named them. `normalise` maps, checks and collects them into a split.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mtdnn.config.settings import CorpusSettings
from mtdnn.errors import MtdnnError

# Far beyond any article; tokenising what is longer takes minutes and gigabytes.
LONGEST_TEXT = 1_000_000

Columns = Mapping[str, Any]
Record = tuple[str, Mapping[Any, Any]]

SCHEMAS = {
    "question_answering": pa.schema(
        [
            ("id", pa.string()),
            ("title", pa.string()),
            ("paragraph", pa.int32()),
            ("context", pa.string()),
            ("question", pa.string()),
            ("answer_texts", pa.list_(pa.string())),
            ("answer_starts", pa.list_(pa.int32())),
        ]
    ),
    "multiple_choice": pa.schema(
        [
            ("id", pa.string()),
            ("sentence", pa.string()),
            ("choices", pa.list_(pa.string())),
            ("label", pa.int32()),
        ]
    ),
    "sequence_classification": pa.schema(
        [
            ("id", pa.string()),
            ("sentence1", pa.string()),
            ("sentence2", pa.string()),
            ("label", pa.int32()),
        ]
    ),
}


@dataclass
class Split:
    """The rows of one split, and how many records were dropped for which reason."""

    rows: list[dict] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)


def normalise(split: str, corpus: CorpusSettings, records: Iterable[Record]) -> Split:
    """Check every record of a split and bring it into the form of `SCHEMAS`.

    Optional columns (id, title, start, sentence2) are read when the config maps them
    or the first record has them; every further record must then have them as well.

    Raises:
        MtdnnError: a bad record, with its place; or no record at all.
    """
    columns: Columns = corpus.source.columns
    dropping = {shown(value) for value in corpus.source.drop_labels}
    collected, ids = Split(), set()
    make = _FAMILIES[corpus.family](corpus)
    optional: set[str] | None = None
    for place, record in records:
        if optional is None:
            optional = {n for n in _OPTIONAL if n in columns or n in record}
        fields = Fields(place, record, columns, optional)
        if dropping and shown(fields.raw("label")) in dropping:
            collected.dropped[f"label {shown(fields.raw('label'))}"] += 1
            continue
        # A row without an id of its own is called by its number, wherever it came from.
        identifier = fields.identifier() or f"{split}-{len(collected.rows)}"
        if identifier in ids:
            raise fields.refuse(f"the id {identifier!r} stands here a second time")
        ids.add(identifier)
        collected.rows.append({"id": identifier, **make(fields)})
    return collected


class Fields:
    """The columns of one record under our names; every access is checked."""

    def __init__(self, place: str, record: Mapping, columns: Columns, optional: set[str]) -> None:
        self._place, self._record, self._columns = place, record, columns
        self._optional = optional

    def has(self, name: str) -> bool:
        """Whether an optional column belongs to this corpus."""
        return name in self._optional

    def raw(self, name: str) -> Any:
        """The value of our column `name`; a list of them where several columns make it up."""
        source = self._columns.get(name, name)
        if isinstance(source, list):
            return [self._column(part) for part in source]
        return self._column(source)

    def text(self, name: str, *, empty: bool = False) -> str:
        return self.string(self.raw(name), name, empty=empty)

    def string(self, value: Any, called: str, *, empty: bool = False) -> str:
        """`value` if it is text that can be stored, and not blank unless `empty` allows it."""
        if not isinstance(value, str):
            raise self.refuse(f"{called} must be text, not {shown(value)}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.refuse(f"{called} holds half a surrogate pair, which is no text") from None
        if len(value) > LONGEST_TEXT:
            raise self.refuse(f"{called} has {len(value)} characters; no text is that long")
        if not empty and not value.strip():
            raise self.refuse(f"{called} is empty")
        return value

    def identifier(self) -> str | None:
        """The record's own id, if it has one; ids of several columns are joined by "-"."""
        if not self.has("id"):
            return None
        value = self.raw("id")
        parts = value if isinstance(value, list) else [value]
        return "-".join(
            str(p) if type(p) is int and abs(p) < 2**63 else self.string(p, "id") for p in parts
        )

    def index(self, value: Any, size: int) -> int | None:
        """`value` as an index below `size`, given as a number or in digits; None if it is none."""
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        return value if type(value) is int and 0 <= value < size else None

    def refuse(self, reason: str) -> MtdnnError:
        return MtdnnError(f"{self._place}: {reason}")

    def _column(self, source: str | int) -> Any:
        try:
            return self._record[source]
        except KeyError:
            there = ", ".join(repr(key) for key in list(self._record)[:20])
            raise self.refuse(f"missing column {source!r}; there are {there}") from None


# --- the three families ----------------------------------------------------------------------


def _question_answering(corpus: CorpusSettings) -> Callable[[Fields], dict]:
    paragraphs: dict[tuple[str, str], int] = {}

    def make(fields: Fields) -> dict:
        if not fields.has("id"):
            fields.raw("id")
        title = fields.text("title", empty=True) if fields.has("title") else ""
        context = fields.text("context")
        texts, starts = _answers(fields, context)
        return {
            "title": title,
            "paragraph": paragraphs.setdefault((title, context), len(paragraphs)),
            "context": context,
            "question": fields.text("question"),
            "answer_texts": texts,
            "answer_starts": starts,
        }

    return make


def _answers(fields: Fields, context: str) -> tuple[list[str], list[int]]:
    """Texts and character offsets of all annotators' answers; both empty for "no answer"."""
    answers = fields.raw("answers")
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= answers.keys():
        raise fields.refuse(f"answers must have text and answer_start, not {shown(answers)}")
    texts, starts = answers["text"], answers["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise fields.refuse("answers: text and answer_start must be lists of the same length")
    for text, start in zip(texts, starts, strict=True):
        fields.string(text, "an answer")
        if type(start) is not int:
            raise fields.refuse(f"answer_start must be a whole number, not {shown(start)}")
        found = context[start : start + len(text)] if start >= 0 else ""
        if found != text:
            raise fields.refuse(
                f"the answer {shown(text)} does not stand at character {start}; "
                f"there is {shown(found)}"
            )
    return list(texts), list(starts)


def _multiple_choice(corpus: CorpusSettings) -> Callable[[Fields], dict]:
    expected: list[int] = []

    def make(fields: Fields) -> dict:
        endings = fields.raw("choices")
        if not isinstance(endings, list) or len(endings) < 2:
            raise fields.refuse(f"choices must be a list of two or more, not {shown(endings)}")
        expected[:] = expected or [len(endings)]
        if len(endings) != expected[0]:
            raise fields.refuse(f"{len(endings)} choices where the others have {expected[0]}")
        start = fields.text("start", empty=True) if fields.has("start") else ""
        label = fields.index(fields.raw("label"), len(endings))
        if label is None:
            raise fields.refuse(
                f"label {shown(fields.raw('label'))} is none of 0 to {len(endings) - 1}"
            )
        choices = [fields.string(ending, f"choice {n}") for n, ending in enumerate(endings)]
        return {
            "sentence": fields.text("sentence"),
            "choices": [f"{start} {choice}".lstrip() for choice in choices],
            "label": label,
        }

    return make


def _sequence_classification(corpus: CorpusSettings) -> Callable[[Fields], dict]:
    def make(fields: Fields) -> dict:
        return {
            "sentence1": fields.text("sentence1"),
            "sentence2": fields.text("sentence2") if fields.has("sentence2") else None,
            "label": _label(fields, corpus.labels),
        }

    return make


def _label(fields: Fields, labels: list[str]) -> int:
    """The index of the record's label, which is a name in `labels` or an index of one."""
    value = fields.raw("label")
    if isinstance(value, str) and value in labels:
        return labels.index(value)
    index = fields.index(value, len(labels))
    if index is None:
        raise fields.refuse(
            f"label {shown(value)} is none of {', '.join(labels)}, nor 0 to {len(labels) - 1}"
        )
    return index


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


_OPTIONAL = ("id", "title", "start", "sentence2")
_FAMILIES = {
    "question_answering": _question_answering,
    "multiple_choice": _multiple_choice,
    "sequence_classification": _sequence_classification,
}
