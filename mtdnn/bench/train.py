"""Whole training steps against Hugging Face's, as its own examples run them.

The peer is `Trainer`'s inner step without its bookkeeping: collated tensors, the model class of
the example, gradients clipped at 1, fused AdamW, the linear schedule. Neither side logs.
"""

import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    get_linear_schedule_with_warmup,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from mtdnn.bench.harness import Options, compare
from mtdnn.bench.material import Material, gather
from mtdnn.data.features import Features
from mtdnn.model.batches import batch_of
from mtdnn.model.device import use_device
from mtdnn.model.multitask import build
from mtdnn.model.optimizer import DecoupledAdamax, learning_rate, optimizer_for
from mtdnn.training.loop import random_state
from mtdnn.training.stepper import Stepper, precision, stepper_for

BATCH = 16
STEPS = 4  # of a round
MEGABATCH = 50  # batches that Trainer's length grouping sorts together
MAX_LENGTH = 384  # the question-answering example's

Step = Callable[[], Any]


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """QA and SC steps against the peer's; on a GPU what its switches are worth; peak memory."""
    material, device = _gather(options), _device()
    about = {"precision": material.run.training.precision, **material.facts}
    for (case, peer), steps in SIDES.items():
        if case.startswith(options.only):
            ours, theirs = steps(material, device)
            result = compare(case, peer, ours, theirs, options.rounds, *_clock(device), **about)
            if device.type == "cuda" and case == "qa_step":
                result["flop_utilisation"] = _utilisation(material, result["ours_s"], device)
            yield result
    if device.type == "cuda" and "qa_backward".startswith(options.only):
        sides = _with_and_without_update(material, device)
        result = compare("qa_backward", "qa_step", *sides, options.rounds, *_clock(device), **about)
        result["flop_utilisation"] = _utilisation(material, result["ours_s"], device)
        yield result
    for case, switch in SWITCHES.items():
        if device.type == "cuda" and case.startswith(options.only):
            sides = switch(material, device)
            yield compare(case, "without", *sides, options.rounds, *_clock(device), **about)
    if "qa_memory".startswith(options.only):
        mine, its = (_in_own_process(_peak_memory, options, side) for side in (0, 1))
        yield {
            "case": "qa_memory",
            "peer": "trainer_padded",
            "ours_bytes": mine,
            "peer_bytes": its,
            "ratio": its / mine,
            **about,
        }


def _gather(options: Options) -> Material:
    material = gather(options)
    precision = options.precision or material.run.training.precision
    training = material.run.training.model_copy(update={"precision": precision})
    return replace(material, run=material.run.model_copy(update={"training": training}))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _clock(device: torch.device) -> tuple[Callable[[], Any], int]:
    """What is called before a clock is read, and the rounds that do not count.

    A GPU's steps are computed as they come in the first round, and recorded in the second.
    """
    return (torch.cuda.synchronize, 2) if device.type == "cuda" else (lambda: None, 1)


# --- which windows ---------------------------------------------------------------------------


def _qa_padded(material: Material, device: torch.device) -> tuple[list[Step], list[Step]]:
    """The same random batches on both sides."""
    corpus = material.run.primary
    batches = random_batches(material.features[corpus])
    peer = Peer(material, corpus, device, pad_to=MAX_LENGTH)
    return Ours(material, corpus, device).steps(batches), peer.steps(batches)


