"""Measures time and memory of training steps and predictions, on real features."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtdnn.config.settings import RunSettings
from mtdnn.data.features import Features
from mtdnn.evaluation.predictions import TOKENS_PER_BATCH, batches_by_length, outputs
from mtdnn.model.batches import PackedBatch, batch_of
from mtdnn.model.device import device_name, use_device
from mtdnn.model.multitask import MultiTaskModel, build, restrict
from mtdnn.model.optimizer import learning_rate, optimizer_for
from mtdnn.training.loop import random_state
from mtdnn.training.stepper import stepper_for
from mtdnn.training.usage import memory_mib

WARM_UP_STEPS = 2
MEASURED_STEPS = 6
MAX_SECONDS = 10.0
"""No further training step begins after this time."""
PREDICTED_BATCHES = 4


def measure(
    run: RunSettings, encoder: Path, features: dict[str, Path], corpora: list[str], threads: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure rates, for each corpus in a process of its own, so that its memory is known.

    Args:
        run: settings of a run.
        encoder: the folder of its encoder.
        features: the folder of each corpus's features.
        corpora: the corpora to measure.
        threads: CPU threads.

    Yields:
        A corpus and its `step_s` (seconds of a training step), `token_s` (seconds of a predicted
        token), `memory_mib` (peak memory of the GPU, or without one of the process), `device`.
    """
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), max_tasks_per_child=1
    ) as processes:
        for corpus in corpora:
            task = processes.submit(_measure, run, encoder, features[corpus], corpus, threads)
            yield corpus, task.result()


def _measure(
    run: RunSettings, encoder: Path, features: Path, corpus: str, threads: int
) -> dict[str, Any]:
    device = use_device(threads, run.training.deterministic)
    model = build(encoder, run)
    restrict(model, run)
    model = model.to(device)
    family = run.corpora[corpus].family
    step = step_seconds(model, run, corpus, Features(features / "train.arrow", family), device)
    token = _token_seconds(model, run, corpus, Features(features / "dev.arrow", family), device)
    on_gpu = device.type == "cuda"
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else memory_mib()
    return {
        "corpus": corpus,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "step_s": step,
        "token_s": token,
        "memory_mib": memory,
    }


def step_seconds(
    model: MultiTaskModel,
    run: RunSettings,
    corpus: str,
    features: Features,
    device: torch.device,
) -> float:
    """Return the mean seconds of a training step, over random batches and after a warm-up."""
    optimizer = optimizer_for(model.train(), run.training)
    stepper = stepper_for(model, optimizer, run.training, device)
    draw = np.random.default_rng(1)
    size = run.training.batch_size_of(corpus)
    rows = [draw.permutation(len(features))[:size] for _ in range(MEASURED_STEPS)]
    # Training assembles them on another thread, while steps are taken.
    batches = [stepper.prepare(batch_of(features, each)) for each in rows]

    def step(number: int, batch: PackedBatch) -> None:
        random_state(run.seed, number)
        stepper.take(corpus, batch, learning_rate(number, 1000, run.training))

    # On a GPU, a step is recorded when its shape occurs for the second time, then replayed.
    for number, batch in enumerate(
        2 * batches if device.type == "cuda" else batches[:WARM_UP_STEPS]
    ):
        step(number, batch)
    _wait(device)
    started = time.perf_counter()
    for taken, batch in enumerate(batches, 1):
        step(MEASURED_STEPS + taken, batch)
        if time.perf_counter() - started > MAX_SECONDS:
            break
    _wait(device)
    return (time.perf_counter() - started) / taken


def _token_seconds(
    model: MultiTaskModel,
    run: RunSettings,
    corpus: str,
    features: Features,
    device: torch.device,
) -> float:
    """Return the mean seconds of a predicted token, over batches of short and long sequences."""
    batches = list(batches_by_length(features, TOKENS_PER_BATCH[device.type]))
    chosen = batches[:: max(1, len(batches) // PREDICTED_BATCHES)][:PREDICTED_BATCHES]
    tokens = sum(int(features.pick(items, ["input_ids"]).lengths.sum()) for items in chosen)
    model.eval()
    started = time.perf_counter()
    # Its progress would look as if something were being evaluated.
    with redirect_stderr(StringIO()):
        for _ in outputs(model, corpus, features, run, device, chosen):
            pass
    _wait(device)
    return (time.perf_counter() - started) / tokens


def _wait(device: torch.device) -> None:
    """Wait until the GPU has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
