"""One training step: computed as it comes, or recorded once and replayed (CUDA graphs).

A step of a small batch is a thousand kernels of a few microseconds; launching each from Python
takes longer than computing it. A recorded step is launched as one. It reads the memory that it
read when it was recorded, so the batch and the numbers of the optimizer are copied there. What
the host decides from a batch is fixed in the recording; all of that is in the batch's `shape`, and
each shape has a recording of its own. Tails keep the shapes few.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from mtdnn.config.settings import TrainingSettings
from mtdnn.errors import printable
from mtdnn.model.batches import PackedBatch
from mtdnn.model.casts import Casts
from mtdnn.model.fast import fast, tried
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.optimizer import MomentOptimizer, clip_scale, gradient_norm
from mtdnn.training.anchor import Pull
from mtdnn.training.balancing import Balancing
from mtdnn.training.packnet import Packing
from mtdnn.training.team import Team

ALIGNED_ELEMENTS = 64
"""Where gradients in one buffer may begin; kernels rely on less."""

# Takes a function without arguments and returns one that repeats its work on the device.
Recorder = Callable[[Callable[[], None]], Callable[[], None]]


def stepper_for(
    model: MultiTaskModel,
    optimizer: MomentOptimizer,
    settings: TrainingSettings,
    device: torch.device,
    team: Team | None = None,
    loss_weights: Mapping[str, float] = MappingProxyType({}),
) -> "Stepper":
    """Return the stepper for a device: with recordings where possible, else without.

    Args:
        model: the model; changed in place by each step.
        optimizer: its optimizer.
        settings: accumulation, clipping and precision.
        device: the device of the model.
        team: the processes that take each step together; by default this one alone.
        loss_weights: factors of the losses of some corpora.
    """
    whole = settings.accumulation == 1 and (team is None or team.size == 1)
    recordable = (
        device.type == "cuda" and model.packed and fast("graphs") and (whole or tried("parts"))
    )
    if not recordable:
        return Stepper(model, optimizer, settings, device, team, loss_weights)
    # Activation checkpointing reads the device's random state in the middle of a step, which
    # cannot be recorded. Its steps are the same otherwise, tails included: a run that turns it on
    # draws the same dropout masks.
    recorder = None if settings.activation_checkpointing else cuda_recorder()
    given = (model, optimizer, settings, device, recorder, loss_weights)
    return RecordedSteps(*given) if whole else RecordedParts(*given, team=team)


class Stepper:
    """Takes the steps of one run, launching every kernel from Python.

    Args:
        model, optimizer: what is trained; changed in place.
        settings: accumulation, clipping and precision.
        device: the device of the model.
        team: the processes that take each step together, each with a batch of its own; by default
            this one alone.
        loss_weights: factors of the losses of some corpora.

    Attributes:
        pull: what pulls the encoder towards an anchor; None without one.
        balancing: gives further factors; None without them.
        packing: keeps the weights of other phases; None where phases own none.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        optimizer: MomentOptimizer,
        settings: TrainingSettings,
        device: torch.device,
        team: Team | None = None,
        loss_weights: Mapping[str, float] = MappingProxyType({}),
    ):
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.device, self.team = device, team or Team(device)
        self.loss_weights = loss_weights
        self.pull: Pull | None = None
        self.balancing: Balancing | None = None
        self.packing: Packing | None = None
        castable = (
            chosen_precision(settings, device) == "bf16"
            and model.packed
            and self.team.size == 1  # several processes exchange the gradients that weights have
            and not settings.activation_checkpointing  # computes again after the copies are gone
        )
        self._casts: Casts | None = None
        self._shadows = castable and tried("shadows") and settings.accumulation == 1
        if castable and (tried("casts") or self._shadows):
            self._casts = Casts(model)
            if self._shadows:
                optimizer.copies = self._casts.by_weight()

    def prepare(self, batch: PackedBatch) -> PackedBatch:
        """Return a batch as `take` needs it; safe on another thread, while steps are taken."""
        return batch.joined(pinned=True) if self.device.type == "cuda" else batch

    def take(
        self,
        corpus: str,
        batch: PackedBatch,
        rate: float,
        weight: float = 1.0,
        head_rate: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step.

        Args:
            corpus: the corpus of the batch.
            batch: the batch, or this process's part of it, as `prepare` returned it.
            rate: the learning rate.
            weight: the weight of this process's batch in the team's mean loss.
            head_rate: the learning rate of the corpus's head; by default the same.

        Returns:
            The weighted mean loss of the batch, without its corpus's factor, and the global
            gradient norm before clipping, both fp32 scalars on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._renew_copies()
        loss = self._backward(corpus, batch, weight)
        return loss, self.update(rate, head_rate)

    def update(self, rate: float, head_rate: float | None = None) -> torch.Tensor:
        """Change the weights by their gradients; return the global norm of these before clipping.

        Args:
            rate: the learning rate.
            head_rate: the learning rate of heads; by default the same.
        """
        norm = self._norm()
        self._set_rates(rate, head_rate)
        self.optimizer.step(clip_scale(norm, self.settings.clip_norm))
        self._end_update()
        return norm

    def _norm(self) -> torch.Tensor:
        """Complete the gradients and return their global norm."""
        if self.pull:
            self.pull.apply()
        if self.packing:
            self.packing.hide()
        copies = self._casts.copies.values() if self._casts else ()
        return gradient_norm([*self.model.parameters(), *copies])

    def _end_update(self) -> None:
        """Do what has to follow an update of the weights."""
        if self._casts:
            self._casts.forget_gradients()
            self._casts.are_fresh()
        if self.packing:
            self.packing.restore()

    def _renew_copies(self) -> None:
        """Renew the copies that the update writes where they are stale; no recording does.

        Phases that own weights restore those of others after the update, also in recordings.
        """
        if self._casts and self._shadows:
            self._casts.kept = not self.packing
            if self._casts.kept:
                self._casts.refresh()

    @property
    def _gradients_stay(self) -> bool:
        """Whether gradients of copies stay in bf16 until the update reads them."""
        return self._shadows and not self.pull and not self.packing

    def _set_rates(self, rate: float, head_rate: float | None) -> None:
        for group in self.optimizer.param_groups:
            is_head = head_rate is not None and group.get("head")
            chosen = head_rate if is_head else rate
            group["lr"] = chosen * group.get("rate_factor", 1.0)

    def backward(self, corpus: str, batch: PackedBatch, weight: float = 1.0) -> torch.Tensor:
        """Compute the gradients of a batch, part by part; return its loss, as `take` does."""
        loss = self._backward(corpus, batch, weight)
        if self._casts:
            self._casts.give_gradients()
        return loss

    def _backward(self, corpus: str, batch: PackedBatch, weight: float = 1.0) -> torch.Tensor:
        """Do what `backward` does, but leave gradients of copies where the update reads them."""
        total, factor = torch.zeros((), device=self.device), self._factor(corpus)
        parts = parts_of(batch, self.settings.accumulation)
        for number, (part, share) in enumerate(parts, 1):
            with self.team.backward(self.model, corpus, last=number == len(parts)):
                total += self._backward_of(corpus, part, share * weight, factor)
        if self.balancing:
            self.balancing.learn(corpus, total * factor)
        return total

    def _factor(self, corpus: str) -> float:
        """The factor of the losses of a corpus."""
        factor = self.loss_weights.get(corpus, 1.0)
        return factor * self.balancing.factor(corpus) if self.balancing else factor

    def _backward_of(
        self, corpus: str, part: PackedBatch, share: torch.Tensor | float, factor: float
    ) -> torch.Tensor:
        """Add the gradients of a part with some share in the loss; return that share of it."""
        with precision(self.settings, self.device):
            part = part.to(self.device)
            if self._casts:
                loss = self._casts.loss(corpus, part) * share
            else:
                loss = self.team.loss(self.model, corpus, part) * share
        torch.autograd.backward(loss if factor == 1 else loss * factor)
        if self._casts and not self._gradients_stay:
            self._casts.give_gradients()
        return loss.detach()


@dataclass
class _Recording:
    """A step that can be repeated, on whatever `batch` holds then.

    The update at the end of a step that has parts has no batch.
    """

    batch: PackedBatch | None
    replay: Callable[[], None]


class RecordedSteps(Stepper):
    """Takes the steps of one run, replaying recordings of shapes that it has met before.

    A shape is recorded when it occurs for the second time: the first time lets compilers and
    libraries initialise, and rare shapes cost no recording. To wait longer would cost more steps
    than it saves recordings, while a recording takes less than eight times what it saves (see
    tests/benchmarks/NOTES.md). Both ways run the same kernels in the same order, so a resumed run,
    which records again, has the same result.

    Args:
        recorder: makes the recordings; tests have one that needs no GPU. Without one, every step
            is computed.

    Attributes:
        largest: the largest batch to come of each corpus, as `prepare` returned it. It is recorded
            before others of its corpus: these find room in its memory, larger ones would not.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        optimizer: MomentOptimizer,
        settings: TrainingSettings,
        device: torch.device,
        recorder: Recorder | None,
        loss_weights: Mapping[str, float] = MappingProxyType({}),
    ):
        super().__init__(model, optimizer, settings, device, None, loss_weights)
        optimizer.keep_factors_on(device)
        self._recorder = recorder
        self._recordings: dict[tuple[Any, ...], _Recording | None] = {}
        self.largest: Mapping[str, PackedBatch] = {}
        # Outside the memory of the recordings, which they share.
        self._results = torch.zeros(2, device=device)
        self._weights = [*model.parameters()]
        self._idle: dict[str, set[nn.Parameter]] = {}

    def prepare(self, batch: PackedBatch) -> PackedBatch:
        return batch.with_tail().joined(pinned=self.device.type == "cuda")

    def take(
        self,
        corpus: str,
        batch: PackedBatch,
        rate: float,
        weight: float = 1.0,
        head_rate: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kind = self._begin(corpus, rate, head_rate)
        self._repeat(kind, batch, self.largest.get(corpus))
        loss, norm = self._results.clone()
        return loss, norm

    def _begin(self, corpus: str, rate: float, head_rate: float | None) -> tuple[Any, ...]:
        """Begin a step; return on what its recordings depend, except the shape of its batch."""
        self._renew_copies()
        self._set_rates(rate, head_rate)
        self.optimizer.advance(self._trained_by(corpus))
        pulled = self.pull is not None and self.pull.active
        phase = self.packing.phase if self.packing else 0
        return corpus, pulled, phase, *self.optimizer.structure

    def _trained_by(self, corpus: str) -> list[nn.Parameter]:
        """What the model returns; it walks through all of its modules, for a millisecond."""
        if corpus not in self._idle:
            self._idle[corpus] = set(self.model.idle(corpus))
        idle = self._idle[corpus]
        return [weight for weight in self._weights if weight.requires_grad and weight not in idle]

    def _repeat(
        self, kind: tuple[Any, ...], batch: PackedBatch | None, largest: PackedBatch | None = None
    ) -> None:
        """Do the device's part of a step, from a recording if its shape has occurred before."""
        shape = _shape(kind, batch)
        if shape in self._recordings:
            for each in (largest or batch, batch):
                self._record(kind, each)
        if recording := self._recordings.setdefault(shape, None):
            if batch and recording.batch:
                recording.batch.fill(batch)
            recording.replay()
        else:
            self._compute(kind[0], batch and batch.to(self.device))

    def _compute(self, corpus: str, batch: PackedBatch | None) -> None:
        """Do the device's part of a step."""
        assert batch is not None
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(corpus, batch)
        norm = self._norm()
        self.optimizer.apply(clip_scale(norm, self.settings.clip_norm))
        self._end_update()
        self._results.copy_(torch.stack([loss, norm]))
        # The gradients are in the memory of the recordings, which is reused.
        self.optimizer.zero_grad(set_to_none=True)

    def _record(self, kind: tuple[Any, ...], batch: PackedBatch | None) -> None:
        """Record a step like the current one of another batch, without taking it.

        If that fails, all steps are computed from then on: a failed recording may leave behind a
        random state of its own, and earlier recordings would still read the old one. So they are
        removed, and leave their memory to the steps.
        """
        shape = _shape(kind, batch)
        if not self._recorder or self._recordings.get(shape):
            return
        place = batch and batch.to(self.device).joined()
        try:
            replay = self._recorder(lambda: self._compute(kind[0], place))
            self._recordings[shape] = _Recording(place, replay)
        except RuntimeError as error:  # the memory is too small, or the driver too old
            self._recorder = None
            self._recordings.clear()
            reason = printable(str(error), 200)
            print(f"mtdnn: continuing without CUDA graphs: {reason}", flush=True)


def _shape(kind: tuple[Any, ...], batch: PackedBatch | None) -> tuple[Any, ...]:
    return (*kind, *(batch.shape if batch else ("update",)))


@dataclass(frozen=True)
class CutBatch(PackedBatch):
    """A batch, and the parts into which it is cut, each with its share of the loss."""

    parts: tuple[tuple[PackedBatch, float], ...] = ()

    @property
    def largest(self) -> PackedBatch:
        """The part with the most tokens."""
        return max((part for part, _ in self.parts), key=lambda part: part.tokens)


class RecordedParts(RecordedSteps):
    """Takes steps whose batches are in parts, of one process or several, replaying recordings.

    Each shape of a part has a recording, which adds to the gradients, and so has the update. The
    gradients stay where they are, in one buffer; the share of a part in the loss is on the device,
    too. Several processes average the buffer between the two: DistributedDataParallel would do so
    in the backward pass and look on the host for weights without a gradient.

    Args:
        arguments: those of `RecordedSteps`.
        team: the processes that take each step together; by default this one alone.
    """

    def __init__(self, *arguments: Any, team: Team | None = None):
        super().__init__(*arguments)
        self._others = team or self.team
        self._others.unshare()
        weights = [weight for weight in self._weights if weight.requires_grad]
        rooms = [-(-weight.numel() // ALIGNED_ELEMENTS) * ALIGNED_ELEMENTS for weight in weights]
        self._buffer = torch.zeros(sum(rooms), device=self.device)
        self._gradients = {
            weight: room[: weight.numel()].view(weight.shape)
            for weight, room in zip(weights, torch.split(self._buffer, rooms), strict=True)
        }
        self._share = torch.zeros((), device=self.device)

    def prepare(self, batch: PackedBatch) -> CutBatch:
        parts = parts_of(batch, self.settings.accumulation)
        prepare = super().prepare
        given = {field.name: getattr(batch, field.name) for field in fields(batch)}
        return CutBatch(**given, parts=tuple((prepare(part), share) for part, share in parts))

    def take(
        self,
        corpus: str,
        batch: PackedBatch,
        rate: float,
        weight: float = 1.0,
        head_rate: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(batch, CutBatch)
        kind = self._begin(corpus, rate, head_rate)
        self._hold_gradients(corpus)
        self._results.zero_()
        largest = self.largest.get(corpus, batch)
        assert isinstance(largest, CutBatch)
        for part, share in batch.parts:
            self._share.fill_(share * weight)
            self._repeat(kind, part, largest.largest)
        self._others.mean(self._buffer)
        self._repeat(kind, None)
        self.optimizer.zero_grad(set_to_none=True)
        loss, norm = self._results.clone()
        return loss, norm

    def _hold_gradients(self, corpus: str) -> None:
        """Give the weights that a corpus trains gradients of zero, always in the same memory."""
        self._buffer.zero_()
        for weight in self._trained_by(corpus):
            weight.grad = self._gradients[weight]

    def _compute(self, corpus: str, batch: PackedBatch | None) -> None:
        """Add the gradients of a part; without one, do the device's part of the update."""
        loss, norm = self._results
        if batch:
            loss += self._backward_of(corpus, batch, self._share, self._factor(corpus))
        else:
            norm.copy_(self._norm())
            self.optimizer.apply(clip_scale(norm, self.settings.clip_norm))
            self._end_update()


def cuda_recorder() -> Recorder:
    """Return a recorder of CUDA graphs that share memory, since one is replayed at a time.

    After a recording that fails, the device draws the same random numbers as if there had been
    none; recordings made before it must not be replayed.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], None]) -> Callable[[], None]:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        random = torch.cuda.get_rng_state()
        try:
            # Another thread may pin the memory of the next batches meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                work()
        except BaseException:
            torch.cuda.set_stream(stream)  # it would stay on its own
            _renew_generator(random)
            raise
        return graph.replay

    return record


def _renew_generator(state: torch.Tensor) -> None:
    """Give the device's generator a new state with some contents.

    Until torch 2.12 an invalid recording leaves the state believing that it is still being
    recorded, and the next dropout mask raises an error.
    """
    device = torch.cuda.current_device()
    fresh = torch.Generator(torch.device("cuda", device))
    fresh.set_state(state)
    torch.cuda.default_generators[device].graphsafe_set_state(fresh)


def parts_of(batch: PackedBatch, count: int) -> list[tuple[PackedBatch, float]]:
    """Cut a batch into at most `count` parts of whole items, each with its share of the loss."""
    if count == 1:
        return [(batch, 1.0)]
    items = len(batch.items) - 1
    bounds = np.unique(np.linspace(0, items, min(count, items) + 1).round().astype(int))
    parts = [batch.slice(first, last) for first, last in pairwise(bounds.tolist())]
    terms = max(batch.terms, 1)
    return [(part, part.terms / terms) for part in parts]


def precision(settings: TrainingSettings, device: torch.device) -> torch.autocast:
    """Return the autocast context of the forward pass; weights and losses stay fp32."""
    bf16 = chosen_precision(settings, device) == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def chosen_precision(settings: TrainingSettings, device: torch.device) -> str:
    """Return the precision in which a device trains, `fp32` or `bf16`."""
    if settings.precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return settings.precision
