"""Training of one run: prepare it, learn step by step, keep the model; on one device or several."""

import hashlib
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mtdnn.config.layout import Layout, RunFolder
from mtdnn.config.settings import RunSettings, TrainingSettings
from mtdnn.data.features import Features, check_unchanged, training_features
from mtdnn.errors import MtdnnError
from mtdnn.machine.locking import Lease
from mtdnn.machine.progress import Progress
from mtdnn.machine.provenance import environment
from mtdnn.machine.staging import finish_publishing
from mtdnn.model.batches import PackedBatch, batch_of
from mtdnn.model.device import device_name, return_memory, use_device
from mtdnn.model.fast import fast
from mtdnn.model.multitask import MultiTaskModel, build, restrict
from mtdnn.model.optimizer import MomentOptimizer, optimizer_for
from mtdnn.model.saving import start_from
from mtdnn.training import averaging, launch, schedule
from mtdnn.training.anchor import anchor_record, pull_for
from mtdnn.training.anchoring import Anchoring
from mtdnn.training.balancing import Balancing, balancing_for
from mtdnn.training.checkpoints import Checkpoints
from mtdnn.training.combining import Combiner, JointStepper, share_factors
from mtdnn.training.conflict import Diagnostics
from mtdnn.training.distilling import Teachers
from mtdnn.training.fingerprint import Fingerprint, check_gpus
from mtdnn.training.journal import Journal
from mtdnn.training.log import TrainingLog
from mtdnn.training.pace import Pace, paces
from mtdnn.training.packnet import packing_for
from mtdnn.training.product import Product, publish
from mtdnn.training.stepper import RecordedSteps, Stepper, chosen_precision, stepper_for
from mtdnn.training.stopping import Stopped, StopSignals
from mtdnn.training.team import Team, join, tokens_of
from mtdnn.training.usage import Usage

# Losses stay on the device for this many steps; reading each would make a GPU wait every step.
STEPS_BETWEEN_READS = 10
BATCHES_AHEAD = 2


def train(
    run_dir: Path,
    run: RunSettings,
    threads: int | None = None,
    checkpoint_seconds: float = 600.0,
    wait: bool = False,
    force: bool = False,
) -> None:
    """Train a run from its features; write its model and its training log.

    The schedule is drawn before the first step. An interrupted run resumes from its last
    checkpoint, to the same result. A run on several GPUs is trained by one process for each GPU;
    these read its settings from its folder. A run that is an average of others is put together.

    Args:
        run_dir: the run's folder.
        run: its resolved settings.
        threads: CPU threads; all cores by default.
        checkpoint_seconds: time between two checkpoints.
        wait: if another process is training the run, wait for it and take its result.
        force: train the run even if its folder already holds the result.

    Raises:
        MtdnnError: an input is missing or does not fit, or the loss is not finite.
        Busy: another process is training the run, and `wait` is false.
        Stopped: a signal ended training; its state is kept.
    """
    layout, gpus = Layout.of_run(run_dir), run.training.gpus
    fingerprint = Fingerprint.of(layout, run)
    if not force and fingerprint.is_made_in(run_dir):
        print(f"mtdnn: {run_dir}: up to date", file=sys.stderr, flush=True)
        return
    if run.training.average:
        averaging.make(run_dir, run, threads, wait)
        return
    check_gpus(layout, run, fingerprint)
    if launch.is_to_launch(gpus):
        launch.launch(run_dir, gpus, threads, checkpoint_seconds, wait, force)
        return
    with _prepare(run_dir, run, threads, checkpoint_seconds, wait) as training:
        if training:
            _learn(training)
            _publish(training)


@dataclass(frozen=True)
class Training:
    """Everything that one process needs to train a run.

    Attributes:
        run_dir: the run's folder.
        run: its resolved settings.
        fingerprint: its fingerprint, taken before the first step.
        provenance: versions and device of this process, and when it started.
        device: the device of the model.
        team: the processes that train the run together.
        features: the training features of each corpus.
        steps: the whole schedule.
        model: the model, changed in place by each step.
        optimizer: its optimizer.
        remedies: what combines gradients and balances losses.
        first: number of the first step that is left to take.
        checkpoints: where the state is kept between steps.
        log: the lines of the steps so far.
    """

    run_dir: Path
    run: RunSettings
    fingerprint: Fingerprint
    provenance: dict[str, Any]
    device: torch.device
    team: Team
    features: dict[str, Features]
    steps: list[schedule.Step]
    model: MultiTaskModel
    optimizer: MomentOptimizer
    remedies: "Remedies"
    first: int
    checkpoints: Checkpoints
    log: TrainingLog

    @property
    def learned(self) -> nn.Module:
        """Everything that steps change, as checkpoints keep it."""
        return self.remedies.joined_to(self.model)


