"""Feature files: sequences of token ids in Arrow, read without copying them.

Every file is a table of *sequences*, ready for the encoder, special tokens included. What
a batch counts is an *item*: a window (question answering), a sentence or pair (sequence
classification), or all choices of a question together (multiple choice).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from mtdnn.config.layout import FEATURES, MANIFEST, Layout
from mtdnn.config.settings import RunSettings
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, sha256

SPLITS = ("train", "dev", "held_out")
ROWS_AT_A_TIME = 2_000

_SEQUENCE = [
    ("example", pa.int32()),
    ("input_ids", pa.list_(pa.int32())),
    ("token_type_ids", pa.list_(pa.int8())),
]
SCHEMAS = {
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
}


@dataclass(frozen=True)
class Sequences:
    """Sequences picked from a feature file, laid end to end.

    `columns` holds every column of the file: per-token ones flat, of shape (tokens,), the
    others of shape (sequences,). `lengths` is (sequences,), `items` (items + 1,) gives the
    boundaries of the items among the sequences.
    """

    lengths: np.ndarray
    items: np.ndarray
    columns: dict[str, np.ndarray]


class Features:
    """A memory-mapped feature file.

    Args:
        path: a `{split}.arrow` file written by `prepare`.
        family: its task family.
    """

    def __init__(self, path: Path, family: str):
        try:
            self._source = pa.memory_map(str(path))
            self._table = pa.ipc.open_file(self._source).read_all()
        except FileNotFoundError:
            raise MtdnnError(f"{path}: no such file; `mtdnn features` makes it") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise MtdnnError(
                f"{path}: not a readable feature file ({error}); delete it and prepare it again"
            ) from None
        self.family = family
        sizes = [len(chunk) for chunk in self._table.column("example").chunks]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def sequences(self) -> int:
        """Number of sequences in the file."""
        return len(self._table)

    def __len__(self) -> int:
        """Number of items in the file."""
        return len(self.item_starts) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length in tokens of every sequence, shape (sequences,)."""
        chunks = self._table.column("input_ids").chunks
        return np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in chunks])

    def column(self, name: str) -> np.ndarray:
        """A whole column with one value for each sequence, shape (sequences,)."""
        return self._table.column(name).to_numpy()

    @cached_property
    def item_starts(self) -> np.ndarray:
        """First sequence of every item, and the end; shape (items + 1,)."""
        if self.family != "multiple_choice":
            return np.arange(self.sequences + 1)
        example = self.column("example")
        starts = np.flatnonzero(np.diff(example, prepend=example[0] - 1))
        return np.append(starts, self.sequences)

    @cached_property
    def _chunks(self) -> dict[str, list[tuple[np.ndarray, np.ndarray | None]]]:
        """Values and (for lists) offsets of every chunk of every column, without copies."""
        chunks: dict[str, list] = {}
        for name in self._table.column_names:
            chunks[name] = [
                (chunk.values.to_numpy(), chunk.offsets.to_numpy())
                if pa.types.is_list(chunk.type)
                else (chunk.to_numpy(), None)
                for chunk in self._table.column(name).chunks
            ]
        return chunks

    def pick(self, items: Iterable[int], columns: Iterable[str] | None = None) -> Sequences:
        """The sequences of the given items, in that order."""
        items = np.asarray(items, dtype=np.int64)
        first, last = self.item_starts[items], self.item_starts[items + 1]
        rows = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
        places = np.searchsorted(self._starts, rows, side="right") - 1
        within = rows - self._starts[places]
        picked = {}
        for name in columns or self._table.column_names:
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
    """Training features of every corpus of a run."""
    return {
        name: Features(
            layout.features(run.encoder_name, run.features_variant, name) / "train.arrow",
            corpus.family,
        )
        for name, corpus in run.corpora.items()
    }


def check_unchanged(layout: Layout, run: RunSettings, *splits: str) -> None:
    """Make sure that the features and corpora of a run are what was written once.

    Raises:
        MtdnnError: a file was cut off or exchanged since.
    """
    for name in run.corpora:
        features = layout.features(run.encoder_name, run.features_variant, name)
        made, corpus = read_json(features / FEATURES), layout.corpus(name)
        manifest = read_json(corpus / MANIFEST)
        if manifest["digest"] != made["corpus_digest"]:
            raise MtdnnError(
                f"{features}: was made from another {name} than {corpus} holds now; "
                "prepare the features again"
            )
        for split in splits:
            for path, known in (
                (features / f"{split}.arrow", made["splits"]),
                (corpus / f"{split}.parquet", manifest.get("splits", {})),
            ):
                expected = known.get(split, {}).get("sha256")
                if expected and path.exists() and sha256(path) != expected:
                    raise MtdnnError(
                        f"{path}: was cut off or changed since it was written; "
                        "delete it and make it again"
                    )
