"""Text to token ids: windows over long contexts, sentences, pairs and choices, as Arrow files."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mtdnn.config.layout import FEATURES, MANIFEST
from mtdnn.config.settings import Family, FeatureSettings
from mtdnn.data.encoder_types import positions_of
from mtdnn.data.features import NO_TAG, ROWS_AT_A_TIME, SCHEMAS, SPLITS, check_files
from mtdnn.errors import MtdnnError, first_line
from mtdnn.machine.files import read_portions, read_product, replacing, sha256, write_json
from mtdnn.machine.progress import say

Rows = dict[str, list[Any]]
"""Rows of a corpus as columns, with their number in the corpus file as `row`."""

Columns = dict[str, Any]
"""Columns of a feature file: arrays, or lists of rows, in order of the sequences."""


def prepare(
    family: Family, settings: FeatureSettings, encoder: Path, corpus: Path, output: Path
) -> None:
    """Tokenise every split of a corpus with an encoder's tokenizer.

    Args:
        family: task family of the corpus.
        settings: lengths and strides, in tokens.
        encoder: folder of the encoder, with its tokenizer and manifest.
        corpus: folder of the corpus: `{split}.parquet` and its manifest.
        output: folder for `{split}.arrow` and their description; replaced as a whole.

    Raises:
        MtdnnError: a file of the encoder or the corpus is missing or was changed, the encoder has
            no usable tokenizer or fewer positions than `max_length`, or the settings leave no
            tokens of a window for the context.
    """
    origin, rows = read_product(encoder / MANIFEST), read_product(corpus / MANIFEST)
    check_files(encoder, origin.get("files", {}))
    splits = rows.get("splits", {})
    for split in splits:
        if not (path := corpus / f"{split}.parquet").exists():
            raise MtdnnError(f"{path}: no such file; `mtdnn corpus` fetches the corpus again")
    check_files(corpus, {f"{split}.parquet": splits[split].get("sha256") for split in splits})
    config = read_product(encoder / "config.json")
    positions, size = positions_of(config), config.get("vocab_size")
    vocabulary = size if isinstance(size, int) else None
    if positions and settings.max_length > positions:
        raise MtdnnError(
            f"features.max_length: {settings.max_length} is more than the {positions} positions "
            f"of {encoder}; lower it"
        )
    tokenizer = Tokenizer(encoder)
    counts: dict[str, dict[str, Any]] = {}
    with replacing(output) as draft:
        draft.mkdir()
        for split in SPLITS:
            source = corpus / f"{split}.parquet"
            if source.exists():
                target = draft / f"{split}.arrow"
                counts[split] = {
                    **tokenise(family, settings, tokenizer, portions(source), target, vocabulary),
                    "sha256": sha256(target),
                }
                _report_cut(source, settings, counts[split])
        write_json(
            draft / FEATURES,
            {
                "family": family,
                "settings": settings.model_dump(),
                "corpus_digest": rows["digest"],
                "encoder_digest": origin["digest"],
                "splits": counts,
            },
        )


def _report_cut(source: Path, settings: FeatureSettings, counts: dict[str, Any]) -> None:
    if cut := counts.get("cut"):
        say(
            f"features: {cut} of the {counts['sequences']} sentences of {source} are cut to "
            f"max_length, {settings.max_length} tokens; the words beyond it are predicted to be "
            "outside of any entity"
        )


def tokenise(
    family: Family,
    settings: FeatureSettings,
    tokenizer: "Tokenizer",
    rows: Iterable[Rows],
    target: Path,
    vocabulary: int | None = None,
) -> dict[str, int]:
    """Write the features of a corpus to the Arrow file `target`.

    Args:
        family: task family of the corpus.
        settings: lengths and strides, in tokens.
        tokenizer: the encoder's tokenizer.
        rows: the rows in portions; each becomes a chunk of the file.
        target: the file.
        vocabulary: number of the encoder's embeddings; None if it is not known.

    Returns:
        The numbers of `sequences` and of `tokens`; for token classification also the number of
        sequences that were `cut` to the maximum length.

    Raises:
        MtdnnError: the settings leave no tokens of a window for the context, or a token has no
            embedding.
    """
    batches = (ENCODE[family](portion, tokenizer, settings) for portion in rows)
    try:
        return _write(target, SCHEMAS[family], batches, vocabulary)
    except OverflowError:
        raise MtdnnError(
            f"{tokenizer.folder}: no usable tokenizer: it gives tokens that have no embedding"
            + (f": vocab_size is {vocabulary} in config.json" if vocabulary else "")
        ) from None


@dataclass(frozen=True)
class Frame:
    """The special tokens of a pair of texts.

    Attributes:
        before: ids of the tokens before the first text.
        between: ids of the tokens between the texts.
        after: ids of the tokens after the second text.
        types: token type ids of `before`, the first text, `between`, the second text, `after`.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[int, int, int, int, int]

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return len(self.before) + len(self.between) + len(self.after)


