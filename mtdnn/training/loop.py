"""Training of one run: its schedule, step by step, on one device or several."""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from mtdnn.config.layout import DESCRIPTION, Layout, RunFolder
from mtdnn.config.settings import RunSettings, TrainingSettings
from mtdnn.data.features import Features, check_unchanged, training_features
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import flush, replacing, sha256, sweep, write_json, write_text
from mtdnn.machine.progress import Progress
from mtdnn.machine.provenance import environment
from mtdnn.model.batches import PackedBatch, batch_of
from mtdnn.model.device import device_name, return_memory, use_device
from mtdnn.model.fast import fast
from mtdnn.model.multitask import MultiTaskModel, build
from mtdnn.model.optimizer import learning_rate, optimizer_for
from mtdnn.model.saving import save
from mtdnn.training import launch, schedule
from mtdnn.training.checkpoints import Checkpoints
from mtdnn.training.fingerprint import Fingerprint, check_gpus
from mtdnn.training.journal import Journal, memory_mb
from mtdnn.training.log import TrainingLog
from mtdnn.training.stepper import stepper_for
from mtdnn.training.stopping import Stopped, StopSignals
from mtdnn.training.team import Team, join, tokens_of

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
    """Train a run from its features; writes `model/` and `training.jsonl`.

    Its batches are those of `schedule.parquet`, which is drawn first where there is none. A
    training that was interrupted goes on from its last checkpoint, to the same result. A run
    of several GPUs is trained by as many processes, which read its settings from `config.yaml`.

    Args:
        run_dir: the run's folder.
        run: its resolved settings.
        threads: CPU threads; all cores when absent.
        checkpoint_seconds: time between two checkpoints.
        wait: when another process is training the run, wait for it and take what it made.

    Raises:
        MtdnnError: something is missing, does not fit, or the loss is not finite.
        Busy: another process is training the run, and `wait` is false.
        Stopped: a signal ended the training; its state is kept.
    """
    layout, gpus = Layout.of_run(run_dir), run.training.gpus
    # Now, not at the end: files may change while a long training goes on.
    identity, versions = Fingerprint.of(layout, run), environment()
    check_gpus(layout, run, identity)
    if launch.is_to_launch(gpus):
        launch.launch(run_dir, gpus, threads, checkpoint_seconds, wait)
        return
    device = use_device(threads, run.training.deterministic)
    origin = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": versions["torch"],
    }
    folder = layout.state(identity.digest)
    checkpoints = Checkpoints(folder, checkpoint_seconds, origin)
    if not launch.leads():
        _follow(run_dir, run, device, checkpoints)
        return
    with checkpoints.sole_writer(wait) as lease:
        if not RunFolder(run_dir).schedule.exists():
            schedule.write(run_dir, run)
        team = join(gpus, device)
        finished = lease.waited and identity.is_made_in(run_dir)
        if any(team.agreed(int(finished))):
            checkpoints.drop()
            return
        for path in (RunFolder(run_dir).model, RunFolder(run_dir).log):
            sweep(path)
        check_unchanged(layout, run, "train")
        features = training_features(layout, run)
        steps = schedule.read(run_dir, {name: len(some) for name, some in features.items()})
        started = datetime.now(UTC).isoformat(timespec="seconds")
        about = {
            "fingerprint": identity.digest,
            "config_digest": identity.config_digest,
            "started": started,
            "device": origin["device"],
            "commit": versions["commit"],
            "corpora": dict(Counter(step.corpus for step in steps)),
        }
        with Journal(run_dir, about, partial(_figures, device)) as journal:
            encoder = layout.encoder(run.encoder_name)
            model = build(encoder, run).to(device).train()
            log = _train_steps(run, steps, features, model, device, checkpoints, team, journal)
            lease.check()
            with replacing(run_dir / "model") as draft:
                draft.mkdir()
                save(model, run, encoder, draft)
                provenance = {
                    **versions,
                    **origin,
                    "precision": run.training.precision,
                    "started": started,
                    "seconds": log.seconds,
                    "steps": len(steps),
                    "tokens": sum(line["tokens"] for line in log.lines),
                    "parts": checkpoints.parts,
                }
                write_json(
                    draft / DESCRIPTION,
                    {
                        **identity.record(),
                        "files": {file.name: sha256(file) for file in sorted(draft.iterdir())},
                        "provenance": provenance,
                        "settings": run.model_dump(mode="json"),
                    },
                )
                flush(draft)
            lines = "".join(json.dumps(line) + "\n" for line in log.lines)
            write_text(RunFolder(run_dir).log, lines)
        checkpoints.drop()


