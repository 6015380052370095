"""Packed batches: the sequences of a batch laid end to end, without a padding token."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from mtdnn.features import Features, Sequences

TARGETS = {
    "question_answering": ("start", "end"),
    "multiple_choice": ("label",),
    "sequence_classification": ("label",),
}


@dataclass(frozen=True)
class PackedBatch:
    """Sequences laid end to end; S sequences, T tokens, N items.

    Attributes:
        input_ids, token_type_ids, position_ids: (T,) int64; positions count from 0 in
            every sequence.
        lengths: tokens of each sequence, S numbers on the host.
        items: (N + 1,) first sequence of each item, on the host.
        targets: name to (S,) int64: `start` and `end` as positions in their sequence, or
            `label` (repeated on every sequence of an item).
    """

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: tuple[int, ...]
    items: np.ndarray
    targets: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on another device."""
        return PackedBatch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            token_type_ids=self.token_type_ids.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            lengths=self.lengths,
            items=self.items,
            targets={k: v.to(device, non_blocking=True) for k, v in self.targets.items()},
        )

    def pinned(self) -> "PackedBatch":
        """The same batch in memory from which a GPU can fetch it while the host goes on."""
        return replace(
            self,
            input_ids=self.input_ids.pin_memory(),
            token_type_ids=self.token_type_ids.pin_memory(),
            position_ids=self.position_ids.pin_memory(),
            targets={name: target.pin_memory() for name, target in self.targets.items()},
        )

    def slice(self, first: int, last: int) -> "PackedBatch":
        """The batch of items `first` to `last` (exclusive) alone."""
        a, b = int(self.items[first]), int(self.items[last])
        start, stop = sum(self.lengths[:a]), sum(self.lengths[:b])
        return PackedBatch(
            input_ids=self.input_ids[start:stop],
            token_type_ids=self.token_type_ids[start:stop],
            position_ids=self.position_ids[start:stop],
            lengths=self.lengths[a:b],
            items=self.items[first : last + 1] - a,
            targets={name: target[a:b] for name, target in self.targets.items()},
        )

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    @cached_property
    def first_tokens(self) -> torch.Tensor:
        """Place of each sequence's first token among the T tokens, shape (S,)."""
        ends = np.cumsum(self.lengths)
        return torch.as_tensor(ends - self.lengths, device=self.input_ids.device)

    @cached_property
    def bounds(self) -> torch.Tensor:
        """Where the sequences begin and the last one ends, (S + 1,) int32."""
        ends = np.cumsum((0, *self.lengths), dtype=np.int32)
        return torch.as_tensor(ends, device=self.input_ids.device)

    @cached_property
    def sequence_of(self) -> torch.Tensor:
        """Number of the sequence of each token, shape (T,)."""
        numbers = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return torch.as_tensor(numbers, device=self.input_ids.device)

    @cached_property
    def mask(self) -> torch.Tensor:
        """True where `pad` puts a token, shape (S, longest)."""
        lengths = torch.tensor(self.lengths, device=self.input_ids.device)
        places = torch.arange(max(self.lengths), device=self.input_ids.device)
        return places < lengths[:, None]

    def pad(self, values: torch.Tensor, fill: float | int) -> torch.Tensor:
        """Values of the tokens, (T, …), as (S, longest, …) with `fill` behind each sequence."""
        shape = (len(self.lengths), max(self.lengths), *values.shape[1:])
        padded = values.new_full(shape, fill)
        padded[self.sequence_of, self.position_ids] = values
        return padded

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """The inverse of `pad`: (S, longest, …) to (T, …)."""
        return padded[self.sequence_of, self.position_ids]


def pack(sequences: Sequences, family: str) -> PackedBatch:
    """A batch of the given sequences of one family."""
    columns, lengths = sequences.columns, sequences.lengths
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    return PackedBatch(
        input_ids=torch.from_numpy(columns["input_ids"].astype(np.int64)),
        token_type_ids=torch.from_numpy(columns["token_type_ids"].astype(np.int64)),
        position_ids=torch.from_numpy(positions),
        lengths=tuple(lengths.tolist()),
        items=sequences.items,
        targets={n: torch.from_numpy(columns[n].astype(np.int64)) for n in TARGETS[family]},
    )


def batch_of(features: Features, items: np.ndarray) -> PackedBatch:
    """The packed batch of some items of a feature file."""
    columns = ("input_ids", "token_type_ids", *TARGETS[features.family])
    return pack(features.pick(items, columns), features.family)