class Remedies(NamedTuple):
    """What combines the gradients of a run and balances its losses, with state of its own.

    Attributes:
        combiner: combines the gradients of joint steps; None without such steps.
        balancing: gives factors of losses; None if they are fixed.
    """

    combiner: Combiner | None
    balancing: Balancing | None

    @classmethod
    def of(cls, run: RunSettings, optimizer: MomentOptimizer) -> "Remedies":
        combiner = Combiner(run.training, list(run.corpora)) if run.has_joint_steps else None
        return cls(combiner, balancing_for(run, optimizer))

    def joined_to(self, model: MultiTaskModel) -> nn.Module:
        """Return a module with the parts of a model, under their names, and with these."""
        joined = nn.Module()
        for name, part in {**dict(model.named_children()), **self._asdict()}.items():
            joined.add_module(name, part)
        return joined


@contextmanager
def _prepare(
    run_dir: Path, run: RunSettings, threads: int | None, checkpoint_seconds: float, wait: bool
) -> Iterator[Training | None]:
    """Yield a run in training as its last checkpoint left it; None if it is finished.

    Meanwhile the process that leads holds the run and writes its journal; the others only follow.
    """
    layout = Layout.of_run(run_dir)
    # Now, not at the end: files may change during a long run.
    fingerprint, versions = Fingerprint.of(layout, run), environment()
    device = use_device(threads, run.training.deterministic)
    origin = {
        "device": device_name(device),
        "precision": chosen_precision(run.training, device),
        "threads": torch.get_num_threads(),
        **{package: versions[package] for package in ("torch", "transformers")},
    }
    checkpoints = Checkpoints(layout.state(fingerprint.digest), checkpoint_seconds, origin)
    held = Lease(layout.lease(run_dir), "the run is being trained", wait)
    with checkpoints.sole_writer(held) if launch.leads() else nullcontext() as lease:
        was_ready = bool(lease) and finish_publishing(run_dir)
        if lease:
            RunFolder(run_dir).failure.unlink(missing_ok=True)  # of an earlier attempt
        team = join(run.training.gpus, device)
        finished = lease and (lease.waited or was_ready) and fingerprint.is_made_in(run_dir)
        if any(team.largest(int(bool(finished)))):
            yield None
        else:
            if lease:
                check_unchanged(layout, run, *_splits(run))
            features = training_features(layout, run)
            # Drawn again rather than read: a file could belong to other settings.
            steps = list(schedule.of_run(run, {name: len(f) for name, f in features.items()}))
            started = {"started": datetime.now(UTC).isoformat(timespec="seconds")}
            provenance = {**versions, **origin, **started}
            journal = _journal(run_dir, fingerprint, provenance, steps, device) if lease else None
            with journal or nullcontext():
                model = _initial_model(layout, run).to(device).train()
                optimizer = optimizer_for(model, run.training)
                remedies = Remedies.of(run, optimizer)
                first, lines = checkpoints.restore(remedies.joined_to(model), optimizer)
                log = TrainingLog(lines, journal, team)
                yield Training(
                    run_dir=run_dir,
                    run=run,
                    fingerprint=fingerprint,
                    provenance=provenance,
                    device=device,
                    team=team,
                    features=features,
                    steps=steps,
                    model=model,
                    optimizer=optimizer,
                    remedies=remedies,
                    first=first,
                    checkpoints=checkpoints,
                    log=log,
                )
        if lease:
            checkpoints.drop()


def _initial_model(layout: Layout, run: RunSettings) -> MultiTaskModel:
    """The model of a run before its first step, on the CPU."""
    model = build(layout.encoder(run.encoder_name), run)
    if run.start:
        start_from(model, RunFolder(layout.run(run.start)).model)
    restrict(model, run)
    return model


def _journal(
    run_dir: Path,
    fingerprint: Fingerprint,
    provenance: dict[str, Any],
    steps: list[schedule.Step],
    device: torch.device,
) -> Journal:
    about = {
        "fingerprint": fingerprint.digest,
        "config_digest": fingerprint.config_digest,
        **{key: provenance[key] for key in ("started", "device", "commit")},
        "corpora": dict(Counter(step.corpus for step in steps)),
        "steps": schedule.length(steps),
    }
    return Journal(run_dir, about, Usage(device))


