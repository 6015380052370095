"""Runs whose training is interrupted, and their results."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from mtdnn.config.layout import Layout
from mtdnn.config.yaml_files import dump_yaml
from tests.support.tiny import make_run_folder


def fresh(folder: Path):
    run_dir, run = make_run_folder(folder, weight=0.5, rows=60, training={"epochs": 3})
    (run_dir / "config.yaml").write_text(dump_yaml(run), encoding="utf-8")
    return run_dir, run


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
