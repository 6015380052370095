"""The processes that train one run together, each with a part of every batch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtdnn.data.features import Features
from mtdnn.model.batches import PackedBatch
from mtdnn.model.multitask import MultiTaskModel

# Processes wait for each other as long as the slowest disk or the holder of the run takes: one
# that ends is noticed by torchrun, not by a clock.
PATIENCE = timedelta(days=7)


class Team:
    """The processes that train one run together; by default a single one.

    Attributes:
        rank, size: number of this process, from 0, and of all.
    """

    def __init__(self, device: torch.device, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self._device = device
        self._replica: DistributedDataParallel | None = None

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def part(self, features: Features, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """The items of a batch that are this process's, and the weight of their mean loss.

        The mean over the processes of what is so weighted is the batch's own mean loss. Where
        there are fewer items than processes, some learn one with weight 0, to keep in step.
        """
        if self.size == 1:
            return rows, 1.0
        mine = cut(tokens_of(features, rows), self.size)[self.rank]
        return rows[mine or [0]], self.size * len(mine) / len(rows)

    def share(self, model: MultiTaskModel) -> None:
        """Let `loss` and `backward` work on a model, the same in every process."""
        if self.size > 1:
            with warnings.catch_warnings():
                # torch has begun to rename `broadcast_buffers`.
                warnings.simplefilter("ignore", FutureWarning)
                # With `find_unused_parameters` the gradients are summed up in the same order from
                # the first step on; else torch finds a better one meanwhile, and a resumed
                # training would differ by rounding.
                self._replica = DistributedDataParallel(
                    _Loss(model),
                    find_unused_parameters=True,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )

    def loss(self, model: MultiTaskModel, corpus: str, batch: PackedBatch) -> torch.Tensor:
        """`model.loss`, of the model that is shared."""
        return (self._replica or model.loss)(corpus, batch)

    @contextmanager
    def backward(self, model: MultiTaskModel, corpus: str, last: bool) -> Iterator[None]:
        """Around forward and backward pass of a part of a batch; the last one averages gradients.

        Weights that the corpus does not use have none then, as with a single process.
        """
        if not self._replica:
            yield
        elif last:
            yield
            for parameter in model.idle(corpus):
                parameter.grad = None
        else:
            with self._replica.no_sync():
                yield

    def agreed(self, *numbers: int) -> list[int]:
        """The largest of each of some numbers among the processes."""
        if self.size == 1:
            return list(numbers)
        largest = torch.tensor(numbers, device=self._device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Values averaged over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def leave(self) -> None:
        """The processes need each other no more."""
        if self.size > 1:
            self._replica = None
            dist.destroy_process_group()


class _Loss(nn.Module):
    """A model as DistributedDataParallel wants it: its output is what is differentiated."""

    def __init__(self, model: MultiTaskModel):
        super().__init__()
        self.model = model

    def forward(self, corpus: str, batch: PackedBatch) -> torch.Tensor:
        # Other corpora's heads get gradients of zero. It is known here that no process uses them;
        # finding it out at each step would let a GPU wait.
        untouched = sum(parameter.sum() for parameter in self.model.idle(corpus))
        return self.model.loss(corpus, batch) + 0.0 * untouched


def tokens_of(features: Features, rows: np.ndarray) -> np.ndarray:
    """Tokens of each of some items."""
    starts, lengths = features.item_starts, features.lengths
    return np.array([lengths[starts[row] : starts[row + 1]].sum() for row in rows])


def cut(tokens: np.ndarray, count: int) -> list[list[int]]:
    """Places of items with so many tokens, dealt into `count` parts of about as many tokens."""
    parts: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for place in np.argsort(-tokens, kind="stable").tolist():
        least = totals.index(min(totals))
        parts[least].append(place)
        totals[least] += int(tokens[place])
    return [sorted(part) for part in parts]


def join(gpus: int, device: torch.device) -> Team:
    """Meet the other processes, if there are any; waits for all of them."""
    if gpus == 1:
        return Team(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return Team(device, dist.get_rank(), dist.get_world_size())
