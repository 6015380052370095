"""Feature files: token ids in Arrow, memory-mapped and read without a copy.

Every row of a file is a *sequence*, ready for the encoder with its special tokens. A batch counts
*items*: windows (question answering), sentences or pairs (sequence classification, regression),
sentences (token classification), or all the choices of a question together (multiple choice).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from mtdnn.config.layout import FEATURES, MANIFEST, Layout
from mtdnn.config.settings import Family, RunSettings
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_product, sha256

SPLITS = ("train", "dev", "held_out", "test")
ROWS_AT_A_TIME = 2_000
"""Rows of a corpus that are tokenised, or read, together; the chunks of a feature file."""

NO_TAG = -100
"""The tag of a token that begins no word; torch's cross-entropy ignores it."""

_SEQUENCE = [
    ("example", pa.int32()),
    ("input_ids", pa.list_(pa.int32())),
    ("token_type_ids", pa.list_(pa.int8())),
]
SCHEMAS: dict[Family, pa.Schema] = {
    "question_answering": pa.schema(
        [
            *_SEQUENCE,
            ("start", pa.int32()),
            ("end", pa.int32()),
            ("char_start", pa.list_(pa.int32())),
            ("char_end", pa.list_(pa.int32())),
        ]
    ),
    "multiple_choice": pa.schema([*_SEQUENCE, ("label", pa.int32())]),
    "sequence_classification": pa.schema([*_SEQUENCE, ("label", pa.int32())]),
    "regression": pa.schema([*_SEQUENCE, ("label", pa.float32())]),
    "token_classification": pa.schema(
        [*_SEQUENCE, ("tags", pa.list_(pa.int16())), ("word", pa.list_(pa.int32()))]
    ),
}
"""Columns of a feature file by family; lists have a value for each token.

`example` is the row in the corpus file; `start` and `end` are the answer's first and last token,
counted from the start of the sequence (0 where the window does not contain the answer);
`char_start` and `char_end` are each token's characters in the context (-1 outside of it); `tags`
and `word` are the tag and the number of the word that begins with the token (`NO_TAG` and -1
elsewhere).
"""


@dataclass(frozen=True)
class Sequences:
    """Sequences of a feature file, laid end to end.

    Attributes:
        lengths: (sequences,) length of each, in tokens.
        items: (items + 1,) first sequence of every item, and the number of sequences.
        columns: columns of the file by name: those with a value for each token have shape
            (tokens,), the others (sequences,).
    """

    lengths: np.ndarray
    items: np.ndarray
    columns: dict[str, np.ndarray]


