"""Training of one run: its schedule, step by step, on one device."""

import ctypes
import hashlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtdnn import schedule
from mtdnn.batches import PackedBatch, batch_of
from mtdnn.checkpoints import Checkpoints, Stopped, StopSignals
from mtdnn.devices import take_one
from mtdnn.errors import MtdnnError
from mtdnn.fast import fast, plain
from mtdnn.features import Features, check_unchanged, training_features
from mtdnn.files import (
    digest,
    flush,
    read_json,
    replacing,
    sha256,
    sweep,
    write_json,
    write_text,
)
from mtdnn.layout import Layout
from mtdnn.model import MultiTaskModel, build, save
from mtdnn.optimization import (
    DecoupledAdamax,
    clip_scale,
    gradient_norm,
    learning_rate,
    optimizer_for,
)
from mtdnn.progress import Progress
from mtdnn.provenance import code_digest, environment
from mtdnn.settings import RunSettings, TrainingSettings

# Losses stay on the device for so many steps; reading each would make a GPU wait every step.
STEPS_BETWEEN_READS = 10
BATCHES_AHEAD = 2


def train(
    run_dir: Path,
    run: RunSettings,
    threads: int | None = None,
    checkpoint_seconds: float = 600.0,
    wait: bool = False,
) -> None:
    """Train a run from its features and schedule; writes `model/` and `training.jsonl`.

    A training that was interrupted goes on from its last checkpoint, to the same result.

    Args:
        run_dir: the run's folder, with `schedule.parquet`.
        run: its resolved settings.
        threads: CPU threads; all cores when absent.
        checkpoint_seconds: time between two checkpoints.
        wait: when another process is training the run, wait for it and take what it made.

    Raises:
        MtdnnError: something is missing, does not fit, or the loss is not finite.
        Busy: another process is training the run, and `wait` is false.
        Stopped: a signal ended the training; its state is kept.
    """
    device = use_device(threads, run.training.deterministic)
    layout = Layout.of_run(run_dir)
    # Now, not at the end: files may change while a long training goes on.
    identity, versions = fingerprint(layout, run), environment()
    origin = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": versions["torch"],
    }
    folder = layout.state(identity["fingerprint"])
    checkpoints = Checkpoints(folder, checkpoint_seconds, origin)
    with checkpoints.sole_writer(wait) as lease:
        if lease.waited and _is_finished(run_dir, identity):
            checkpoints.drop()
            return
        for name in ("model", "training.jsonl"):
            sweep(run_dir / name)
        check_unchanged(layout, run, "train")
        features = training_features(layout, run)
        steps = schedule.read(run_dir, {name: len(some) for name, some in features.items()})
        encoder = layout.encoder(run.encoder_name)
        model = build(encoder, run).to(device).train()
        optimizer = optimizer_for(model, run.training)
        started = datetime.now(UTC)
        log = _train_steps(run, steps, features, model, optimizer, device, checkpoints)
        lease.check()
        with replacing(run_dir / "model") as draft:
            draft.mkdir()
            save(model, run, encoder, draft)
            provenance = {
                **versions,
                **origin,
                "precision": run.training.precision,
                "started": started.isoformat(timespec="seconds"),
                "seconds": log.seconds,
                "steps": len(steps),
                "tokens": sum(line["tokens"] for line in log.lines),
                "parts": checkpoints.parts,
            }
            write_json(
                draft / "run.json",
                {
                    **identity,
                    "files": {file.name: sha256(file) for file in sorted(draft.iterdir())},
                    "provenance": provenance,
                    "settings": run.model_dump(mode="json"),
                },
            )
            flush(draft)
        lines = "".join(json.dumps(line) + "\n" for line in log.lines)
        write_text(run_dir / "training.jsonl", lines)
        checkpoints.drop()


def _is_finished(run_dir: Path, identity: dict[str, Any]) -> bool:
    """Whether the run's folder holds all that this training would make."""
    description = run_dir / "model" / "run.json"
    if not description.exists() or not (run_dir / "training.jsonl").exists():
        return False
    return read_json(description).get("fingerprint") == identity["fingerprint"]


