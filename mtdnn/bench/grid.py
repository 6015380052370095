"""Grids of increasing size, from start to end: the time that Snakemake needs per run.

The workflow is the real one with the profile of a batch system, but nothing is computed: each
step only creates its files, empty, and those of jobs are created by the command that submits
them. The peer is a bare workflow with the same number of runs and of steps per run, two of which
are jobs as well: what Snakemake itself needs.
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
from mtdnn.config.layout import DESCRIPTION, WEIGHTS

SIZES = (250, 500, 1000, 2000)
# A batch system whose jobs end at once; their scripts name the files to create.
SUBMIT = """#!{python} -IS
import json, pathlib, sys
mark = "# properties = "
lines = pathlib.Path(sys.argv[1]).read_text().splitlines()
job = json.loads(next(line for line in lines if line.startswith(mark))[len(mark):])
for path in map(pathlib.Path, job["output"]):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    # The weights are not among the outputs, but must exist next to them.
    for name in {weights} if path.name == {description!r} else ():
        path.with_name(name).touch()
print(job["jobid"])
"""
STATUS = "#!/bin/sh\necho success\n"


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """Yield one case for each number of runs; times are per run, memory is the peak.

    `ours_s` is wall-clock time and includes all commands that Snakemake starts; `ours_cpu_s` is
    the processor time of Snakemake itself, without them.
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
                "memory": f"{result['memory_mib']:.0f} against {result['peer_memory_mib']:.0f} MiB",
            }


def _measured(size: int) -> list[tuple[float, float, float]]:
    """Measure a grid on each side: seconds and processor seconds per run, and peak MiB."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        submit = SUBMIT.format(python=sys.executable, weights=WEIGHTS, description=DESCRIPTION)
        for name, text in (("submit", submit), ("status", STATUS)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        write_snakefile(folder)
        (folder / "Bare").write_text(BARE)
        runs = write_grid(folder, size)
        ours = _whole(folder, "--snakefile", "Snakefile", "--configfile", "grid.yaml")
        bare = _whole(folder, "--snakefile", "Bare", "--config", f"runs={runs}")
    return [
        (seconds / runs, processor / runs, memory) for seconds, processor, memory in (ours, bare)
    ]


def write_snakefile(folder: Path) -> None:
    """Copy the workflow, with commands that only create the files of their rules."""
    for name in ("workflow", "envs"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    for path in (folder / "workflow" / "rules").iterdir():
        commands = r"    shell:\n( {8}.*\n)+"
        path.write_text(
            re.sub(commands, '    shell:\n        "touch {output}"\n', path.read_text())
        )


def _whole(folder: Path, *workflow: str) -> tuple[float, float, float]:
    """Measure a workflow from start to end, with the profile `slurm-generic`."""
    return snakemake(
        folder,
        *workflow,
        *("--workflow-profile", str(ROOT / "profiles" / "slurm-generic")),
        *("--cluster-generic-submit-cmd", str(folder / "submit")),
        *("--cluster-generic-status-cmd", str(folder / "status")),
        *("--seconds-between-status-checks", "1", "--max-status-checks-per-second", "1000"),
    )
