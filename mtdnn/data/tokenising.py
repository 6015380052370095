"""Text to token ids: windows over long contexts, sentences and choices, in Arrow files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtdnn.config.layout import FEATURES, MANIFEST
from mtdnn.config.settings import FeatureSettings
from mtdnn.data.features import ROWS_AT_A_TIME, SCHEMAS, SPLITS
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, replacing, sha256, write_json

# Models that count positions from the padding token's number on, which are then so many fewer.
_POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
}


def positions_of(config: dict[str, Any]) -> int | None:
    """The longest sequence that an encoder with this `config.json` takes; None without a limit."""
    positions = config.get("max_position_embeddings")
    if positions and config.get("model_type") in _POSITIONS_AFTER_PADDING:
        return positions - config.get("pad_token_id", 1) - 1
    return positions


def prepare(
    family: str, settings: FeatureSettings, encoder: Path, corpus: Path, output: Path
) -> None:
    """Tokenise every split of a corpus with an encoder's tokenizer.

    Args:
        family: task family of the corpus.
        settings: lengths and strides, in tokens.
        encoder: folder of the encoder, with its tokenizer and manifest.
        corpus: folder of the corpus: `{split}.parquet` and its manifest.
        output: folder for `{split}.arrow` and `features.json`; replaced as a whole.

    Raises:
        MtdnnError: the tokenizer is not usable, or the lengths do not fit the encoder.
    """
    positions = positions_of(read_json(encoder / "config.json"))
    if positions and settings.max_length > positions:
        raise MtdnnError(
            f"features.max_length: {settings.max_length} is more than the {positions} positions "
            f"that {encoder} knows; lower it"
        )
    tokenizer = Tokenizer(encoder)
    counts = {}
    with replacing(output) as draft:
        draft.mkdir()
        for split in SPLITS:
            source = corpus / f"{split}.parquet"
            if source.exists():
                target = draft / f"{split}.arrow"
                counts[split] = {
                    **tokenise(family, settings, tokenizer, portions(source), target),
                    "sha256": sha256(target),
                }
        write_json(
            draft / FEATURES,
            {
                "family": family,
                "settings": settings.model_dump(),
                "corpus_digest": read_json(corpus / MANIFEST)["digest"],
                "encoder_digest": read_json(encoder / MANIFEST)["digest"],
                "splits": counts,
            },
        )


def tokenise(
    family: str,
    settings: FeatureSettings,
    tokenizer: "Tokenizer",
    rows: Iterable[dict[str, list]],
    target: Path,
) -> dict[str, int]:
    """Write the features of rows, given as columns in portions, to the Arrow file `target`.

    Returns:
        The numbers of sequences and of tokens.
    """
    encode = {
        "question_answering": _windows,
        "multiple_choice": _choices,
        "sequence_classification": _sentences,
    }[family]
    batches = (encode(portion, tokenizer, settings) for portion in rows)
    return _write(target, SCHEMAS[family], batches)


@dataclass(frozen=True)
class _Frame:
    """Special tokens of a pair: before the first text, between both, after the second."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[int, int, int, int, int]  # before, first, between, second, after

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


class Tokenizer:
    """An encoder's fast tokenizer."""

    def __init__(self, encoder: Path):
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                encoder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # its Rust part raises plain exceptions
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise MtdnnError(f"{encoder}: no usable tokenizer: {reason}") from None
        if not tokenizer.is_fast:
            raise MtdnnError(
                f"{encoder}: has no fast tokenizer (tokenizer.json), which is needed for offsets"
            )
        # Lengths are the features' business: what is cut is cut knowingly, below.
        tokenizer.model_max_length = int(1e30)
        self.call = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self._neither_cut_nor_pad()

    @cached_property
    def frame(self) -> _Frame:
        """How this tokenizer joins a pair, read off an example."""
        pair = self.backend.encode("a", "b")
        first = [i for i, s in enumerate(pair.sequence_ids) if s == 0]
        second = [i for i, s in enumerate(pair.sequence_ids) if s == 1]
        ids, types = pair.ids, pair.type_ids
        return _Frame(
            before=ids[: first[0]],
            between=ids[first[-1] + 1 : second[0]],
            after=ids[second[-1] + 1 :],
            types=(types[0], types[first[0]], types[first[-1] + 1], types[second[0]], types[-1]),
        )

    def plain(self, texts: list[str]) -> list[Any]:
        """Encodings without special tokens, truncation or padding."""
        self._neither_cut_nor_pad()
        return self.backend.encode_batch(texts, add_special_tokens=False)

    def _neither_cut_nor_pad(self) -> None:
        """Undo what tokenizer.json asks for, or an earlier call."""
        self.backend.no_truncation()
        self.backend.no_padding()

    def pairs(self, first: list[str], second: list[str] | None, max_length: int) -> Any:
        """Encodings of sentences or pairs, cut to `max_length` at the longer one's end."""
        return self.call(
            first,
            second,
            truncation="longest_first",
            max_length=max_length,
            return_token_type_ids=True,  # not every tokenizer class gives them unasked
            verbose=False,
        )