class Tokenizer:
    """An encoder's fast tokenizer.

    Args:
        encoder: folder of the encoder.

    Attributes:
        folder: folder of the encoder.
        call: the tokenizer as transformers loads it.
        backend: its part in Rust.

    Raises:
        MtdnnError: the folder has no usable fast tokenizer.
    """

    def __init__(self, encoder: Path):
        from transformers import AutoTokenizer

        self.folder = encoder
        with self._in_one_line():
            tokenizer = AutoTokenizer.from_pretrained(
                encoder, local_files_only=True, trust_remote_code=False
            )
        if not tokenizer.is_fast:
            raise MtdnnError(
                f"{encoder}: has no fast tokenizer (tokenizer.json), which gives the offsets"
            )
        # The tokenizer's own limit must not cut anything: lengths come from the settings.
        tokenizer.model_max_length = int(1e30)
        self.call = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self._neither_cut_nor_pad()
        if not self.backend.num_special_tokens_to_add(is_pair=True):
            # transformers before 5.4 ignores those of DeBERTa's tokenizer.json.
            raise MtdnnError(
                f"{encoder}: its tokenizer adds no special tokens, such as [CLS] and [SEP]; use "
                "another tokenizer.json, or transformers 5.4 or newer"
            )

    @cached_property
    def frame(self) -> Frame:
        """The special tokens with which this tokenizer joins a pair, read from an example."""
        with self._in_one_line():
            pair = self.backend.encode("a", "b")
            first = [i for i, s in enumerate(pair.sequence_ids) if s == 0]
            second = [i for i, s in enumerate(pair.sequence_ids) if s == 1]
            ids, types = pair.ids, pair.type_ids
            between = first[-1] + 1
            return Frame(
                before=ids[: first[0]],
                between=ids[between : second[0]],
                after=ids[second[-1] + 1 :],
                types=(types[0], types[first[0]], types[between], types[second[0]], types[-1]),
            )

    def plain(self, texts: list[str]) -> list[Any]:
        """Return the encodings of `texts` without special tokens, truncation or padding."""
        self._neither_cut_nor_pad()
        with self._in_one_line():
            encodings: list[Any] = self.backend.encode_batch(texts, add_special_tokens=False)
        return encodings

    def offsets(self, text: str, encoding: Any) -> list[tuple[int, int]]:
        """Return the first character of each token of `text` and the end, without outer spaces.

        Tokenizers that take a space as part of the word after it may count it among the token's
        characters (ModernBERT, DeBERTa) or not (RoBERTa). A token of spaces alone is empty, at
        the end of the spaces.
        """
        offsets: list[tuple[int, int]] = encoding.offsets
        if not self._counts_spaces:
            return offsets
        trimmed = []
        for start, end in offsets:
            token = text[start:end]
            first = end - len(token.lstrip())
            trimmed.append((first, max(first, start + len(token.rstrip()))))
        return trimmed

    @cached_property
    def _counts_spaces(self) -> bool:
        text = "a b"
        return any(" " in text[a:b] for a, b in self.plain([text])[0].offsets)

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """Turn any failure of the tokenizer's libraries into an `MtdnnError` of one line."""
        try:
            yield
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # the Rust part panics with something that is no Exception
            reason = first_line(error)
            raise MtdnnError(f"{self.folder}: no usable tokenizer: {reason}") from None

    def _neither_cut_nor_pad(self) -> None:
        """Undo the truncation and padding that tokenizer.json or an earlier call has set."""
        self.backend.no_truncation()
        self.backend.no_padding()

    def pairs(self, first: list[str], second: list[str] | None, max_length: int) -> Any:
        """Return the encodings of sentences or pairs, of at most `max_length` tokens.

        Tokens are cut from the end of the longer text.
        """
        with self._in_one_line():
            return self.call(
                first,
                second,
                truncation="longest_first",
                max_length=max_length,
                return_token_type_ids=True,  # some tokenizer classes omit them by default
                verbose=False,
            )


