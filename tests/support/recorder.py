"""A stand-in for CUDA graphs, which needs no GPU.

It keeps every operation that torch runs, with its arguments, and runs the same operations again:
what the host decided is fixed, as in a CUDA graph. It refuses what cannot be recorded on a GPU:
values read by the host, sizes that depend on values, and tensors made from the host's memory.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mtdnn.model.batches import PackedBatch
from mtdnn.training.stepper import RecordedParts, RecordedSteps

READS_VALUES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")
# On a deterministic GPU the host checks the indices of these first. (The gradient of an index does
# not need that, but shows up here as `index_put`.)
CHECKS_INDICES = ("index_put_", "index_copy_", "index_copy", "index_add_", "scatter_", "scatter")


class Recording(TorchDispatchMode):
    """Records operations; `replay` runs them again, on the same memory.

    Args:
        known: the tensors that exist before the recording.
    """

    def __init__(self, known: Iterable[torch.Tensor]):
        super().__init__()
        self.kept = list(known)
        self.operations: list[tuple[Any, ...]] = []
        self.known = {t.untyped_storage().data_ptr() for t in self.kept}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        name = function.overloadpacket.__name__
        indices = arguments[1] if name == "index" else ()
        by_values = any(index is not None and index.dtype == torch.bool for index in indices)
        waits = by_values or name in (*READS_VALUES, *CHECKS_INDICES)
        assert not waits, f"{name}: the host would wait for the device"
        for tensor in tensors((arguments, options)):
            place = tensor.untyped_storage().data_ptr()
            assert place in self.known or not tensor.numel(), f"{name}: a tensor of the host"
        results = function(*arguments, **options)
        given = {t.untyped_storage().data_ptr() for t in tensors((arguments, options))}
        made = [t for t in tensors(results) if t.untyped_storage().data_ptr() not in given]
        self.known |= {t.untyped_storage().data_ptr() for t in made}
        self.kept += made  # so that their memory is not reused
        self.operations.append((function, arguments, options, made))
        return results

    @torch.no_grad()
    def replay(self) -> None:
        for function, arguments, options, made in self.operations:
            results = function(*arguments, **options)
            given = {t.untyped_storage().data_ptr() for t in tensors((arguments, options))}
            again = [t for t in tensors(results) if t.untyped_storage().data_ptr() not in given]
            for old, new in zip(made, again, strict=True):
                old.copy_(new)


def tensors(tree: Any) -> list[torch.Tensor]:
    """Return the tensors anywhere in nested containers."""
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def state_of(stepper: RecordedSteps) -> dict[str, torch.Tensor]:
    """Return the weights and moments that a stepper's steps change, by name."""
    moments = {
        f"{name}.{kind}": value
        for name, parameter in stepper.model.named_parameters()
        for kind, value in stepper.optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }
    return {**{n: p.data for n, p in stepper.model.named_parameters()}, **moments}


def batch_of(work: Callable[[], None]) -> PackedBatch | None:
    """Return the batch on which a function works, or one that it calls; an update has none."""
    cells = [cell.cell_contents for cell in work.__closure__ or ()]
    for cell in cells:
        if isinstance(cell, PackedBatch):
            return cell
    inner = (cell for cell in cells if getattr(cell, "__closure__", None))
    return next(map(batch_of, inner), None)


def memory_of(stepper: RecordedSteps) -> list[torch.Tensor]:
    """Return what a stepper's steps read and write beside weights, moments and batches."""
    parts = isinstance(stepper, RecordedParts)
    gradients = [stepper._buffer, stepper._share] if parts else []
    copies = stepper._casts.copies.values() if stepper._casts else ()
    return [stepper._results, *gradients, *copies]


class StandIn:
    """Records the steps of a stepper that is on a CPU.

    Attributes:
        stepper: the stepper; set after it was made, since it takes its recorder then.
        recordings: what was recorded.
        batches: the batch of each recording.
    """

    stepper: RecordedSteps

    def __init__(self) -> None:
        self.recordings: list[Recording] = []
        self.batches: list[PackedBatch | None] = []

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work and undo it: on a GPU a recording does not change the weights."""
        stepper = self.stepper
        changed = [*state_of(stepper).values(), *memory_of(stepper)]
        before = [value.clone() for value in changed]
        known = [*changed, *stepper.model.buffers()]
        known += [] if stepper.optimizer._factors is None else [stepper.optimizer._factors]
        known += [stepper.pull.penalty] if stepper.pull else []
        kept = stepper.packing.kept.values() if stepper.packing else ()
        known += [tensor for pair in kept for tensor in pair]
        batch = batch_of(work)
        known += batch.tensors() if batch else []
        try:
            with torch.random.fork_rng(devices=[]), Recording(known) as recording:
                work()
        finally:
            with torch.no_grad():
                for value, earlier in zip(changed, before, strict=True):
                    value.copy_(earlier)
        self.recordings.append(recording)
        self.batches.append(batch)
        return recording.replay
