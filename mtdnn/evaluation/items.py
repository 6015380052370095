"""Items that are not questions: their predictions, clusters, scores and overlap with training."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mtdnn.config.settings import CorpusSettings
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.measures import Items, Measure, tag_counts
from mtdnn.machine.files import read_columns, reading_parquet

MAX_SEEN_SHARE = 0.05
"""Largest share of items with the texts of a training item: publishers' own splits share a few
(CoLA and STS-B up to 2 %), and those change no score by more than that."""

_NOT_TEXT = ("id", "label", "tags", "cluster")


def read_items(path: Path, corpus: str, split: str, settings: CorpusSettings, rows: int) -> Items:
    """Read a run's predictions of all items of a split, in the order of the corpus.

    Args:
        path: the run's `auxiliary.parquet`.
        corpus: the corpus's name.
        split: the split's name.
        settings: the corpus's settings.
        rows: the number of rows of the split.

    Raises:
        MtdnnError: the file is missing, not readable, or has not each of the rows once.
    """
    columns = ["corpus", "split", "row", "label", "prediction", "tags", "predicted_tags"]
    table = read_columns(path, columns)
    own = pc.and_(pc.equal(table["corpus"], corpus), pc.equal(table["split"], split))
    table = table.filter(own).sort_by("row")
    numbers = table["row"].to_numpy()
    if not np.array_equal(numbers, np.arange(rows)):
        raise MtdnnError(
            f"{path}: {corpus}: must have each of the {rows} {split} rows once, has "
            f"{len(np.unique(numbers))} of them in {len(numbers)} rows; evaluate the run again"
        )
    family: str = settings.family
    if family == "token_classification":
        gold, predicted = (table[name].to_pylist() for name in ("tags", "predicted_tags"))
        return Items(tag_counts(gold, predicted, settings.labels))
    columns = ["label", "prediction"]
    return Items(
        {name: table[name].to_numpy().astype(np.float64) for name in columns},
        classes=len(settings.labels),
    )


def clusters_of(path: Path) -> NDArray[np.int64]:
    """Return the number of each item's cluster, from 0: by its column `cluster`, else by item.

    Args:
        path: the corpus's file of the split.
    """
    with reading_parquet(path), pq.ParquetFile(path) as file:
        if "cluster" not in file.schema_arrow.names:
            return np.arange(file.metadata.num_rows)
    codes = read_columns(path, ["cluster"])["cluster"].combine_chunks().dictionary_encode()
    numbers: NDArray[np.int64] = codes.indices.to_numpy().astype(np.int64)
    return numbers


def texts(path: Path) -> list[str]:
    """Return all texts of each item of a corpus's file, as one value to compare."""
    with reading_parquet(path):
        names = [name for name in pq.read_schema(path).names if name not in _NOT_TEXT]
    table = read_columns(path, names)
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    return [repr(row) for row in rows]


def score(items: Items, measures: Iterable[Measure], seen: int, clusters: int) -> dict[str, Any]:
    """Return the numbers of a slice, measures times 100; or why it is not measurable.

    Args:
        items: its items, at least one.
        measures: the measures of the run's target.
        seen: the number of items whose texts are those of a training item.
        clusters: the number of their clusters.
    """
    if seen > MAX_SEEN_SHARE * len(items):
        return {
            "measurable": False,
            "reason": f"{seen} of its {len(items)} items have the texts of items that the run was "
            "trained on; remove these from its training split",
        }
    values = {measure.key: 100.0 * measure.value(items) for measure in measures}
    return {"questions": len(items), "clusters": clusters, "seen": seen, **values}


def floor(items: Items, family: str) -> dict[str, float]:
    """Return what no training is needed for, times 100.

    `majority`: accuracy of the most frequent label, for tags that of `O`; `floor`: the headline
    measure without any signal, which is 0 for correlations and for a tagger that finds no entity.
    """
    if family == "token_classification":
        majority = 100.0 * items["outside"].sum() / items["tokens"].sum()
        return {"floor": 0.0, "majority": float(majority)}
    if family in ("multiple_choice", "sequence_classification"):
        _, counts = np.unique(items["label"], return_counts=True)
        return {"majority": 100.0 * int(counts.max()) / len(items)}
    return {"floor": 0.0}