def _qa_grouped(material: Material, device: torch.device) -> tuple[list[Step], list[Step]]:
    """The peer's batches hold windows of like length, ours the same windows in random order."""
    corpus = material.run.primary
    features = material.features[corpus]
    pool = np.random.default_rng(2).permutation(len(features))[: BATCH * MEGABATCH]
    order = get_length_grouped_indices(
        features.lengths[pool].tolist(), BATCH, generator=torch.Generator().manual_seed(1)
    )
    grouped = pool[order].reshape(-1, BATCH)
    # Short and long batches alike: evenly spread over the order of length.
    by_length = grouped[np.argsort([features.lengths[rows].max() for rows in grouped])]
    grouped = by_length[len(by_length) // STEPS // 2 :: len(by_length) // STEPS][:STEPS]
    shuffled = np.random.default_rng(3).permutation(grouped.ravel()).reshape(-1, BATCH)
    peer = Peer(material, corpus, device)
    return Ours(material, corpus, device).steps(shuffled), peer.steps(grouped)


def _sc_dynamic(material: Material, device: torch.device) -> tuple[list[Step], list[Step]]:
    """Single sentences: the smallest steps there are."""
    corpus = smallest(material)
    batches = random_batches(material.features[corpus], 4 * STEPS)
    peer = Peer(material, corpus, device)
    return Ours(material, corpus, device).steps(batches), peer.steps(batches)


def _determinism(material: Material, device: torch.device) -> tuple[list[Step], list[Step]]:
    """Our QA step with the algorithms that give the same bits each time, and with any."""

    def allowing(only_deterministic: bool, step: Step) -> None:
        torch.use_deterministic_algorithms(only_deterministic)
        step()

    corpus = material.run.primary
    batches = random_batches(material.features[corpus])
    with_it, without = (
        [partial(allowing, wanted, step) for step in Ours(material, corpus, device).steps(batches)]
        for wanted in (True, False)
    )
    return with_it, without


def _graphs(material: Material, device: torch.device) -> tuple[list[Step], list[Step]]:
    """Our smallest step, recorded, and as it comes."""
    corpus = smallest(material)
    batches = random_batches(material.features[corpus], 4 * STEPS)
    recorded, plain = Ours(material, corpus, device), Ours(material, corpus, device)
    plain.stepper = Stepper(*plain.trained, material.run.training, device)
    return recorded.steps(batches), plain.steps(batches)


class _Undone:
    """Stands for an optimiser: the gradients are computed and nothing is done with them."""

    structure = ()

    def __init__(self, optimizer: DecoupledAdamax):
        self.param_groups, self.zero_grad = optimizer.param_groups, optimizer.zero_grad

    def keep_factors_on(self, device: torch.device) -> None: ...

    def advance(self, parameters: list[nn.Parameter]) -> None: ...

    def apply(self, scale: torch.Tensor) -> None: ...

    step = apply


def _with_and_without_update(
    material: Material, device: torch.device
) -> tuple[list[Step], list[Step]]:
    """Our QA step without the update of the weights, and with it."""
    corpus = material.run.primary
    batches = random_batches(material.features[corpus])
    gradients, whole = Ours(material, corpus, device), Ours(material, corpus, device)
    model, optimizer = gradients.trained
    gradients.stepper = stepper_for(model, _Undone(optimizer), material.run.training, device)
    return gradients.steps(batches), whole.steps(batches)


def smallest(material: Material) -> str:
    """The corpus of the shortest sentences."""
    return min(
        (n for n, c in material.run.corpora.items() if c.family == "sequence_classification"),
        key=lambda name: material.features[name].lengths.mean(),
    )


def random_batches(features: Features, count: int = STEPS) -> np.ndarray:
    rows = np.random.default_rng(1).permutation(len(features))[: BATCH * count]
    return rows.reshape(-1, BATCH)


SIDES = {
    ("qa_step", "trainer_padded"): _qa_padded,
    ("qa_step", "trainer_dynamic_grouped"): _qa_grouped,
    ("sc_step", "trainer_dynamic"): _sc_dynamic,
}


SWITCHES = {"determinism": _determinism, "sc_graphs": _graphs}


# --- memory and arithmetic -------------------------------------------------------------------


def _in_own_process(function: Callable, *arguments: Any) -> Any:
    """A call in a fresh process: memory that others used before is not counted."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _peak_memory(options: Options, side: int) -> int:
    """Peak bytes while ours (side 0) or the peer (side 1) trains: of the GPU, or the process."""
    device = use_device(options.threads)
    for step in _qa_padded(_gather(options), device)[side]:
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def _utilisation(material: Material, seconds: float, device: torch.device) -> float:
    """Arithmetic of a whole QA step on real tokens, as a share of the card's bf16 products.

    Counted are the encoder's matrix products, forward and twice that backward.
    """
    config = AutoConfig.from_pretrained(material.encoder)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    features = material.features[material.run.primary]
    lengths = features.lengths[random_batches(features)].astype(float)
    dense = lengths.sum() * (8 * hidden**2 + 4 * hidden * config.intermediate_size)
    attention = 4 * hidden * (lengths**2).sum()
    work = 3 * layers * (dense + attention) / STEPS
    return work / seconds / _product_rate(device)


def _product_rate(device: torch.device, size: int = 8192, times: int = 20) -> float:
    """Measured operations per second of a large bf16 matrix product."""
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        matrix @ matrix
    start.record()
    for _ in range(times):
        matrix @ matrix
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * times / (start.elapsed_time(end) / 1000)


# --- both sides ------------------------------------------------------------------------------


class Ours:
    """Steps as `mtdnn train` takes them."""

    def __init__(self, material: Material, corpus: str, device: torch.device):
        self.run, self.corpus = material.run, corpus
        self.features = material.features[corpus]
        settings = material.run.training
        model = build(material.encoder, material.run).to(device).train()
        self.trained = model, optimizer_for(model, settings)
        self.stepper = stepper_for(*self.trained, settings, device)
        self.taken = 0

    def steps(self, batches: np.ndarray) -> list[Step]:
        return [partial(self.step, rows) for rows in batches]

    def step(self, rows: np.ndarray) -> None:
        batch = self.stepper.prepare(batch_of(self.features, rows))
        rate = learning_rate(self.taken, 10_000, self.run.training)
        random_state(self.run.seed, self.taken)
        self.stepper.take(self.corpus, batch, rate)
        self.taken += 1


class Peer:
    """Steps as `Trainer` takes them with the model class of Hugging Face's example.

    Args:
        pad_to: pad every sequence to this length; to the longest of its batch when absent.
    """

    def __init__(
        self, material: Material, corpus: str, device: torch.device, pad_to: int | None = None
    ):
        settings, about = material.run.training, material.run.corpora[corpus]
        self.features, self.device, self.pad_to = material.features[corpus], device, pad_to
        self.settings = settings
        if about.family == "question_answering":
            self.targets = {"start_positions": "start", "end_positions": "end"}
            model = AutoModelForQuestionAnswering.from_pretrained(material.encoder)
        else:
            self.targets = {"labels": "label"}
            model = AutoModelForSequenceClassification.from_pretrained(
                material.encoder, num_labels=len(about.labels)
            )
        self.model = model.to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, fused=True
        )
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, 1_000, 10_000)

    def steps(self, batches: np.ndarray) -> list[Step]:
        # Its data set holds the sequences one by one; stacking them is part of the step.
        return [partial(self.step, [self._example(row) for row in rows]) for rows in batches]

    def step(self, examples: list[dict[str, torch.Tensor]]) -> None:
        inputs = self._collate(examples)
        with precision(self.settings, self.device):
            loss = self.model(**inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    def _example(self, row: int) -> dict[str, torch.Tensor]:
        columns = ("input_ids", "token_type_ids", *self.targets.values())
        columns = self.features.pick([row], columns).columns
        ids = torch.from_numpy(columns["input_ids"].astype(np.int64))
        example = {
            "input_ids": ids,
            "token_type_ids": torch.from_numpy(columns["token_type_ids"].astype(np.int64)),
            "attention_mask": torch.ones_like(ids),
        }
        if self.pad_to:  # as the example's `map` leaves them
            example = {
                k: nn.functional.pad(v, (0, self.pad_to - len(v))) for k, v in example.items()
            }
        return example | {k: torch.tensor(columns[v][0]).long() for k, v in self.targets.items()}

    def _collate(self, examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {}
        for name in examples[0]:
            values = [example[name] for example in examples]
            if values[0].dim() and not self.pad_to:
                stacked = nn.utils.rnn.pad_sequence(values, batch_first=True)
            else:
                stacked = torch.stack(values)
            if self.device.type == "cuda":
                stacked = stacked.pin_memory()
            batch[name] = stacked.to(self.device, non_blocking=True)
        return batch
