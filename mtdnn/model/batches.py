"""Packed batches: the sequences of a batch laid end to end, without a padding token."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from mtdnn.data.features import Features, Sequences

TARGETS = {
    "question_answering": ("start", "end"),
    "multiple_choice": ("label",),
    "sequence_classification": ("label",),
}


# Flash attention works on blocks of so many tokens: less room would save nothing.
ROOM = 128

# What says where the tokens lie; computed on the host, where the lengths are known.
_PLACES = (
    "bounds",
    "padded_places",
    "token_places",
    "first_tokens",
    "token_counts",
    "item_starts",
    "item_sizes",
)


@dataclass(frozen=True)
class PackedBatch:
    """Sequences laid end to end; S sequences, T tokens, N items.

    Behind the last sequence there may be a tail: tokens that belong to no item and count in no
    loss. A GPU records a step once for each number of tokens, and a tail keeps these few.

    Attributes:
        input_ids, token_type_ids, position_ids: (T,) int64; positions count from 0 in
            every sequence.
        lengths: tokens of each sequence, S numbers on the host.
        items: (N + 1,) first sequence of each item, on the host.
        targets: name to (S,) int64: `start` and `end` as positions in their sequence, or
            `label` (repeated on every sequence of an item).
        tail: tokens of the tail.
        longest: tokens that `pad` has room for in each sequence; as many as the longest
            sequence has, unless there is a tail.
    """

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: tuple[int, ...]
    items: np.ndarray
    targets: dict[str, torch.Tensor]
    tail: int = 0
    longest: int = 0

    def __post_init__(self) -> None:
        if not self.longest:
            object.__setattr__(self, "longest", max(self.lengths))

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on another device."""
        if device == self.input_ids.device:
            return self
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "PackedBatch":
        """The same batch in memory from which a GPU can fetch it while the host goes on."""
        return self._each(torch.Tensor.pin_memory)

    def copied(self) -> "PackedBatch":
        """The same batch in memory of its own."""
        return self._each(torch.clone)

    def fill(self, other: "PackedBatch") -> None:
        """Take the contents of a batch of the same shape; the memory stays where it is."""
        for mine, its in zip(self._tensors(), other._tensors(), strict=True):
            mine.copy_(its, non_blocking=True)

    def slice(self, first: int, last: int) -> "PackedBatch":
        """The batch of items `first` to `last` (exclusive) alone, without a tail."""
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

    def with_tail(self) -> "PackedBatch":
        """The same batch with a tail of at most 3 % that makes it one of few shapes.

        There is always one, so that attention meets no empty sequence; in batches of less than
        34 tokens it is a single token.
        """
        unit = tail_unit(self.tokens)
        tail = unit - self.tokens % unit
        padding = self.input_ids.new_zeros(tail)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, padding]),
            token_type_ids=torch.cat([self.token_type_ids, padding]),
            position_ids=torch.cat([self.position_ids, torch.arange(tail)]),
            tail=tail,
            longest=-(-self.longest // ROOM) * ROOM,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """All sizes on which the computation depends; the rest is contents."""
        return self.tokens, len(self.lengths), self.longest, len(self.items) - 1, self.most

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    @property
    def most(self) -> int:
        """Sequences of the item that has most of them."""
        return int(np.diff(self.items).max())

    @cached_property
    def bounds(self) -> torch.Tensor:
        """Where the sequences and the tail begin, and the end of all, int32."""
        return self._place(np.cumsum((0, *self._rows), dtype=np.int32))

    @cached_property
    def padded_places(self) -> torch.Tensor:
        """Which token `pad` puts at each of its places, row by row; the T-th where none."""
        rows = np.array(self._rows)
        places = np.arange(self.longest)
        tokens = np.where(places < rows[:, None], (np.cumsum(rows) - rows)[:, None] + places, -1)
        return self._place(np.where(tokens < 0, self.tokens, tokens).ravel())

    @cached_property
    def token_places(self) -> torch.Tensor:
        """The place, counted row by row, at which `pad` puts each token, shape (T,)."""
        rows = np.array(self._rows)
        firsts = np.arange(len(rows)) * self.longest - (np.cumsum(rows) - rows)
        return self._place(np.arange(self.tokens) + np.repeat(firsts, rows))

    @cached_property
    def first_tokens(self) -> torch.Tensor:
        """Place of each sequence's first token among the T tokens, shape (S,)."""
        return self._place(np.cumsum(self.lengths) - self.lengths)

    @cached_property
    def token_counts(self) -> torch.Tensor:
        """The lengths as a tensor, shape (S,)."""
        return self._place(np.array(self.lengths))

    @cached_property
    def item_starts(self) -> torch.Tensor:
        """First sequence of each item, shape (N,)."""
        return self._place(self.items[:-1])

    @cached_property
    def item_sizes(self) -> torch.Tensor:
        """Sequences of each item, shape (N,)."""
        return self._place(np.diff(self.items))

    @property
    def mask(self) -> torch.Tensor:
        """True where `pad` puts a token, shape (S, longest); one row more with a tail."""
        places = torch.arange(self.longest, device=self.input_ids.device)
        return places < self.bounds.diff()[:, None]

    def pad(self, values: torch.Tensor, fill: float | int) -> torch.Tensor:
        """Values of the tokens, (T, …), as (S, longest, …) with `fill` behind each sequence.

        The tail makes one row more.
        """
        return _Pad.apply(values, self, fill)

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """The inverse of `pad`: (S, longest, …) to (T, …)."""
        return _Unpad.apply(padded, self)

    @property
    def _rows(self) -> tuple[int, ...]:
        """Tokens of each sequence, and of the tail where there is one."""
        return (*self.lengths, self.tail) if self.tail else self.lengths

    def _place(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(numbers, device=self.input_ids.device)

    def _tensors(self) -> list[torch.Tensor]:
        """Everything that is on the device."""
        places = (getattr(self, name) for name in _PLACES)
        inputs = (self.input_ids, self.token_type_ids, self.position_ids)
        return [*inputs, *self.targets.values(), *places]

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "PackedBatch":
        """The batch with every tensor changed; places go along, so that no device is asked."""
        changed = replace(
            self,
            input_ids=change(self.input_ids),
            token_type_ids=change(self.token_type_ids),
            position_ids=change(self.position_ids),
            targets={name: change(target) for name, target in self.targets.items()},
        )
        changed.__dict__.update({name: change(getattr(self, name)) for name in _PLACES})
        return changed


class _Pad(torch.autograd.Function):
    """Padding reads from where each value comes, forward and backward, a row of numbers at a time.

    To write values to where they go, a GPU that is to give the same bits each time sorts the
    places first, and the host looks whether they are inside; indexing by several tensors, or
    filling afterwards, takes a CPU several times as long.
    """

    @staticmethod
    def forward(ctx, values: torch.Tensor, batch: PackedBatch, fill: float | int) -> torch.Tensor:
        ctx.batch = batch
        rows = values.reshape(batch.tokens, -1)
        rows = torch.cat([rows, rows.new_full((1, rows.shape[1]), fill)])
        padded = rows.index_select(0, batch.padded_places)
        return padded.view(-1, batch.longest, *values.shape[1:])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.batch.unpad(gradient), None, None


class _Unpad(torch.autograd.Function):
    """The inverse of `_Pad`."""

    @staticmethod
    def forward(ctx, padded: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        ctx.batch = batch
        rows = padded.reshape(len(batch.padded_places), -1)
        return rows.index_select(0, batch.token_places).view(-1, *padded.shape[2:])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.batch.pad(gradient, 0), None


def tail_unit(tokens: int) -> int:
    """Numbers of tokens are rounded up to a multiple of this: 3 % of `tokens`, a power of two.

    At most `ROOM`, for which positions and attention have room.
    """
    return min(ROOM, 1 << max(0, (3 * tokens // 100).bit_length() - 1))


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
