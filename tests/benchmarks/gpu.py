"""Prove the GPU path right, then measure it: one command, one process, at most nine minutes.

    python tests/benchmarks/gpu.py FOLDER              # on a machine with a GPU
    python tests/benchmarks/gpu.py FOLDER --rehearse   # every line on a CPU, on tiny shapes

The machine needs Python, torch and transformers. What else the training core needs and the machine
lacks is installed from the wheels in the folder that WHEELS names (README.md beside this file says
how to collect them). Every result is a line of JSON in FOLDER/<device>-<date>.jsonl, written at
once. Sections run in order of importance, each only if enough time is left. A result that makes
later ones meaningless ends the command.
"""

import argparse
import contextlib
import gc
import importlib.util
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

NEEDED = ("filelock", "pyarrow", "pydantic", "yaml", "safetensors", "tokenizers", "tqdm")


def install_missing() -> None:
    """Install what the training core needs and this machine lacks, from the wheels in WHEELS."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing and (wheels := os.environ.get("WHEELS")):
        names = ["PyYAML" if name == "yaml" else name for name in missing]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
        subprocess.run([*command, "--find-links", wheels, *names], check=True)
        importlib.invalidate_caches()


install_missing()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from mtdnn.bench import harness, material, paper, train  # noqa: E402
from mtdnn.bench import peers as peers_of_trainer  # noqa: E402
from mtdnn.config.layout import Layout, RunId  # noqa: E402
from mtdnn.config.loading import load  # noqa: E402
from mtdnn.data.features import Features  # noqa: E402
from mtdnn.machine.files import sha256  # noqa: E402
from mtdnn.machine.provenance import commit  # noqa: E402
from mtdnn.model import attention, trials  # noqa: E402
from mtdnn.model.batches import PackedBatch, batch_of  # noqa: E402
from mtdnn.model.device import device_name, use_device  # noqa: E402
from mtdnn.model.fast import TRIALS  # noqa: E402
from mtdnn.model.multitask import build  # noqa: E402
from mtdnn.model.optimizer import clip_scale, gradient_norm, learning_rate  # noqa: E402
from mtdnn.model.optimizer import optimizer_for as optimizer_of  # noqa: E402
from mtdnn.training.checkpoints import Checkpoints  # noqa: E402
from mtdnn.training.loop import random_state  # noqa: E402
from mtdnn.training.stepper import (  # noqa: E402
    RecordedParts,
    RecordedSteps,
    cuda_recorder,
    precision,
)
from tests.support.recorder import StandIn, state_of  # noqa: E402


class Wrong(Exception):
    """A result that is not what it must be."""


@dataclass
class Bench:
    """What every section needs: the device, the place of the results, the time that is left.

    Attributes:
        device: where everything runs.
        out: the folder of the results.
        scratch: the folder of everything else; may go afterwards.
        rehearsal: whether this is a rehearsal on a CPU.
        ends: when the command must be over, by `time.monotonic`.
        commit: that of the code, if it is known.
    """

    device: torch.device
    out: Path
    scratch: Path
    rehearsal: bool
    ends: float
    commit: str | None
    _materials: dict[tuple[str, str], material.Material] = field(default_factory=dict)

    @cached_property
    def lines(self) -> Path:
        """The file of the results."""
        name = f"{device_name(self.device)}-{datetime.now(UTC):%Y-%m-%d}"
        name += "-rehearsal" if self.rehearsal else ""
        name = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)
        return self.out / f"{name}.jsonl"

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.ends - time.monotonic()

    def record(self, section: str, case: str, **values: Any) -> None:
        """Append a result to the file, so that it survives whatever comes next.

        Each line says for itself where it comes from, and whether it measures anything.
        """
        about = {"device": device_name(self.device), "commit": self.commit}
        line = {"section": section, "case": case, **about, "rehearsal": self.rehearsal, **values}
        text = json.dumps(line).replace(f"{self.scratch}/", "").replace(f"{ROOT}/", "")
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{section}: {case}: {json.dumps(values)[:300]}", flush=True)

    def check(self, section: str, case: str, right: bool, **values: Any) -> None:
        """Record whether something is right.

        Raises:
            Wrong: it is not.
        """
        self.record(section, case, right=bool(right), **values)
        if not right:
            raise Wrong(f"{section}: {case}: {values}")

    def material(self, shape: str = "base", kind: str = "bf16") -> material.Material:
        """Return the encoder of a shape, with random weights, and windows of real lengths."""
        shape = "tiny" if self.rehearsal else shape
        if (shape, kind) not in self._materials:
            options = self.options(encoder=shape, precision=kind)
            self._materials[shape, kind] = material.gather(options)
        return self._materials[shape, kind]

    @cached_property
    def product_size(self) -> int:
        """Rows and columns of the matrices whose product is the measure of all others."""
        return 128 if self.rehearsal else 8192

    def product_rate(self, kind: str) -> float:
        """Measure the operations per second of a large matrix product in a type of torch."""
        size = self.product_size
        matrix = torch.randn(size, size, device=self.device, dtype=getattr(torch, kind))
        return 2 * size**3 / self.seconds(lambda: matrix @ matrix, 20)

    @cached_property
    def ceiling(self) -> float:
        """Operations per second of a large bf16 product."""
        return self.product_rate("bfloat16")

    def options(self, **changes: Any) -> harness.Options:
        """Return the options of a benchmark."""
        given: dict[str, Any] = {
            "experiment": ROOT / "config" / "reduced.yaml",
            "encoder": "base",
            "folder": self.scratch / "material",
            "threads": None,
            "rounds": 2 if self.rehearsal else 7,
        }
        return harness.Options(**{**given, **changes})

    def recorder(self) -> "Callable[..., Any]":
        """Return a recorder of the device: CUDA graphs, or the stand-in of a rehearsal."""
        return StandIn() if self.rehearsal else cuda_recorder()

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back the memory of models that are gone; peaks count from here."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def seconds(self, work: Callable[[], object], times: int = 10) -> float:
        """Return the mean seconds of work, after a warm-up."""
        times = 2 if self.rehearsal else times
        for _ in range(2):
            work()
        self.wait()
        started = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return (time.perf_counter() - started) / times


# --- ceilings --------------------------------------------------------------------------------


def ceilings(bench: Bench) -> None:
    """What this device can do at most."""
    import transformers

    bench.record(
        "ceilings",
        "versions",
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        torch=torch.__version__,
        cuda=torch.version.cuda,
        transformers=transformers.__version__,
        python=platform.python_version(),
    )
    size = bench.product_size
    rates = {"bfloat16": bench.ceiling, "float32": bench.product_rate("float32")}
    for kind, rate in rates.items():
        bench.record("ceilings", f"product_{kind}", size=size, tflops=rate / 1e12)
    source = torch.empty((1 << 20) if bench.rehearsal else (1 << 30), device=bench.device)
    target = torch.empty_like(source)
    taken = bench.seconds(lambda: target.copy_(source), 20)
    bench.record("ceilings", "copy", gb_per_s=2 * source.numel() * 4 / taken / 1e9)


# --- attention -------------------------------------------------------------------------------


def lengths_of(bench: Bench, count: int = 16) -> list[int]:
    """Draw lengths of real windows."""
    places = np.linspace(0, 1, 11)
    draw = np.random.default_rng(3).random(count)
    known = [length // 8 for length in material.LENGTHS["squad"]]
    return (
        np.interp(draw, places, known if bench.rehearsal else material.LENGTHS["squad"])
        .astype(int)
        .tolist()
    )


def packing_of(bench: Bench, lengths: list[int]) -> PackedBatch:
    """Return a batch that has only lengths, with a tail as a recorded step has one."""
    numbers = torch.zeros(sum(lengths), dtype=torch.int64)
    batch = PackedBatch(numbers, numbers, numbers, tuple(lengths), np.arange(len(lengths) + 1), {})
    return batch.with_tail().to(bench.device)


def attention_is_right(bench: Bench) -> None:
    """Packed attention against fp64, sequence by sequence; leaks, bits, dropout."""
    lengths = lengths_of(bench)
    packing = packing_of(bench, lengths)
    for size in (64, 8, 32):
        heads = 2 if bench.rehearsal else 12
        shape = (1, heads, packing.tokens, size)
        half = torch.float32 if bench.rehearsal else torch.bfloat16
        torch.manual_seed(1)
        given = [torch.randn(shape, device=bench.device, dtype=half) for _ in range(3)]
        _parity(bench, f"heads_of_{size}", given, packing)
        _no_leak(bench, f"heads_of_{size}", given, packing)
        _same_bits(bench, f"heads_of_{size}", given, packing)
        _dropout(bench, f"heads_of_{size}", given, packing)


def _attend(given: list[torch.Tensor], packing: PackedBatch, dropout: float = 0.0) -> torch.Tensor:
    output, _ = attention.packed_attention(
        torch.nn.Identity(), *given, None, dropout=dropout, packing=packing
    )
    return output[0]


def _parity(bench: Bench, case: str, given: list[torch.Tensor], packing: PackedBatch) -> None:
    """Forward and gradients: at most twice as far from fp64 as torch's own products are."""
    torch.manual_seed(2)
    weights = torch.randn_like(_attend(given, packing))

    def gradients(dtype: torch.dtype, attend: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in given]
        output = attend(inputs)
        output.backward(weights.to(output.dtype))
        return [output.detach(), *(tensor.grad for tensor in inputs)]

    def one_by_one(inputs: list[torch.Tensor]) -> torch.Tensor:
        parts, start = [], 0
        for length in (*packing.lengths, packing.tail):
            q, k, v = (tensor[0, :, start : start + length] for tensor in inputs)
            scores = torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, dim=-1)
            parts.append((scores @ v).transpose(0, 1))
            start += length
        return torch.cat(parts)

    ours = gradients(given[0].dtype, lambda inputs: _attend(inputs, packing))
    plain = gradients(given[0].dtype, one_by_one)
    exact = gradients(torch.float64, one_by_one)
    for name, mine, its, truth in zip(
        ["output", "query", "key", "value"], ours, plain, exact, strict=True
    ):
        error = (mine.double() - truth).abs().max().item()
        allowed = 2 * (its.double() - truth).abs().max().item() + 1e-6
        bench.check("attention", f"{case}_{name}", error <= allowed, error=error, allowed=allowed)


