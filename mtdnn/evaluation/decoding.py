"""From span logits to answers: n-best decoding over the windows of each question.

The procedure is that of BERT's SQuAD 2.0 code (Devlin et al. 2019, run_squad): in each
window the `n_best` highest starts meet the `n_best` highest ends, and the best admissible
pair of any window is the question's answer. The null score, that of "no answer", is the
lowest start + end at [CLS] of any window.

Only the running best of each question is kept, so windows can be streamed in batches of
any size and order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from mtdnn.config.settings import DecodingSettings
from mtdnn.errors import MtdnnError

NO_SCORE = -1e30
"""Score of a question without any admissible pair: its null odds exceed every threshold,
and still are finite numbers that JSON can hold."""

PREDICTIONS = pa.schema(
    [
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
"""Columns of predictions.parquet."""

_CELLS = 1 << 21
"""Numbers that one chunk of windows may hold in one intermediate array."""


@dataclass(frozen=True)
class SpanLogits:
    """Span logits of W windows, laid end to end in T tokens.

    A window's first token is [CLS]. Windows of a question may stand anywhere.
    """

    start: np.ndarray
    """(T,) float32: logit that an answer starts at the token."""
    end: np.ndarray
    """(T,) float32: logit that an answer ends at the token."""
    offsets: np.ndarray
    """(W + 1,) int64: where windows start; the last entry is T."""
    char_start: np.ndarray
    """(T,) int32: the token's first character in the context; -1 outside the context."""
    char_end: np.ndarray
    """(T,) int32: the character behind the token's last; -1 outside the context."""
    example: np.ndarray
    """(W,) int32: number of the window's question, from 0."""


@dataclass(frozen=True)
class Answers:
    """The best non-null answer of each of N questions, and its rival."""

    char_start: np.ndarray
    """(N,) int32: first character of the answer in the context; -1 if there is none."""
    char_end: np.ndarray
    """(N,) int32: the character behind its last; -1 if there is none."""
    score: np.ndarray
    """(N,) float64: start + end logit; `NO_SCORE` if there is none."""
    null_score: np.ndarray
    """(N,) float64: lowest start + end logit at [CLS] of the question's windows."""

    @property
    def null_odds(self) -> np.ndarray:
        """(N,) float64: how much "no answer" is ahead of the answer."""
        return self.null_score - self.score

    def part(self, first: int, last: int) -> "Answers":
        """Those of the questions `first` to `last` (exclusive)."""
        return Answers(*(getattr(self, field.name)[first:last] for field in fields(self)))


class Decoder:
    """Collects the answers of `n_questions` questions from batches of windows.

    Ties have one outcome, whatever the batches and their order. Among equal logits the
    lower positions belong to the n best, as in the reference. Among equal pairs of a
    window the lowest start wins, then the lowest end; among equal pairs of several
    windows the one that starts, then ends, earliest in the context.
    """

    def __init__(self, n_questions: int, settings: DecodingSettings):
        self._settings = settings
        self._char_start = np.full(n_questions, -1, np.int32)
        self._char_end = np.full(n_questions, -1, np.int32)
        self._score = np.full(n_questions, NO_SCORE)
        self._null_score = np.full(n_questions, np.inf)

    def add(self, logits: SpanLogits) -> None:
        """Take in a batch of windows.

        Raises:
            MtdnnError: a logit is not finite; the model is broken.
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
        """The answers so far.

        Raises:
            MtdnnError: a question had no window.
        """
        absent = np.flatnonzero(np.isinf(self._null_score))
        if len(absent):
            raise MtdnnError(
                f"span logits: {len(absent)} of {len(self._score)} questions have no window, "
                f"the first is number {absent[0]}"
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
        """Replace answers by better candidates; a question may have several candidates."""
        example = np.concatenate([example, np.unique(example)])
        known = example[len(score) :]
        char_start = np.concatenate([char_start, self._char_start[known]])
        char_end = np.concatenate([char_end, self._char_end[known]])
        score = np.concatenate([score, self._score[known]])
        order = np.lexsort((char_end, char_start, -score, example))
        leaders = order[np.unique(example[order], return_index=True)[1]]
        self._char_start[known] = char_start[leaders]
        self._char_end[known] = char_end[leaders]
        self._score[known] = score[leaders]


def decode(logits: SpanLogits, n_questions: int, settings: DecodingSettings) -> Answers:
    """The answers of `n_questions` questions whose windows are all at hand."""
    decoder = Decoder(n_questions, settings)
    decoder.add(logits)
    return decoder.answers()


def predictions_table(
    split: str, ids: Sequence[str], contexts: Sequence[str], answers: Answers
) -> pa.Table:
    """Rows of predictions.parquet: each question's best non-null answer and its null odds.

    Args:
        split: name of the corpus's split, the same for all rows.
        ids: the N questions' ids.
        contexts: the N questions' contexts, to which character offsets refer.
    """
    spans = zip(contexts, answers.char_start.tolist(), answers.char_end.tolist(), strict=True)
    texts = [context[start:end] if start >= 0 else "" for context, start, end in spans]
    columns = {
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
    """The best admissible pair of each window, in chunks of bounded memory.

    Yields:
        Windows that have a pair, its start token, its end token (both counted over the
        whole batch), and its score in float64; all of one shape.
    """
    first, lengths = logits.offsets[:-1], np.diff(logits.offsets)
    longest = int(lengths.max(initial=1))
    chunk = max(1, _CELLS // max(longest, min(settings.n_best, longest) ** 2))
    for begin in range(0, len(lengths), chunk):
        windows = np.arange(begin, min(begin + chunk, len(lengths)))
        position = np.arange(lengths[windows].max())
        inside = position < lengths[windows, None]
        token = np.where(inside, first[windows, None] + position, first[windows, None])
        start = _highest(np.where(inside, logits.start[token], -np.inf), settings.n_best)
        end = _highest(np.where(inside, logits.end[token], -np.inf), settings.n_best)

        # Padding repeats [CLS], which is no context token: no pair with it is admissible.
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
    """Columns of each row's `n` highest values, in ascending order; of equals the lower ones."""
    rows, width = values.shape
    if width <= n:
        return np.broadcast_to(np.arange(width), values.shape)
    lowest = np.partition(values, width - n, axis=1)[:, width - n, None]
    above, equal = values > lowest, values == lowest
    room = n - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
    return np.nonzero(chosen)[1].reshape(rows, n)
