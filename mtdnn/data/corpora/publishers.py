"""Readers of the publishers' own file formats: SQuAD's JSON, JSON, CSV, TSV and CoNLL.

Each reader yields the records of a file with their place in it. It refuses a file that is cut
off, not UTF-8 or not in its format, and names the place.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtdnn.config.settings import FORMATS, CorpusSettings, FilesCorpus
from mtdnn.data.corpora.rows import MAX_TEXT_CHARACTERS, Record, Split, normalise, shown
from mtdnn.data.downloads import check_digest, download
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256

EMPTY = "empty; remove the line"


def read(
    corpus: CorpusSettings, source: FilesCorpus, root: str
) -> tuple[dict[str, Split], dict[str, Any]]:
    """Read a corpus of files.

    Args:
        corpus: the corpus's settings.
        source: its files.
        root: folder or URL below which the files are.

    Returns:
        Its splits by name, and the resolved source for the manifest: settings and digests.

    Raises:
        MtdnnError: a file is missing, damaged or does not have the given digest; or a bad record.
    """
    if source.format not in FORMATS[corpus.family]:
        raise MtdnnError(f"{root}: format {source.format} is not for {corpus.family}")
    paths = {file: locate(root, file, source.sha256.get(file)) for file in source.names}
    splits: dict[str, Split] = {}
    for split, names in source.splits.items():
        if source.files:
            chosen = _chosen([paths[file] for file in source.files], source, split, names)
        else:
            chosen = (record for file in names for record in records(paths[file], source))
        splits[split] = normalise(split, corpus, source, chosen)
    if source.dev_ids:
        if "dev" in splits:
            raise MtdnnError(f"{root}: give either a dev split or dev_ids, not both")
        splits["train"], splits["dev"] = _divide(splits["train"], paths[source.dev_ids])
    digests = {file: sha256(path) for file, path in paths.items()}
    return splits, {**source.model_dump(exclude={"root"}), "root": root, "sha256": digests}


def locate(root: str, file: str, expected: str | None) -> Path:
    """Return the path of `file`: in the folder `root`, or downloaded from below the URL `root`.

    Raises:
        MtdnnError: it is missing, has another SHA-256 than `expected`, or is a download for
            which no digest is expected.
    """
    if re.match(r"https?://", root):
        if expected is None:
            raise MtdnnError(f"{root}: sha256: no digest of {file}, which a download needs")
        return download(f"{root.rstrip('/')}/{file}", expected)
    path = Path(root) / file
    if not os.path.isfile(path):  # unlike `Path.is_file`, false for names that no system allows
        raise MtdnnError(
            f"{path}: no such file; correct its name or the source's root, which starts in "
            "data_root or MTDNN_DATA"
        )
    if expected:
        check_digest(path, expected, str(path))
    return path


def records(path: Path, source: FilesCorpus) -> Iterator[Record]:
    """Yield the records of one of a corpus's files, with their places.

    Raises:
        MtdnnError: the file is not readable or not in its format.
    """
    match source.format:
        case "squad":
            yield from squad(path)
        case "jsonl":
            yield from jsonl(path, str(path))
        case "json":
            yield from ((place, record) for _, place, record in json_document(path))
        case "conll":
            yield from conll(path)
        case "csv" | "tsv":
            quoted = source.format == "csv"
            needed = None if source.header else _largest_number(source)
            yield from table(path, str(path), quoted=quoted, needed=needed)


def _largest_number(source: FilesCorpus) -> int:
    """Return the largest number of a column that a corpus without a header needs."""
    wanted = [*source.columns.values(), source.split_column]
    numbers = [n for entry in wanted for n in (entry if isinstance(entry, list) else [entry])]
    return max((number for number in numbers if isinstance(number, int)), default=0)


def _chosen(
    paths: list[Path], source: FilesCorpus, split: str, names: list[str]
) -> Iterator[Record]:
    """Yield the records of a split from files that hold all splits together.

    Raises:
        MtdnnError: one of `names` is not the name of any record's split.
    """
    seen: dict[str, None] = {}
    for path in paths:
        for part, place, record in _parts(path, source):
            seen[part] = None
            if part in names:
                yield place, record
    for name in names:
        if name not in seen:
            raise MtdnnError(
                f"{', '.join(map(str, paths))}: splits.{split}: no row has the split {name!r}; "
                f"they have {', '.join(list(seen)[:20]) or 'none'}"
            )


def _parts(path: Path, source: FilesCorpus) -> Iterator[tuple[str, str, Mapping[Any, Any]]]:
    """Yield the split, the place and the record of each row of a file of several splits."""
    if source.split_column is None:
        yield from json_document(path)
        return
    for place, record in records(path, source):
        if source.split_column not in record:
            raise MtdnnError(f"{place}: missing column {source.split_column!r}, the split_column")
        yield str(record[source.split_column]), place, record


# --- SQuAD JSON ------------------------------------------------------------------------------


def squad(path: Path, *, answered: bool = True) -> Iterator[Record]:
    """Yield the questions of a SQuAD 1.1 or 2.0 file, in the columns of the Hub's copy.

    With `answered` false, answers are neither needed nor read.
    """
    content = _object(_json(path), str(path))
    for a, article in enumerate(_objects(content, "data", str(path)), start=1):
        where = f"{path}: article {a}"
        title = article.get("title") or ""
        for p, paragraph in enumerate(_objects(article, "paragraphs", where), start=1):
            within = f"{where}, paragraph {p}"
            if "context" not in paragraph:
                raise MtdnnError(f"{within}: missing 'context'")
            for q, question in enumerate(_objects(paragraph, "qas", within), start=1):
                place = f"{within}, question {shown(question.get('id', q))}"
                if not answered:
                    question = {**question, "answers": [], "is_impossible": True}
                yield place, _question(question, title, paragraph["context"], place)


def _question(question: dict[str, Any], title: Any, context: Any, place: str) -> dict[str, Any]:
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
            raise MtdnnError(f"{place}: an answer has no text or no answer_start")
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


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MtdnnError(f"{place}: must be a JSON object")
    return value


def _objects(parent: dict[str, Any], key: str, place: str) -> list[dict[str, Any]]:
    items = parent.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise MtdnnError(f"{place}: {key!r} must be a list of objects")
    return items


# --- lines and tables ------------------------------------------------------------------------


def jsonl(path: Path, called: str) -> Iterator[Record]:
    """Yield the records of a file with one JSON object per line; `called` names it in messages."""
    for number, line in _lines(path, called):
        place = f"{called}: line {number}"
        if not line.strip():
            raise MtdnnError(f"{place}: {EMPTY}")
        try:
            record = json.loads(line)
        except RecursionError:
            raise MtdnnError(f"{place}: nested too deeply") from None
        except ValueError as error:
            raise MtdnnError(f"{place}: not valid JSON, perhaps cut off: {error}") from None
        yield place, _object(record, place)


def json_document(path: Path) -> Iterator[tuple[str, str, Mapping[Any, Any]]]:
    """Yield the split, place and object of each entry of a JSON document.

    The document is a list of objects, whose split is "", or an object with such a list for each
    split.
    """
    content = _json(path)
    if isinstance(content, list):
        content = {"": content}
    for split, entries in _object(content, str(path)).items():
        where = f"{path}: {split}" if split else str(path)
        if not isinstance(entries, list):
            raise MtdnnError(f"{where}: must be a list of objects")
        for number, entry in enumerate(entries, start=1):
            place = f"{where}: entry {number}"
            yield split, place, _object(entry, place)


def conll(path: Path, *, tagged: bool = True) -> Iterator[Record]:
    """Yield the sentences of a file with a word and its tags in each line.

    Lines are split at tabs or, without any, at white space. Blank lines separate sentences. Each
    column is a list under its number (from 0); the first is also called `tokens`, the last
    `tags`. Where the file has documents (lines that begin with -DOCSTART-, as in CoNLL 2003),
    their numbers are the column `cluster`. With `tagged` false, a line may be a word alone.
    """
    document = 0
    sentence: list[list[str]] = []
    place = f"{path}: line 1"

    def record() -> Record:
        columns = [list(column) for column in zip(*sentence, strict=True)]
        named: dict[Any, Any] = dict(enumerate(columns))
        named |= {"tokens": columns[0], "tags": columns[-1]}
        return place, {**named, "cluster": f"{path.name}-{document}"} if document else named

    for number, line in _lines(path, str(path)):
        fields = line.split("\t") if "\t" in line else line.split()
        starts = line.startswith("-DOCSTART-")
        if not starts and any(field.strip() for field in fields):
            place = place if sentence else f"{path}: line {number}"
            if len(fields) < 1 + tagged or (sentence and len(fields) != len(sentence[0])):
                expected = len(sentence[0]) if sentence else "at least 2"
                raise MtdnnError(
                    f"{path}: line {number}: {_count(fields, 'column')} instead of {expected}"
                )
            sentence.append(fields)
        elif sentence:
            yield record()
            sentence = []
        document += starts
    if sentence:
        yield record()


def table(path: Path, called: str, *, quoted: bool, needed: int | None = None) -> Iterator[Record]:
    """Yield the records of a CSV file (`quoted`) or a TSV file (never quoted).

    Args:
        path: the file.
        called: its name in messages.
        quoted: whether it is CSV.
        needed: without a header, the largest number that a column needs to have; columns are then
            numbered from 0, and rows may have further ones. With None, the first line is a header
            that names the columns.
    """
    names: list[Any] | None = None
    for number, row in _csv(path, called) if quoted else _tsv(path, called):
        place = f"{called}: line {number}"
        if needed is not None:
            if len(row) <= needed:
                raise MtdnnError(_wrong_number(place, row, f"{needed + 1} or more"))
            yield place, dict(enumerate(row))
        elif names is None:
            names = row
            if len(set(names)) != len(names):
                raise MtdnnError(f"{place}: duplicate column name")
        elif len(row) != len(names):
            raise MtdnnError(_wrong_number(place, row, str(len(names))))
        else:
            yield place, dict(zip(names, row, strict=True))


def _wrong_number(place: str, row: list[str], expected: str) -> str:
    if not any(field.strip() for field in row):
        return f"{place}: {EMPTY}"
    return (
        f"{place}: {_count(row, 'field')} instead of {expected}; "
        "the line or the file is cut off, or a separator is wrong"
    )


def _count(fields: list[str], noun: str) -> str:
    return f"{len(fields)} {noun}{'' if len(fields) == 1 else 's'}"


def _csv(path: Path, called: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(MAX_TEXT_CHARACTERS)  # by default the module reads an eighth of that
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
    # Not str.splitlines, which also splits at line separators within sentences.
    lines = _text(path, called).split("\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield number, line.removesuffix("\r")


def _text(path: Path, called: str) -> str:
    """Return a file's text without its byte-order mark and without blank lines at its end."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MtdnnError(f"{called}: not readable: {error}") from None
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MtdnnError(
            f"{called}: line {line}: not UTF-8: byte {content[error.start]:#04x}; save the file "
            "as UTF-8 (iconv -f latin1 -t utf-8 converts it from Latin-1)"
        ) from None
    end = text.find("\n", len(text.rstrip()))  # of the last line that is not blank
    return (text if end < 0 else text[:end]).rstrip("\r")


def _json(path: Path) -> Any:
    text = _text(path, str(path))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MtdnnError(f"{path}: not readable as JSON: {error}") from None


# --- dev split by ids ------------------------------------------------------------------------


def _divide(train: Split, ids: Path) -> tuple[Split, Split]:
    """Split `train` into the rows whose id is not in the file `ids` and those whose id is."""
    wanted = {"-".join(row): number for number, row in _tsv(ids, str(ids))}
    known = {row["id"] for row in train.rows}
    for identifier, number in wanted.items():
        if identifier not in known:
            raise MtdnnError(f"{ids}: line {number}: no row of the train files has this id")
    rest = Split([row for row in train.rows if row["id"] not in wanted], train.dropped)
    return rest, Split([row for row in train.rows if row["id"] in wanted])
