"""Kill a training run many times; it must end like an undisturbed one.

`python -m tests.support.soak --kills 20` is the long form; `test_soak.py` runs the short one. A
third of the signals come at any moment after the start of the process, a third shortly after a
checkpoint, a third while a checkpoint is being written.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from mtdnn.config.layout import Layout
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.machine.files import digest, sha256
from tests.support.tiny import make_run_folder

MOMENTS = ("anywhere", "after a checkpoint", "while one is written")
TIMEOUT_SECONDS = 900


def make(folder: Path, rows: int) -> Path:
    """A run with checkpoints of several MiB, which take a while to write."""
    sizes = {"hidden_size": 192, "intermediate_size": 384}
    run_dir, run = make_run_folder(
        folder, weight=0.5, rows=rows, encoder=sizes, training={"batch_size": 8, "epochs": 2}
    )
    (run_dir / "config.yaml").write_text(dump_yaml(run), encoding="utf-8")
    return run_dir


def start(run_dir: Path, minutes: float) -> subprocess.Popen:
    command = [sys.executable, "-m", "mtdnn", "train", str(run_dir), "--threads", "1"]
    command += ["--checkpoint-minutes", str(minutes)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(run_dir: Path, minutes: float) -> None:
    process = start(run_dir, minutes)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def result(run_dir: Path) -> str:
    """Digest of weights and log, without the times."""
    lines = [json.loads(line) for line in (run_dir / "training.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    files = [run_dir / "model" / name for name in ("model.safetensors", "heads.safetensors")]
    return digest([lines, *map(sha256, files)])


def soak(folder: Path, kills: int, rows: int, seed: int = 1) -> Counter:
    """Kill a training run `kills` times and compare its result with that of an undisturbed one.

    Returns:
        The number of signals of each kind at each moment.
    """
    undisturbed = make(folder / "undisturbed", rows)
    began = time.monotonic()
    finish(undisturbed, 10)
    whole = time.monotonic() - began
    run_dir = make(folder / "disturbed", rows)
    state = Layout.of_run(run_dir).root / "state"
    draw, counts = random.Random(seed), Counter()
    for number in range(kills):
        process = start(run_dir, 0)
        moment = MOMENTS[number % len(MOMENTS)]
        if moment == "anywhere":
            _sleep(draw.uniform(0, 0.3 * whole), process)
        else:
            _wait(process, state, "step*", beside=set(state.glob("*/step*")))
            if moment == "after a checkpoint":
                _sleep(draw.uniform(0, 0.2), process)
            else:
                _wait(process, state, ".step*/step*", beside=set())
        if process.poll() is not None:
            raise AssertionError(f"it ended too early; give it more rows: {process.stderr.read()}")
        name = ("SIGKILL", "SIGTERM")[number // len(MOMENTS) % 2]
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=TIMEOUT_SECONDS)
        assert not (run_dir / "training.jsonl").exists(), "it has ended; give it more rows"
        counts[f"{name} {moment}"] += 1
        counts["half-written checkpoints left behind"] += len(list(state.glob("*/.step*")))
    finish(run_dir, 10)
    assert result(run_dir) == result(undisturbed), "the result differs"
    left = list(run_dir.rglob(".*")) + list(state.glob("*/*"))
    assert not left, f"files are left behind: {left}"
    return counts


def _sleep(seconds: float, process: subprocess.Popen) -> None:
    """Sleep, but no longer than the process lives."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


def _wait(process: subprocess.Popen, state: Path, pattern: str, beside: set[Path]) -> None:
    """Wait for a file that matches the pattern and is not among `beside`."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while process.poll() is None and not set(state.glob(f"*/{pattern}")) - beside:
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.001)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.soak")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=800, help="rows of each corpus")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments")
    arguments = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[2]))
    with tempfile.TemporaryDirectory() as folder:
        counts = soak(Path(folder), arguments.kills, arguments.rows, arguments.seed)
    for what, count in sorted(counts.items()):
        print(f"{count:4d} {what}")
    print(f"killed {arguments.kills} times; the result is that of an undisturbed training")


if __name__ == "__main__":
    main()