def _no_leak(bench: Bench, case: str, given: list[torch.Tensor], packing: PackedBatch) -> None:
    before = _attend(given, packing)
    start = packing.lengths[0]
    own = slice(start, start + packing.lengths[1])
    changed = [tensor.clone() for tensor in given]
    for tensor in changed:
        tensor[:, :, own] += 1
    after = _attend(changed, packing)
    moved = (before != after).flatten(1).any(dim=1)
    inside = bool(moved[own].any())
    moved[own] = False
    bench.check("attention", f"{case}_no_leak", inside and not bool(moved.any()))


def _same_bits(bench: Bench, case: str, given: list[torch.Tensor], packing: PackedBatch) -> None:
    results = []
    for _ in range(2):
        inputs = [tensor.detach().clone().requires_grad_() for tensor in given]
        torch.manual_seed(3)
        _attend(inputs, packing, 0.1).float().square().sum().backward()
        results.append([tensor.grad for tensor in inputs])
    equal = all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    bench.check("attention", f"{case}_backward_twice", equal)


def _dropout(bench: Bench, case: str, given: list[torch.Tensor], packing: PackedBatch) -> None:
    """With values of one, an output is the sum of the kept weights, whose mean is one."""
    query, key, value = given
    ones = torch.ones_like(value)
    sums = []
    for seed in range(16):
        torch.manual_seed(seed)
        sums.append(
            _attend([query, key, ones], packing, 0.1)[: sum(packing.lengths), :, 0].double()
        )
    means = torch.stack(sums).mean(dim=(1, 2))
    error, noise = abs(means.mean().item() - 1), means.std().item() / 4
    # Rounding to bf16 has a bias of its own, far below a dropout that is off by a thousandth.
    bench.check("attention", f"{case}_dropout", error <= 6 * noise + 1e-3, error=error, noise=noise)