def window_starts(tokens: int, capacity: int, settings: FeatureSettings) -> list[int]:
    """First context token of each window over a context of `tokens` tokens.

    `advance` steps by `stride_tokens`, `overlap` lets neighbours share `stride_tokens`;
    both stop with the first window that reaches the end of the context.

    Raises:
        MtdnnError: the overlap leaves no room to advance.
    """
    step = settings.stride_tokens
    if settings.stride_rule == "overlap":
        step = capacity - settings.stride_tokens
    if capacity < 1 or step < 1:
        raise MtdnnError(
            f"features: windows of {settings.max_length} tokens leave {capacity} for the context, "
            f"too few for an {settings.stride_rule} of {settings.stride_tokens}; "
            "raise max_length, or lower stride_tokens or max_question_length"
        )
    # A step longer than a window would skip context.
    step = min(step, capacity)
    return list(range(0, max(tokens - capacity, 0) + step, step)) if tokens > capacity else [0]


def _windows(rows: dict[str, list], tokenizer: Tokenizer, settings: FeatureSettings) -> dict:
    """Windows of [CLS] question [SEP] part of the context [SEP].

    Tokens are gathered from a pool: the heads ([CLS] question [SEP]) of all questions, all
    contexts, what stands behind a context. A window is three ranges of the pool.
    """
    frame = tokenizer.frame
    questions = [
        encoding.ids[: settings.max_question_length]
        for encoding in tokenizer.plain([q.lstrip() for q in rows["question"]])
    ]
    # Questions about one context stand together: each context is tokenised once.
    places = {text: place for place, text in enumerate(dict.fromkeys(rows["context"]))}
    context = np.array([places[text] for text in rows["context"]])
    encodings = tokenizer.plain(list(places))
    offsets = np.array([pair for e in encodings for pair in e.offsets], np.int32).reshape(-1, 2)
    sizes = np.array([len(encoding) for encoding in encodings])
    starts = np.cumsum(sizes) - sizes  # of the contexts, among the contexts' tokens

    heads = [[*frame.before, *question, *frame.between] for question in questions]
    head_sizes = np.array([len(head) for head in heads])
    head_starts = np.cumsum(head_sizes) - head_sizes
    heads_end, contexts_end = head_sizes.sum(), head_sizes.sum() + sizes.sum()
    pool = {
        "input_ids": np.fromiter(
            chain(chain(*heads), chain(*(e.ids for e in encodings)), frame.after), np.int32
        ),
        "token_type_ids": np.repeat(
            np.array([*frame.types[:3] * len(questions), *frame.types[3:]], np.int8),
            [
                *chain(*((len(frame.before), len(q), len(frame.between)) for q in questions)),
                sizes.sum(),
                len(frame.after),
            ],
        ),
    }
    outside = np.full(heads_end, -1, np.int32), np.full(len(frame.after), -1, np.int32)
    for side, name in enumerate(("char_start", "char_end")):
        pool[name] = np.concatenate([outside[0], offsets[:, side], outside[1]])

    capacities = settings.max_length - frame.size - np.array([len(q) for q in questions])
    firsts = [
        window_starts(tokens, capacity, settings)
        for tokens, capacity in zip(sizes[context].tolist(), capacities.tolist(), strict=True)
    ]
    row = np.repeat(np.arange(len(questions)), [len(some) for some in firsts])
    first = np.fromiter(chain(*firsts), np.int64)
    part = np.minimum(capacities[row], sizes[context[row]] - first)
    lengths = np.stack([head_sizes[row], part, np.full(len(row), len(frame.after))], axis=1)
    begins = np.stack(
        [
            head_starts[row],
            heads_end + starts[context[row]] + first,
            np.full(len(row), contexts_end),
        ],
        axis=1,
    )
    tokens = ranges(begins.ravel(), lengths.ravel())
    ends = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))])
    columns = {
        name: pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values[tokens]))
        for name, values in pool.items()
    }
    answers = _answer_tokens(offsets, starts, context, rows["answer_texts"], rows["answer_starts"])
    inside = (answers[0][row] >= first) & (answers[1][row] < first + part)
    inside &= answers[0][row] <= answers[1][row]
    for name, answer in zip(("start", "end"), answers, strict=True):
        # The [CLS] position where the window does not hold the answer.
        columns[name] = np.where(inside, answer[row] - first + head_sizes[row], 0)
    columns["example"] = np.asarray(rows["row"])[row]
    return columns


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of several ranges, end to end: `starts[i]`, …, `starts[i] + lengths[i] - 1`."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)