def window_starts(tokens: int, capacity: int, settings: FeatureSettings) -> list[int]:
    """Return the first context token of each window over a context of `tokens` tokens.

    The next window starts `stride_tokens` later (`advance`, as in the original BERT code) or
    shares `stride_tokens` with the one before (`overlap`). The first window that reaches the end
    of the context is the last.

    Args:
        tokens: length of the context.
        capacity: context tokens in a window.
        settings: the rule and its stride.

    Raises:
        MtdnnError: a window has no context tokens, or no more than the overlap.
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


def _windows(rows: Rows, tokenizer: Tokenizer, settings: FeatureSettings) -> Columns:
    """Return the windows [CLS] question [SEP] part of the context [SEP] of every row."""
    frame = tokenizer.frame
    questions = [
        encoding.ids[: settings.max_question_length]
        for encoding in tokenizer.plain([q.lstrip() for q in rows["question"]])
    ]
    sizes = np.array([len(question) for question in questions])
    head_sizes = sizes + len(frame.before) + len(frame.between)
    contexts = _tokenise_contexts(rows["context"], tokenizer)
    parts = _cut(contexts, settings.max_length - frame.size - sizes, settings)
    answers = _answer_tokens(contexts, rows["answer_texts"], rows["answer_starts"])
    return {
        "example": np.asarray(rows["row"])[parts.row],
        **_gather(_pool(questions, contexts, frame), head_sizes, contexts, parts, len(frame.after)),
        **_labels(parts, answers, head_sizes),
    }


@dataclass(frozen=True)
class _Contexts:
    """The different contexts of some rows, tokenised once each; their tokens end to end.

    Attributes:
        encodings: the tokenizer's encoding of each, without special tokens.
        of_row: (rows,) number of each row's context.
        sizes: (contexts,) length in tokens.
        starts: (contexts,) number of each context's first token among all tokens.
        offsets: (tokens, 2) first character of each token in its context, and the end, without
            outer spaces.
    """

    encodings: list[Any]
    of_row: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    offsets: np.ndarray


def _tokenise_contexts(texts: list[str], tokenizer: Tokenizer) -> _Contexts:
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    encodings = tokenizer.plain(list(numbers))
    sizes = np.array([len(encoding) for encoding in encodings])
    offsets = [
        pair
        for text, encoding in zip(numbers, encodings, strict=True)
        for pair in tokenizer.offsets(text, encoding)
    ]
    return _Contexts(
        encodings=encodings,
        of_row=np.array([numbers[text] for text in texts]),
        sizes=sizes,
        starts=np.cumsum(sizes) - sizes,
        offsets=np.array(offsets, np.int32).reshape(-1, 2),
    )


@dataclass(frozen=True)
class _Parts:
    """The parts of contexts that windows contain.

    Attributes:
        row: (windows,) number of the window's row.
        first: (windows,) first token, counted from the start of the context.
        size: (windows,) length in tokens.
    """

    row: np.ndarray
    first: np.ndarray
    size: np.ndarray


def _cut(contexts: _Contexts, capacities: np.ndarray, settings: FeatureSettings) -> _Parts:
    """Cut the context of every row into parts of at most `capacities` (rows,) tokens."""
    sizes = contexts.sizes[contexts.of_row]
    firsts = [
        window_starts(tokens, capacity, settings)
        for tokens, capacity in zip(sizes.tolist(), capacities.tolist(), strict=True)
    ]
    row = np.repeat(np.arange(len(firsts)), [len(starts) for starts in firsts])
    first = np.fromiter(chain(*firsts), np.int64)
    return _Parts(row, first, np.minimum(capacities[row], sizes[row] - first))


def _pool(questions: list[list[int]], contexts: _Contexts, frame: Frame) -> dict[str, np.ndarray]:
    """Return the tokens from which windows are gathered, by column, shape (pool's tokens,).

    The pool has the heads [CLS] question [SEP] of all questions, then all contexts, then what
    follows a context: a window is one range of each.
    """
    heads = [[*frame.before, *question, *frame.between] for question in questions]
    ids = chain(chain(*heads), chain(*(e.ids for e in contexts.encodings)), frame.after)
    types = np.array([*frame.types[:3] * len(questions), *frame.types[3:]], np.int8)
    repeats = [
        *chain(*((len(frame.before), len(q), len(frame.between)) for q in questions)),
        contexts.sizes.sum(),
        len(frame.after),
    ]
    before = np.full(sum(map(len, heads)), -1, np.int32)
    after = np.full(len(frame.after), -1, np.int32)
    characters = {
        name: np.concatenate([before, contexts.offsets[:, side], after])
        for side, name in enumerate(("char_start", "char_end"))
    }
    return {
        "input_ids": np.fromiter(ids, np.int32),
        "token_type_ids": np.repeat(types, repeats),
        **characters,
    }


def _gather(
    pool: dict[str, np.ndarray],
    head_sizes: np.ndarray,
    contexts: _Contexts,
    parts: _Parts,
    after: int,
) -> Columns:
    """Return the columns that have a value for each token, as one list for each window.

    Args:
        pool: tokens by column, as `_pool` lays them out.
        head_sizes: (rows,) length of each question's head in tokens.
        contexts: the contexts.
        parts: the part of the context in every window.
        after: number of tokens that follow a context.
    """
    row = parts.row
    head_starts = np.cumsum(head_sizes) - head_sizes
    contexts_start = head_sizes.sum()
    contexts_end = contexts_start + contexts.sizes.sum()
    part_starts = contexts_start + contexts.starts[contexts.of_row[row]] + parts.first
    lengths = np.stack([head_sizes[row], parts.size, np.full(len(row), after)], axis=1)
    starts = np.stack([head_starts[row], part_starts, np.full(len(row), contexts_end)], axis=1)
    tokens = ranges(starts.ravel(), lengths.ravel())
    ends = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))])
    return {
        name: pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values[tokens]))
        for name, values in pool.items()
    }


def _labels(
    parts: _Parts, answers: tuple[np.ndarray, np.ndarray], head_sizes: np.ndarray
) -> Columns:
    """Return `start` and `end` of every window, (windows,): token positions in the window.

    Both are 0, the position of [CLS], where the window does not contain the whole answer.
    """
    first, last = (tokens[parts.row] for tokens in answers)
    inside = (first >= parts.first) & (last < parts.first + parts.size) & (first <= last)
    shift = head_sizes[parts.row] - parts.first
    return {
        "start": np.where(inside, first + shift, 0),
        "end": np.where(inside, last + shift, 0),
    }


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers of several ranges, end to end.

    Args:
        starts: (ranges,) first number of each.
        lengths: (ranges,) how many numbers it has.
    """
    ends = np.cumsum(lengths)
    numbers: np.ndarray = np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)
    return numbers


