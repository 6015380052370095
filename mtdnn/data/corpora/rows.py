"""Rows of the corpora: checked publishers' records in the columns of our own `SCHEMAS`.

A reader yields records: their place (file and line or question) and their columns under the
publisher's names. `normalise` checks them, renames their columns and collects them into a split;
it refuses a bad record with its place and the reason.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mtdnn.config.settings import CorpusSettings, Family, FilesCorpus, HubCorpus
from mtdnn.errors import MtdnnError

# Far beyond any article; longer texts take minutes and gigabytes to tokenise.
MAX_TEXT_CHARACTERS = 1_000_000

Columns = Mapping[str, Any]
Record = tuple[str, Mapping[Any, Any]]
Row = dict[str, Any]
PublishedCorpus = HubCorpus | FilesCorpus

SCHEMAS: dict[Family, pa.Schema] = {
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
    "regression": pa.schema(
        [
            ("id", pa.string()),
            ("sentence1", pa.string()),
            ("sentence2", pa.string()),
            ("label", pa.float64()),
        ]
    ),
    "token_classification": pa.schema(
        [
            ("id", pa.string()),
            ("tokens", pa.list_(pa.string())),
            ("tags", pa.list_(pa.int16())),
        ]
    ),
}
"""Columns of a corpus file by family. Files of corpora with a column `cluster` have that, too."""

_CLUSTER = pa.field("cluster", pa.string())


def table_of(rows: list[Row], family: Family) -> pa.Table:
    """Return rows of a family as a table."""
    schema = SCHEMAS[family]
    if rows and "cluster" in rows[0]:
        schema = schema.append(_CLUSTER)
    return pa.Table.from_pylist(rows, schema=schema)


class Mismatch(MtdnnError):
    """An answer that is not at its place in the context."""


@dataclass
class Split:
    """One split of a corpus.

    Attributes:
        rows: its rows, in the columns of the family's schema.
        dropped: the number of dropped records by reason.
    """

    rows: list[Row] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def normalise(
    split: str, corpus: CorpusSettings, source: PublishedCorpus, records: Iterable[Record]
) -> Split:
    """Check every record of a split and convert it to a row of the family's schema.

    Optional columns (id, title, start, sentence2, cluster) are read when `source` maps them or
    the first record has them; then every record must have them.

    Args:
        split: name of the split, for the ids of rows that have none.
        corpus: the corpus's settings.
        source: where the records come from: names of columns, labels to drop.
        records: the records of the split.

    Raises:
        MtdnnError: a bad record, with its place.
    """
    columns: Columns = source.columns
    dropping = {shown(value) for value in source.drop_labels}
    collected = Split()
    ids: set[str] = set()
    make = MAKERS[corpus.family](corpus)
    optional: set[str] | None = None
    for place, record in records:
        if optional is None:
            optional = {n for n in OPTIONAL if n in columns or n in record}
        fields = Fields(place, record, columns, optional)
        if dropping and shown(fields.raw("label")) in dropping:
            collected.dropped[f"label {shown(fields.raw('label'))}"] += 1
            continue
        # A row without an id gets its number in the split, so that it is the same from any source.
        identifier = fields.identifier("id") or f"{split}-{len(collected.rows)}"
        if identifier in ids:
            raise fields.refuse(f"duplicate id {identifier!r}")
        ids.add(identifier)
        try:
            row = {"id": identifier, **make(fields)}
        except Mismatch:
            if not corpus.drop_mismatches:
                raise
            collected.dropped["answer not at its place"] += 1
            continue
        if corpus.family != "question_answering" and fields.has("cluster"):
            row["cluster"] = fields.identifier("cluster")
        collected.rows.append(row)
    return collected


class Fields:
    """The columns of one record under our names, checked on every access."""

    def __init__(
        self, place: str, record: Mapping[Any, Any], columns: Columns, optional: set[str]
    ) -> None:
        self._place, self._record, self._columns = place, record, columns
        self._optional = optional

    def has(self, name: str) -> bool:
        """Tell whether this corpus has the optional column `name`."""
        return name in self._optional

    def raw(self, name: str) -> Any:
        """Return the value of our column `name`; a list when several columns make it up."""
        source = self._columns.get(name, name)
        if isinstance(source, list):
            return [self._column(part) for part in source]
        return self._column(source)

    def text(self, name: str, *, empty: bool = False) -> str:
        """Return our column `name`, which must be text, and not blank unless `empty`."""
        return self.string(self.raw(name), name, empty=empty)

    def string(self, value: Any, called: str, *, empty: bool = False) -> str:
        """Return `value`, which must be text that can be stored, and not blank unless `empty`."""
        if not isinstance(value, str):
            raise self.refuse(f"{called} must be text, not {shown(value)}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.refuse(
                f"{called} contains half a surrogate pair, which is not text"
            ) from None
        if len(value) > MAX_TEXT_CHARACTERS:
            raise self.refuse(
                f"{called} has {len(value)} characters, at most {MAX_TEXT_CHARACTERS} are read"
            )
        if not empty and not value.strip():
            raise self.refuse(f"{called} is empty")
        return value

    def identifier(self, name: str) -> str | None:
        """Return the optional column `name`, joined by "-" when columns share it, or None."""
        if not self.has(name):
            return None
        value = self.raw(name)
        parts = value if isinstance(value, list) else [value]
        return "-".join(
            str(p) if type(p) is int and abs(p) < 2**63 else self.string(p, name) for p in parts
        )

    def index(self, value: Any, size: int) -> int | None:
        """Return `value`, a number or digits, as an index below `size`; None when it is not one."""
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        return value if type(value) is int and 0 <= value < size else None

    def refuse(self, reason: str, kind: type[MtdnnError] = MtdnnError) -> MtdnnError:
        """Return an error with the record's place and `reason`, for the caller to raise."""
        return kind(f"{self._place}: {reason}")

    def _column(self, source: str | int) -> Any:
        try:
            return _look_up(self._record, source)
        except KeyError:
            names = ", ".join(repr(key) for key in list(self._record)[:20])
            raise self.refuse(f"missing column {source!r}; the columns are {names}") from None


