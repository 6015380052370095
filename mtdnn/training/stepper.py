"""One step of a training: computed as it comes, or recorded once and replayed (CUDA graphs).

A step of a small batch is a thousand kernels of a few microseconds; launching each from Python
takes longer than computing it. A recorded step is launched as one. What it reads must lie where
it lay when it was recorded: the batch and the numbers of the optimiser are copied there. What
the host decides from a batch would be recorded as it was then; all of that is in the batch's
`shape`, and each shape has a recording of its own. A tail keeps them few.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from mtdnn.config.settings import TrainingSettings
from mtdnn.errors import printable
from mtdnn.model.batches import PackedBatch
from mtdnn.model.fast import fast
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.optimizer import DecoupledAdamax, clip_scale, gradient_norm
from mtdnn.training.team import Team

# Takes a function without arguments, and returns one that does on the device again what it did.
Recorder = Callable[[Callable[[], None]], Callable[[], None]]


def stepper_for(
    model: MultiTaskModel,
    optimizer: DecoupledAdamax,
    settings: TrainingSettings,
    device: torch.device,
    team: Team | None = None,
) -> "Stepper":
    """How steps are taken here: recorded where that is possible, else each as it comes."""
    recordable = (
        device.type == "cuda"
        and model.packed
        and (team is None or team.size == 1)
        # Both look at the device's random state in the middle of a step, or cut batches anew.
        and settings.accumulation == 1
        and not settings.activation_checkpointing
    )
    if recordable and fast("graphs"):
        return RecordedSteps(model, optimizer, settings, device, cuda_recorder())
    return Stepper(model, optimizer, settings, device, team)


class Stepper:
    """Takes the steps of one training, each as it comes.

    Args:
        model, optimizer: what is trained; changed in place.
        team: who takes each step together, each with a batch of its own; nobody else when absent.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        optimizer: DecoupledAdamax,
        settings: TrainingSettings,
        device: torch.device,
        team: Team | None = None,
    ):
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.device, self.team = device, team or Team(device)

    def prepare(self, batch: PackedBatch) -> PackedBatch:
        """A batch as `take` wants it; on another thread, while steps are taken."""
        return batch.pinned() if self.device.type == "cuda" else batch

    def take(
        self, corpus: str, batch: PackedBatch, rate: float, weight: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step.

        Args:
            rate: the learning rate.
            weight: of this process's batch among the team's.

        Returns:
            The batch's mean loss, so weighted, and the global gradient norm before clipping, both
            scalars on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(corpus, batch, weight)
        norm = gradient_norm(self.model.parameters())
        self._set_rate(rate)
        self.optimizer.step(clip_scale(norm, self.settings.clip_norm))
        return loss, norm

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _backward(self, corpus: str, batch: PackedBatch, weight: float) -> torch.Tensor:
        """The gradients of a batch; returns its loss."""
        total = torch.zeros((), device=self.device)
        parts = parts_of(batch, self.settings.accumulation)
        for number, (part, share) in enumerate(parts, 1):
            with self.team.backward(self.model, corpus, last=number == len(parts)):
                with precision(self.settings, self.device):
                    part = part.to(self.device)
                    loss = self.team.loss(self.model, corpus, part) * (share * weight)
                loss.backward()
            total += loss.detach()
        return total


@dataclass
class _Recording:
    """A step that can be done again: with what is in the batch by then."""

    batch: PackedBatch
    replay: Callable[[], None]


class RecordedSteps(Stepper):
    """Takes the steps of one training, those of a known shape from recordings.

    A shape is recorded when it comes for the second time: at the first time compilers and
    libraries get ready, and rare shapes cost no more than without. A step is the same kernels in
    the same order either way, so that a resumed training, which records anew, ends the same.

    Args:
        recorder: how to record; tests have one that needs no GPU.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        optimizer: DecoupledAdamax,
        settings: TrainingSettings,
        device: torch.device,
        recorder: Recorder,
    ):
        super().__init__(model, optimizer, settings, device)
        optimizer.keep_factors_on(device)
        self._recorder: Recorder | None = recorder
        self._recordings: dict[tuple, _Recording | None] = {}
        # Outside of the memory of recordings, which all of them use.
        self._results = torch.zeros(2, device=device)

    def prepare(self, batch: PackedBatch) -> PackedBatch:
        return super().prepare(batch.with_tail())

    def take(
        self, corpus: str, batch: PackedBatch, rate: float, weight: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._set_rate(rate)
        self.optimizer.advance(self.model.trained_by(corpus))
        shape = (corpus, *batch.shape, *self.optimizer.structure)
        if self._recorder and shape in self._recordings and not self._recordings[shape]:
            self._recordings[shape] = self._record(corpus, batch)
        if recording := self._recordings.setdefault(shape, None):
            recording.batch.fill(batch)
            recording.replay()
        else:
            self._compute(corpus, batch.to(self.device))
        loss, norm = self._results.clone()
        return loss, norm

    def _compute(self, corpus: str, batch: PackedBatch) -> None:
        """All of a step that the device does."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(corpus, batch, 1.0)
        norm = gradient_norm(self.model.parameters())
        self.optimizer.apply(clip_scale(norm, self.settings.clip_norm))
        self._results.copy_(torch.stack([loss, norm]))
        # They lie in the memory of recordings, which is used again.
        self.optimizer.zero_grad(set_to_none=True)

    def _record(self, corpus: str, batch: PackedBatch) -> _Recording | None:
        """A recording of a step, which is not done by that; none where it cannot be made."""
        place = batch.to(self.device).copied()
        try:
            return _Recording(place, self._recorder(lambda: self._compute(corpus, place)))
        except RuntimeError as error:  # the memory is too small, or the driver too old
            self._recorder = None
            reason = printable(str(error), 200)
            print(f"mtdnn: goes on without further CUDA graphs: {reason}", flush=True)
            return None


def cuda_recorder() -> Recorder:
    """Records CUDA graphs in memory that they share: only one is replayed at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], None]) -> Callable[[], None]:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Another thread may pin the memory of the next batches meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                work()
        finally:
            torch.cuda.set_stream(stream)  # a recording that failed would leave its own
        return graph.replay

    return record


def parts_of(batch: PackedBatch, count: int) -> list[tuple[PackedBatch, float]]:
    """The batch cut into at most `count` parts of whole items, each with its share of them."""
    if count == 1:
        return [(batch, 1.0)]
    items = len(batch.items) - 1
    bounds = np.unique(np.linspace(0, items, min(count, items) + 1).round().astype(int))
    return [
        (batch.slice(first, last), (last - first) / items)
        for first, last in pairwise(bounds.tolist())
    ]


def precision(settings: TrainingSettings, device: torch.device) -> torch.autocast:
    """The arithmetic of the forward pass; weights and losses stay fp32."""
    bf16 = settings.precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