def _learn(training: Training) -> None:
    """Take the steps that are left.

    Raises:
        MtdnnError: the loss is not finite, or the GPU's memory is too small.
        Stopped: a signal came; the state is kept. Only the process that leads raises it.
    """
    run, team, log = training.run, training.team, training.log
    if team.largest(training.first, -training.first) != [training.first, -training.first]:
        raise MtdnnError("training: its processes found different checkpoints; start it again")
    team.share(training.model)
    total = schedule.length(training.steps)
    title = f"train {run.mixture_label} w{run.weight:g}"
    shown = Progress(title, total, "steps", done=training.first, shown=team.leads)
    with StopSignals() as stop, shown as progress:
        left = [step for step in training.steps if step.step >= training.first]
        parts = [team.part(training.features[step.corpus], step.rows) for step in left]
        own = [replace(step, rows=rows) for step, (rows, _) in zip(left, parts, strict=True)]
        stepper = _stepper(training)
        anchoring = _anchoring(training)
        stepper.pull = anchoring.pull
        packing = stepper.packing = packing_for(training.model, run, training.steps)
        diagnostics = Diagnostics(
            *(Layout.of_run(training.run_dir), run, training.features, training.steps),
            *(training.model, team),
        )
        balancing = training.remedies.balancing
        batches = _batches(training, own, stepper)
        ahead = islice(paces(run, training.steps), len(training.steps) - len(left), None)
        weights = (weight for _, weight in parts)
        rows = map(_Row._make, zip(left, batches, weights, ahead, strict=True))
        for number, some in groupby(rows, key=lambda row: row.step.step):
            together = list(some)
            if together[0].pace.restarts:
                training.optimizer.forget()
            if balancing:
                balancing.begin(number, log)
            anchoring.before(together[0].step)
            if packing:
                packing.before(together[0].step)
            random_state(run.seed, number, team.rank)
            try:
                losses, norm = _take(stepper, together)
            except torch.OutOfMemoryError:
                row = max(together, key=lambda row: row.batch.tokens)
                raise _out_of_memory(row.step, row.batch, run.training) from None
            measured = stepper.pull.measured() if stepper.pull else {}
            measured |= diagnostics.after(together[0].step)
            for (step, _, _, pace), loss in zip(together, losses, strict=True):
                tokens = tokens_of(training.features[step.corpus], step.rows)
                log.add(step, loss, norm, pace.rate, int(tokens.sum()), measured)
                measured = {}  # of the step, not of each batch
            if _is_stopped(training, number + 1, stop):
                break
            progress.advance(note=log.note)
    team.leave()


def _anchoring(training: Training) -> Anchoring:
    run, features, steps = training.run, training.features, training.steps
    pull = pull_for(training.model, training.optimizer, run.training)
    return Anchoring(training.run_dir, run, features, steps, pull, training.team)


class _Row(NamedTuple):
    """A batch of a step; a joint step has several.

    Attributes:
        step: its row of the schedule.
        batch: this process's part of it, as the stepper prepared it.
        weight: the weight of this part in the team's mean loss.
        pace: how the step moves the weights.
    """

    step: schedule.Step
    batch: PackedBatch
    weight: float
    pace: Pace


def _stepper(training: Training) -> Stepper:
    run, model, optimizer = training.run, training.model, training.optimizer
    factors = {corpus: run.loss_weight(corpus) for corpus in run.corpora}
    combiner, balancing = training.remedies
    if combiner is None:
        # A recording would repeat the factors with which it was made.
        make = Stepper if balancing else stepper_for
        stepper = make(model, optimizer, run.training, training.device, training.team, factors)
    else:
        sizes = {name: len(corpus) for name, corpus in training.features.items()}
        shares = share_factors(run, sizes)
        stepper = JointStepper(model, optimizer, run.training, combiner, shares, factors)
    stepper.balancing = balancing
    return stepper