class Features:
    """A memory-mapped feature file.

    Args:
        path: a `{split}.arrow` file written by `prepare`.
        family: its task family.

    Attributes:
        family: the task family.

    Raises:
        MtdnnError: the file is missing or not a feature file.
    """

    def __init__(self, path: Path, family: Family):
        try:
            self._source = pa.memory_map(str(path))
            self.table = pa.ipc.open_file(self._source).read_all()
        except FileNotFoundError:
            raise MtdnnError(f"{path}: no such file; `mtdnn features` writes it") from None
        except (OSError, pa.ArrowException) as error:
            raise MtdnnError(
                f"{path}: not a readable feature file ({error}); delete it and run `mtdnn features`"
            ) from None
        self.family = family
        sizes = [len(chunk) for chunk in self.table.column("example").chunks]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def sequences(self) -> int:
        """Number of sequences in the file."""
        return len(self.table)

    def __len__(self) -> int:
        """Number of items in the file."""
        return len(self.item_starts) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of every sequence in tokens, shape (sequences,)."""
        chunks = self.table.column("input_ids").chunks
        return np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in chunks])

    def column(self, name: str) -> np.ndarray:
        """Return a whole column that has one value for each sequence, shape (sequences,)."""
        values: np.ndarray = self.table.column(name).to_numpy()
        return values

    @cached_property
    def item_starts(self) -> np.ndarray:
        """First sequence of every item, and the number of sequences; shape (items + 1,)."""
        if self.family != "multiple_choice":
            return np.arange(self.sequences + 1)
        example = self.column("example")
        starts = np.flatnonzero(np.diff(example, prepend=example[0] - 1))
        return np.append(starts, self.sequences)

    @cached_property
    def item_tokens(self) -> np.ndarray:
        """First token of every item, and the number of tokens; shape (items + 1,)."""
        tokens = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
        firsts: np.ndarray = tokens[self.item_starts]
        return firsts

    def terms(self, items: np.ndarray) -> np.ndarray:
        """Return the number of terms of the mean loss that each of `items`, (N,), has.

        An item has one, except in token classification, where each of its words has one.
        """
        if self.family != "token_classification":
            return np.ones(len(items), np.int64)
        picked = self.pick(items, ("tags",))
        starts = np.cumsum(picked.lengths) - picked.lengths
        words: np.ndarray = np.add.reduceat(
            picked.columns["tags"] != NO_TAG, starts, dtype=np.int64
        )
        return words

    @cached_property
    def _chunks(self) -> dict[str, list[tuple[np.ndarray, np.ndarray | None]]]:
        """Values and, for lists, offsets of every chunk of every column, without a copy."""
        chunks: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {}
        for name in self.table.column_names:
            chunks[name] = [
                (chunk.values.to_numpy(), chunk.offsets.to_numpy())
                if pa.types.is_list(chunk.type)
                else (chunk.to_numpy(), None)
                for chunk in self.table.column(name).chunks
            ]
        return chunks

    def pick(self, items: Iterable[int], columns: Iterable[str] | None = None) -> Sequences:
        """Return the sequences of `items`, in that order, with all columns or only `columns`."""
        items = np.asarray(items, dtype=np.int64)
        first, last = self.item_starts[items], self.item_starts[items + 1]
        rows = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
        places = np.searchsorted(self._starts, rows, side="right") - 1
        within = rows - self._starts[places]
        picked = {}
        for name in columns or self.table.column_names:
            pieces = []
            for place, row in zip(places, within, strict=True):
                values, offsets = self._chunks[name][place]
                piece = slice(row, row + 1) if offsets is None else slice(*offsets[row : row + 2])
                pieces.append(values[piece])
            picked[name] = np.concatenate(pieces)
        return Sequences(
            lengths=self.lengths[rows],
            items=np.concatenate([[0], np.cumsum(last - first)]),
            columns=picked,
        )


def training_features(layout: Layout, run: RunSettings) -> dict[str, Features]:
    """Return the training features of every corpus of a run, by the corpus's name.

    Raises:
        MtdnnError: a file is missing or broken, or its texts do not fit the corpus's head.
    """
    found = {
        name: Features(
            layout.features(run.encoder_name, run.features_variant, name) / "train.arrow",
            corpus.family,
        )
        for name, corpus in run.corpora.items()
    }
    for name in found.keys() & run.training.heads.keys():
        check_pairs(found[name], name)
    return found


def check_pairs(features: Features, corpus: str) -> None:
    """Check that the sequences of a corpus are pairs of texts, as its head needs them.

    Raises:
        MtdnnError: they are single texts.
    """
    columns = features.pick([0], ("input_ids", "token_type_ids")).columns
    ids = columns["input_ids"]
    # A single text has no second segment, and its separator at the end alone.
    if not columns["token_type_ids"].any() and (ids == ids[-1]).sum() < 2:
        raise MtdnnError(
            f"training.heads.{corpus}: is for pairs of sentences, but {corpus} has no sentence2"
        )


def check_unchanged(layout: Layout, run: RunSettings, *splits: str) -> None:
    """Check the files of a run's features and corpora, of the given splits, by their digests.

    Corpora that the run is only scored on are checked too, unless `train` is among the splits.
    With the split `train`, the encoder's files are checked as well.

    Raises:
        MtdnnError: a file was cut off or changed since it was written, or features were
            prepared from another version of their corpus.
    """
    if "train" in splits:
        encoder = layout.encoder(run.encoder_name)
        check_files(encoder, read_product(encoder / MANIFEST)["files"])
    for name in run.corpora if "train" in splits else [*run.corpora, *run.scored]:
        features = layout.features(run.encoder_name, run.features_variant, name)
        description, corpus = read_product(features / FEATURES), layout.corpus(name)
        manifest = read_product(corpus / MANIFEST)
        if manifest["digest"] != description["corpus_digest"]:
            raise MtdnnError(
                f"{features}: prepared from another version of {name} than {corpus} has now; "
                "delete it and run `mtdnn features`"
            )
        for folder, suffix, described in (
            (features, "arrow", description["splits"]),
            (corpus, "parquet", manifest.get("splits", {})),
        ):
            found = {split: described.get(split, {}) for split in splits}
            check_files(folder, {f"{s}.{suffix}": found[s].get("sha256") for s in splits})


def check_files(folder: Path, digests: Mapping[str, str | None]) -> None:
    """Check that files are what was written.

    Args:
        folder: their folder.
        digests: the SHA-256 of each file by its name; a missing file or digest is passed over.

    Raises:
        MtdnnError: a file has another digest.
    """
    for name, expected in digests.items():
        path = folder / name
        if expected and path.exists() and sha256(path) != expected:
            raise MtdnnError(
                f"{path}: was cut off or changed since it was written; delete it and rebuild it"
            )
