"""Grids of ever more runs from nothing to their end: what Snakemake takes for each run.

The workflow is the real one, with the profile of a batch system, but nothing computes: each step
makes its files, empty; those of jobs are made by the command that submits them. The peer is a
workflow of as many runs and as many steps a run, of which the same two are jobs: what Snakemake
itself takes.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdnn.bench.harness import Options, of_processes
from mtdnn.bench.plan import BARE, ROOT, need_checkout, snakemake, write_grid

SIZES = (250, 500, 1000, 2000)
# A batch system whose jobs are over at once; what they are to make stands in their scripts.
SUBMIT = """#!{python} -IS
import json, pathlib, sys
mark = "# properties = "
lines = pathlib.Path(sys.argv[1]).read_text().splitlines()
job = json.loads(next(line for line in lines if line.startswith(mark))[len(mark):])
for path in map(pathlib.Path, job["output"]):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
print(job["jobid"])
"""
STATUS = "#!/bin/sh\necho success\n"


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """One case for each number of runs; figures are those of a run, memory is the peak.

    `ours_s` is by the wall clock, with all commands that are started; `ours_cpu_s` is processor
    time of Snakemake itself, without them.
    """
    need_checkout()
    for size in SIZES:
        name = f"runs_{size}"
        if name.startswith(options.only):
            result = of_processes(
                name, "bare_snakemake", [_measured(size) for _ in range(options.rounds)]
            )
            yield {
                **result,
                "processor": f"{1000 * result['ours_cpu_s']:.0f} against "
                f"{1000 * result['peer_cpu_s']:.0f} ms",
                "memory": f"{result['memory_mb']:.0f} against {result['peer_memory_mb']:.0f} MB",
            }


def _measured(size: int) -> list[tuple[float, float, float]]:
    """Seconds and processor seconds of a run, and megabytes: of ours, and of the peer."""
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        for name, text in (("submit", SUBMIT.format(python=sys.executable)), ("status", STATUS)):
            (room / name).write_text(text)
            (room / name).chmod(0o755)
        _write_snakefile(room)
        (room / "Bare").write_text(BARE)
        runs = write_grid(room, size)
        ours = _whole(room, "--snakefile", "Snakefile", "--configfile", "grid.yaml")
        bare = _whole(room, "--snakefile", "Bare", "--config", f"runs={runs}")
    return [
        (seconds / runs, processor / runs, memory) for seconds, processor, memory in (ours, bare)
    ]


def _write_snakefile(room: Path) -> None:
    """The workflow as it is, but every command makes its rule's files instead."""
    for name in ("workflow", "envs"):
        shutil.copytree(ROOT / name, room / name)
    shutil.copy(ROOT / "Snakefile", room)
    for path in (room / "workflow" / "rules").iterdir():
        commands = r"    shell:\n( {8}.*\n)+"
        path.write_text(
            re.sub(commands, '    shell:\n        "touch {output}"\n', path.read_text())
        )


def _whole(room: Path, *workflow: str) -> tuple[float, float, float]:
    """Measure a workflow from nothing to its end, through the profile `slurm-generic`."""
    return snakemake(
        room,
        *workflow,
        *("--workflow-profile", str(ROOT / "profiles" / "slurm-generic")),
        *("--cluster-generic-submit-cmd", str(room / "submit")),
        *("--cluster-generic-status-cmd", str(room / "status")),
        *("--seconds-between-status-checks", "1", "--max-status-checks-per-second", "1000"),
    )
