"""Planning 10,000 runs: a dry run of the workflow, against Snakemake's own floor.

The peer is a workflow of as many runs and as many steps a run, each with one input, one output
and nothing else: what Snakemake itself takes for a graph of that size.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdnn.bench.harness import Options, of_processes, process
from mtdnn.config.loading import load
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError

RUNS = 10_000
ROOT = Path(__file__).parents[2]
STEPS = ("train", "evaluate", "metrics")
# The last is done where Snakemake runs, as ours is.
BARE = f"""
STEPS = {STEPS!r}
rule all:
    input: [f"{{run}}/{{STEPS[-1]}}" for run in range(int(config["runs"]))]
localrules: metrics
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
    result = of_processes("plan", "bare_snakemake", taken)
    yield {
        **result,
        "runs": f"{runs:,}",
        "processor": f"{result['ours_cpu_s']:.0f} against {result['peer_cpu_s']:.0f} s, at most "
        f"{result['memory_mb'] / 1000:.1f} GB",
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
    """Seconds, processor seconds and megabytes of a call of Snakemake."""
    return process([sys.executable, "-m", "snakemake", *arguments], room)
