"""Items that are not questions: their predictions, clusters and scores."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mtdnn.config.settings import CorpusSettings
from mtdnn.data.corpora.overlap import refusal
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.measures import Items, Measure, tag_counts
from mtdnn.machine.files import read_columns, reading_parquet


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


def score(items: Items, measures: Iterable[Measure], seen: int, clusters: int) -> dict[str, Any]:
    """Return the numbers of a slice, measures times 100; or why it is not measurable.

    Args:
        items: its items, at least one.
        measures: the measures of the run's target.
        seen: the number of items whose texts are those of a training item.
        clusters: the number of their clusters.
    """
    if why := refusal(seen, len(items)):
        return {"measurable": False, "reason": why}
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
