"""The first rows of local corpora, read before anything is trained."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from mtdnn.config.settings import COLUMNS, CorpusSettings, FilesCorpus
from mtdnn.data.corpora.publishers import records
from mtdnn.data.corpora.rows import OPTIONAL, Record, normalise
from mtdnn.errors import MtdnnError

FIRST_ROWS = 20


def mistakes(corpus: CorpusSettings, files: Mapping[str, Path]) -> Iterator[str]:
    """Yield a line for each missing column, or for the first bad row, of each file of rows.

    Args:
        corpus: the settings of a corpus of local files.
        files: its files by their names in its settings.
    """
    source = corpus.source
    assert isinstance(source, FilesCorpus)
    for split, names in source.splits.items():
        for name in dict.fromkeys(names):
            try:
                first = list(islice(records([files[name]], source), FIRST_ROWS))
                yield from _wrong_rows(split, corpus, source, name, first)
            except MtdnnError as error:
                yield f".splits.{split}: {error}"


def _wrong_rows(
    split: str, corpus: CorpusSettings, source: FilesCorpus, file: str, first: list[Record]
) -> Iterator[str]:
    if not first:
        yield f".splits.{split}: {file} has no rows"
        return
    known = first[0][1]
    missing = False
    for column in COLUMNS[corpus.family]:
        wanted = source.columns.get(column, column)
        for part in wanted if isinstance(wanted, list) else [wanted]:
            needed = column in source.columns or column not in OPTIONAL
            if needed and part not in known:
                missing = True
                yield (
                    f".columns.{column}: {file} has no column {part!r}; "
                    f"name one of {', '.join(map(repr, list(known)[:20]))}"
                )
    if not missing:
        normalise(split, corpus, source, first)
