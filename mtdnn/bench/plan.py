"""Planning 10,000 runs: a dry run of the workflow, against Snakemake's own floor.

The peer is a workflow of as many runs and as many steps a run, each with one input, one output
and nothing else: what Snakemake itself takes for a graph of that size.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdnn.bench import Options, compare_processes
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
        ours = _dry_run(str(ROOT / "Snakefile"), *profile, "--configfile", "grid.yaml")
        bare = _dry_run("Bare", "--cores", "1", "--scheduler", "greedy")
        result = compare_processes("plan", "bare_snakemake", ours, bare, options.rounds, room)
    yield {
        **result,
        "runs": f"{len(seeds) * len(experiment.runs()):,}",
        "processor": f"{result['ours_cpu_s']:.0f} against {result['peer_cpu_s']:.0f} s, at most "
        f"{result['memory_mb'] / 1000:.1f} GB",
    }


def _dry_run(snakefile: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--snakefile", snakefile]
    return [*command, *arguments, "--quiet", "all"]
