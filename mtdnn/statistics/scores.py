"""Scores of single questions, added up within paragraphs: all that the comparisons need."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mtdnn.config.experiment import Slice
from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.scoring import score_answers
from mtdnn.evaluation.slices import belongs
from mtdnn.machine.files import read_columns

METRICS = ("em", "f1")


@dataclass(frozen=True)
class Answered:
    """One run's best non-null answers to all questions of a split, scored."""

    scores: np.ndarray
    """(2, questions) exact match and F1, 0 to 1."""
    odds: np.ndarray
    """(questions,) null odds."""


@dataclass(frozen=True)
class Members:
    """The questions of a slice and the paragraphs in which they stand."""

    questions: np.ndarray
    """(n,) places in the split."""
    paragraphs: np.ndarray
    """(n,) number of each question's paragraph, from 0."""

    @property
    def sizes(self) -> np.ndarray:
        """(paragraphs,) number of questions."""
        return np.bincount(self.paragraphs)


class Split:
    """The questions of one split of a corpus; scores each different answer once."""

    def __init__(self, corpus: Path, split: str):
        path = corpus / f"{split}.parquet"
        columns = ["id", "title", "context", "question", "answer_texts"]
        table = read_columns(path, columns)
        self.name = split
        self._ids = table["id"].to_pylist()
        self._rows = list(zip(*(table[column].to_pylist() for column in columns[1:]), strict=True))
        self._unanswerable = np.array([not row[3] for row in self._rows])
        self._places: dict[str, int] = {each: place for place, each in enumerate(self._ids)}
        self._known: dict[tuple[int, str], tuple[float, float]] = {}

    def members(self, entry: Slice) -> Members:
        """The questions that belong to a slice."""
        chosen = [place for place, row in enumerate(self._rows) if belongs(entry, *row)]
        contexts: dict[str, int] = {}
        paragraphs = [contexts.setdefault(self._rows[n][1], len(contexts)) for n in chosen]
        return Members(np.array(chosen, int), np.array(paragraphs, int))

    def answered(self, folder: Path) -> Answered:
        """A run's answers to this split, from the `predictions.parquet` in its folder."""
        path = RunFolder(folder).predictions
        table = read_columns(path, ["split", "id", "answer", "null_odds"])
        table = table.filter(pa.compute.equal(table["split"], self.name))
        places = [self._places.get(each, -1) for each in table["id"].to_pylist()]
        if sorted(places) != list(range(len(self._ids))):
            raise MtdnnError(f"{path}: has not each question of the corpus once")
        keys = list(zip(places, table["answer"].to_pylist(), strict=True))
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        golds = [self._rows[place][3] for place, _ in new]
        scored = score_answers(golds, [answer for _, answer in new])
        self._known |= zip(new, zip(scored.exact, scored.f1, strict=True), strict=True)
        scores, odds = np.empty((2, len(keys))), np.empty(len(keys))
        scores[:, places] = np.array([self._known[key] for key in keys], float).T
        odds[places] = table["null_odds"].to_numpy()
        return Answered(scores, odds)

    def sums(self, answered: Answered, members: Members, threshold: float) -> np.ndarray:
        """(2, paragraphs) sums of final EM and F1: answers above the threshold count as ""."""
        final = np.where(answered.odds > threshold, self._unanswerable, answered.scores)
        return np.array(
            [np.bincount(members.paragraphs, each) for each in final[:, members.questions]]
        )
