"""Readers of the publishers' own file formats.

Each reader takes a file and yields its records one by one with their place in it; a file
that is cut off, not UTF-8 or not in its format is refused at that place.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdnn.config.settings import CorpusSettings, FilesCorpus
from mtdnn.data.corpora.rows import Record, Split, normalise, shown
from mtdnn.data.downloads import check_digest, download
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, sha256


def read(corpus: CorpusSettings, root: str) -> tuple[dict[str, Split], dict]:
    """The splits of a corpus of files below `root` (a folder or URL), and its resolved source.

    Raises:
        MtdnnError: a file is missing, damaged or not what its digest says; a bad record.
    """
    source: FilesCorpus = corpus.source
    if source.format == "squad" and corpus.family != "question_answering":
        raise MtdnnError(f"{root}: format squad is for question_answering, not {corpus.family}")
    wanted = [file for files in source.splits.values() for file in files]
    if source.dev_ids:
        wanted.append(source.dev_ids)
    paths = {file: locate(root, file, source.sha256.get(file)) for file in wanted}
    splits = {
        split: normalise(split, corpus, _records([paths[file] for file in files], source))
        for split, files in source.splits.items()
    }
    if source.dev_ids:
        if "dev" in splits:
            raise MtdnnError(f"{root}: give either a dev split or dev_ids, not both")
        splits["train"], splits["dev"] = _divide(splits["train"], paths[source.dev_ids])
    digests = {file: sha256(path) for file, path in paths.items()}
    return splits, {**source.model_dump(exclude={"root"}), "root": root, "sha256": digests}


def locate(root: str, file: str, expected: str | None) -> Path:
    """The file on this machine: in the folder `root`, or downloaded from below the URL `root`."""
    if re.match(r"https?://", root):
        if expected is None:
            raise MtdnnError(f"{root}: sha256: a download needs the digest of {file}")
        return download(f"{root.rstrip('/')}/{file}", expected)
    path = Path(root) / file
    if not os.path.isfile(path):  # false for names that no system allows as well
        raise MtdnnError(f"{path}: no such file; set data_root or MTDNN_DATA to where the data is")
    if expected:
        check_digest(path, expected, str(path))
    return path


def _records(paths: list[Path], source: FilesCorpus) -> Iterator[Record]:
    for path in paths:
        if source.format == "squad":
            yield from squad(path)
        elif source.format == "jsonl":
            yield from jsonl(path, str(path))
        else:
            yield from table(path, str(path), quoted=source.format == "csv", header=source.header)


# --- SQuAD JSON ------------------------------------------------------------------------------


def squad(path: Path, *, answered: bool = True) -> Iterator[Record]:
    """Questions of a SQuAD 1.1 or 2.0 file, in the columns that the Hub's copy has.

    With `answered` false, questions may come without their answers.
    """
    content = _object(read_json(path), path)
    for a, article in enumerate(_objects(content, "data", str(path))):
        where = f"{path}: article {a}"
        title = article.get("title") or ""
        for p, paragraph in enumerate(_objects(article, "paragraphs", where)):
            there = f"{where}, paragraph {p}"
            if "context" not in paragraph:
                raise MtdnnError(f"{there}: has no context")
            for q, question in enumerate(_objects(paragraph, "qas", there)):
                place = f"{there}, question {shown(question.get('id', q))}"
                if not answered:
                    question = {**question, "answers": [], "is_impossible": True}
                yield place, _question(question, title, paragraph["context"], place)


def _question(question: dict, title: Any, context: Any, place: str) -> dict:
    for key in ("id", "question"):
        if key not in question:
            raise MtdnnError(f"{place}: missing column {key!r}")
    answers = _objects(question, "answers", place)
    impossible = question.get("is_impossible", not answers)
    if not isinstance(impossible, bool) or impossible == bool(answers):
        raise MtdnnError(
            f"{place}: is_impossible is {shown(impossible)}, but it has {len(answers)} answers"
        )
    for answer in answers:
        if not {"text", "answer_start"} <= answer.keys():
            raise MtdnnError(f"{place}: an answer lacks text or answer_start")
    return {
        "id": question["id"],
        "title": title,
        "context": context,
        "question": question["question"],
        "answers": {
            "text": [answer["text"] for answer in answers],
            "answer_start": [answer["answer_start"] for answer in answers],
        },
    }


def _object(value: Any, place: Any) -> dict:
    if not isinstance(value, dict):
        raise MtdnnError(f"{place}: must be a JSON object")
    return value


def _objects(parent: dict, key: str, place: str) -> list[dict]:
    items = parent.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise MtdnnError(f"{place}: {key!r} must be a list of objects")
    return items


# --- lines and tables ------------------------------------------------------------------------


def jsonl(path: Path, called: str) -> Iterator[Record]:
    """Records of a file with one JSON object a line; `called` names it in messages."""
    for number, line in _lines(path, called):
        place = f"{called}: line {number}"
        try:
            record = json.loads(line)
        except RecursionError:
            raise MtdnnError(f"{place}: nested too deep to be a record") from None
        except ValueError as error:
            raise MtdnnError(f"{place}: not valid JSON, cut off perhaps: {error}") from None
        yield place, _object(record, place)


def table(path: Path, called: str, *, quoted: bool, header: bool) -> Iterator[Record]:
    """Records of comma-separated (`quoted`) or tab-separated (never quoted) lines.

    Columns go by the names in the header or, without one, by numbers from 0.
    """
    names: list[Any] | None = None
    for number, row in _csv(path, called) if quoted else _tsv(path, called):
        place = f"{called}: line {number}"
        if names is None:
            names = row if header else list(range(len(row)))
            if len(set(names)) != len(names):
                raise MtdnnError(f"{place}: a column name stands twice")
            if header:
                continue
        if len(row) != len(names):
            raise MtdnnError(
                f"{place}: {len(row)} fields instead of {len(names)}; "
                "the line or the file is cut off"
            )
        yield place, dict(zip(names, row, strict=True))


def _csv(path: Path, called: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(_text(path, called), newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise MtdnnError(f"{called}: line {reader.line_num}: not valid CSV: {error}") from None


def _tsv(path: Path, called: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in _lines(path, called):
        yield number, line.split("\t")


def _lines(path: Path, called: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines: it would also cut at separators that stand inside of sentences.
    lines = _text(path, called).split("\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield number, line.removesuffix("\r")


def _text(path: Path, called: str) -> str:
    """A file's text without a byte-order mark."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MtdnnError(f"{called}: not readable: {error}") from None
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MtdnnError(
            f"{called}: line {line}: not UTF-8: byte {content[error.start]:#04x}"
        ) from None


# --- dev split by ids ------------------------------------------------------------------------


def _divide(train: Split, ids: Path) -> tuple[Split, Split]:
    """The rows of `train` without and with an id that the file `ids` lists."""
    wanted = {"-".join(row): number for number, row in _tsv(ids, str(ids))}
    known = {row["id"] for row in train.rows}
    for identifier, number in wanted.items():
        if identifier not in known:
            raise MtdnnError(f"{ids}: line {number}: no row of the train files has these ids")
    rest = Split([row for row in train.rows if row["id"] not in wanted], train.dropped)
    return rest, Split([row for row in train.rows if row["id"] in wanted])
