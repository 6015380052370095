"""Decode span logits into answers: n-best search over the windows of each question.

The procedure is that of BERT's SQuAD 2.0 code (Devlin et al. 2019, run_squad.py): each window
pairs its `n_best` highest starts with its `n_best` highest ends, and the best admissible pair
over all windows answers the question. The null score, the score of "no answer", is the lowest
start + end logit at [CLS] over all windows. As in the example of transformers, but not in BERT's
code, a start counts in every window that has it, not only where it has the most context.

Only the best pair so far is kept for each question, so windows can arrive in batches of any size
and order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtdnn.config.settings import DecodingSettings
from mtdnn.errors import MtdnnError

NO_SCORE = -1e30
"""Score of a question that has no admissible pair.

Its null odds exceed every threshold but stay finite, so JSON can hold them.
"""

PREDICTIONS = pa.schema(
    [
        ("corpus", pa.string()),
        ("split", pa.string()),
        ("id", pa.string()),
        ("answer", pa.string()),
        ("answer_start", pa.int32()),
        ("answer_end", pa.int32()),
        ("score", pa.float64()),
        ("null_score", pa.float64()),
        ("null_odds", pa.float64()),
    ]
)
"""Columns of predictions.parquet; scores and null odds are in logits."""

_MAX_CHUNK_VALUES = 1 << 21
"""Maximum number of values in an intermediate array of one chunk of windows."""


@dataclass(frozen=True)
class SpanLogits:
    """Span logits of W windows, laid end to end in T tokens.

    Each window begins with [CLS]. The windows of a question need not be adjacent.

    Attributes:
        start: (T,) float32; logit that an answer starts at the token.
        end: (T,) float32; logit that an answer ends at the token.
        offsets: (W + 1,) int64; first token of each window, then T.
        char_start: (T,) int32; the token's first character in the context; -1 outside the context.
        char_end: (T,) int32; the character after the token's last; -1 outside the context.
        example: (W,) int32; number of the window's question, from 0.
    """

    start: np.ndarray
    end: np.ndarray
    offsets: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    example: np.ndarray


@dataclass(frozen=True)
class Answers:
    """The best non-null answer of each of N questions, and the score of "no answer".

    Attributes:
        char_start: (N,) int32; first character of the answer in the context; -1 if none.
        char_end: (N,) int32; the character after its last; -1 if none.
        score: (N,) float64; start + end logit; `NO_SCORE` if none.
        null_score: (N,) float64; lowest start + end logit at [CLS] over the question's windows.
    """

    char_start: NDArray[np.int32]
    char_end: NDArray[np.int32]
    score: NDArray[np.float64]
    null_score: NDArray[np.float64]

    @property
    def null_odds(self) -> NDArray[np.float64]:
        """(N,) float64; null score minus answer score, in logits."""
        return self.null_score - self.score

    def part(self, first: int, last: int) -> "Answers":
        """Return the answers of the questions from `first` up to, but not including, `last`."""
        return Answers(*(getattr(self, field.name)[first:last] for field in fields(self)))


class Decoder:
    """Collects the answers of `n_questions` questions from batches of windows.

    Ties are broken the same way whatever the batches and their order. Among equal logits the
    lower positions count as the n best, as in the reference. Among equal pairs of one window the
    lowest start wins, then the lowest end; among equal pairs of several windows, the one that
    starts, then ends, earliest in the context.
    """

    def __init__(self, n_questions: int, settings: DecodingSettings):
        self._settings = settings
        self._char_start = np.full(n_questions, -1, np.int32)
        self._char_end = np.full(n_questions, -1, np.int32)
        self._score = np.full(n_questions, NO_SCORE)
        self._null_score = np.full(n_questions, np.inf)

    def add(self, logits: SpanLogits) -> None:
        """Add a batch of windows.

        Raises:
            MtdnnError: a logit is not finite, so the model is broken.
        """
        if not (np.isfinite(logits.start).all() and np.isfinite(logits.end).all()):
            raise MtdnnError("span logits: not finite; the model's training diverged")
        first = logits.offsets[:-1]
        null_score = logits.start[first].astype(np.float64) + logits.end[first]
        np.minimum.at(self._null_score, logits.example, null_score)
        for windows, start, end, score in _best_pairs(logits, self._settings):
            self._keep_best(
                logits.example[windows], logits.char_start[start], logits.char_end[end], score
            )

    def answers(self) -> Answers:
        """Return the best answers so far.

        Raises:
            MtdnnError: a question had no window.
        """
        missing = np.flatnonzero(np.isinf(self._null_score))
        if len(missing):
            raise MtdnnError(
                f"span logits: {len(missing)} of {len(self._score)} questions have no window, "
                f"the first is number {missing[0]}"
            )
        return Answers(
            self._char_start.copy(),
            self._char_end.copy(),
            self._score.copy(),
            self._null_score.copy(),
        )

    def _keep_best(
        self, example: np.ndarray, char_start: np.ndarray, char_end: np.ndarray, score: np.ndarray
    ) -> None:
        """Replace answers by better candidates, of which a question may have several."""
        example = np.concatenate([example, np.unique(example)])
        questions = example[len(score) :]
        char_start = np.concatenate([char_start, self._char_start[questions]])
        char_end = np.concatenate([char_end, self._char_end[questions]])
        score = np.concatenate([score, self._score[questions]])
        order = np.lexsort((char_end, char_start, -score, example))
        leaders = order[np.unique(example[order], return_index=True)[1]]
        self._char_start[questions] = char_start[leaders]
        self._char_end[questions] = char_end[leaders]
        self._score[questions] = score[leaders]


def decode(logits: SpanLogits, n_questions: int, settings: DecodingSettings) -> Answers:
    """Decode all windows of `n_questions` questions at once.

    Raises:
        MtdnnError: a logit is not finite, or a question has no window.
    """
    decoder = Decoder(n_questions, settings)
    decoder.add(logits)
    return decoder.answers()


def predictions_table(
    corpus: str, split: str, ids: Sequence[str], contexts: Sequence[str], answers: Answers
) -> pa.Table:
    """Return rows of predictions.parquet: each question's best non-null answer and null odds.

    Args:
        corpus: name of the corpus, the same for all rows.
        split: the corpus's split, the same for all rows.
        ids: ids of the N questions.
        contexts: contexts of the N questions, into which the character offsets point.
        answers: answers of the N questions; scores are in logits.

    Returns:
        N rows with the columns `PREDICTIONS`.
    """
    spans = zip(contexts, answers.char_start.tolist(), answers.char_end.tolist(), strict=True)
    texts = [context[start:end] if start >= 0 else "" for context, start, end in spans]
    columns = {
        "corpus": [corpus] * len(texts),
        "split": [split] * len(texts),
        "id": ids,
        "answer": texts,
        "answer_start": answers.char_start,
        "answer_end": answers.char_end,
        "score": answers.score,
        "null_score": answers.null_score,
        "null_odds": answers.null_odds,
    }
    return pa.table(columns, schema=PREDICTIONS)


def _best_pairs(
    logits: SpanLogits, settings: DecodingSettings
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Find the best admissible pair of each window, in chunks of bounded memory.

    Yields:
        Four arrays of the same shape: the windows that have an admissible pair, the pair's start
        token and end token (numbered over the whole batch), and its score in float64.
    """
    first, lengths = logits.offsets[:-1], np.diff(logits.offsets)
    longest = int(lengths.max(initial=1))
    chunk = max(1, _MAX_CHUNK_VALUES // max(longest, min(settings.n_best, longest) ** 2))
    for begin in range(0, len(lengths), chunk):
        windows = np.arange(begin, min(begin + chunk, len(lengths)))
        position = np.arange(lengths[windows].max())
        inside = position < lengths[windows, None]
        token = np.where(inside, first[windows, None] + position, first[windows, None])
        start = _highest(np.where(inside, logits.start[token], -np.inf), settings.n_best)
        end = _highest(np.where(inside, logits.end[token], -np.inf), settings.n_best)

        # Padding repeats [CLS], which is not a context token, so no pair with it is admissible.
        start_token = np.take_along_axis(token, start, axis=1)
        end_token = np.take_along_axis(token, end, axis=1)
        length = end_token[:, None, :] - start_token[:, :, None] + 1
        admissible = (length >= 1) & (length <= settings.max_answer_tokens)
        admissible &= (logits.char_start[start_token] >= 0)[:, :, None]
        admissible &= (logits.char_end[end_token] >= 0)[:, None, :]
        score = (
            logits.start[start_token].astype(np.float64)[:, :, None]
            + logits.end[end_token][:, None, :]
        )
        score = np.where(admissible, score, -np.inf).reshape(len(windows), -1)
        best = score.argmax(axis=1)
        row, column = np.divmod(best, end.shape[1])

        number = np.arange(len(windows))
        found = score[number, best] > -np.inf
        yield (
            windows[found],
            start_token[number, row][found],
            end_token[number, column][found],
            score[number, best][found],
        )


def _highest(values: np.ndarray, n: int) -> np.ndarray:
    """Return the columns of each row's `n` highest values, ascending; ties go to lower columns."""
    rows, width = values.shape
    if width <= n:
        return np.broadcast_to(np.arange(width), values.shape)
    lowest = np.partition(values, width - n, axis=1)[:, width - n, None]
    above, equal = values > lowest, values == lowest
    places_left = n - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= places_left))
    return np.nonzero(chosen)[1].reshape(rows, n)
