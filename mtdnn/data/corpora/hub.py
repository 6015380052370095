"""Corpora from dataset repositories on the Hub: parquet, JSON lines or CSV, never code."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet

from mtdnn.config.settings import CorpusSettings, HubCorpus
from mtdnn.data import hub, revisions
from mtdnn.data.corpora import publishers
from mtdnn.data.corpora.rows import Record, Split, normalise
from mtdnn.errors import MtdnnError

BATCH_ROWS = 4096
READABLE = (".parquet", ".json", ".jsonl", ".csv")


def read(corpus: CorpusSettings, lock: Path) -> tuple[dict[str, Split], dict]:
    """The splits of a Hub corpus and its resolved source: commit, digests and row counts.

    At the first use these are written to the file `lock`; from then on they are enforced
    and, once the files are in the client's cache, no network is needed.

    Raises:
        MtdnnError: not to be had, not what is locked, not plain data; a bad record.
    """
    source: HubCorpus = corpus.source
    key = f"datasets/{source.repo}{f':{source.name}' if source.name else ''}@{source.revision}"
    wanted = [split for splits in source.splits.values() for split in splits]
    locked = revisions.read(lock, key)
    complete = locked is not None and set(wanted) <= locked.splits.keys()
    if complete:
        repository = hub.Repository("dataset", source.repo, locked.commit)
        layout = locked.splits
    else:
        # A further split of a locked repository is taken from the locked commit.
        revision = locked.commit if locked else source.revision
        repository = hub.resolve("dataset", source.repo, revision)
        layout = _layout(repository, source.name)
    for split in wanted:
        if split not in layout:
            raise MtdnnError(f"{repository}: no split {split!r}; there are {', '.join(layout)}")
    names = list(dict.fromkeys(name for split in wanted for name in layout[split]))
    for name in names:
        if not name.endswith(READABLE):
            raise MtdnnError(f"{repository}: {name}: only parquet, JSON lines and CSV are read")
    fetched = hub.fetch(repository, names, locked.sha256 if locked else {})

    counts: Counter = Counter()
    splits = {
        ours: normalise(ours, corpus, _records(theirs, layout, fetched, counts, repository))
        for ours, theirs in source.splits.items()
    }
    resolved = revisions.Locked(
        commit=repository.commit,
        sha256={**(locked.sha256 if locked else {}), **fetched.sha256},
        splits={**(locked.splits if locked else {}), **{split: layout[split] for split in wanted}},
        rows={**counts, **(locked.rows if locked else {})},
    )
    for split in wanted:
        if counts[split] != resolved.rows[split]:
            raise MtdnnError(
                f"{repository}: {split} has {counts[split]} rows, "
                f"{resolved.rows[split]} are locked in {lock}"
            )
    if resolved != locked:
        revisions.write(lock, key, resolved)
    return splits, {
        **source.model_dump(),
        "commit": repository.commit,
        "sha256": fetched.sha256,
        "rows": dict(counts),
    }


def _layout(repository: hub.Repository, config: str | None) -> dict[str, list[str]]:
    """Which files make up which split, as the dataset's card or its file names say."""
    with hub.translated(f"{repository}{f', configuration {config}' if config else ''}"):
        builder = datasets.load_dataset_builder(repository.name, config, revision=repository.commit)
    prefix = f"hf://datasets/{repository.name}@{repository.commit}/"
    layout = {}
    for split, urls in (builder.config.data_files or {}).items():
        # The library falls back to whatever its cache holds; only this commit will do.
        foreign = [url for url in urls if not str(url).startswith(prefix)]
        if foreign:
            raise MtdnnError(f"{repository}: {split} lies elsewhere: {foreign[0]}")
        layout[str(split)] = [str(url).removeprefix(prefix) for url in urls]
    return layout


def _records(
    splits: list[str],
    layout: dict[str, list[str]],
    fetched: hub.Fetched,
    counts: Counter,
    repository: hub.Repository,
) -> Iterator[Record]:
    """Records of the repository's `splits`; counts them on the way."""
    for split in splits:
        for name in layout[split]:
            for place, record in _data_file(fetched.paths[name], f"{repository.name}/{name}"):
                counts[split] += 1
                yield place, record


def _data_file(path: Path, called: str) -> Iterator[Record]:
    suffix = Path(called).suffix
    if suffix == ".parquet":
        yield from _parquet(path, called)
    elif suffix == ".csv":
        yield from publishers.table(path, called, quoted=True, header=True)
    else:
        yield from publishers.jsonl(path, called)


def _parquet(path: Path, called: str) -> Iterator[Record]:
    number = 0
    try:
        with pa.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{called}: row {number}", record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise MtdnnError(f"{called}: row {number + 1}: not readable as parquet: {reason}") from None
