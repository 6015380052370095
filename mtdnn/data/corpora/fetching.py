"""Corpora on disk: fetched from the Hub, publishers' files or our generator, and checked."""

import difflib
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from mtdnn.config.layout import MANIFEST
from mtdnn.config.settings import (
    COLUMNS,
    FORMATS,
    CorpusSettings,
    FilesCorpus,
    HubCorpus,
    SyntheticCorpus,
)
from mtdnn.data.corpora import publishers, synthetic
from mtdnn.data.corpora.rows import (
    NOT_TEXT,
    OPTIONAL,
    Fields,
    Row,
    Split,
    has_column,
    normalise,
    some_gold,
    table_of,
)
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import (
    digest,
    read_columns,
    read_product,
    replacing,
    sha256,
    write_json,
)

SEEDS_APART = 1_000_003
"""Distance of the seed of a synthetic test split from that of the other splits."""


def fetch(name: str, corpus: CorpusSettings, *, root: str, lock: Path, output: Path) -> None:
    """Write a corpus into the folder `output`: `{split}.parquet` of each split, and a manifest.

    Args:
        name: the corpus's name in the experiment.
        corpus: its source, family and expected numbers of rows; those of the training split
            include rows that are held out, but not dropped ones nor `fractions`.
        root: folder or URL of a corpus of files.
        lock: file of resolved Hub revisions; an entry in it is enforced.
        output: the folder; replaced as a whole.

    Raises:
        MtdnnError: a bad row with file, place and reason; a count or digest that differs.
    """
    splits, source = _read(corpus, root, lock)
    _divide(name, splits, corpus)
    for split in ("train", "dev"):
        if split not in splits:
            raise MtdnnError(
                f"corpus {name}: splits: {split} is missing; add it (dev may come from fractions)"
            )
    for split, expected in corpus.rows.items():
        if split in splits:
            _check_count(name, split, len(splits[split].rows), expected)
    if corpus.held_out_titles:
        splits["held_out"] = _hold_out(name, splits["train"], corpus.held_out_titles)
    empty = [split for split, content in splits.items() if not content.rows]
    if empty:
        raise MtdnnError(f"corpus {name}: the split {empty[0]} is empty")
    with replacing(output) as draft:
        draft.mkdir()
        described = {s: write_split(draft, s, rows, corpus) for s, rows in splits.items()}
        write_json(
            draft / MANIFEST,
            {
                "corpus": name,
                "label": corpus.label,
                "family": corpus.family,
                "labels": corpus.labels,
                "source": source,
                "splits": described,
                "digest": rows_digest({s: content.rows for s, content in splits.items()}),
            },
        )


def summary(folder: Path) -> Iterator[str]:
    """Yield a line for each split of a fetched corpus: how many rows it has, and of each label."""
    manifest = read_product(folder / MANIFEST)
    for split, described in manifest["splits"].items():
        path = folder / f"{split}.parquet"
        text = f"{path}: {described['rows']:,} rows"
        if manifest["labels"] and manifest["family"] == "sequence_classification":
            counts = Counter(read_columns(path, ["label"])["label"].to_pylist())
            named = enumerate(manifest["labels"])
            text += f" ({', '.join(f'{name} {counts[label]:,}' for label, name in named)})"
        yield text


def read_questions(path: Path) -> list[Row]:
    """Read the questions of a file in SQuAD's format; answers are neither needed nor read.

    Raises:
        MtdnnError: a bad question with its place; or no question at all.
    """
    source = FilesCorpus(kind="files", format="squad", splits={"dev": [path.name]})
    corpus = CorpusSettings(label="questions", family="question_answering", source=source)
    rows = normalise("dev", corpus, source, publishers.squad(path, answered=False)).rows
    if not rows:
        raise MtdnnError(f"{path}: has no questions")
    return rows


def read_unlabelled(path: Path, corpus: CorpusSettings) -> list[Row]:
    """Read items of a corpus's family from a file; labels are neither needed nor read.

    Args:
        path: JSON lines; a table with a header, as CSV or TSV; or, for taggers alone, CoNLL, in
            which a line may be a word without tags. Its suffix says which. Its columns have the
            names of the corpus's own files or ours.
        corpus: the corpus, which is not one of question answering.

    Raises:
        MtdnnError: the file has another suffix or no rows; or a bad row with its place.
    """
    readers = {
        "jsonl": lambda: publishers.jsonl(path, str(path)),
        "csv": lambda: publishers.table(path, str(path), quoted=True),
        "tsv": lambda: publishers.table(path, str(path), quoted=False),
        "conll": lambda: publishers.conll(path, tagged=False),
    }
    suffixes = [f".{name}" for name in readers if name in FORMATS[corpus.family]]
    if path.suffix not in suffixes:
        raise MtdnnError(f"{path}: must end in {', '.join(suffixes)}, which says its format")
    records = [(place, dict(record)) for place, record in readers[path.suffix[1:]]()]
    if not records:
        raise MtdnnError(f"{path}: has no rows")
    # Whatever the model was trained on, even what other corpora may lack: a model of pairs says
    # something about single sentences, too, but nothing of value.
    mapped: dict[str, Any] = getattr(corpus.source, "columns", {})
    needed = [
        name
        for name in COLUMNS[corpus.family]
        if name not in NOT_TEXT and (name in mapped or name not in OPTIONAL)
    ]
    columns = _nearer_names(records[0][1], mapped, needed)
    for place, record in records:
        if missing := _missing(record, (columns.get(name, name) for name in needed)):
            names = ", ".join(repr(key) for key in list(record)[:20])
            raise MtdnnError(f"{place}: missing column {missing[0]!r}; the columns are {names}")
        record |= some_gold(corpus, Fields(place, record, columns, set()))
    source = FilesCorpus(kind="files", format="jsonl", splits={}, columns=columns)
    return normalise("row", corpus, source, records).rows


