"""Checkpoints of a training: an interrupted run goes on where it was, bit for bit.

They lie in a folder named by the run's fingerprint, never among the workflow's outputs:
Snakemake deletes a failed job's outputs before it tries again.
"""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mtdnn.errors import MtdnnError
from mtdnn.files import replacing, sha256, write_json, write_text

# Kept so that a damaged newest one costs some minutes instead of the run.
KEPT = 2


class Stopped(MtdnnError):
    """A signal ended the training; everything up to now is kept.

    Attributes:
        status: exit status by the convention of shells, 128 + signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; named by the run's fingerprint.
        seconds: time from one checkpoint to the next.
    """

    def __init__(self, folder: Path, seconds: float):
        self._folder, self._seconds = folder, seconds
        self._last = time.monotonic()

    @contextmanager
    def sole_writer(self) -> Iterator[None]:
        """Hold the run for this process.

        Raises:
            MtdnnError: another process is training it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        holder = self._folder / "holder"
        lock = FileLock(self._folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise MtdnnError(f"{self._folder}: the run is being trained by {who}") from None
        try:
            write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
            yield
        finally:
            lock.release()

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= self._seconds

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lines: list[dict[str, Any]],
    ) -> None:
        """Keep the state before step number `step`, and the log up to it."""
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        ages = {}
        for name, parameter in model.named_parameters():
            state = optimizer.state.get(parameter)
            if state:
                ages[name] = state["step"]
                tensors[f"exp_avg.{name}"] = state["exp_avg"]
                tensors[f"exp_inf.{name}"] = state["exp_inf"]
        with replacing(self._folder / f"step{step:08d}") as draft:
            draft.mkdir()
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, draft / _STATE
            )
            with open(draft / _STATE, "rb") as file:
                os.fsync(file.fileno())
            write_text(draft / _LINES, "".join(json.dumps(line) + "\n" for line in lines))
            description = {"step": step, "ages": ages, "sha256": sha256(draft / _STATE)}
            write_json(draft / _DESCRIPTION, description)
        for old in self._all()[KEPT:]:
            shutil.rmtree(old)
        self._last = time.monotonic()

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, list[dict[str, Any]]]:
        """Bring model and optimiser to the newest checkpoint that is whole.

        Returns:
            The number of the next step and the log up to it; 0 and nothing without one.
        """
        for folder in self._all():
            try:
                description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
                if sha256(folder / _STATE) != description["sha256"]:
                    raise ValueError("the weights are damaged")
                lines = [json.loads(line) for line in (folder / _LINES).open(encoding="utf-8")]
                _apply(load_file(folder / _STATE), description["ages"], model, optimizer)
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                print(f"mtdnn: {folder}: is passed over: {error}", flush=True)
                continue
            return description["step"], lines
        return 0, []

    def drop(self) -> None:
        """Remove every checkpoint: the run is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        """Folders of checkpoints, the newest first."""
        return sorted(self._folder.glob("step*"), reverse=True)


_STATE, _LINES, _DESCRIPTION = "state.safetensors", "training.jsonl", "checkpoint.json"


def _apply(
    tensors: dict[str, torch.Tensor],
    ages: dict[str, int],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        if name in ages:
            optimizer.state[parameter] = {
                "step": ages[name],
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_inf": tensors[f"exp_inf.{name}"].to(parameter.device),
            }


class StopSignals:
    """Notes SIGTERM, SIGUSR1 and SIGINT, so that the training ends between two steps.

    The same signal a second time acts at once, as it would have without this.
    """

    _WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in self._WATCHED:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[number])