def _train_steps(
    run: RunSettings,
    steps: list[schedule.Step],
    features: dict[str, Features],
    model: MultiTaskModel,
    optimizer: DecoupledAdamax,
    device: torch.device,
    checkpoints: Checkpoints,
) -> "TrainingLog":
    """All steps that are not yet done; model and optimiser are changed in place."""
    first, lines = checkpoints.restore(model, optimizer)
    log = TrainingLog(lines)
    title = f"train {run.mixture_label} w{run.qa_weight:g}"
    with StopSignals() as stop, Progress(title, len(steps), "steps", done=first) as progress:
        for step, batch in _batches(steps[first:], features, device):
            rate = learning_rate(step.step, len(steps), run.training)
            random_state(run.seed, step.step)
            try:
                loss, norm = train_step(
                    model, optimizer, step.corpus, batch, rate, run.training, device
                )
            except torch.OutOfMemoryError:
                raise _out_of_memory(step, batch, run.training) from None
            log.add(step, loss, norm, rate, batch.tokens)
            following = step.step + 1
            keep = stop.number is not None or checkpoints.due
            if keep or following == len(steps) or len(log.pending) == STEPS_BETWEEN_READS:
                log.read()
                return_memory()
            if keep:
                checkpoints.save(following, model, optimizer, log.lines)
            if stop.number is not None:
                raise Stopped(
                    f"training: stopped by signal {stop.number} after {following} of {len(steps)} "
                    "steps; the same command goes on from there",
                    stop.number,
                )
            progress.advance(note=log.note)
    return log


def _batches(
    steps: list[schedule.Step], features: dict[str, Features], device: torch.device
) -> Iterator[tuple[schedule.Step, PackedBatch]]:
    """Every step with its batch, each assembled while the one before it is being learnt."""

    def assemble(step: schedule.Step) -> PackedBatch:
        batch = batch_of(features[step.corpus], step.rows)
        return batch.pinned() if device.type == "cuda" else batch

    if not fast("prefetch"):
        yield from ((step, assemble(step)) for step in steps)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
        waiting = deque(ahead.submit(assemble, step) for step in steps[:BATCHES_AHEAD])
        for number, step in enumerate(steps):
            batch = waiting.popleft().result()
            if number + BATCHES_AHEAD < len(steps):
                waiting.append(ahead.submit(assemble, steps[number + BATCHES_AHEAD]))
            yield step, batch


def _out_of_memory(
    step: schedule.Step, batch: PackedBatch, settings: TrainingSettings
) -> MtdnnError:
    return MtdnnError(
        f"training: step {step.step} ({step.corpus}): the GPU's memory is too small for a batch of "
        f"{batch.tokens} tokens in {settings.accumulation} parts; raise training.accumulation, "
        "which cuts a batch into more parts and leaves its size and its gradients as they are"
    )