def _answer_tokens(
    offsets: np.ndarray,
    starts: np.ndarray,
    context: np.ndarray,
    texts: list[list[str]],
    begins: list[list[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """First and last context token of the first gold answer of every row.

    Args:
        offsets: (T, 2) characters of the tokens of all contexts, end to end.
        starts: (contexts,) where each context's tokens start.
        context: (rows,) number of each row's context.
        texts, begins: gold answers and their first characters.

    Returns:
        Two arrays of shape (rows,), counted from the context's first token; the first is above
        the last where there is no answer.
    """
    # All contexts in one search: each has a stretch of the number line to itself.
    stretch = np.int64(1) << 32
    line_of = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(offsets))) * stretch
    lines = offsets + line_of[:, None]
    begin = np.array([some[0] if some else 0 for some in begins], np.int64)
    stop = begin + [len(some[0]) if some else 0 for some in texts]
    line = context * stretch
    first = np.searchsorted(lines[:, 1], line + begin, side="right") - starts[context]
    last = np.searchsorted(lines[:, 0], line + stop, side="left") - 1 - starts[context]
    answered = np.array([bool(some) for some in texts])
    return np.where(answered, first, 1), np.where(answered, last, 0)


def _choices(rows: dict[str, list], tokenizer: Tokenizer, settings: FeatureSettings) -> dict:
    """A sequence [CLS] sentence [SEP] choice [SEP] for each choice."""
    counts = [len(choices) for choices in rows["choices"]]
    sentences = [s for s, n in zip(rows["sentence"], counts, strict=True) for _ in range(n)]
    choices = [choice for choices in rows["choices"] for choice in choices]
    encoded = tokenizer.pairs(sentences, choices, settings.max_length)
    return _classified(encoded, np.repeat(rows["row"], counts), np.repeat(rows["label"], counts))


def _sentences(rows: dict[str, list], tokenizer: Tokenizer, settings: FeatureSettings) -> dict:
    """A sequence [CLS] sentence [SEP] or [CLS] sentence1 [SEP] sentence2 [SEP]."""
    pairs = rows["sentence2"][0] is not None
    second = rows["sentence2"] if pairs else None
    encoded = tokenizer.pairs(rows["sentence1"], second, settings.max_length)
    return _classified(encoded, rows["row"], rows["label"])


def _classified(encoded: Any, example: Iterable[int], label: Iterable[int]) -> dict:
    return {
        "example": example,
        "input_ids": encoded["input_ids"],
        "token_type_ids": encoded["token_type_ids"],
        "label": label,
    }


def portions(source: Path) -> Iterator[dict[str, list]]:
    """Rows of a corpus file in portions, with their number in the file as `row`."""
    first = 0
    for batch in pq.ParquetFile(source).iter_batches(ROWS_AT_A_TIME):
        rows = batch.to_pydict()
        rows["row"] = list(range(first, first + len(batch)))
        first += len(batch)
        yield rows


def _write(target: Path, schema: pa.Schema, batches: Iterable[dict]) -> dict[str, int]:
    """Write portions of features; returns the numbers of sequences and tokens."""
    sequences = tokens = 0
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for columns in batches:
            arrays = [_array(columns[field.name], field.type) for field in schema]
            batch = pa.record_batch(arrays, schema=schema)
            writer.write_batch(batch)
            sequences += len(batch)
            tokens += len(batch.column("input_ids").flatten())
    return {"sequences": sequences, "tokens": tokens}


def _array(column: Any, kind: pa.DataType) -> pa.Array:
    return column.cast(kind) if isinstance(column, pa.Array) else pa.array(column, type=kind)
