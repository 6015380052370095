"""Planning 10,000 runs: a dry run of the workflow, against Snakemake's own floor.

The peer is a workflow of as many runs and as many steps a run, each with one input, one output
and nothing else: what Snakemake itself takes for a graph of that size.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mtdnn.bench import Options
from mtdnn.config import dump_yaml, load
from mtdnn.errors import MtdnnError

RUNS = 10_000
ROOT = Path(__file__).parents[2]
STEPS = ("schedule", "train", "evaluate", "metrics", "log")
# The first, the fourth and the fifth are done where Snakemake runs, as ours are.
BARE = f"""
STEPS = {STEPS!r}
rule all:
    input: [f"{{run}}/{{STEPS[-1]}}" for run in range(int(config["runs"]))]
localrules: schedule, metrics, log
for before, step in zip(["", *STEPS], STEPS):
    rule:
        name: step
        input: "{{run}}/" + before if before else []
        output: "{{run}}/" + step
        shell: "touch {{output}}"
"""


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """One dry run and its bare peer in turns; each is a process, its memory is its peak."""
    need_checkout()
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        runs = write_grid(room, RUNS)
        (room / "Bare").write_text(BARE)
        profile = ("--workflow-profile", str(ROOT / "profiles" / "default"))
        ours = ("--snakefile", str(ROOT / "Snakefile"), *profile, "--configfile", "grid.yaml")
        bare = ("--snakefile", "Bare", "--cores", "1", "--scheduler", "greedy")
        sides = (ours, (*bare, "--config", f"runs={RUNS}"))
        taken = [
            [snakemake(room, "--dry-run", "--quiet", "all", *side) for side in sides]
            for _ in range(options.rounds)
        ]
    seconds, processor, memory = np.array(taken).transpose(2, 0, 1)
    ratios = seconds[:, 1] / seconds[:, 0]
    yield {
        "case": "plan",
        "peer": "bare_snakemake",
        "ours_s": float(np.median(seconds[:, 0])),
        "peer_s": float(np.median(seconds[:, 1])),
        "ours_cpu_s": float(np.median(processor[:, 0])),
        "peer_cpu_s": float(np.median(processor[:, 1])),
        "ratio": float(np.median(ratios)),
        "ratio_spread": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "cpu_ratio": float(np.median(processor[:, 1] / processor[:, 0])),
        "memory_mb": float(memory[:, 0].max()),
        "rounds": options.rounds,
        "runs": f"{runs:,}",
        "processor": f"{np.median(processor[:, 0]):.0f} against "
        f"{np.median(processor[:, 1]):.0f} s, at most {memory[:, 0].max() / 1000:.1f} GB",
    }


def need_checkout() -> None:
    """Raise where there is no Snakefile beside the package."""
    if not (ROOT / "Snakefile").exists():
        raise MtdnnError(f"{ROOT}: has no Snakefile; run this from a checkout")


def write_grid(room: Path, runs: int) -> int:
    """Write `grid.yaml`, the demo's nine kinds of runs with as many seeds as it takes.

    Returns:
        How many runs that makes, at least `runs`.
    """
    experiment = load(ROOT / "config" / "demo.yaml")
    seeds = list(range(1, -(-runs // len(experiment.runs())) + 1))
    settings = {"seeds": seeds, "results": str(room / "results"), "tracking_live": False}
    (room / "grid.yaml").write_text(dump_yaml(experiment.model_copy(update=settings)))
    return len(seeds) * len(experiment.runs())


def snakemake(room: Path, *arguments: str) -> tuple[float, float, float]:
    """Seconds, processor seconds and megabytes of Snakemake itself, without what it starts.

    Raises:
        MtdnnError: it fails.
    """
    command = [sys.executable, "-m", "snakemake", *arguments]
    began, memory = time.perf_counter(), 0.0
    with (room / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=room, stdout=log, stderr=subprocess.STDOUT)
        # Its own peak is known while it lives; what the kernel tells later begins with ours.
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            memory = max(memory, _peak_mb(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        # It has ended and was not waited for; its name may hold blanks.
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        processor = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        log.seek(0)
        if process.wait():
            raise MtdnnError(f"bench: {' '.join(command)}: {log.read()[-500:].strip()}")
    return seconds, processor, memory


def _peak_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))
