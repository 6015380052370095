"""Scores of single questions, summed within paragraphs: everything that the comparisons need."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtdnn.config.experiment import Slice
from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.scoring import score_answers
from mtdnn.evaluation.slices import belongs
from mtdnn.machine.files import read_columns

METRICS = ("em", "f1")
"""The scores that are compared, in the order of every array's score axis."""


@dataclass(frozen=True)
class Answered:
    """One run's best non-null answers to the N questions of a split, scored.

    Attributes:
        scores: (2, N) exact match and F1, 0 to 1.
        odds: (N,) null odds, in logits.
    """

    scores: NDArray[np.float64]
    odds: NDArray[np.float64]


@dataclass(frozen=True)
class Members:
    """The n questions of a slice and the paragraphs that they belong to.

    Attributes:
        questions: (n,) places of the questions in their split.
        paragraphs: (n,) number of each question's paragraph, from 0.
    """

    questions: NDArray[np.int64]
    paragraphs: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(paragraphs,) number of questions in each paragraph."""
        return np.bincount(self.paragraphs)


class Split:
    """The questions of one split of a corpus; scores each distinct answer only once.

    Args:
        corpus: the corpus's folder.
        split: `dev` or `held_out`.

    Raises:
        MtdnnError: the split's file is missing or not readable.
    """

    def __init__(self, corpus: Path, split: str):
        path = corpus / f"{split}.parquet"
        columns = ["id", "title", "context", "question", "answer_texts"]
        table = read_columns(path, columns)
        self.name = split
        self._ids = table["id"].to_pylist()
        self._rows = list(zip(*(table[column].to_pylist() for column in columns[1:]), strict=True))
        self._unanswerable = np.array([not row[3] for row in self._rows])
        self._places: dict[str, int] = {each: place for place, each in enumerate(self._ids)}
        self._scored: dict[tuple[int, str], tuple[float, float]] = {}

    def members(self, entry: Slice) -> Members:
        """Return the questions that belong to a slice; those with one context are a paragraph."""
        chosen = [place for place, row in enumerate(self._rows) if belongs(entry, *row)]
        contexts: dict[str, int] = {}
        paragraphs = [contexts.setdefault(self._rows[n][1], len(contexts)) for n in chosen]
        return Members(np.array(chosen, int), np.array(paragraphs, int))

    def answered(self, folder: Path) -> Answered:
        """Read a run's answers to this split and score them.

        Args:
            folder: the run's folder, with its predictions.

        Raises:
            MtdnnError: the predictions are missing, not readable or not those of this split.
        """
        path = RunFolder(folder).predictions
        table = read_columns(path, ["split", "id", "answer", "null_odds"])
        table = table.filter(pa.compute.equal(table["split"], self.name))
        places = [self._places.get(each, -1) for each in table["id"].to_pylist()]
        if sorted(places) != list(range(len(self._ids))):
            raise MtdnnError(
                f"{path}: must have each {self.name} question of the corpus once; "
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
        return Answered(scores, odds)

    def sums(self, answered: Answered, members: Members, threshold: float) -> np.ndarray:
        """Sum the final scores of a slice's questions within paragraphs.

        Args:
            answered: a run's answers to this split.
            members: the slice's questions.
            threshold: answers with higher null odds than this count as "".

        Returns:
            (2, paragraphs) sums of EM and F1, each question counting 0 to 1.
        """
        final = np.where(answered.odds > threshold, self._unanswerable, answered.scores)
        return np.array(
            [np.bincount(members.paragraphs, each) for each in final[:, members.questions]]
        )
