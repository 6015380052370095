"""Runs whose training is interrupted, and their results."""

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtdnn.config.layout import Layout
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.training.checkpoints import Checkpoints
from mtdnn.training.loop import train
from mtdnn.training.stopping import Stopped
from tests.support.tiny import make_run_folder


def fresh(folder: Path):
    run_dir, run = make_run_folder(folder, weight=0.5, rows=60, training={"epochs": 3})
    (run_dir / "config.yaml").write_text(dump_yaml(run), encoding="utf-8")
    return run_dir, run


def train_with_stops(run_dir: Path, run: RunSettings, moments: Iterable[int]) -> None:
    """Train a run that SIGTERM stops after each of these numbers of steps, then to its end."""
    for moment in moments:
        stop_after(run_dir, run, moment)
    train(run_dir, run, threads=1)


def stop_after(run_dir: Path, run: RunSettings, moment: int, number: int = signal.SIGTERM) -> None:
    """Train a run until a signal stops it after a number of steps, each of which is kept."""
    save = Checkpoints.save

    def save_and_stop(self, step, *rest):
        save(self, step, *rest)
        if step == moment:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "save", save_and_stop)
        with pytest.raises(Stopped):
            train(run_dir, run, threads=1, checkpoint_seconds=0)


def outcome(run_dir: Path) -> tuple[dict, list]:
    """Weights and log of a finished run, without the times."""
    weights = load_file(run_dir / "model" / "model.safetensors")
    weights |= load_file(run_dir / "model" / "heads.safetensors")
    lines = [json.loads(line) for line in (run_dir / "training.jsonl").read_text().splitlines()]
    return weights, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same(one: tuple[dict, list], other: tuple[dict, list]) -> None:
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(value, other[0][name]) for name, value in one[0].items())


def states(run_dir: Path) -> list[Path]:
    return sorted((Layout.of_run(run_dir).root / "state").glob("*/step*"))