def _answer_tokens(
    contexts: _Contexts, texts: list[list[str]], begins: list[list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last context token of the first gold answer of every row.

    Args:
        contexts: the rows' contexts.
        texts: gold answers of every row.
        begins: their first characters in the context.

    Returns:
        Two arrays of shape (rows,), counted from the context's first token; the first token
        comes after the last where there is no answer.
    """
    offsets, starts, context = contexts.offsets, contexts.starts, contexts.of_row
    # One search for all contexts: each has a stretch of the number line to itself.
    stretch = np.int64(1) << 32
    line_of = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(offsets))) * stretch
    lines = offsets + line_of[:, None]
    begin = np.array([each[0] if each else 0 for each in begins], np.int64)
    stop = begin + [len(each[0]) if each else 0 for each in texts]
    line = context * stretch
    first = np.searchsorted(lines[:, 1], line + begin, side="right") - starts[context]
    last = np.searchsorted(lines[:, 0], line + stop, side="left") - 1 - starts[context]
    answered = np.array([bool(each) for each in texts])
    return np.where(answered, first, 1), np.where(answered, last, 0)


def _choices(rows: Rows, tokenizer: Tokenizer, settings: FeatureSettings) -> Columns:
    """Return a sequence [CLS] sentence [SEP] choice [SEP] for each choice of every row."""
    counts = [len(choices) for choices in rows["choices"]]
    sentences = [s for s, n in zip(rows["sentence"], counts, strict=True) for _ in range(n)]
    choices = [choice for choices in rows["choices"] for choice in choices]
    encoded = tokenizer.pairs(sentences, choices, settings.max_length)
    return _classified(encoded, np.repeat(rows["row"], counts), np.repeat(rows["label"], counts))


def _sentences(rows: Rows, tokenizer: Tokenizer, settings: FeatureSettings) -> Columns:
    """Return [CLS] sentence [SEP] or [CLS] sentence1 [SEP] sentence2 [SEP] for every row."""
    pairs = rows["sentence2"][0] is not None
    second = rows["sentence2"] if pairs else None
    encoded = tokenizer.pairs(rows["sentence1"], second, settings.max_length)
    return _classified(encoded, rows["row"], rows["label"])


def _words(rows: Rows, tokenizer: Tokenizer, settings: FeatureSettings) -> Columns:
    """Return [CLS] words [SEP] for every row, with tag and number of the word at its first token.

    The words are tokenised together, joined by spaces, as the encoder has seen text; offsets tell
    which token is the first with a character of a word. Some words may have none: those beyond
    the maximum length, and characters that the tokenizer removes.
    """
    encodings = tokenizer.pairs([" ".join(w) for w in rows["tokens"]], None, settings.max_length)
    encodings = encodings.encodings
    sizes = [len(encoding) for encoding in encodings]
    first, word = _first_tokens(rows["tokens"], encodings)
    tags = np.full(sum(sizes), NO_TAG, np.int16)
    tags[first] = np.fromiter(chain(*rows["tags"]), np.int16)[word]
    words = np.array([len(each) for each in rows["tokens"]])
    number = np.full(sum(sizes), -1, np.int32)
    number[first] = word - np.repeat(np.cumsum(words) - words, words)[word]
    ends = pa.array(np.cumsum([0, *sizes]), pa.int32())
    return {
        "example": rows["row"],
        "input_ids": [encoding.ids for encoding in encodings],
        "token_type_ids": [encoding.type_ids for encoding in encodings],
        "tags": pa.ListArray.from_arrays(ends, pa.array(tags)),
        "word": pa.ListArray.from_arrays(ends, pa.array(number)),
        "cut": [bool(encoding.overflowing) for encoding in encodings],
    }


def _first_tokens(
    sentences: list[list[str]], encodings: list[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first token of each word that has one, and the words' numbers.

    Both are counted through all sentences. A token belongs to the word that has its last character,
    since some tokenizers count the space before a word as its first.
    """
    # One search for all sentences: each has a stretch of the number line to itself.
    stretch = np.int64(1) << 32
    sizes = np.array([len(word) for words in sentences for word in words], np.int64)
    counts = np.array([len(words) for words in sentences])
    spaced = sizes + 1
    before = np.cumsum(spaced) - spaced
    begins = before - np.repeat(before[np.cumsum(counts) - counts], counts)
    begins += np.repeat(np.arange(len(sentences)), counts) * stretch
    offsets = np.array([pair for e in encodings for pair in e.offsets], np.int64).reshape(-1, 2)
    last = (
        offsets[:, 1] - 1 + np.repeat(range(len(encodings)), [len(e) for e in encodings]) * stretch
    )
    word = np.searchsorted(begins, last, side="right") - 1
    special = np.fromiter(chain(*(e.special_tokens_mask for e in encodings)), bool)
    inside = ~special & (offsets[:, 1] > offsets[:, 0]) & (last < begins[word] + sizes[word])
    tokens = np.flatnonzero(inside)
    numbers, places = np.unique(word[tokens], return_index=True)
    return tokens[places], numbers


def _classified(encoded: Any, example: Iterable[int], label: Iterable[int]) -> Columns:
    return {
        "example": example,
        "input_ids": encoded["input_ids"],
        "token_type_ids": encoded["token_type_ids"],
        "label": label,
    }


def portions(source: Path) -> Iterator[Rows]:
    """Yield the rows of a corpus file, `ROWS_AT_A_TIME` at a time."""
    first = 0
    for batch in read_portions(source, ROWS_AT_A_TIME):
        rows = batch.to_pydict()
        rows["row"] = list(range(first, first + len(batch)))
        first += len(batch)
        yield rows


ENCODE: dict[Family, Callable[[Rows, Tokenizer, FeatureSettings], Columns]] = {
    "question_answering": _windows,
    "multiple_choice": _choices,
    "sequence_classification": _sentences,
    "regression": _sentences,
    "token_classification": _words,
}
"""For each family, the function that turns rows into the columns of a feature file."""


def _write(
    target: Path, schema: pa.Schema, batches: Iterable[Columns], vocabulary: int | None
) -> dict[str, int]:
    """Write features in portions; return the numbers of sequences and tokens, and of cut ones.

    Raises:
        OverflowError: a token's id is not below `vocabulary`.
    """
    sequences = tokens = cut = 0
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for columns in batches:
            try:
                arrays = [_array(columns[field.name], field.type) for field in schema]
            except pa.ArrowInvalid as error:
                raise OverflowError from error
            batch = pa.record_batch(arrays, schema=schema)
            writer.write_batch(batch)
            sequences += len(batch)
            ids = batch.column("input_ids").flatten().to_numpy()
            if vocabulary is not None and len(ids) and ids.max() >= vocabulary:
                raise OverflowError
            tokens += len(ids)
            cut += sum(columns.get("cut", ()))
    return {"sequences": sequences, "tokens": tokens, **({"cut": cut} if cut else {})}


def _array(column: Any, kind: pa.DataType) -> pa.Array:
    return column.cast(kind) if isinstance(column, pa.Array) else pa.array(column, type=kind)
