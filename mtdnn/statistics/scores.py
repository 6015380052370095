"""Scores of single items, summed within clusters: everything that the comparisons need.

Questions about one paragraph are a cluster. Other items are clustered by their corpus's column
`cluster` if it has one (a premise, a video, a document), else each is a cluster of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtdnn.config.experiment import Slice
from mtdnn.config.layout import RunFolder
from mtdnn.config.settings import CorpusSettings
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.items import clusters_of, read_items
from mtdnn.evaluation.measures import Items, Measure
from mtdnn.evaluation.scoring import score_answers
from mtdnn.evaluation.slices import belongs
from mtdnn.machine.files import read_columns


@dataclass(frozen=True)
class Members:
    """The n items of a slice and the clusters that they belong to.

    Attributes:
        items: (n,) places of the items in their split.
        clusters: (n,) number of each item's cluster, from 0.
    """

    items: NDArray[np.int64]
    clusters: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(clusters,) number of items in each cluster."""
        return np.bincount(self.clusters)


@dataclass(frozen=True)
class Predicted:
    """One run's predictions of the N items of a split."""

    predictions: Items

    def items(self, threshold: float) -> Items:
        """Return the items with their final predictions."""
        return self.predictions


@dataclass(frozen=True)
class Answered(Predicted):
    """One run's best non-null answers to the N questions of a split, scored.

    Attributes:
        odds: (N,) null odds, in logits.
        unanswerable: (N,) whether a question has no answer.
    """

    odds: NDArray[np.float64]
    unanswerable: NDArray[np.bool_]

    def items(self, threshold: float) -> Items:
        """Return the scores of the final answers: "" where the odds are above the threshold."""
        columns = self.predictions.columns.items()
        null = self.odds > threshold
        return Items({name: np.where(null, self.unanswerable, each) for name, each in columns})


class Split(ABC):
    """The items of one split of a corpus."""

    @abstractmethod
    def members(self, entry: Slice) -> Members:
        """Return the items that belong to a slice."""

    @abstractmethod
    def predicted(self, folder: Path, corpus: str) -> Predicted:
        """Read a run's predictions of this split.

        Args:
            folder: the run's folder.
            corpus: the corpus's name in the run's experiment.

        Raises:
            MtdnnError: the predictions are missing, not readable or not those of this split.
        """

    def sums(
        self,
        predicted: Predicted,
        members: Members,
        threshold: float,
        measures: Sequence[Measure],
    ) -> NDArray[np.float64]:
        """Sum the linearised scores of a slice's items within clusters.

        Args:
            predicted: a run's predictions of this split.
            members: the slice's items.
            threshold: answers with higher null odds than this count as "".
            measures: what to score; `mtdnn.evaluation.measures` says what linearised means.

        Returns:
            (measures, clusters) sums, as fractions; their total divided by the number of items is
            the measure.
        """
        items = predicted.items(threshold).take(members.items)
        return np.array(
            [np.bincount(members.clusters, each.linearised(items)) for each in measures]
        )


def open_split(corpus: Path, split: str, settings: CorpusSettings) -> Split:
    """Return a split of a corpus.

    Args:
        corpus: the corpus's folder.
        split: `dev`, `held_out` or `test`.
        settings: the corpus's settings.

    Raises:
        MtdnnError: the split's file is missing or not readable.
    """
    if settings.family == "question_answering":
        return QuestionSplit(corpus, split)
    return ItemSplit(corpus, split, settings)


class ItemSplit(Split):
    """A split of items that are not questions, as `open_split` returns it."""

    def __init__(self, corpus: Path, split: str, settings: CorpusSettings):
        self._split, self._settings = split, settings
        self._clusters = clusters_of(corpus / f"{split}.parquet")

    def members(self, entry: Slice) -> Members:
        return Members(np.arange(len(self._clusters)), self._clusters)

    def predicted(self, folder: Path, corpus: str) -> Predicted:
        path, rows = RunFolder(folder).auxiliary, len(self._clusters)
        return Predicted(read_items(path, corpus, self._split, self._settings, rows))


class QuestionSplit(Split):
    """A split of questions, as `open_split` returns it; scores each distinct answer only once."""

    def __init__(self, corpus: Path, split: str):
        path = corpus / f"{split}.parquet"
        columns = ["id", "title", "context", "question", "answer_texts"]
        table = read_columns(path, columns)
        self._split = split
        self._ids = table["id"].to_pylist()
        self._rows = list(zip(*(table[column].to_pylist() for column in columns[1:]), strict=True))
        self._unanswerable = np.array([not row[3] for row in self._rows])
        self._places: dict[str, int] = {each: place for place, each in enumerate(self._ids)}
        self._scored: dict[tuple[int, str], tuple[float, float]] = {}

    def members(self, entry: Slice) -> Members:
        chosen = [place for place, row in enumerate(self._rows) if belongs(entry, *row)]
        contexts: dict[str, int] = {}
        clusters = [contexts.setdefault(self._rows[n][1], len(contexts)) for n in chosen]
        return Members(np.array(chosen, int), np.array(clusters, int))

    def predicted(self, folder: Path, corpus: str) -> Answered:
        path = RunFolder(folder).predictions
        table = read_columns(path, ["corpus", "split", "id", "answer", "null_odds"])
        own = pa.compute.and_(
            pa.compute.equal(table["corpus"], corpus), pa.compute.equal(table["split"], self._split)
        )
        table = table.filter(own)
        places = [self._places.get(each, -1) for each in table["id"].to_pylist()]
        if sorted(places) != list(range(len(self._ids))):
            raise MtdnnError(
                f"{path}: must have each {self._split} question of the corpus once; "
                "evaluate the run again"
            )
        keys = list(zip(places, table["answer"].to_pylist(), strict=True))
        new = [key for key in dict.fromkeys(keys) if key not in self._scored]
        golds = [self._rows[place][3] for place, _ in new]
        scored = score_answers(golds, [answer for _, answer in new])
        self._scored |= zip(new, zip(scored.exact, scored.f1, strict=True), strict=True)
        scores, odds = np.empty((2, len(keys))), np.empty(len(keys))
        scores[:, places] = np.array([self._scored[key] for key in keys], float).T
        odds[places] = table["null_odds"].to_numpy()
        items = Items(dict(zip(("exact", "f1"), scores, strict=True)))
        return Answered(items, odds, self._unanswerable)