def has_column(record: Mapping[Any, Any], column: str | int) -> bool:
    """Return whether a record has a column: by name, by number, or nested (`choices.A`)."""
    try:
        _look_up(record, column)
    except KeyError:
        return False
    return True


def _look_up(record: Mapping[Any, Any], column: str | int) -> Any:
    if column in record:
        return record[column]
    value: Any = record
    for part in str(column).split("."):
        if not isinstance(value, Mapping):
            raise KeyError(column)
        value = value[part]
    return value


# --- question answering ------------------------------------------------------------------------


def _question_answering(corpus: CorpusSettings) -> Callable[[Fields], Row]:
    paragraphs: dict[tuple[str, str], int] = {}

    def make(fields: Fields) -> Row:
        if not fields.has("id"):
            fields.raw("id")  # raises: a question needs an id of its own
        title = fields.text("title", empty=True) if fields.has("title") else ""
        context = fields.text("context").removesuffix(corpus.no_answer)
        texts, starts = _answers(fields, context, corpus.no_answer)
        return {
            "title": title,
            "paragraph": paragraphs.setdefault((title, context), len(paragraphs)),
            "context": context,
            "question": fields.text("question"),
            "answer_texts": texts,
            "answer_starts": starts,
        }

    return make


def _answers(fields: Fields, context: str, no_answer: str) -> tuple[list[str], list[int]]:
    """Return texts and first characters of all annotators' answers; both empty for "no answer"."""
    if fields.has("answer_start"):
        texts, starts = _flat_answers(fields, context, no_answer)
    else:
        texts, starts = _nested_answers(fields)
    for text, start in zip(texts, starts, strict=True):
        fields.string(text, "an answer")
        if type(start) is not int:
            raise fields.refuse(f"answer_start must be a whole number, not {shown(start)}")
        found = context[start : start + len(text)] if start >= 0 else ""
        if found != text:
            raise fields.refuse(
                f"the answer {shown(text)} is not at character {start}; "
                f"the context has {shown(found)} there",
                Mismatch,
            )
    return texts, starts