# --- whole steps -----------------------------------------------------------------------------


@dataclass
class Twelve:
    """Twelve steps over three shapes and two corpora, recorded or as they come."""

    bench: Bench
    recorded: bool
    recorder: Any = None

    def __post_init__(self) -> None:
        self.material = self.bench.material()
        self.run = self.material.run
        training = self.run.training.model_copy(update={"deterministic": True})
        self.settings = training
        run = self.run.model_copy(update={"training": training})
        self.model = build(self.material.encoder, run).to(self.bench.device).train()
        self.optimizer = optimizer_of(self.model, training)
        recorder = self.recorder or self.bench.recorder()
        self.stepper = RecordedSteps(
            self.model, self.optimizer, training, self.bench.device, recorder
        )
        if isinstance(recorder, StandIn):
            recorder.stepper = self.stepper
        if not self.recorded:
            self.stepper._recorder = None
        small = train.smallest(self.material)
        qa = self.run.target
        draw = np.random.default_rng(5)
        self.batches = [
            (corpus, draw.permutation(len(self.material.features[corpus]))[: train.BATCH])
            for corpus in (qa, qa, small)
        ]

    def take(self, steps: range = range(12)) -> list[list[float]]:
        """Take steps; return loss and norm of each."""
        results = []
        for step in steps:
            corpus, rows = self.batches[(step * 5 + step // 3) % 3]
            batch = self.stepper.prepare(batch_of(self.material.features[corpus], rows))
            random_state(1, step)
            rate = learning_rate(step + 1, 100, self.settings)
            results.append(torch.stack(self.stepper.take(corpus, batch, rate)))
        return torch.stack(results).tolist()

    @property
    def recordings(self) -> int:
        """How many shapes are recorded."""
        return sum(1 for recording in self.stepper._recordings.values() if recording)


def different(one: RecordedSteps, other: RecordedSteps) -> list[str]:
    """Return the names of weights and moments that differ in any bit."""
    mine, its = state_of(one), state_of(other)
    return [name for name in mine if name not in its or not torch.equal(mine[name], its[name])]


def whole_steps(bench: Bench) -> None:
    """Recorded steps equal eager ones in every bit, also after a stop and a resume."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        eager, recorded = Twelve(bench, False), Twelve(bench, True)
        expected, found = eager.take(), recorded.take()
    bench.check(
        "steps",
        "nothing_fell_back",
        "continuing without" not in said.getvalue(),
        said=said.getvalue()[-500:],
    )
    bench.check("steps", "recordings", recorded.recordings == 3, recordings=recorded.recordings)
    bench.check("steps", "losses_and_norms", expected == found, first=expected[0], last=found[-1])
    wrong = different(eager.stepper, recorded.stepper)
    bench.check("steps", "weights_and_moments", not wrong, differ=wrong[:5])
    del recorded
    stopped = Twelve(bench, True)
    first = stopped.take(range(6))
    folder = bench.scratch / "checkpoint"
    Checkpoints(folder, 0.0).save(6, stopped.model, stopped.optimizer, [])
    resumed = Twelve(bench, True)
    step, _ = Checkpoints(folder, 0.0).restore(resumed.model, resumed.optimizer)
    rest = resumed.take(range(step, 12))
    bench.check("steps", "resumed_losses", first + rest == expected)
    wrong = different(eager.stepper, resumed.stepper)
    bench.check("steps", "resumed_weights", not wrong, differ=wrong[:5])


# --- a recording that fails ------------------------------------------------------------------


class Failing:
    """A recorder whose second recording fails when all of it is recorded.

    Args:
        bench: for the device.
        invalid: the host reads a value, so that the recording itself becomes invalid; otherwise
            memory is exhausted.
    """

    def __init__(self, bench: Bench, invalid: bool) -> None:
        self.inner, self.count = bench.recorder(), 0
        self.device, self.invalid = bench.device, invalid

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.count += 1
        stand_in = isinstance(self.inner, StandIn)
        if stand_in:
            self.inner.stepper = self.stepper
        if self.count == 1:
            return self.inner(work)

        def broken() -> None:
            work()
            if self.invalid and not stand_in:
                torch.zeros(1, device=self.device).item()
            kind = RuntimeError if self.invalid else torch.OutOfMemoryError
            raise kind("made up: a recording fails")

        return self.inner(broken)


def failing_recording(bench: Bench) -> None:
    """Training goes on, to the same result, when a recording fails in its middle.

    In a process of its own where the recording becomes invalid: nobody knows what that leaves in
    the allocator for the sections to come.
    """
    _fails(bench, invalid=False)
    command = [sys.executable, __file__, str(bench.out), "--only", INVALID]
    command += ["--scratch", str(bench.scratch)]
    command += ["--commit", bench.commit] if bench.commit else []
    command += ["--rehearse"] if bench.rehearsal else []
    limit = max(60.0, bench.left)
    process = subprocess.run(command, timeout=limit, capture_output=True, text=True)
    if process.returncode:
        raise Wrong(f"failure: invalid: {(process.stdout + process.stderr)[-500:]}")


def invalid_recording(bench: Bench) -> None:
    """The part of `failing_recording` that has a process of its own."""
    _fails(bench, invalid=True)


def _fails(bench: Bench, invalid: bool) -> None:
    eager, said = Twelve(bench, False), io.StringIO()
    case = "invalid" if invalid else "out_of_memory"
    with contextlib.redirect_stdout(said):
        failing = Twelve(bench, True, recorder=Failing(bench, invalid))
        failing.stepper._recorder.stepper = failing.stepper
        expected, found = eager.take(), failing.take()
    is_said = "continuing without CUDA graphs" in said.getvalue()
    bench.check("failure", f"{case}_is_said", is_said, said=said.getvalue()[-300:])
    bench.check("failure", f"{case}_dropped", failing.recordings == 0)
    bench.check("failure", f"{case}_losses_and_norms", expected == found)
    wrong = different(eager.stepper, failing.stepper)
    bench.check("failure", f"{case}_weights_and_moments", not wrong, differ=wrong[:5])


# --- where the time goes ---------------------------------------------------------------------

KERNELS = 25  # that are shown of a step


def where_time_goes(bench: Bench) -> None:
    """Forward, backward, norm and update of an eager QA step; the kernels of a recorded one."""
    ours = train.Ours(bench.material(), bench.material().run.target, bench.device)
    model, optimizer = ours.trained
    settings, corpus = ours.run.training, ours.corpus
    (rows,) = train.random_batches(ours.features, 1)
    batch = ours.prepared(rows).to(bench.device)

    def forward() -> torch.Tensor:
        with precision(settings, bench.device):
            return model.loss(corpus, batch)

    def backward() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()

    def update() -> None:
        optimizer.advance(model.trained_by(corpus))
        optimizer.apply(clip_scale(gradient_norm(model.parameters()), settings.clip_norm))

    times = {"forward": bench.seconds(forward), "forward_and_backward": bench.seconds(backward)}
    backward()
    times["norm"] = bench.seconds(lambda: gradient_norm(model.parameters()))
    times["norm_and_update"] = bench.seconds(update)
    steps = ours.steps(train.random_batches(ours.features))
    times["step"] = bench.seconds(lambda: [step() for step in steps]) / len(steps)
    bench.record("time", "qa_step", tokens=batch.tokens, **{f"{n}_s": t for n, t in times.items()})
    for name in (corpus, train.smallest(bench.material())):
        _kernels(bench, name)


def _kernels(bench: Bench, corpus: str, **facts: str) -> None:
    """The kernels on which a recorded step spends most time."""
    ours = train.Ours(bench.material(), corpus, bench.device)
    steps = ours.steps(train.random_batches(ours.features))
    step_s = bench.seconds(lambda: [step() for step in steps]) / len(steps)
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [] if bench.rehearsal else [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for step in steps:
            step()
        bench.wait()
    device, key = "CPU", "self_cpu_time_total"
    if not bench.rehearsal:
        device, key = "CUDA", "self_device_time_total"
    # Kernels alone: what launches them is said to have taken their time, too.
    events = [event for event in profile.key_averages() if event.device_type.name == device]
    events.sort(key=lambda event: -getattr(event, key))
    calls, taken = (
        sum(value) / len(steps)
        for value in ((event.count for event in events), (getattr(e, key) for e in events))
    )
    facts = {"corpus": corpus, **facts}
    sums = {"step_s": step_s, "calls": calls, "kernels_s": taken / 1e6}
    bench.record("time", "kernels", **facts, **sums)
    for event in events[:KERNELS]:
        seconds, calls = getattr(event, key) / 1e6 / len(steps), event.count / len(steps)
        shown = {"name": event.key[:90], "calls": calls, "seconds": seconds}
        bench.record("time", "kernel", **facts, **shown)


# --- what recording costs --------------------------------------------------------------------


RECORDED = 3  # shapes of each corpus


def cost_of_recording(bench: Bench) -> None:
    """Time and memory of each recording, and their share of the time of the paper's largest run."""
    experiment = load(paper.CONFIG)
    mixture = max(experiment.mixtures, key=lambda name: len(experiment.mixtures[name].corpora))
    # At the weight at which the paper's text reports it.
    whole = RunId(next(iter(experiment.encoders)), mixture, 0.8, "default", experiment.seeds[0])
    count = {name: round(n) for name, n in paper.steps_of(experiment, whole).items()}
    recorded = trained = 0.0
    for corpus, features in bench.material().features.items():
        values = _recording(bench, corpus)
        steps = count[corpus] // 100 if bench.rehearsal else count[corpus]
        recordings = _recordings(features, steps)
        bench.record("recording", corpus, **values, steps=steps, recordings=recordings)
        recorded += recordings * values["shape_s"]
        trained += steps * values["replay_s"]
    bench.record(
        "recording",
        "whole_run",
        mixture=mixture,
        recording_s=recorded,
        run_s=recorded + trained,
        share=recorded / (recorded + trained),
    )


def _recording(bench: Bench, corpus: str) -> dict[str, float]:
    """Measure what a recording takes in addition to a replay, and a replay."""
    ours = train.Ours(bench.material(), corpus, bench.device)
    if bench.rehearsal:
        recorder = bench.recorder()
        ours.stepper = recorder.stepper = RecordedSteps(
            *ours.trained, ours.run.training, bench.device, recorder
        )
    by_shape: dict[tuple[int, ...], np.ndarray] = {}
    for rows in train.random_batches(ours.features, 16):
        by_shape.setdefault(batch_of(ours.features, rows).with_tail().shape, rows)
    steps = ours.steps(np.array([*by_shape.values()][:RECORDED]))

    def pass_seconds() -> float:
        bench.wait()
        started = time.perf_counter()
        for step in steps:
            step()
        bench.wait()
        return time.perf_counter() - started

    def reserved() -> int:
        return torch.cuda.memory_reserved() if bench.device.type == "cuda" else 0

    pass_seconds()
    bench.free()
    before = reserved()
    twice = pass_seconds()  # the second time: each is recorded and replayed
    memory = reserved() - before
    replayed = min(pass_seconds() for _ in range(3))
    return {
        "shape_s": (twice - replayed) / len(steps),
        "replay_s": replayed / len(steps),
        "shape_mib": memory / 2**20 / len(steps),
    }


def _recordings(features: Features, steps: int) -> int:
    """Return how many shapes occur more than once in some steps: those that are recorded."""
    draw, found = np.random.default_rng(7), Counter()
    starts, lengths = features.item_starts, features.lengths
    for _ in range(steps):
        rows = draw.integers(len(features), size=train.BATCH)
        own = np.concatenate([lengths[starts[row] : starts[row + 1]] for row in rows])
        items = np.cumsum([0, *(starts[rows + 1] - starts[rows])])
        ids = torch.zeros(own.sum(), dtype=torch.int64)
        batch = PackedBatch(ids, ids, ids, tuple(own.tolist()), items, {})
        found[batch.with_tail().shape] += 1
    return sum(number > 1 for number in found.values())


# --- switches, peers, trial paths ------------------------------------------------------------


def switches(bench: Bench) -> None:
    """What each fast path and each precision is worth, on the QA step and the smallest one."""
    for case in ("attention", "compile", "graphs", "prefetch"):
        _against(bench, "switches", f"without_{case}", {"MTDNN_PLAIN": case}, {})
    _against(bench, "switches", "not_deterministic", {}, {"deterministic": False})
    _against(bench, "switches", "fp32", {}, {"precision": "fp32"})
    _against(bench, "switches", "fp32_with_tf32", {"TF32": "1"}, {"precision": "fp32"})


def trial_paths(bench: Bench) -> None:
    """All trial paths together, and each by itself: that steps are the same, then their times."""
    if bench.rehearsal:
        trials.COMPILER = "aot_eager"
    usual: dict[str, tuple[Twelve, list[list[float]]]] = {}
    wrong: list[str] = []
    for path in ("all", *TRIALS):
        wrong += _tried(bench, path, lambda path: _same_steps(bench, path, usual))
        wrong += _tried(bench, path, lambda path: _timed(bench, path, {}))
        if path == "all":
            wrong += _tried(bench, path, lambda path: _kernels_of(bench, path))
    usual.clear()  # their models
    for path in ("all", *TRIALS):
        wrong += _tried(bench, path, lambda path: _timed(bench, path, {"MTDNN_PLAIN": "graphs"}))
    if wrong:
        raise Wrong(f"trials: {', '.join(wrong)}")


def _tried(bench: Bench, path: str, work: Callable[[str], None]) -> list[str]:
    """Do something for a trial path if there is time; return the path if it went wrong."""
    if bench.left < 30:
        bench.record("trials", path, left_out=True, left_s=bench.left)
        return []
    try:
        work(path)
    except Exception as error:  # of one path; the others are still of use
        bench.record("trials", path, failed=f"{type(error).__name__}: {error}"[:500])
        return [path]
    finally:
        bench.free()
    return []


def _kernels_of(bench: Bench, path: str) -> None:
    """The kernels of steps under a trial path; and that recordings change no bit of them."""
    with _environment({"MTDNN_TRIAL": path}):
        for corpus in (bench.material().run.target, train.smallest(bench.material())):
            _kernels(bench, corpus, trial=path)
        if bench.rehearsal:  # compiled functions step aside for the stand-in, which rounds
            return
        eager, recorded = Twelve(bench, False), Twelve(bench, True)
        same = eager.take() == recorded.take()
        wrong = different(eager.stepper, recorded.stepper)
        bench.check("trials", f"{path}_bits", same and not wrong, differ=wrong[:5])


def _timed(bench: Bench, path: str, environment: dict[str, str]) -> None:
    case = f"{path}_eager" if environment else path
    with _environment(environment):
        _against(bench, "trials", case, {"MTDNN_TRIAL": path}, {}, _settings_of(path))


def _settings_of(path: str) -> dict[str, Any]:
    """Return the settings without which a path changes nothing."""
    return {"accumulation": 2} if path == "parts" else {}


def _same_steps(bench: Bench, path: str, usual: dict[str, tuple[Twelve, Any]]) -> None:
    """Twelve steps without dropout, recorded and eager, against usual ones: losses and moments.

    In fp32 no wrong gradient hides behind rounding, but neither casts nor flash are there.
    """
    both = ("fp32", "bf16")
    of_path = {"casts": ("bf16",), "shadows": ("bf16",), "products": both, "all": both}
    for kind in of_path.get(path, ("fp32",)):
        without = {"head_dropout": 0.0, "encoder_dropout": 0.0, "precision": kind}
        changed = _changed(bench.material(), {**without, **_settings_of(path)})
        shape = "tiny" if bench.rehearsal else "base"
        undropped = replace(bench, _materials={(shape, "bf16"): changed})
        known = f"{kind} {_settings_of(path)}"
        if known not in usual:
            twelve = _twelve(undropped, "", False)
            usual[known] = twelve, twelve.take()
        twelve, expected = usual[known]
        of_losses, of_moments = {"fp32": (1e-3, 1e-2), "bf16": (3e-2, 0.3)}[kind]
        for recorded in (False, True):
            with _environment({"MTDNN_TRIAL": path}):
                other = _twelve(undropped, path, recorded)
                found = other.take()
            gaps = np.abs(np.array(found) / np.array(expected) - 1)[:, 0]
            errors = {"losses": float(gaps.max()), "moments": _apart(twelve.stepper, other.stepper)}
            right = errors["losses"] <= of_losses and errors["moments"] <= of_moments
            right &= bool(other.recordings) == recorded
            case = f"{path}_{kind}_{'recorded' if recorded else 'eager'}_same"
            bench.check("trials", case, right, **errors, recordings=other.recordings)


def _apart(one: RecordedSteps, other: RecordedSteps) -> float:
    """Return how far the first moments of any weight are apart, relative to their size.

    A softmax ignores the biases of keys, so their gradients are rounding errors.
    """
    mine, its = state_of(one), state_of(other)
    names = [name for name in mine if name.endswith(".exp_avg") and "key.bias" not in name]
    sizes = {name: mine[name].norm().item() for name in names}
    least = 1e-3 * max(sizes.values())
    gaps = {name: (mine[name] - its[name]).norm().item() for name in names}
    return max(gap / max(sizes[name], least) for name, gap in gaps.items())


def _twelve(bench: Bench, path: str, recorded: bool) -> Twelve:
    """Return the steps that a trial path takes, which records parts in a way of its own."""
    twelve = Twelve(bench, recorded)
    if path == "parts":
        recorder = bench.recorder()
        given = (twelve.model, twelve.optimizer, twelve.settings, bench.device, recorder)
        twelve.stepper = RecordedParts(*given)
        if isinstance(recorder, StandIn):
            recorder.stepper = twelve.stepper
        if not recorded:
            twelve.stepper._recorder = None
    return twelve


def _changed(given: material.Material, changes: dict[str, Any]) -> material.Material:
    """Return a material with other settings of training."""
    training = given.run.training.model_copy(update=changes)
    run = given.run.model_copy(update={"training": training})
    return material.Material(run, given.encoder, given.features, given.facts)


def _against(
    bench: Bench,
    section: str,
    case: str,
    environment: dict[str, str],
    changes: dict[str, Any],
    shared: dict[str, Any] | None = None,
) -> None:
    """Time the steps as they are against those under other settings; `shared` ones are of both."""
    usual = _changed(bench.material(), shared or {})
    corpora = (usual.run.target, train.smallest(usual))
    for corpus in corpora:
        ours = train.Ours(usual, corpus, bench.device)
        with _environment(environment):
            other = train.Ours(_changed(usual, changes), corpus, bench.device)
            batches = train.random_batches(ours.features)
            other_steps = other.steps(batches)

        def take(step: Callable[[], object], environment=environment, changes=changes) -> None:
            deterministic = changes.get("deterministic", True)
            torch.use_deterministic_algorithms(deterministic and not bench.rehearsal)
            with _environment(environment):
                step()

        ours_steps = ours.steps(batches)
        other_steps = [lambda step=step: take(step) for step in other_steps]
        timing = harness.Timing.on(bench.device, 2 if bench.rehearsal else 5, 2)
        result = harness.compare(case, "changed", ours_steps, other_steps, timing, {})
        bench.record(section, case, corpus=corpus, **_numbers(result))


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    os.environ.update({name: value for name, value in changes.items() if name != "TF32"})
    torch.backends.cuda.matmul.allow_tf32 = "TF32" in changes
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.backends.cuda.matmul.allow_tf32 = tf32


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    return {k: result[k] for k in ("ours_s", "peer_s", "ratio", "ratio_spread")}


def peers(bench: Bench) -> None:
    """QA steps against `Trainer`'s: padded, grouped by length; and unpadded."""
    _shape(bench, "base")


def compiled_peers(bench: Bench) -> None:
    """The same against `Trainer`'s compiled steps, which take minutes to compile."""
    _peers(bench, "base", compiled=True)


def _shape(bench: Bench, shape: str) -> None:
    """Measure everything about a shape, whatever of it goes wrong."""
    wrong = []
    for part in (_utilisation, _memory, partial(_peers, compiled=False)):
        try:
            part(bench, shape)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
        bench.free()
    if wrong:
        raise Wrong("; ".join(wrong))


def _peers(bench: Bench, shape: str, compiled: bool) -> None:
    given, wrong = bench.material(shape), []
    timing = harness.Timing.on(bench.device, bench.options().rounds, 3)
    needed = 90 if compiled else 15
    for (case, peer), sides in (train.SIDES | train.GPU_SIDES).items():
        name = f"{case}_{peer}"
        if peer.endswith("compiled") != compiled:
            continue
        if bench.left < needed:
            bench.record("peers", name, shape=shape, left_out=True, left_s=bench.left)
            continue
        try:
            result = train.against(given, bench.device, case, peer, sides, timing)
        except Exception as error:  # of one peer; the others are still of use
            wrong.append(name)
            reason = f"{type(error).__name__}: {error}"[:500]
            bench.record("peers", name, shape=shape, failed=reason)
            continue
        other = {k: result[k] for k in ("attention", "precision", "windows") if k in result}
        bench.record("peers", name, shape=shape, **_numbers(result), **other)
        bench.free()
    if wrong:
        raise Wrong(f"peers: {', '.join(wrong)}")


def _utilisation(bench: Bench, shape: str) -> None:
    """Operations on real tokens in a QA step, with and without the update, against a product's."""
    given = bench.material(shape)
    timing = harness.Timing.on(bench.device, bench.options().rounds, 3)
    sides = train.without_and_with_update(given, bench.device)
    result = harness.compare("qa_backward", "qa_step", *sides, timing, {})
    gradients, step = result["ours_s"], result["peer_s"]
    tokens, operations = train.tokens_of_step(given), train.operations_of_step(given)
    bench.record(
        "peers",
        "utilisation",
        shape=shape,
        backward_s=gradients,
        step_s=step,
        tokens=tokens,
        tflop=operations / 1e12,
        product_tflops=bench.ceiling / 1e12,
        backward_utilisation=operations / gradients / bench.ceiling,
        step_utilisation=operations / step / bench.ceiling,
        tokens_per_s=tokens / step,
        windows_per_s=train.BATCH / step,
        **given.facts,
    )


def _memory(bench: Bench, shape: str) -> None:
    """Peak memory of QA steps, recorded ones too, and of the padded peer's, one after the other."""

    def peak(side: Callable[[], train.Steps]) -> float:
        bench.free()
        steps = side()
        for step in [*steps, *steps]:
            step()
        bench.wait()
        if bench.rehearsal:
            return harness.peak_memory_mib()  # of the process: it never falls
        return torch.cuda.max_memory_allocated() / 2**20

    ours, theirs = map(peak, train.qa_padded(bench.material(shape), bench.device))
    bench.record("peers", "memory", shape=shape, ours_mib=ours, peer_mib=theirs)


# --- the real commands -----------------------------------------------------------------------


def real_commands(bench: Bench) -> None:
    """`mtdnn train` whole, and stopped and resumed: equal files. Then `mtdnn evaluate`."""
    from tests.support.tiny import make_run_folder

    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    rows, epochs = (48, 2) if bench.rehearsal else (200, 8)
    training = {"epochs": epochs, "batch_size": 8, "gpus": 1}
    folders = []
    for name in ("whole", "stopped"):
        folder, _ = make_run_folder(
            bench.scratch / name, rows=rows, encoder=sizes, training=training
        )
        folders.append(folder)
    began = time.perf_counter()
    said = _mtdnn(bench, "train", str(folders[0]))
    bench.record("commands", "train", seconds=time.perf_counter() - began)
    fell_back = "continuing without" in said
    bench.check("commands", "nothing_fell_back", not fell_back, said=said[-500:])
    process = _start("train", str(folders[1]), "--checkpoint-minutes", "0")
    states = Layout.of_run(folders[1]).state("any").parent
    while process.poll() is None and not list(states.glob("*/step*[5-9]")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    kept = sorted(path.name for path in states.glob("*/step*"))
    stopped = process.returncode == 128 + signal.SIGTERM and bool(kept)
    bench.check("commands", "stopped", stopped, kept=kept, said=said[-200:])
    _mtdnn(bench, "train", str(folders[1]))
    digests = [
        {
            name: sha256(folder / "model" / name)
            for name in ("model.safetensors", "heads.safetensors")
        }
        for folder in folders
    ]
    bench.check("commands", "stopped_equals_whole", digests[0] == digests[1])
    began = time.perf_counter()
    _mtdnn(bench, "evaluate", str(folders[0]))
    bench.record("commands", "evaluate", seconds=time.perf_counter() - began)


def _start(*arguments: str) -> subprocess.Popen:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, "-m", "mtdnn", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _mtdnn(bench: Bench, *arguments: str) -> str:
    """Run a command; return what it said."""
    process = _start(*arguments)
    said, _ = process.communicate(timeout=max(10.0, bench.left))
    if process.returncode:
        raise Wrong(f"mtdnn {arguments[0]}: exit status {process.returncode}: {said[-500:]}")
    return said


# --- the large encoder, the paper ------------------------------------------------------------


def large(bench: Bench) -> None:
    """Utilisation, memory and peers on the large shape."""
    _shape(bench, "large")


def nine_runs(bench: Bench) -> None:
    """The paper's nine runs from measured steps, in the precision that its config says."""
    encoder = "tiny" if bench.rehearsal else "base"
    for case in paper.cases(bench.options(encoder=encoder)):
        bench.record(
            "paper",
            case["case"],
            seconds=case["ours_s"],
            kinds=case["kinds"],
            precision=case["precision"],
        )


# --- the command -----------------------------------------------------------------------------

INVALID = "invalid"
"""A section that runs only where it is named."""

# Name, function, seconds that it needs, whether a failure makes the rest meaningless.
SECTIONS: tuple[tuple[str, Callable[[Bench], None], float, bool], ...] = (
    ("ceilings", ceilings, 10, False),
    ("attention", attention_is_right, 20, True),
    ("steps", whole_steps, 60, True),
    ("failure", failing_recording, 40, False),
    ("time", where_time_goes, 20, False),
    ("recording", cost_of_recording, 30, False),
    ("peers", peers, 60, False),
    ("commands", real_commands, 60, False),
    ("large", large, 40, False),
    ("paper", nine_runs, 60, False),
    ("switches", switches, 60, False),
    ("compiled", compiled_peers, 90, False),
    ("trials", trial_paths, 60, False),
    (INVALID, invalid_recording, 20, False),
)


def run(bench: Bench, only: list[str]) -> int:
    """Run the sections; return the number of those that went wrong."""
    wrong = 0
    for name, section, needed, decides in SECTIONS:
        if name not in (only or [each for each, *_ in SECTIONS if each != INVALID]):
            continue
        if bench.left < needed:
            bench.record(name, "left_out", left_s=bench.left, needed_s=needed)
            continue
        began = time.monotonic()
        try:
            section(bench)
            bench.record(name, "done", seconds=time.monotonic() - began)
        except Exception as error:
            wrong += 1
            where = traceback.format_exc().splitlines()[-6:]
            bench.record(
                name, "failed", error=f"{type(error).__name__}: {error}"[:500], where=where
            )
            if decides:
                break
        bench.free()
    return wrong


def main() -> int:
    """Read the command line and run the sections."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the results go")
    parser.add_argument("--seconds", type=float, default=540, help="time limit (default: 540)")
    parser.add_argument("--only", nargs="*", default=[], choices=[name for name, *_ in SECTIONS])
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, on tiny shapes")
    parser.add_argument("--commit", default=commit(), help="of the code, where git cannot say it")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)  # shared with a child
    options = parser.parse_args()
    ends = time.monotonic() + options.seconds
    if not options.rehearse and not torch.cuda.is_available():
        print("gpu.py: no GPU here; --rehearse runs everything on the CPU", file=sys.stderr)
        return 2
    device = torch.device("cpu") if options.rehearse else use_device(None)
    if options.rehearse:
        train.BATCH = 2
        peers_of_trainer.COMPILER = "eager"  # the CPU's own says nothing about a GPU's
        # The paths of a GPU that a CPU can run.
        os.environ["MTDNN_PLAIN"] = "attention, dropout, embedding, optimizer"
        attention.one_by_one = attention.side_by_side
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        out, scratch = options.folder.resolve(), Path(options.scratch or temporary).resolve()
        bench = Bench(device, out, scratch, options.rehearse, ends, options.commit)
        return 1 if run(bench, options.only) else 0


if __name__ == "__main__":
    sys.exit(main())
