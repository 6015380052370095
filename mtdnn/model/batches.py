"""Packed batches: the sequences of a batch laid end to end, without padding tokens."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from mtdnn.config.settings import Family
from mtdnn.data.features import NO_TAG, Features, Sequences

TARGETS: dict[Family, tuple[str, ...]] = {
    "question_answering": ("start", "end"),
    "multiple_choice": ("label",),
    "sequence_classification": ("label",),
    "regression": ("label",),
    "token_classification": ("tags",),
}
"""Columns of a feature file that are the targets of a batch, by family."""

_TAGS = "tags"  # the target with a value for each token; the others have one for each sequence

# Flash attention works on blocks of this size, so smaller rows would save nothing.
BLOCK_TOKENS = 128

# Where tensors in one buffer may begin; kernels rely on less.
ALIGNED_BYTES = 256

# The properties that say where tokens are; computed on the host, where the lengths are known.
_INDICES = (
    "bounds",
    "padded_places",
    "token_places",
    "first_tokens",
    "token_counts",
    "item_starts",
    "item_sizes",
)


@dataclass(frozen=True)
class Lesson:
    """What a trained model, a teacher, says about the items of a batch.

    Attributes:
        logits: its logits, fp32, of the shape that the head of the corpus gives.
        share: the share of the teacher's loss in the batch's, an fp32 scalar.
        temperature: by which logits are divided in the teacher's loss.
        by_token: whether logits belong to tokens, (T, outputs), or to sequences, (S, outputs).
    """

    logits: torch.Tensor
    share: torch.Tensor
    temperature: float
    by_token: bool

    def tensors(self) -> list[torch.Tensor]:
        """Return everything that is on the device."""
        return [self.logits, self.share]

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Lesson":
        """Return the lesson with every tensor changed."""
        return replace(self, logits=change(self.logits), share=change(self.share))

    def slice(self, sequences: slice, tokens: slice) -> "Lesson":
        """Return the part about some sequences, which have these tokens."""
        return replace(self, logits=self.logits[tokens if self.by_token else sequences])

    def with_tail(self, tail: int) -> "Lesson":
        """Return the same with logits of zero for a tail of some tokens."""
        if not self.by_token:
            return self
        zeros = self.logits.new_zeros(tail, self.logits.shape[1])
        return replace(self, logits=torch.cat([self.logits, zeros]))


@dataclass(frozen=True)
class PackedBatch:
    """Sequences laid end to end: S sequences, T tokens, N items.

    A tail may follow the last sequence: tokens that belong to no item and count in no loss. A GPU
    records a step once for each number of tokens, and tails keep these numbers few.

    Attributes:
        input_ids, token_type_ids, position_ids: (T,) int64; positions count from 0 in
            every sequence.
        lengths: tokens of each sequence, S numbers on the host.
        items: (N + 1,) int64, the first sequence of each item and S, on the host.
        targets: name to (S,) int64: `start` and `end` as positions in their sequence, or
            `label` (repeated on every sequence of an item; fp32 in regression); or `tags`, (T,)
            int64, `NO_TAG` where a token has none.
        lesson: what a teacher says about the items; None without a teacher.
        tail: number of tokens in the tail.
        buffer: the bytes of all tensors where they are in one buffer, else None.
        longest: width of the rows that `pad` makes, in tokens; without a tail the length of the
            longest sequence.
    """

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: tuple[int, ...]
    items: np.ndarray
    targets: dict[str, torch.Tensor]
    tail: int = 0
    longest: int = 0
    lesson: Lesson | None = None
    buffer: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if not self.longest:
            object.__setattr__(self, "longest", max(self.lengths))

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the same batch on another device, in one copy if it is in one buffer."""
        here = self.input_ids.device
        if device.type == here.type and device.index in (None, here.index):
            return self
        if self.buffer is not None:
            return self._within(self.buffer.to(device, non_blocking=True))
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def joined(self, pinned: bool = False) -> "PackedBatch":
        """Return a copy of the batch in one buffer of its own.

        Args:
            pinned: in pinned memory, which a GPU copies while the host continues.
        """
        count = sum(map(_room, self.tensors()))
        device = self.input_ids.device
        copy = self._within(torch.empty(count, dtype=torch.uint8, device=device, pin_memory=pinned))
        for mine, its in zip(copy.tensors(), self.tensors(), strict=True):
            mine.copy_(its)
        return copy

    def fill(self, other: "PackedBatch") -> None:
        """Copy the contents of a batch of the same shape into the memory of this one.

        Both are in one buffer.
        """
        assert self.buffer is not None and other.buffer is not None
        self.buffer.copy_(other.buffer, non_blocking=True)

    def slice(self, first: int, last: int) -> "PackedBatch":
        """Return the batch of items `first` to `last` (exclusive), without a tail."""
        a, b = int(self.items[first]), int(self.items[last])
        start, stop = sum(self.lengths[:a]), sum(self.lengths[:b])
        return PackedBatch(
            input_ids=self.input_ids[start:stop],
            token_type_ids=self.token_type_ids[start:stop],
            position_ids=self.position_ids[start:stop],
            lengths=self.lengths[a:b],
            items=self.items[first : last + 1] - a,
            targets={
                name: target[start:stop] if name == _TAGS else target[a:b]
                for name, target in self.targets.items()
            },
            lesson=self.lesson and self.lesson.slice(slice(a, b), slice(start, stop)),
        )

    def with_tail(self) -> "PackedBatch":
        """Return the same batch with a tail, so that few shapes occur.

        The tail has at least one token, since attention takes no empty sequence.
        """
        unit = tail_unit(self.tokens)
        tail = unit - self.tokens % unit
        padding = self.input_ids.new_zeros(tail)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, padding]),
            token_type_ids=torch.cat([self.token_type_ids, padding]),
            position_ids=torch.cat([self.position_ids, torch.arange(tail)]),
            targets={
                name: torch.cat([target, target.new_full((tail,), NO_TAG)])
                if name == _TAGS
                else target
                for name, target in self.targets.items()
            },
            lesson=self.lesson and self.lesson.with_tail(tail),
            tail=tail,
            buffer=None,
            longest=-(-self.longest // BLOCK_TOKENS) * BLOCK_TOKENS,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """All sizes on which the computation depends; the rest is contents."""
        items = len(self.items) - 1
        return self.tokens, len(self.lengths), self.longest, items, self.largest_item

    @property
    def tokens(self) -> int:
        """Number of tokens T, with the tail."""
        return len(self.input_ids)

    @property
    def terms(self) -> int:
        """Number of terms of its mean loss: items, or tagged tokens; cheap on the host only."""
        tags = self.targets.get(_TAGS)
        return len(self.items) - 1 if tags is None else int((tags != NO_TAG).sum())

    @property
    def largest_item(self) -> int:
        """Number of sequences of the item that has the most."""
        return int(np.diff(self.items).max())

    @cached_property
    def bounds(self) -> torch.Tensor:
        """First token of each sequence, and T; (S + 1,) int32. A tail adds its first token."""
        return self._place(np.cumsum((0, *self._rows), dtype=np.int32))

    @cached_property
    def padded_places(self) -> torch.Tensor:
        """Token at each position of the padded rows, row by row, T where there is none; int64."""
        rows = np.array(self._rows)
        places = np.arange(self.longest)
        tokens = np.where(places < rows[:, None], (np.cumsum(rows) - rows)[:, None] + places, -1)
        return self._place(np.where(tokens < 0, self.tokens, tokens).ravel())

    @cached_property
    def token_places(self) -> torch.Tensor:
        """Position of each token in the padded rows, counted row by row; (T,) int64."""
        rows = np.array(self._rows)
        firsts = np.arange(len(rows)) * self.longest - (np.cumsum(rows) - rows)
        return self._place(np.arange(self.tokens) + np.repeat(firsts, rows))

    @cached_property
    def first_tokens(self) -> torch.Tensor:
        """Index of each sequence's first token; (S,) int64."""
        return self._place(np.cumsum(self.lengths) - self.lengths)

    @cached_property
    def token_counts(self) -> torch.Tensor:
        """The lengths as a tensor; (S,) int64."""
        return self._place(np.array(self.lengths))

    @cached_property
    def item_starts(self) -> torch.Tensor:
        """First sequence of each item; (N,) int64."""
        return self._place(self.items[:-1])

    @cached_property
    def item_sizes(self) -> torch.Tensor:
        """Number of sequences of each item; (N,) int64."""
        return self._place(np.diff(self.items))

    @property
    def mask(self) -> torch.Tensor:
        """True where a padded row holds a token; (S, longest) bool; a tail adds one row."""
        places = torch.arange(self.longest, device=self.input_ids.device)
        return places < self.bounds.diff()[:, None]

    def pad(self, values: torch.Tensor, fill: float | int) -> torch.Tensor:
        """Return values of the tokens, (T, …), as rows, (S, longest, …), padded with `fill`.

        A tail adds one row.
        """
        padded: torch.Tensor = _Pad.apply(values, self, fill)  # type: ignore[no-untyped-call] # torch's
        return padded

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """Return the values of padded rows, (S, longest, …), token by token, (T, …)."""
        values: torch.Tensor = _Unpad.apply(padded, self)  # type: ignore[no-untyped-call] # torch's
        return values

    @property
    def _rows(self) -> tuple[int, ...]:
        """Number of tokens of each sequence, and of the tail if there is one."""
        return (*self.lengths, self.tail) if self.tail else self.lengths

    def _place(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(numbers, device=self.input_ids.device)

    def tensors(self) -> list[torch.Tensor]:
        """Return everything that is on the device."""
        indices = (getattr(self, name) for name in _INDICES)
        inputs = (self.input_ids, self.token_type_ids, self.position_ids)
        lesson = self.lesson.tensors() if self.lesson else []
        return [*inputs, *self.targets.values(), *lesson, *indices]

    def _within(self, buffer: torch.Tensor) -> "PackedBatch":
        """Return a batch of the same shape whose tensors are parts of a buffer."""
        starts = accumulate(map(_room, self.tensors()), initial=0)

        def place(tensor: torch.Tensor) -> torch.Tensor:
            own = buffer[(start := next(starts)) : start + tensor.numel() * tensor.element_size()]
            return own.view(tensor.dtype).view(tensor.shape)

        batch = self._each(place)
        object.__setattr__(batch, "buffer", buffer)
        return batch

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "PackedBatch":
        """Return the batch with every tensor changed, indices included: no device computes them.

        They are changed in the order of `tensors`.
        """
        changed = replace(
            self,
            input_ids=change(self.input_ids),
            token_type_ids=change(self.token_type_ids),
            position_ids=change(self.position_ids),
            targets={name: change(target) for name, target in self.targets.items()},
            lesson=self.lesson and self.lesson.each(change),
            buffer=None,
        )
        changed.__dict__.update({name: change(getattr(self, name)) for name in _INDICES})
        return changed


def _room(tensor: torch.Tensor) -> int:
    """Return the bytes that a tensor takes in a buffer, where every tensor is aligned."""
    count = tensor.numel() * tensor.element_size()
    return -(-count // ALIGNED_BYTES) * ALIGNED_BYTES


class _Pad(torch.autograd.Function):
    """Padding that gathers rows of numbers by their source index, forward and backward.

    Scattering to target indices is slower: a deterministic GPU sorts the indices first, and the
    host checks their bounds. Indexing by several tensors, or filling afterwards, takes a CPU
    several times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, batch: PackedBatch, fill: float | int
    ) -> torch.Tensor:
        ctx.batch = batch
        rows = values.reshape(batch.tokens, -1)
        rows = torch.cat([rows, rows.new_full((1, rows.shape[1]), fill)])
        padded = rows.index_select(0, batch.padded_places)
        return padded.view(-1, batch.longest, *values.shape[1:])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.batch.unpad(gradient), None, None


class _Unpad(torch.autograd.Function):
    """The inverse of `_Pad`."""

    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        ctx.batch = batch
        rows = padded.reshape(len(batch.padded_places), -1)
        return rows.index_select(0, batch.token_places).view(-1, *padded.shape[2:])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.batch.pad(gradient, 0), None


def tail_unit(tokens: int) -> int:
    """Return the number to a multiple of which tails fill a batch of some tokens.

    Sixteen windows of SQuAD get 2 % more tokens on average, sixteen short sentences 4 %.
    """
    if tokens > 1_000:
        return BLOCK_TOKENS
    return BLOCK_TOKENS // 2 if tokens > 500 else BLOCK_TOKENS // 8


def pack(sequences: Sequences, family: Family) -> PackedBatch:
    """Return the batch of the given sequences of one task family."""
    columns, lengths = sequences.columns, sequences.lengths
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    return PackedBatch(
        input_ids=torch.from_numpy(columns["input_ids"].astype(np.int64)),
        token_type_ids=torch.from_numpy(columns["token_type_ids"].astype(np.int64)),
        position_ids=torch.from_numpy(positions),
        lengths=tuple(lengths.tolist()),
        items=sequences.items,
        targets={name: _target(columns[name]) for name in TARGETS[family]},
    )


def _target(column: np.ndarray) -> torch.Tensor:
    """Return a column as losses need it: whole numbers as int64, scores as fp32."""
    return torch.from_numpy(column.astype(np.float32 if column.dtype.kind == "f" else np.int64))


def batch_of(features: Features, items: np.ndarray) -> PackedBatch:
    """Return the batch of the given items of a feature file; `items` is (N,) integers."""
    columns = ("input_ids", "token_type_ids", *TARGETS[features.family])
    return pack(features.pick(items, columns), features.family)