def _nearer_names(
    first: Mapping[Any, Any], mapped: Mapping[str, Any], needed: list[str]
) -> dict[str, Any]:
    """Return the corpus's names for our columns, or none if a file rather has our own.

    Args:
        first: the file's first record.
        mapped: the corpus's names by ours.
        needed: our names of the columns that must be there.
    """
    theirs = {name: mapped[name] for name in needed if name in mapped}
    if len(_missing(first, needed)) < len(_missing(first, [theirs.get(n, n) for n in needed])):
        return {}
    if "id" in mapped and not _missing(first, [mapped["id"]]):
        theirs["id"] = mapped["id"]
    return theirs


def _missing(record: Mapping[Any, Any], columns: Iterable[Any]) -> list[str | int]:
    """Return which columns a record lacks; several may be given as a list."""
    each = (part for one in columns for part in (one if isinstance(one, list) else [one]))
    return [part for part in each if not has_column(record, part)]


def rows_digest(splits: dict[str, list[Row]]) -> str:
    """Return the digest of all rows, which depends on their content alone, not on any file."""
    hashed = hashlib.sha256()
    for split in sorted(splits):
        hashed.update(f"{split}\n".encode())
        for row in splits[split]:
            hashed.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
            hashed.update(b"\n")
    return hashed.hexdigest()


def _read(corpus: CorpusSettings, root: str, lock: Path) -> tuple[dict[str, Split], dict[str, Any]]:
    """Return the splits of a corpus and its resolved source for the manifest."""
    match corpus.source:
        case HubCorpus() as source:
            from mtdnn.data.corpora import hub  # other sources need no Hub client

            return hub.read(corpus, source, lock)
        case FilesCorpus() as source:
            return publishers.read(corpus, source, root)
        case SyntheticCorpus() as source:
            with tempfile.TemporaryDirectory() as folder:
                files = synthetic.write(corpus, source, Path(folder))
                splits, resolved = publishers.read(corpus, files, folder)
                if source.test:
                    # The dev split of another seed: other items about the same people and places.
                    other = {"dev": source.test, "seed": source.seed + SEEDS_APART, "train": 1}
                    files = synthetic.write(corpus, source.model_copy(update=other), Path(folder))
                    splits["test"] = publishers.read(corpus, files, folder)[0]["dev"]
            return splits, {**source.model_dump(), "sha256": resolved["sha256"]}


def _check_count(name: str, split: str, found: int, expected: int) -> None:
    if found != expected:
        raise MtdnnError(
            f"corpus {name}: {split} has {found} rows, expected {expected}; correct `rows`, or "
            "check the corpus"
        )


def _divide(name: str, splits: dict[str, Split], corpus: CorpusSettings) -> None:
    """Move the `fractions` of the rows of train into their splits.

    What belongs together (`_group`) is moved together. Where it goes depends only on the seed and
    on the rows' content: in another order, the rows would be divided in the same way.
    """
    for added in corpus.fractions:
        if added in splits:
            raise MtdnnError(f"corpus {name}: fractions: {added} is a split of the source already")
        splits[added] = Split()
    rows = splits["train"].rows if "train" in splits else []
    sizes = Counter(_group(row) for row in rows)
    order = sorted(sizes, key=lambda group: digest([corpus.fractions_seed, group]))
    target = {}
    for split, fraction in corpus.fractions.items():
        count = 0
        while count < fraction * len(rows) and order:
            group = order.pop()
            target[group] = split
            count += sizes[group]
    divided: list[str] = ["train", *corpus.fractions] if corpus.fractions else []
    for each in divided:
        splits[each].rows = [row for row in rows if target.get(_group(row), "train") == each]


def _group(row: Row) -> str:
    """Return what a row has in common with those that must be in the same split."""
    content = {key: value for key, value in row.items() if key not in ("id", "label", "tags")}
    return str(row.get("context") or row.get("cluster") or json.dumps(content))


def _hold_out(name: str, train: Split, titles: list[str]) -> Split:
    """Move the articles `titles` from `train` into a split of their own, which is returned."""
    known = {row["title"] for row in train.rows}
    for title in titles:
        if title not in known:
            close = difflib.get_close_matches(title, known, n=1, cutoff=0)
            nearest = f"; the nearest is {close[0]!r}" if close else ""
            raise MtdnnError(
                f"corpus {name}: held_out_titles: no training article {title!r}{nearest}"
            )
    moved = [row for row in train.rows if row["title"] in titles]
    train.rows = [row for row in train.rows if row["title"] not in titles]
    return Split(moved)


def write_split(folder: Path, split: str, content: Split, corpus: CorpusSettings) -> dict[str, Any]:
    """Write `{split}.parquet` into `folder` and return its entry for the manifest."""
    path = folder / f"{split}.parquet"
    pa.parquet.write_table(table_of(content.rows, corpus.family), path)
    return {
        "rows": len(content.rows),
        "sha256": sha256(path),
        "dropped": dict(content.dropped),
    }
