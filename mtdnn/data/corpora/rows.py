"""Rows of the corpora: checked publishers' records in the columns of our own `SCHEMAS`.

A reader yields records: their place (file and line or question) and their columns under the
publisher's names. `normalise` checks them, renames their columns and collects them into a split;
it refuses a bad record with its place and the reason.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mtdnn.config.settings import COLUMNS, CorpusSettings, FilesCorpus, HubCorpus
from mtdnn.errors import MtdnnError

# Far beyond any article; longer texts take minutes and gigabytes to tokenise.
MAX_TEXT_CHARACTERS = 1_000_000

Columns = Mapping[str, Any]
Record = tuple[str, Mapping[Any, Any]]
Row = dict[str, Any]
PublishedCorpus = HubCorpus | FilesCorpus

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

    Optional columns (id, title, start, sentence2, cluster) are read when `source` maps them or the
    first record has them; then every record must have them.

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
    make = _FAMILIES[corpus.family](corpus)
    optional: set[str] | None = None
    for place, record in records:
        if optional is None:
            optional = {n for n in OPTIONAL if n in columns or n in record}
        fields = Fields(place, record, columns, optional)
        if dropping and shown(fields.raw("label")) in dropping:
            collected.dropped[f"label {shown(fields.raw('label'))}"] += 1
            continue
        # A row without an id gets its number in the split, so that it is the same from any source.
        identifier = fields.identifier() or f"{split}-{len(collected.rows)}"
        if identifier in ids:
            raise fields.refuse(f"duplicate id {identifier!r}")
        ids.add(identifier)
        row = {"id": identifier, **make(fields)}
        if "cluster" in COLUMNS[corpus.family] and fields.has("cluster"):
            row["cluster"] = fields.joined("cluster")
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

    def identifier(self) -> str | None:
        """Return the record's id, joined by "-" when columns share it; None without an id."""
        if not self.has("id"):
            return None
        return self.joined("id")

    def joined(self, name: str) -> str:
        """Return our column `name`, texts or numbers, joined by "-" when columns share it."""
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

    def refuse(self, reason: str) -> MtdnnError:
        """Return an error with the record's place and `reason`, for the caller to raise."""
        return MtdnnError(f"{self._place}: {reason}")

    def _column(self, source: str | int) -> Any:
        try:
            return self._record[source]
        except KeyError:
            names = ", ".join(repr(key) for key in list(self._record)[:20])
            raise self.refuse(f"missing column {source!r}; the columns are {names}") from None


# --- the three families ----------------------------------------------------------------------


def _question_answering(corpus: CorpusSettings) -> Callable[[Fields], Row]:
    paragraphs: dict[tuple[str, str], int] = {}

    def make(fields: Fields) -> Row:
        if not fields.has("id"):
            fields.raw("id")  # raises: a question needs an id of its own
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
    """Return texts and first characters of all annotators' answers; both empty for "no answer"."""
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
                f"the answer {shown(text)} is not at character {start}; "
                f"the context has {shown(found)} there"
            )
    return list(texts), list(starts)


def _multiple_choice(corpus: CorpusSettings) -> Callable[[Fields], Row]:
    expected: int | None = None

    def make(fields: Fields) -> Row:
        nonlocal expected
        endings = fields.raw("choices")
        if not isinstance(endings, list) or len(endings) < 2:
            raise fields.refuse(f"choices must be a list of at least two, not {shown(endings)}")
        expected = expected or len(endings)
        if len(endings) != expected:
            raise fields.refuse(f"{len(endings)} choices, but earlier records have {expected}")
        start = fields.text("start", empty=True) if fields.has("start") else ""
        label = fields.index(fields.raw("label"), len(endings))
        if label is None:
            raise fields.refuse(
                f"label {shown(fields.raw('label'))} is not an index from 0 to {len(endings) - 1}"
            )
        choices = [fields.string(ending, f"choice {n}") for n, ending in enumerate(endings)]
        return {
            "sentence": fields.text("sentence"),
            "choices": [f"{start} {choice}".lstrip() for choice in choices],
            "label": label,
        }

    return make


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


def shown(value: Any) -> str:
    """Return `repr(value)` for a message, at most 60 characters long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


OPTIONAL = ("id", "title", "start", "sentence2", "cluster")
"""The columns that are read if a corpus has them."""

_FAMILIES = {
    "question_answering": _question_answering,
    "multiple_choice": _multiple_choice,
    "sequence_classification": _sequence_classification,
}
