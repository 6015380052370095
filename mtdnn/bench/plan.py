"""Planning 10,000 runs: a dry run of the workflow, against the minimum that Snakemake needs.

The peer is a workflow with the same number of runs and of steps per run, each with one input, one
output and nothing else: what Snakemake itself needs for a graph of that size.
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
# The last step is a local rule, as in our workflow.
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
    """Yield one case: our dry run and its bare peer in turns, each a process of its own."""
    need_checkout()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = write_grid(folder, RUNS)
        (folder / "Bare").write_text(BARE)
        profile = ("--workflow-profile", str(ROOT / "profiles" / "default"))
        ours = ("--snakefile", str(ROOT / "Snakefile"), *profile, "--configfile", "grid.yaml")
        bare = ("--snakefile", "Bare", "--cores", "1", "--scheduler", "greedy")
        sides = (ours, (*bare, "--config", f"runs={RUNS}"))
        turns = [
            [snakemake(folder, "--dry-run", "--quiet", "all", *side) for side in sides]
            for _ in range(options.rounds)
        ]
    result = of_processes("plan", "bare_snakemake", turns)
    yield {
        **result,
        "runs": f"{runs:,}",
        "processor": f"{result['ours_cpu_s']:.0f} against {result['peer_cpu_s']:.0f} s, at most "
        f"{result['memory_mib']:,.0f} MiB",
    }


def need_checkout() -> None:
    """Make sure that there is a Snakefile next to the package.

    Raises:
        MtdnnError: the package is installed, not run from a checkout.
    """
    if not (ROOT / "Snakefile").exists():
        raise MtdnnError(f"{ROOT}: has no Snakefile; run this from a checkout")


def write_grid(folder: Path, runs: int) -> int:
    """Write `grid.yaml`: the demo's nine kinds of runs with enough seeds for `runs` runs.

    Returns:
        The number of runs, at least `runs`.
    """
    experiment = load(ROOT / "config" / "demo.yaml")
    seeds = list(range(1, -(-runs // len(experiment.runs())) + 1))
    settings = {"seeds": seeds, "results": str(folder / "results"), "tracking_live": False}
    (folder / "grid.yaml").write_text(dump_yaml(experiment.model_copy(update=settings)))
    return len(seeds) * len(experiment.runs())


def snakemake(folder: Path, *arguments: str) -> tuple[float, float, float]:
    """Run Snakemake in `folder`; return seconds, processor seconds and peak MiB."""
    return process([sys.executable, "-m", "snakemake", *arguments], folder)
