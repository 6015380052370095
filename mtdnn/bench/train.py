"""Whole training steps, against those of Hugging Face's own examples. Neither side logs."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig
from transformers.trainer_pt_utils import get_length_grouped_indices

from mtdnn.bench.harness import Feed, Options, Timing, Work, compare, peak_memory_mib
from mtdnn.bench.material import Material, gather
from mtdnn.bench.peers import Peer, Unpadded, unpadded_attention
from mtdnn.data.features import Features
from mtdnn.model.batches import PackedBatch, batch_of
from mtdnn.model.device import use_device
from mtdnn.model.fast import fast
from mtdnn.model.multitask import build
from mtdnn.model.optimizer import MomentOptimizer, learning_rate, optimizer_for
from mtdnn.training.loop import BATCHES_AHEAD, random_state
from mtdnn.training.stepper import Stepper, chosen_precision, stepper_for

BATCH = 16
STEPS = 4  # in a round
MEGABATCH = 50  # batches that Trainer's grouping by length sorts together
MAX_LENGTH = 384  # the question-answering example's

Steps = Sequence[Work]
Sides = tuple[Callable[[], Steps], Callable[[], Steps]]
"""Our steps and the peer's; each makes its model when it is called."""


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """Yield QA and SC steps against the peer's, and peak memory.

    On a GPU also the step without the update, and what each switch is worth.
    """
    material, device = gather(options), _device()
    about = facts_of(material, device)
    # On a GPU, steps are run normally in the first round and recorded in the second.
    timing = Timing.on(device, options.rounds, 2 if device.type == "cuda" else 1)
    every = SIDES | GPU_SIDES if device.type == "cuda" else SIDES
    for (case, peer), sides in every.items():
        if case.startswith(options.only):
            yield against(material, device, case, peer, sides, timing)
    if device.type == "cuda" and "qa_backward".startswith(options.only):
        steps = without_and_with_update(material, device)
        result = compare("qa_backward", "qa_step", *steps, timing, about)
        result["flop_utilisation"] = utilisation(material, result["ours_s"], device)
        yield result
    for case, switch in SWITCHES.items():
        if device.type == "cuda" and case.startswith(options.only):
            yield compare(case, "without", *switch(material, device), timing, about)
    if "qa_memory".startswith(options.only):
        ours, theirs = (_in_own_process(_peak_memory_mib, options, side) for side in (0, 1))
        yield {
            "case": "qa_memory",
            "peer": "trainer_padded",
            "memory_mib": ours,
            "peer_memory_mib": theirs,
            "ratio": theirs / ours,
            **about,
        }


def facts_of(material: Material, device: torch.device) -> dict[str, str]:
    """Return what every result of some material on a device says."""
    precision = chosen_precision(material.run.training, device)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"precision": precision, **versions, **material.facts}


def against(
    material: Material,
    device: torch.device,
    case: str,
    peer: str,
    sides: Callable[[Material, torch.device], Sides],
    timing: Timing,
) -> dict[str, Any]:
    """Return the result of one of `SIDES` or `GPU_SIDES`."""
    ours, theirs = (make() for make in sides(material, device))
    about = facts_of(material, device)
    if peer == "unpadded":
        about["attention"] = unpadded_attention(device)
    result = compare(case, peer, ours, theirs, timing, about)
    if device.type == "cuda" and case == "qa_step":
        result["flop_utilisation"] = utilisation(material, result["ours_s"], device)
    return result


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# --- which windows ---------------------------------------------------------------------------


def qa_padded(material: Material, device: torch.device, compiled: bool = False) -> Sides:
    """Take the same random batches on both sides."""
    corpus = material.run.target
    batches = random_batches(material.features[corpus])
    return (
        lambda: Ours(material, corpus, device).steps(batches),
        lambda: Peer(material, corpus, device, MAX_LENGTH, compiled).steps(batches),
    )