def _nested_answers(fields: Fields) -> tuple[list[Any], list[Any]]:
    """Return texts and starts of the column `answers`, as datasets on the Hub have it."""
    answers = fields.raw("answers")
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= answers.keys():
        raise fields.refuse(f"answers must have text and answer_start, not {shown(answers)}")
    texts, starts = answers["text"], answers["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise fields.refuse("answers: text and answer_start must be lists of the same length")
    return list(texts), list(starts)


def _flat_answers(fields: Fields, context: str, no_answer: str) -> tuple[list[Any], list[Any]]:
    """Return texts and starts of the columns `answer` and `answer_start`.

    Each column holds one value or a list of several annotators' values. A start is a number or a
    span such as "(21, 39)"; with spans, the column `answer` may be missing.
    """
    starts = fields.raw("answer_start")
    named = fields.has("answer")
    texts = fields.raw("answer") if named else starts
    if not isinstance(texts, list) or (not named and _span(starts)):
        texts, starts = [texts], [starts]
    if not isinstance(starts, list) or len(texts) != len(starts):
        raise fields.refuse("answer and answer_start must have equally many values")
    found = []
    for text, start in zip(texts, starts, strict=True):
        if text is None or text in ("", no_answer):
            continue
        span = _span(start)
        if span is None:
            raise fields.refuse(
                "answer_start must be a whole number or a span such as (21, 39), "
                f"not {shown(start)}"
            )
        first, end = span
        if not named:
            if end is None or not 0 <= first < end <= len(context):
                raise fields.refuse(f"{shown(start)} is not a span of the context", Mismatch)
            text = context[first:end]
        elif end is not None and isinstance(text, str) and end - first != len(text):
            raise fields.refuse(
                f"the answer {shown(text)} does not fill its span {shown(start)}", Mismatch
            )
        found.append((text, first))
    return [text for text, _ in found], [first for _, first in found]


def _span(value: Any) -> tuple[int, int | None] | None:
    """Return first and end character, the end if it is given; None if `value` has neither."""
    if type(value) is int:
        return value, None
    if isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value):
        return value[0], value[1]
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if not match:
        return None
    first, end = match.groups()
    return int(first), int(end) if end else None


# --- multiple choice -------------------------------------------------------------------------


def _multiple_choice(corpus: CorpusSettings) -> Callable[[Fields], Row]:
    def make(fields: Fields) -> Row:
        names, endings = _choices(fields, corpus.labels)
        start = fields.text("start", empty=True) if fields.has("start") else ""
        value = fields.raw("label")
        if names:
            if str(value) not in names:
                raise fields.refuse(f"label {shown(value)} is not one of {', '.join(names)}")
            label = names.index(str(value))
        else:
            index = fields.index(value, len(endings))
            if index is None:
                raise fields.refuse(
                    f"label {shown(value)} is not an index from 0 to {len(endings) - 1}"
                )
            label = index
        choices = [fields.string(ending, f"choice {n}") for n, ending in enumerate(endings)]
        return {
            "sentence": fields.text("sentence"),
            "choices": [f"{start} {choice}".lstrip() for choice in choices],
            "label": label,
        }

    return make


def _choices(fields: Fields, labels: list[str]) -> tuple[list[str], list[Any]]:
    """Return the names of a record's choices, which may be none, and the choices.

    Choices come as a list of texts, in the order of `labels` if these are given, or with names of
    their own: {A: text, …}, {label: [A, …], text: [text, …]} or [{label: A, text: text}, …].
    """
    value = fields.raw("choices")
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        value = {key: [one.get(key) for one in value] for key in ("label", "text")}
    names, endings = labels, value
    if isinstance(value, Mapping):
        own, texts = value.get("label"), value.get("text")
        if not isinstance(own, list) or not isinstance(texts, list):
            own, texts = list(value), list(value.values())
        if len(own) != len(texts):
            raise fields.refuse(f"{len(texts)} choices with {len(own)} names")
        names, endings = [str(name) for name in own], texts
    if not isinstance(endings, list) or len(endings) < 2:
        raise fields.refuse(f"choices must be a list of at least two, not {shown(value)}")
    if names and len(endings) > len(names):
        raise fields.refuse(f"{len(endings)} choices, but labels has {len(names)}")
    return names[: len(endings)], endings


