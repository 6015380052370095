"""Texts and scripts of the profiles, without Snakemake."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.names import AWKWARD

ROOT = Path(__file__).parents[2]
PROFILES = sorted(path.name for path in (ROOT / "profiles").iterdir() if path.is_dir())
JOB = {
    "rule": "train",
    "threads": 2,
    "resources": {
        "mem_mb": 4000,
        "runtime": 60,
        "slurm_account": AWKWARD,
        "slurm_extra": shlex.join(["--comment", AWKWARD]),
        "lsf_project": AWKWARD,
        "sge_project": AWKWARD,
    },
}
# A stub of a batch system's command: it records its arguments.
STUB = """#!/bin/sh
printf '%s\\0' "$@" > arguments
echo 'Job <1> is submitted to queue <normal>.'
"""


@pytest.mark.parametrize("profile", PROFILES)
def test_every_entry_of_a_profile_is_explained(profile):
    text = (ROOT / "profiles" / profile / "config.yaml").read_text()
    blocks = [block.splitlines() for block in text.split("\n\n")]
    entries = [lines for lines in blocks if any(re.match(r"[\w?]", line) for line in lines)]
    keys = [line for lines in entries for line in lines if re.match(r"[\w?]", line)]
    assert len(keys) == len(yaml.safe_load(text))
    assert all(lines[0].startswith("#") for lines in entries)


def test_scripts_can_be_executed():
    names = ("submit", "status", "cancel")
    for script in [script for name in names for script in ROOT.glob(f"profiles/*/{name}")]:
        assert os.access(script, os.X_OK), script
        assert Path(script).read_text().startswith("#!")


@pytest.mark.parametrize(
    ("profile", "command"), [("lsf", "bsub"), ("sge", "qsub"), ("slurm-generic", "sbatch")]
)
def test_submit_passes_every_value_as_it_is(tmp_path, profile, command):
    folder = tmp_path / AWKWARD
    folder.mkdir()
    script = folder / "job.sh"
    script.write_text(f"#!/bin/sh\n# properties = {json.dumps(JOB)}\n")
    (folder / command).write_text(STUB)
    (folder / command).chmod(0o755)
    subprocess.run(
        [ROOT / "profiles" / profile / "submit", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    *options, submitted = (folder / "arguments").read_text().removesuffix("\0").split("\0")
    # LSF passes the script to a shell, the others open it.
    assert submitted == (shlex.quote(str(script)) if profile == "lsf" else str(script))
    assert AWKWARD in options or f"--account={AWKWARD}" in options
    if profile == "slurm-generic":
        assert options[-2:] == ["--comment", AWKWARD]


@pytest.mark.parametrize("profile", ["kubernetes", "lsf", "sge", "slurm-generic"])
def test_status_passes_the_number_of_the_job_as_it_is(tmp_path, profile):
    for command in ("kubectl", "bjobs", "qstat", "squeue"):
        (tmp_path / command).write_text(STUB)
        (tmp_path / command).chmod(0o755)
    answer = subprocess.run(
        [ROOT / "profiles" / profile / "status", AWKWARD],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert answer.stdout == "running\n"
    arguments = (tmp_path / "arguments").read_text().split("\0")
    assert AWKWARD in arguments or f"--jobs={AWKWARD}" in arguments
