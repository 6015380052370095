"""Corpora: fetched from the Hub, the publishers' files or our generator, checked, on disk."""

import difflib
import hashlib
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from mtdnn.config.layout import MANIFEST
from mtdnn.config.settings import CorpusSettings, FilesCorpus
from mtdnn.data.corpora import publishers, synthetic
from mtdnn.data.corpora.rows import SCHEMAS, Split, normalise
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import replacing, sha256, write_json


def fetch(name: str, corpus: CorpusSettings, *, root: str, lock: Path, output: Path) -> None:
    """Put a corpus into the folder `output`: train, dev and held_out.parquet, manifest.json.

    `root` is the folder or URL of a corpus of files. Hub revisions are resolved once, kept
    in the file `lock` and enforced from then on. `corpus.rows` counts the published
    training split: without dropped rows, with those that are then held out.

    Raises:
        MtdnnError: a bad row with file, place and reason; a count or digest that differs.
    """
    splits, source = _read(corpus, root, lock)
    for split in ("train", "dev"):
        if split not in splits:
            raise MtdnnError(f"corpus {name}: splits: {split} is missing")
        _check_count(name, split, len(splits[split].rows), corpus.rows.get(split))
    if corpus.held_out_titles:
        splits["held_out"] = _hold_out(name, splits["train"], corpus.held_out_titles)
    empty = [split for split, content in splits.items() if not content.rows]
    if empty:
        raise MtdnnError(f"corpus {name}: the split {empty[0]} is empty")
    with replacing(output) as draft:
        draft.mkdir()
        described = {s: _write(draft, s, content, corpus) for s, content in splits.items()}
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


def read_questions(path: Path) -> list[dict]:
    """Rows of a file in SQuAD's format whose questions may lack answers.

    Raises:
        MtdnnError: a bad question with its place; or no question at all.
    """
    source = FilesCorpus(kind="files", format="squad", splits={"dev": [path.name]})
    corpus = CorpusSettings(label="questions", family="question_answering", source=source)
    rows = normalise("dev", corpus, publishers.squad(path, answered=False)).rows
    if not rows:
        raise MtdnnError(f"{path}: has no question")
    return rows


def rows_digest(splits: dict[str, list[dict]]) -> str:
    """Digest of all rows, wherever they came from and however they are stored."""
    hashed = hashlib.sha256()
    for split in sorted(splits):
        hashed.update(f"{split}\n".encode())
        for row in splits[split]:
            hashed.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
            hashed.update(b"\n")
    return hashed.hexdigest()


def _read(corpus: CorpusSettings, root: str, lock: Path) -> tuple[dict[str, Split], dict]:
    if corpus.source.kind == "hub":
        # Here, since a machine that only trains needs no Hub client.
        from mtdnn.data.corpora import hub

        return hub.read(corpus, lock)
    if corpus.source.kind == "files":
        return publishers.read(corpus, root)
    with tempfile.TemporaryDirectory() as folder:
        written = synthetic.write(corpus, Path(folder))
        splits, source = publishers.read(written, folder)
    return splits, {**corpus.source.model_dump(), "sha256": source["sha256"]}


def _check_count(name: str, split: str, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise MtdnnError(f"corpus {name}: {split} has {found} rows, {expected} are expected")


def _hold_out(name: str, train: Split, titles: list[str]) -> Split:
    """Move the articles `titles` out of `train` into a split of their own."""
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


def _write(folder: Path, split: str, content: Split, corpus: CorpusSettings) -> dict:
    path = folder / f"{split}.parquet"
    table = pa.Table.from_pylist(content.rows, schema=SCHEMAS[corpus.family])
    pa.parquet.write_table(table, path)
    return {
        "rows": len(content.rows),
        "sha256": sha256(path),
        "dropped": dict(content.dropped),
    }
