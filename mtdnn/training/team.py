"""The processes that train one run together, each with a part of every batch."""

import gc
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

# Processes wait for each other as long as the slowest disk or the holder of the run takes;
# torchrun, not a timeout, notices one that has ended.
TIMEOUT = timedelta(days=7)


class Team:
    """The processes that train one run together; by default a single one.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
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
        """Return this process's items of a batch, and the weight of their mean loss.

        The mean of the weighted losses over the processes is the mean loss of the batch. Where
        there are fewer items than processes, some learn one item with weight 0, to keep in step.

        Args:
            features: the corpus's training features.
            rows: (N,) the items of the batch.
        """
        if self.size == 1:
            return rows, 1.0
        mine = cut(tokens_of(features, rows), self.size)[self.rank]
        terms = features.terms(rows)
        return rows[mine or [0]], float(self.size * terms[mine].sum() / max(terms.sum(), 1))

    def share(self, model: MultiTaskModel) -> None:
        """Make `loss` and `backward` work on a model that is the same in every process."""
        if self.size > 1:
            with warnings.catch_warnings():
                # torch has begun to rename `broadcast_buffers`.
                warnings.simplefilter("ignore", FutureWarning)
                # With `find_unused_parameters` the order in which gradients are summed is the
                # same from the first step on; without it torch changes the order after a few
                # steps, and a resumed run would differ by rounding.
                self._replica = DistributedDataParallel(
                    _Loss(model),
                    find_unused_parameters=True,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )

    def unshare(self) -> None:
        """Undo `share`, for processes that average their gradients with `mean`."""
        self._replica = None
        gc.collect()  # its hooks at the gradients go with it

    def loss(self, model: MultiTaskModel, corpus: str, batch: PackedBatch) -> torch.Tensor:
        """Return `model.loss`, a scalar, via the shared model."""
        loss: torch.Tensor = (self._replica or model.loss)(corpus, batch)
        return loss

    @contextmanager
    def backward(self, model: MultiTaskModel, corpus: str, last: bool) -> Iterator[None]:
        """Surround the forward and backward pass of a part of a batch.

        Args:
            model: the model.
            corpus: the corpus of the batch.
            last: whether it is the last part, which averages the gradients over the processes.
                Weights that the corpus does not use then have no gradient, as in one process.
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

    def largest(self, *numbers: int) -> list[int]:
        """Return the maximum of each of the numbers over the processes."""
        if self.size == 1:
            return list(numbers)
        maxima = torch.tensor(numbers, device=self._device)
        dist.all_reduce(maxima, dist.ReduceOp.MAX)
        return [int(number) for number in maxima.tolist()]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return values averaged over the processes, in the same tensor."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def leave(self) -> None:
        """End the communication between the processes."""
        if self.size > 1:
            self._replica = None
            dist.destroy_process_group()


class _Loss(nn.Module):
    """A model as DistributedDataParallel needs it: its output is what is differentiated."""

    def __init__(self, model: MultiTaskModel):
        super().__init__()
        self.model = model

    def forward(self, corpus: str, batch: PackedBatch) -> torch.Tensor:
        # Other corpora's heads get gradients of zero. Here it is known that no process uses them;
        # detecting it at each step would make the host wait for the GPU.
        untouched = sum(parameter.sum() for parameter in self.model.idle(corpus))
        return self.model.loss(corpus, batch) + 0.0 * untouched


def tokens_of(features: Features, rows: np.ndarray) -> np.ndarray:
    """Return the number of tokens of each of the items `rows`, (N,)."""
    starts, lengths = features.item_starts, features.lengths
    return np.array([lengths[starts[row] : starts[row + 1]].sum() for row in rows])


def cut(tokens: np.ndarray, count: int) -> list[list[int]]:
    """Split items into `count` parts of roughly equal token count.

    Args:
        tokens: (N,) tokens of each item.
        count: number of parts.

    Returns:
        The indices of the items of each part, ascending.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for place in np.argsort(-tokens, kind="stable").tolist():
        least = totals.index(min(totals))
        parts[least].append(place)
        totals[least] += int(tokens[place])
    return [sorted(part) for part in parts]


def join(gpus: int, device: torch.device) -> Team:
    """Return the team of this process, once all of its `gpus` processes have joined."""
    if gpus == 1:
        return Team(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return Team(device, dist.get_rank(), dist.get_world_size())