def _follow(
    run_dir: Path, run: RunSettings, device: torch.device, checkpoints: Checkpoints
) -> None:
    """Train with the process that leads, which alone writes what comes of it."""
    team = join(run.training.gpus, device)
    if any(team.agreed(0)):
        return
    layout = Layout.of_run(run_dir)
    features = training_features(layout, run)
    steps = schedule.read(run_dir, {name: len(some) for name, some in features.items()})
    model = build(layout.encoder(run.encoder_name), run).to(device).train()
    _train_steps(run, steps, features, model, device, checkpoints, team)


def _train_steps(
    run: RunSettings,
    steps: list[schedule.Step],
    features: dict[str, Features],
    model: MultiTaskModel,
    device: torch.device,
    checkpoints: Checkpoints,
    team: Team,
    journal: Journal | None = None,
) -> "TrainingLog":
    """All steps that are not yet done; the model is changed in place."""
    optimizer = optimizer_for(model, run.training)
    first, lines = checkpoints.restore(model, optimizer)
    if team.agreed(first, -first) != [first, -first]:
        raise MtdnnError("training: its processes found different checkpoints; begin it once more")
    team.share(model)
    log = TrainingLog(lines, journal, team)
    title = f"train {run.mixture_label} w{run.qa_weight:g}"
    shown = Progress(title, len(steps), "steps", done=first, shown=team.leads)
    with StopSignals() as stop, shown as progress:
        left = steps[first:]
        parts = [team.part(features[step.corpus], step.rows) for step in left]
        own = [replace(step, rows=rows) for step, (rows, _) in zip(left, parts, strict=True)]
        stepper = stepper_for(model, optimizer, run.training, device, team)
        batches = _batches(own, features, stepper.prepare)
        for step, (_, weight), (_, batch) in zip(left, parts, batches, strict=True):
            rate = learning_rate(step.step, len(steps), run.training)
            random_state(run.seed, step.step, team.rank)
            try:
                loss, norm = stepper.take(step.corpus, batch, rate, weight)
            except torch.OutOfMemoryError:
                raise _out_of_memory(step, batch, run.training) from None
            tokens = tokens_of(features[step.corpus], step.rows)
            log.add(step, loss, norm, rate, int(tokens.sum()))
            following = step.step + 1
            read = following == len(steps) or len(log.pending) == STEPS_BETWEEN_READS
            stopped, due = _wanted(stop, checkpoints, team, read)
            keep = stopped or due
            if keep or read:
                log.read()
                return_memory()
            if keep and team.leads:
                checkpoints.save(following, model, optimizer, log.lines)
            if keep and team.size == 1:
                stopped = stop.number  # it may have come while the checkpoint was written
            if stopped and team.leads:
                raise Stopped(
                    f"training: stopped by signal {stopped} after {following} of {len(steps)} "
                    "steps; the same command goes on from there",
                    stopped,
                )
            if stopped:
                break
            progress.advance(note=log.note)
    team.leave()
    return log


def _wanted(
    stop: StopSignals, checkpoints: Checkpoints, team: Team, read: bool
) -> tuple[int, bool]:
    """The signal by which the training is to stop, or 0, and whether a checkpoint is due.

    Several processes ask each other when losses are read; at each step it would make them wait.
    """
    if team.size > 1 and not read:
        return 0, False
    stopped, due = team.agreed(stop.number or 0, int(team.leads and checkpoints.due))
    return stopped, bool(due)


def _batches(
    steps: list[schedule.Step],
    features: dict[str, Features],
    prepare: Callable[[PackedBatch], PackedBatch],
) -> Iterator[tuple[schedule.Step, PackedBatch]]:
    """Every step with its batch, each assembled while the one before it is being learnt."""

    def assemble(step: schedule.Step) -> PackedBatch:
        return prepare(batch_of(features[step.corpus], step.rows))

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


def random_state(seed: int, step: int, rank: int = 0) -> None:
    """Set the random state of a step from the run's seed and the step's number alone.

    So a resumed run draws the same dropout masks as one that was never interrupted. Processes
    that train together draw different ones.
    """
    name = f"{seed}/{step}/{rank}" if rank else f"{seed}/{step}"
    key = hashlib.sha256(name.encode()).digest()
    torch.manual_seed(int.from_bytes(key[:8], "little") >> 1)


def _figures(device: torch.device) -> dict[str, float]:
    """Memory of this process and of its device, in MiB; other devices are not asked."""
    figures = {"memory_mb": memory_mb()}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        figures["gpu_memory_mb"] = torch.cuda.memory_reserved(device) / 2**20
        figures["gpu_used_mb"] = (total - free) / 2**20
    return figures
