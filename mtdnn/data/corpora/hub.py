"""Corpora from dataset repositories on the Hub: Parquet, JSON lines or CSV, never code."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet

from mtdnn.config.settings import CorpusSettings, HubCorpus
from mtdnn.data import hub, revisions
from mtdnn.data.corpora import publishers
from mtdnn.data.corpora.rows import Record, Split, normalise
from mtdnn.errors import MtdnnError, first_line

BATCH_ROWS = 4096
READABLE = (".parquet", ".json", ".jsonl", ".csv")


def read(
    corpus: CorpusSettings, source: HubCorpus, lock: Path
) -> tuple[dict[str, Split], dict[str, Any]]:
    """Read a corpus from the Hub.

    Its commit, digests and row counts are written to the file `lock` at the first use and
    enforced from then on. No network is needed once the files are in the client's cache.

    Args:
        corpus: the corpus's settings.
        source: its repository.
        lock: the lock file.

    Returns:
        Its splits by name, and the resolved source for the manifest.

    Raises:
        MtdnnError: a file is not available, not plain data or differs from what is locked; or a bad
            record.
    """
    key = f"datasets/{source.repo}{f':{source.name}' if source.name else ''}@{source.revision}"
    wanted = [split for splits in source.splits.values() for split in splits]
    locked = revisions.read(lock, key)
    repository, layout = _resolve(source, wanted, locked)
    names = _files(repository, wanted, layout)
    fetched = hub.fetch(repository, names, locked.sha256 if locked else {})

    counts: Counter[str] = Counter()
    splits: dict[str, Split] = {
        ours: normalise(ours, corpus, source, _records(theirs, layout, fetched, counts, repository))
        for ours, theirs in source.splits.items()
    }
    used = {split: layout[split] for split in wanted}
    resolved = revisions.Locked(
        commit=repository.commit,
        sha256={**(locked.sha256 if locked else {}), **fetched.sha256},
        splits={**(locked.splits if locked else {}), **used},
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


def _resolve(
    source: HubCorpus, wanted: list[str], locked: revisions.Locked | None
) -> tuple[hub.Repository, dict[str, list[str]]]:
    """Return the repository at its commit, and the files of each of its splits."""
    if locked and set(wanted) <= locked.splits.keys():
        return hub.Repository("dataset", source.repo, locked.commit), locked.splits
    # A further split of a locked repository is taken from the locked commit.
    revision = locked.commit if locked else source.revision
    repository = hub.resolve("dataset", source.repo, revision)
    return repository, _layout(repository, source.name)


def _files(
    repository: hub.Repository, wanted: list[str], layout: dict[str, list[str]]
) -> list[str]:
    """Return the files of the splits `wanted`; refuse a missing split and unreadable files."""
    for split in wanted:
        if split not in layout:
            raise MtdnnError(f"{repository}: no split {split!r}; it has {', '.join(layout)}")
    names = list(dict.fromkeys(name for split in wanted for name in layout[split]))
    for name in names:
        if not name.endswith(READABLE):
            raise MtdnnError(f"{repository}: {name}: only Parquet, JSON lines and CSV are read")
    return names


def _layout(repository: hub.Repository, config: str | None) -> dict[str, list[str]]:
    """Return the files of each split, as given by the dataset's card or its file names."""
    with hub.translated(f"{repository}{f', configuration {config}' if config else ''}"):
        builder = datasets.load_dataset_builder(repository.name, config, revision=repository.commit)
    prefix = f"hf://datasets/{repository.name}@{repository.commit}/"
    layout: dict[str, list[str]] = {}
    for split, urls in (builder.config.data_files or {}).items():
        # Without a network the library falls back to any commit in its cache; refuse others.
        foreign = [url for url in urls if not str(url).startswith(prefix)]
        if foreign:
            raise MtdnnError(
                f"{repository}: {split} is in another repository or commit: {foreign[0]}"
            )
        layout[str(split)] = [str(url).removeprefix(prefix) for url in urls]
    return layout


def _records(
    splits: list[str],
    layout: dict[str, list[str]],
    fetched: hub.Fetched,
    counts: Counter[str],
    repository: hub.Repository,
) -> Iterator[Record]:
    """Yield the records of the repository's `splits` and count them in `counts`."""
    for split in splits:
        counts[split] = 0  # it may be read for several of our splits
        for name in layout[split]:
            for place, record in _data_file(fetched.paths[name], f"{repository.name}/{name}"):
                counts[split] += 1
                yield place, record


def _data_file(path: Path, called: str) -> Iterator[Record]:
    suffix = Path(called).suffix
    if suffix == ".parquet":
        yield from _parquet(path, called)
    elif suffix == ".csv":
        yield from publishers.table(path, called, quoted=True)
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
        reason = first_line(error)
        raise MtdnnError(f"{called}: row {number + 1}: not readable as Parquet: {reason}") from None