def _qa_grouped(material: Material, device: torch.device, compiled: bool = False) -> Sides:
    """Give the peer batches of windows of similar length, us the same windows in random order."""
    corpus = material.run.target
    features = material.features[corpus]
    pool = np.random.default_rng(2).permutation(len(features))[: BATCH * MEGABATCH]
    order = get_length_grouped_indices(  # type: ignore[no-untyped-call]  # has no types
        features.lengths[pool].tolist(), BATCH, generator=torch.Generator().manual_seed(1)
    )
    grouped = pool[order].reshape(-1, BATCH)
    # Short and long batches: evenly spread over all batches in order of length.
    by_length = grouped[np.argsort([features.lengths[rows].max() for rows in grouped])]
    grouped = by_length[len(by_length) // STEPS // 2 :: len(by_length) // STEPS][:STEPS]
    shuffled = np.random.default_rng(3).permutation(grouped.ravel()).reshape(-1, BATCH)
    return (
        lambda: Ours(material, corpus, device).steps(shuffled),
        lambda: Peer(material, corpus, device, compiled=compiled).steps(grouped),
    )


def _qa_unpadded(material: Material, device: torch.device) -> Sides:
    """Take the same random batches on both sides, which do not pad."""
    corpus = material.run.target
    batches = random_batches(material.features[corpus])
    return (
        lambda: Ours(material, corpus, device).steps(batches),
        lambda: Unpadded(material, corpus, device).steps(batches),
    )


def _sc_dynamic(material: Material, device: torch.device, compiled: bool = False) -> Sides:
    """Take steps on single sentences, the smallest ones."""
    corpus = smallest(material)
    batches = random_batches(material.features[corpus], 4 * STEPS)
    return (
        lambda: Ours(material, corpus, device).steps(batches),
        lambda: Peer(material, corpus, device, compiled=compiled).steps(batches),
    )


def _determinism(material: Material, device: torch.device) -> tuple[Steps, Steps]:
    """Take our QA step with deterministic algorithms only, and with any algorithms."""

    def take(deterministic: bool, step: Work) -> None:
        torch.use_deterministic_algorithms(deterministic)
        step()

    corpus = material.run.target
    batches = random_batches(material.features[corpus])
    with_it, without = (
        [partial(take, wanted, step) for step in Ours(material, corpus, device).steps(batches)]
        for wanted in (True, False)
    )
    return with_it, without


def _graphs(material: Material, device: torch.device) -> tuple[Steps, Steps]:
    """Take our smallest step from a CUDA graph, and without one."""
    corpus = smallest(material)
    batches = random_batches(material.features[corpus], 4 * STEPS)
    recorded, unrecorded = Ours(material, corpus, device), Ours(material, corpus, device)
    unrecorded.stepper = Stepper(*unrecorded.trained, material.run.training, device)
    return recorded.steps(batches), unrecorded.steps(batches)


class _WithoutUpdate(MomentOptimizer):
    """Stands in for an optimizer whose gradients are computed but never used."""

    def __init__(self, optimizer: MomentOptimizer):
        vars(self).update(vars(optimizer))

    @property
    def structure(self) -> tuple[int, ...]:
        return ()

    def keep_factors_on(self, device: torch.device) -> None: ...

    def advance(self, parameters: Iterable[nn.Parameter]) -> None: ...

    def apply(self, scale: torch.Tensor | float = 1.0) -> None: ...


def without_and_with_update(material: Material, device: torch.device) -> tuple[Steps, Steps]:
    """Take our QA step without the update of the weights, and with it."""
    corpus = material.run.target
    batches = random_batches(material.features[corpus])
    gradients, whole = Ours(material, corpus, device), Ours(material, corpus, device)
    model, optimizer = gradients.trained
    gradients.stepper = stepper_for(model, _WithoutUpdate(optimizer), material.run.training, device)
    return gradients.steps(batches), whole.steps(batches)


def smallest(material: Material) -> str:
    """Return the sequence-classification corpus with the shortest sentences."""
    return min(
        (n for n, c in material.run.corpora.items() if c.family == "sequence_classification"),
        key=lambda name: float(material.features[name].lengths.mean()),
    )


def random_batches(features: Features, count: int = STEPS) -> np.ndarray:
    """Draw `count` batches of items; return their numbers, (count, BATCH)."""
    rows = np.random.default_rng(1).permutation(len(features))[: BATCH * count]
    return rows.reshape(-1, BATCH)


SIDES: dict[tuple[str, str], Callable[[Material, torch.device], Sides]] = {
    ("qa_step", "trainer_padded"): qa_padded,
    ("qa_step", "trainer_dynamic_grouped"): _qa_grouped,
    ("sc_step", "trainer_dynamic"): _sc_dynamic,
}

GPU_SIDES: dict[tuple[str, str], Callable[[Material, torch.device], Sides]] = {
    ("qa_step", "unpadded"): _qa_unpadded,
    ("qa_step", "trainer_padded_compiled"): partial(qa_padded, compiled=True),
    ("qa_step", "trainer_dynamic_grouped_compiled"): partial(_qa_grouped, compiled=True),
    ("sc_step", "trainer_dynamic_compiled"): partial(_sc_dynamic, compiled=True),
}
"""Sides for GPUs alone: on a CPU these peers gain nothing, and take minutes to compile."""

SWITCHES = {"determinism": _determinism, "sc_graphs": _graphs}


# --- memory and arithmetic -------------------------------------------------------------------


def _in_own_process(function: Callable[..., float], *arguments: object) -> float:
    """Call a function in a new process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _peak_memory_mib(options: Options, side: int) -> float:
    """Train our side (0) or the peer (1); return the peak memory of the GPU, or of the process."""
    device = use_device(options.threads)
    for step in qa_padded(gather(options), device)[side]():
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_memory_mib()


def utilisation(material: Material, seconds: float, device: torch.device) -> float:
    """Return the operations of a QA step as a share of the GPU's measured bf16 rate."""
    return operations_of_step(material) / seconds / _product_rate(device)


def operations_of_step(material: Material) -> float:
    """Return the mean operations of a whole QA step.

    Only the encoder's matrix products on real tokens count: the forward pass once, the backward
    pass twice.
    """
    config = AutoConfig.from_pretrained(material.encoder)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    lengths = _lengths(material)
    dense = lengths.sum() * (8 * hidden**2 + 4 * hidden * config.intermediate_size)
    attention = 4 * hidden * (lengths**2).sum()
    return float(3 * layers * (dense + attention) / STEPS)


def tokens_of_step(material: Material) -> float:
    """Return the mean number of real tokens of a QA step."""
    return float(_lengths(material).sum() / STEPS)


def _lengths(material: Material) -> NDArray[np.float64]:
    """Return the lengths of the windows of all QA steps of a round, (STEPS, BATCH)."""
    features = material.features[material.run.target]
    lengths: NDArray[np.float64] = features.lengths[random_batches(features)].astype(float)
    return lengths


def _product_rate(device: torch.device, size: int = 8192, times: int = 20) -> float:
    """Measure the operations per second of a large bf16 matrix product."""
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # has no types
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # has no types
    for _ in range(3):
        matrix @ matrix
    start.record()
    for _ in range(times):
        matrix @ matrix
    end.record()
    torch.cuda.synchronize()
    seconds: float = start.elapsed_time(end) / 1000
    return 2 * size**3 * times / seconds


# --- both sides ------------------------------------------------------------------------------


class Ours:
    """Takes steps as `mtdnn train` does."""

    def __init__(self, material: Material, corpus: str, device: torch.device):
        self.run, self.corpus = material.run, corpus
        self.features = material.features[corpus]
        settings = material.run.training
        model = build(material.encoder, material.run).to(device).train()
        self.trained = model, optimizer_for(model, settings)
        self.stepper = stepper_for(*self.trained, settings, device)
        self.taken = 0

    def steps(self, batches: np.ndarray) -> Steps:
        """Return a step for each row of `batches`, to be taken in this order again and again."""
        feed = Feed(self.prepared, list(batches), BATCHES_AHEAD if fast("prefetch") else 0)
        return [partial(self.step, feed)] * len(batches)

    def prepared(self, rows: np.ndarray) -> PackedBatch:
        """Return the batch of the items `rows`, as a step needs it."""
        return self.stepper.prepare(batch_of(self.features, rows))

    def step(self, feed: Callable[[], PackedBatch]) -> None:
        """Take a step on the next batch."""
        batch = feed()
        rate = learning_rate(self.taken, 10_000, self.run.training)
        random_state(self.run.seed, self.taken)
        self.stepper.take(self.corpus, batch, rate)
        self.taken += 1