def _take(stepper: Stepper, rows: list[_Row]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Take a step; return the loss of each of its batches, and the gradient norm."""
    (step, batch, weight, pace), *others = rows
    if others and isinstance(stepper, JointStepper):
        batches = {row.step.corpus: row.batch for row in rows}
        return stepper.take_together(batches, pace.rate, step.phase, step.epoch)
    loss, norm = stepper.take(step.corpus, batch, pace.rate, weight, pace.head_rate)
    return [loss], norm


def _is_stopped(training: Training, done: int, stop: StopSignals) -> bool:
    """Read losses and save a checkpoint when it is time; return whether a signal came.

    Args:
        training: the run in training.
        done: number of steps that are done.
        stop: the signals so far.

    Raises:
        Stopped: a signal came, and this process leads.
    """
    team, log, total = training.team, training.log, schedule.length(training.steps)
    read = done == total or len(log.pending) >= STEPS_BETWEEN_READS
    number, due = _wanted(stop, training.checkpoints, team, read)
    keep = number or due
    if keep or read:
        # A GPU would run out of steps while they are read; those of the interval before are there.
        log.read(late=training.device.type == "cuda" and not keep and done < total)
        return_memory()
    if keep and team.leads:
        training.checkpoints.save(done, training.learned, training.optimizer, log.lines)
    if keep and team.size == 1:
        number = stop.number or 0  # it may have come while the checkpoint was written
    if number and team.leads:
        raise Stopped(
            f"training: stopped by signal {number} after {done} of {total} steps; "
            "repeat the command to resume from there",
            number,
        )
    return bool(number)


def _wanted(
    stop: StopSignals, checkpoints: Checkpoints, team: Team, read: bool
) -> tuple[int, bool]:
    """The signal that stops training, or 0, and whether a checkpoint is due.

    Several processes ask each other only when losses are read; at each step it would slow them.
    """
    if team.size > 1 and not read:
        return 0, False
    number, due = team.largest(stop.number or 0, int(team.leads and checkpoints.due))
    return number, bool(due)


def _publish(training: Training) -> None:
    """Publish what was learned; only the process that leads does."""
    if not training.team.leads:
        return
    lines = training.log.lines
    provenance = {
        **training.provenance,
        "seconds": training.log.seconds,
        "steps": schedule.length(training.steps),
        "tokens": sum(line["tokens"] for line in lines),
        "parts": training.checkpoints.parts,
        **anchor_record(training.model, training.optimizer),
    }
    sizes = {name: len(corpus) for name, corpus in training.features.items()}
    product = Product(training.model, training.steps, sizes, lines, provenance)
    check_holder = training.checkpoints.check_holder
    publish(training.run_dir, training.run, training.fingerprint, product, check_holder)


def _batches(
    training: Training, steps: list[schedule.Step], stepper: Stepper
) -> Iterator[PackedBatch]:
    """Return the batches of some steps for a stepper, which may be told the largest before."""
    run, features, total = training.run, training.features, schedule.length(training.steps)
    teachers = Teachers(Layout.of_run(training.run_dir), run, features, total)
    if isinstance(stepper, RecordedSteps):
        largest = largest_steps(steps, features)
        batches = batches_of(largest, features, stepper.prepare, teachers)
        stepper.largest = dict(zip((step.corpus for step in largest), batches, strict=True))
    return batches_of(steps, features, stepper.prepare, teachers)


def _splits(run: RunSettings) -> list[str]:
    """Return the splits that training reads."""
    return ["train", "dev"] if run.training.interference.dev_items else ["train"]


def batches_of(
    steps: list[schedule.Step],
    features: dict[str, Features],
    prepare: Callable[[PackedBatch], PackedBatch],
    teachers: Teachers | None = None,
) -> Iterator[PackedBatch]:
    """Yield the prepared batch of every step, assembled on another thread during earlier steps."""

    def assemble(step: schedule.Step) -> PackedBatch:
        batch = batch_of(features[step.corpus], step.rows)
        return prepare(teachers.taught(step, batch) if teachers else batch)

    if not fast("prefetch"):
        yield from map(assemble, steps)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
        waiting = deque(ahead.submit(assemble, step) for step in steps[:BATCHES_AHEAD])
        for number in range(len(steps)):
            batch = waiting.popleft().result()
            if number + BATCHES_AHEAD < len(steps):
                waiting.append(ahead.submit(assemble, steps[number + BATCHES_AHEAD]))
            yield batch


def largest_steps(
    steps: Sequence[schedule.Step], features: Mapping[str, Features]
) -> list[schedule.Step]:
    """Return the step of each corpus whose batch has the most tokens."""
    by_corpus: dict[str, list[schedule.Step]] = {}
    for step in steps:
        by_corpus.setdefault(step.corpus, []).append(step)
    largest = []
    for corpus, own in by_corpus.items():
        tokens = np.add.reduceat(features[corpus].lengths, features[corpus].item_starts[:-1])
        largest.append(own[int(np.argmax([tokens[step.rows].sum() for step in own]))])
    return largest


def _out_of_memory(
    step: schedule.Step, batch: PackedBatch, settings: TrainingSettings
) -> MtdnnError:
    return MtdnnError(
        f"training: step {step.step} ({step.corpus}): the GPU's memory is too small for a batch of "
        f"{batch.tokens} tokens in {settings.accumulation} parts; raise training.accumulation, "
        "which cuts a batch into more parts and leaves its size and its gradients unchanged"
    )


def random_state(seed: int, step: int, rank: int = 0) -> None:
    """Set torch's random state for a step, from the run's seed and the step's number alone.

    A resumed run therefore draws the same dropout masks as an uninterrupted one. Processes that
    train together draw different ones.

    Args:
        seed: the run's seed.
        step: number of the step, from 0.
        rank: number of the process in its team, from 0.
    """
    name = f"{seed}/{step}/{rank}" if rank else f"{seed}/{step}"
    key = hashlib.sha256(name.encode()).digest()
    torch.manual_seed(int.from_bytes(key[:8], "little") >> 1)
