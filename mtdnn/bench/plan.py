"""Planning 10,000 runs: a dry run of the workflow, against Snakemake's own floor.

The peer is a workflow of as many runs and as many steps a run, each with one input, one output
and nothing else: what Snakemake itself takes for a graph of that size.
"""

import os
import resource
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
BARE = f"""
STEPS = {STEPS!r}
rule all:
    input: [f"{{run}}/{{STEPS[-1]}}" for run in range({RUNS})]
for before, step in zip(["", *STEPS], STEPS):
    rule:
        name: step
        input: "{{run}}/" + before if before else []
        output: "{{run}}/" + step
        shell: "true"
"""


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """One dry run and its bare peer in turns; each is a process, its memory is its peak."""
    if not (ROOT / "Snakefile").exists():
        raise MtdnnError(f"{ROOT}: has no Snakefile; run this from a checkout")
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        experiment = load(ROOT / "config" / "demo.yaml")
        seeds = list(range(1, -(-RUNS // len(experiment.runs())) + 1))
        settings = {"seeds": seeds, "results": str(room / "results")}
        (room / "grid.yaml").write_text(dump_yaml(experiment.model_copy(update=settings)))
        (room / "Bare").write_text(BARE)
        profile = ("--workflow-profile", str(ROOT / "profiles" / "default"))
        ours = ("--snakefile", str(ROOT / "Snakefile"), *profile, "--configfile", "grid.yaml")
        sides = (ours, ("--snakefile", "Bare", "--cores", "1", "--scheduler", "greedy"))
        taken = np.array([[_dry_run(room, *side) for side in sides] for _ in range(options.rounds)])
    seconds, processor, memory = taken.transpose(2, 0, 1)
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
        "runs": f"{len(seeds) * len(experiment.runs()):,}",
        "processor": f"{np.median(processor[:, 0]):.0f} against "
        f"{np.median(processor[:, 1]):.0f} s, at most {memory[:, 0].max() / 1000:.1f} GB",
    }


def _dry_run(room: Path, *arguments: str) -> tuple[float, float, float]:
    """Seconds, processor seconds and megabytes of a dry run.

    Raises:
        MtdnnError: Snakemake fails.
    """
    command = [sys.executable, "-m", "snakemake", "--dry-run", *arguments, "--quiet", "all"]
    began = time.perf_counter()
    with (room / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=room, stdout=log, stderr=subprocess.STDOUT)
        status, used = _waited(process)
        seconds = time.perf_counter() - began
        log.seek(0)
        if status:
            raise MtdnnError(f"bench plan: {' '.join(command)}: {log.read()[-500:].strip()}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def _waited(process: subprocess.Popen) -> tuple[int, resource.struct_rusage]:
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used