# --- sentences and pairs ---------------------------------------------------------------------


def _sequence_classification(corpus: CorpusSettings) -> Callable[[Fields], Row]:
    def make(fields: Fields) -> Row:
        return {
            "sentence1": fields.text("sentence1"),
            "sentence2": fields.text("sentence2") if fields.has("sentence2") else None,
            "label": _label(fields, corpus.labels),
        }

    return make


def _label(fields: Fields, labels: list[str]) -> int:
    """Return the index of the record's label, given as a name in `labels` or as an index."""
    value = fields.raw("label")
    if isinstance(value, str) and value in labels:
        return labels.index(value)
    index = fields.index(value, len(labels))
    if index is None:
        raise fields.refuse(
            f"label {shown(value)} is not one of {', '.join(labels)}, "
            f"nor an index from 0 to {len(labels) - 1}"
        )
    return index


def _regression(corpus: CorpusSettings) -> Callable[[Fields], Row]:
    def make(fields: Fields) -> Row:
        value = fields.raw("label")
        try:
            label = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            label = math.nan
        if abs(label) > _MAX_SCORE or math.isnan(label):
            raise fields.refuse(f"label {shown(value)} is not a number")
        return {
            "sentence1": fields.text("sentence1"),
            "sentence2": fields.text("sentence2") if fields.has("sentence2") else None,
            "label": label,
        }

    return make


# --- words -----------------------------------------------------------------------------------


def _token_classification(corpus: CorpusSettings) -> Callable[[Fields], Row]:
    numbers = {label: number for number, label in enumerate(corpus.labels)}

    def make(fields: Fields) -> Row:
        tokens, tags = fields.raw("tokens"), fields.raw("tags")
        for name, values in (("tokens", tokens), ("tags", tags)):
            if not isinstance(values, list) or not values:
                raise fields.refuse(f"{name} must be a list of at least one, not {shown(values)}")
        if len(tokens) != len(tags):
            raise fields.refuse(f"{len(tokens)} tokens, but {len(tags)} tags")
        indices = []
        for place, tag in enumerate(tags, start=1):
            index = numbers.get(tag) if isinstance(tag, str) else None
            if index is None:
                index = fields.index(tag, len(numbers))
            if index is None:
                raise fields.refuse(
                    f"tag {place}, {shown(tag)}, is not one of {', '.join(corpus.labels)}, "
                    f"nor an index from 0 to {len(numbers) - 1}"
                )
            indices.append(index)
        numbered = enumerate(tokens, start=1)
        words = [fields.string(token, f"token {place}") for place, token in numbered]
        return {"tokens": words, "tags": indices}

    return make


def some_gold(corpus: CorpusSettings, fields: Fields) -> Row:
    """Return a label or tags with which a record that has none becomes a row."""
    if corpus.family == "token_classification":
        tokens = fields.raw("tokens")
        return {"tags": [0] * len(tokens) if isinstance(tokens, list) else []}
    names = _choices(fields, corpus.labels)[0] if corpus.family == "multiple_choice" else []
    return {"label": names[0] if names else 0}


def shown(value: Any) -> str:
    """Return `repr(value)` for a message, at most 60 characters long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


OPTIONAL = ("id", "title", "start", "sentence2", "cluster", "answer", "answer_start")
"""The columns that are read if a corpus has them."""

NOT_TEXT = ("id", "label", "tags", "cluster")
"""The columns of an item, if it is not a question, that its model does not read."""

_SPAN = re.compile(r"\s*[(\[]?\s*(-?[0-9]{1,9})\s*(?:,\s*(-?[0-9]{1,9}))?\s*[)\]]?\s*")
# Beyond this, single precision loses whole numbers and squares overflow.
_MAX_SCORE = 2.0**24

MAKERS: dict[Family, Callable[[CorpusSettings], Callable[[Fields], Row]]] = {
    "question_answering": _question_answering,
    "multiple_choice": _multiple_choice,
    "sequence_classification": _sequence_classification,
    "regression": _regression,
    "token_classification": _token_classification,
}
"""For each family, a function that returns how a record of a corpus becomes a row."""