def train_step(
    model: MultiTaskModel,
    optimizer: DecoupledAdamax,
    corpus: str,
    batch: PackedBatch,
    rate: float,
    settings: TrainingSettings,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimiser step.

    Returns:
        The batch's mean loss and the global gradient norm before clipping, both scalars on
        the device.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for part, share in parts_of(batch, settings.accumulation):
        with precision(settings, device):
            loss = model.loss(corpus, part.to(device)) * share
        loss.backward()
        total += loss.detach()
    norm = gradient_norm(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step(clip_scale(norm, settings.clip_norm))
    return total, norm


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


def random_state(seed: int, step: int) -> None:
    """Set the random state of a step from the run's seed and the step's number alone.

    So a resumed run draws the same dropout masks as one that was never interrupted.
    """
    key = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    torch.manual_seed(int.from_bytes(key[:8], "little") >> 1)


# --- the log ---------------------------------------------------------------------------------


@dataclass
class _Pending:
    line: dict[str, Any]
    rows: np.ndarray
    loss: torch.Tensor
    norm: torch.Tensor


class TrainingLog:
    """Lines of `training.jsonl`, read from the device a few steps at a time."""

    def __init__(self, lines: list[dict[str, Any]]):
        # The clock of a resumed training goes on from its last line.
        self._clock = time.monotonic() - (lines[-1]["seconds"] if lines else 0.0)
        self.lines = lines
        self.pending: list[_Pending] = []
        self._recent: dict[str, deque[float]] = {}

    @property
    def seconds(self) -> float:
        """Time spent on training so far, earlier parts included."""
        return round(time.monotonic() - self._clock, 3)

    def add(
        self, step: schedule.Step, loss: torch.Tensor, norm: torch.Tensor, rate: float, tokens: int
    ) -> None:
        """Note a step whose loss and norm are still being computed."""
        line = {
            "step": step.step,
            "epoch": step.epoch,
            "corpus": step.corpus,
            "loss": None,
            "lr": rate,
            "grad_norm": None,
            "tokens": tokens,
            "seconds": self.seconds,
        }
        self.pending.append(_Pending(line, step.rows, loss, norm))

    def read(self) -> None:
        """Fetch what is pending.

        Raises:
            MtdnnError: a loss or gradient is not finite.
        """
        values = torch.stack([value for p in self.pending for value in (p.loss, p.norm)]).tolist()
        for pending, loss, norm in zip(self.pending, values[::2], values[1::2], strict=True):
            line = {**pending.line, "loss": loss, "grad_norm": norm}
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise MtdnnError(
                    f"training: step {line['step']} ({line['corpus']}): loss {loss}, gradient norm "
                    f"{norm} in the batch of its training items {_some(pending.rows)}; what was "
                    "kept before is left; lower training.learning_rate, or use precision fp32"
                )
            self.lines.append(line)
            self._recent.setdefault(line["corpus"], deque(maxlen=20)).append(loss)
        self.pending.clear()

    @property
    def note(self) -> str:
        """Mean of the latest losses of each corpus."""
        means = (f"{name} {sum(v) / len(v):.3f}" for name, v in self._recent.items())
        return "loss " + ", ".join(means) if self._recent else ""


def _some(rows: np.ndarray, most: int = 16) -> str:
    """The first of some numbers."""
    return ", ".join(map(str, rows[:most].tolist())) + (", …" if len(rows) > most else "")


# --- where it runs, and on what --------------------------------------------------------------


def use_device(threads: int | None, deterministic: bool = True) -> torch.device:
    """A GPU that nobody else has, if there is one, else the CPU with `threads` threads.

    Args:
        threads: CPU threads; all cores when absent.
        deterministic: a GPU computes the same bits each time, somewhat slower; a CPU does so
            anyway, with the same number of threads.
    """
    if threads:
        torch.set_num_threads(threads)
    take_one()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Read by cuBLAS when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    return torch.device("cuda")


def return_memory() -> None:
    """Give freed memory back to the system, where the C library can.

    Batches of ever new sizes leave holes in glibc's heap, and a process would grow for hours.
    """
    if fast("memory") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def device_name(device: torch.device) -> str:
    """The device's name as its maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "CPU"
    model = next((line for line in lines if line.startswith("model name")), "model name : CPU")
    return model.split(":", 1)[1].strip()


def fingerprint(layout: Layout, run: RunSettings) -> dict[str, Any]:
    """What determines a trained model: settings, corpora, encoder, code; and one digest of all."""
    parts = {
        "config_digest": digest(run.determining()),
        "corpora": {
            name: read_json(
                layout.features(run.encoder_name, run.features_variant, name) / "features.json"
            )["corpus_digest"]
            for name in run.corpora
        },
        "encoder": read_json(layout.encoder(run.encoder_name) / "manifest.json")["digest"],
        # Plain paths draw other dropout masks: a training goes on only as it began.
        "code": "-".join([code_digest("training"), *plain()]),
    }
    return {"fingerprint": digest(parts)[:32], **parts}
