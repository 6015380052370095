"""Checkpoints of a run: interrupted training resumes to the same result, bit for bit.

They are in a folder named after the run's fingerprint, never among the workflow's outputs:
Snakemake deletes a failed job's outputs before it tries again.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mtdnn.config.layout import RunFolder
from mtdnn.errors import printable
from mtdnn.machine.drafts import sweep
from mtdnn.machine.files import (
    flush,
    replacing,
    save_tensors,
    sha256,
    write_json,
    write_text,
)
from mtdnn.machine.locking import Lease

# More than one, so that a damaged newest one costs some minutes instead of the run.
CHECKPOINTS_KEPT = 2
# Share of the training time that checkpoints may take.
MAX_TIME_SHARE = 0.02
FORMAT_VERSION = 2


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: their folder, named after the run's fingerprint.
        seconds: time from one checkpoint to the next; more where the disk is so slow that
            checkpoints would take more than `MAX_TIME_SHARE` of the time. 0: after each step.
        origin: what this process runs on; only the same origin gives bit-identical results.

    Attributes:
        parts: the origins of the run so far: {"from_step", **origin} for each part.
    """

    def __init__(self, folder: Path, seconds: float, origin: dict[str, Any] | None = None):
        self._folder, self._seconds = folder, seconds
        self._origin = origin or {}
        self._last, self._cost = time.monotonic(), 0.0
        self._lease: Lease | None = None
        self.parts: list[dict[str, Any]] = [{"from_step": 0, **self._origin}]

    @contextmanager
    def sole_writer(self, lease: Lease) -> Iterator[Lease]:
        """Hold the run for this process.

        Raises:
            Busy: another process holds it, and the lease does not wait.
        """
        with lease as self._lease:
            sweep(self._folder)
            yield lease

    def check_holder(self) -> None:
        """Check that this process still holds the run.

        Raises:
            MtdnnError: another process has taken it over.
        """
        if self._lease:
            self._lease.check()

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        passed = time.monotonic() - self._last
        return passed >= self._seconds and (
            not self._seconds or passed >= self._cost / MAX_TIME_SHARE
        )

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lines: list[dict[str, Any]],
    ) -> None:
        """Write the state before step number `step`, and the log up to it.

        Args:
            step: number of steps that are done.
            model: the model after these steps.
            optimizer: its optimizer.
            lines: the log, one line for each step.

        Raises:
            MtdnnError: another process has taken the run over.
            OSError: the checkpoint cannot be written; the earlier ones are kept.
        """
        self.check_holder()
        began = time.monotonic()
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        numbers: dict[str, dict[str, float]] = {}
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{key}.{name}"] = value
                else:
                    numbers.setdefault(key, {})[name] = value
        with replacing(self._folder / f"step{step:08d}") as draft:
            draft.mkdir()
            save_tensors(tensors, draft / _STATE)
            write_text(draft / _LINES, "".join(json.dumps(line) + "\n" for line in lines))
            description = {
                "version": FORMAT_VERSION,
                "step": step,
                "numbers": numbers,
                "parts": self.parts,
                "sha256": {name: sha256(draft / name) for name in (_STATE, _LINES)},
            }
            write_json(draft / _DESCRIPTION, description)
            flush(draft)
        for old in self._all()[CHECKPOINTS_KEPT:]:
            shutil.rmtree(old)
        self._last = time.monotonic()
        self._cost = self._last - began

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, list[dict[str, Any]]]:
        """Set model and optimizer to the newest checkpoint that is not damaged.

        Returns:
            The number of the next step and the log up to it; 0 and no lines without a checkpoint.
        """
        for folder in self._all():
            try:
                description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
                if description["version"] != FORMAT_VERSION:
                    raise ValueError("another version of mtdnn wrote it")
                for name, expected in description["sha256"].items():
                    if sha256(folder / name) != expected:
                        raise ValueError(f"{_CALLED[name]} damaged")
                lines = [json.loads(line) for line in (folder / _LINES).open(encoding="utf-8")]
                step, parts = description["step"], description["parts"]
                _apply(load_file(folder / _STATE), description["numbers"], model, optimizer)
            except _UNUSABLE as error:
                reason = printable(str(error), 200)
                print(f"mtdnn: {folder}: checkpoint skipped: {reason}", flush=True)
                continue
            print(f"mtdnn: resumes after {step} steps, from {folder}", flush=True)
            if parts[-1] != {**parts[-1], **self._origin}:
                parts = [*parts, {"from_step": step, **self._origin}]
                print(
                    f"mtdnn: resumes on another machine or version, {self._origin}: the result is "
                    "as good as without an interruption, but not equal to the bit",
                    flush=True,
                )
            self.parts = parts
            return step, lines
        return 0, []

    def drop(self) -> None:
        """Remove every checkpoint, since the run is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        """The folders of the checkpoints, the newest first."""
        return sorted(self._folder.glob("step*"), reverse=True)


_STATE, _LINES, _DESCRIPTION = "state.safetensors", RunFolder.log, "checkpoint.json"
_CALLED = {_STATE: "the weights are", _LINES: "the log is"}
# Errors that reading a damaged or foreign file may raise.
_UNUSABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(RuntimeError, RecursionError, SafetensorError),
)


def _apply(
    tensors: dict[str, torch.Tensor],
    numbers: dict[str, dict[str, float]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Set the weights, and the state of each parameter that has one."""
    kinds: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        kind, name = key.split(".", 1)
        kinds.setdefault(kind, {})[name] = value
    weights = kinds.pop("model")
    if _shapes(weights) != _shapes(model.state_dict()):
        raise ValueError("the weights are those of another model")
    states: dict[torch.Tensor, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        state: dict[str, Any] = {
            kind: values[name].to(parameter.device)
            for kind, values in kinds.items()
            if name in values
        }
        state |= {kind: values[name] for kind, values in numbers.items() if name in values}
        if state:
            states[parameter] = state
    # Only now: a checkpoint that is refused above leaves the model unchanged.
    model.load_state_dict(weights)
    optimizer.state.update(states)


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
