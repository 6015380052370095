"""The first rows of local corpora, read before anything is trained."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mtdnn.config.settings import COLUMNS, CorpusSettings, FilesCorpus
from mtdnn.data.corpora.publishers import records
from mtdnn.data.corpora.rows import OPTIONAL, Record, has_column, normalise
from mtdnn.errors import MtdnnError

FIRST_ROWS = 20
SEPARATORS = {"csv": "commas", "tsv": "tabs"}


def mistakes(corpus: CorpusSettings, files: Mapping[str, Path]) -> Iterator[str]:
    """Yield a line for each missing column, or for the first bad row, of each file of rows.

    Args:
        corpus: the settings of a corpus of local files.
        files: its files by their names in its settings.
    """
    source = corpus.source
    assert isinstance(source, FilesCorpus)
    places = [(f"splits.{split}", name) for split, names in source.splits.items() for name in names]
    if source.files:  # which hold all splits together
        places = [("files", name) for name in source.files]
    # Without a header, what is needed would be missing in the first line already.
    unmapped = source.model_copy(update={"columns": {}, "split_column": None})
    for place, name in dict.fromkeys(places):
        try:
            first = list(islice(records(files[name], unmapped), FIRST_ROWS))
            yield from _wrong_rows(place, corpus, source, name, first)
        except MtdnnError as error:
            yield f".{place}: {error}"


def _wrong_rows(
    place: str, corpus: CorpusSettings, source: FilesCorpus, file: str, first: list[Record]
) -> Iterator[str]:
    if not first:
        yield f".{place}: {file} has no rows"
        return
    known = first[0][1]
    missing: list[str] = []
    for column in COLUMNS[corpus.family]:
        if column == "answers" and _has_flat_answers(source, known):
            continue
        wanted = source.columns.get(column, column)
        for part in wanted if isinstance(wanted, list) else [wanted]:
            needed = column in source.columns or column not in OPTIONAL
            if needed and not has_column(known, part):
                missing.append(
                    f".columns.{column}: {file} has no column {part!r}; "
                    f"name one of {', '.join(map(repr, list(known)[:20]))}"
                )
    if missing and len(known) == 1 and source.format in SEPARATORS:
        yield (
            f".{place}: {file} has a single column, {next(iter(known))!r}; format {source.format} "
            f"is separated by {SEPARATORS[source.format]}"
        )
    elif missing:
        yield from missing
    else:
        normalise("train", corpus, source, first)


def _has_flat_answers(source: FilesCorpus, known: Mapping[Any, Any]) -> bool:
    """Whether answers are in the columns `answer` and `answer_start`."""
    return "answer_start" in source.columns or "answer_start" in known
