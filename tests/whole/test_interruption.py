"""Snakemake is interrupted during parallel runs, and started again."""

import copy
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.workdir import EXPERIMENT, ROOT, RUNS, Workdir, make_workdir

SETTINGS = {
    **copy.deepcopy(EXPERIMENT),
    "training": {"epochs": 30, "batch_size": 4},
    "variants": {"longer": {"label": "longer", "training": {"epochs": 31}}},
    "figures": {},
}
TIMEOUT_SECONDS = 900


def tables(workdir: Workdir) -> dict[str, str]:
    """Return the experiment's tables without training times."""
    return {
        path.name: re.sub(r"training time .*", "", path.read_text())
        for path in sorted((workdir.results / "tables").glob("table*"))
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    workdir = make_workdir(tmp_path_factory.mktemp("undisturbed"))
    workdir.settings = copy.deepcopy(SETTINGS)
    answer = workdir.snakemake("table1", "table2")
    assert answer.returncode == 0, answer.stdout
    return tables(workdir)


def begin(workdir: Workdir) -> subprocess.Popen:
    """Start Snakemake in its own session, as a terminal does."""
    workdir.planned("table1")  # writes small.yaml
    command = [sys.executable, "-m", "snakemake", "table1", "table2", "--cores", "2"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "small.yaml"]
    command += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    return subprocess.Popen(
        command,
        cwd=workdir.folder,
        env=workdir.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def in_training(workdir: Workdir) -> list[Path]:
    """Return the lock files of the runs that are being trained."""
    return list((workdir.results / "state").glob("runs/*/holder.json"))


@pytest.mark.patient
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_snakemake_resumes_to_the_same_tables(tmp_path, undisturbed, number):
    workdir = make_workdir(tmp_path / "workdir")
    workdir.settings = copy.deepcopy(SETTINGS)
    process = begin(workdir)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(in_training(workdir)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if number == signal.SIGINT:  # Ctrl-C signals all processes of the terminal
        os.killpg(process.pid, number)
    else:  # only Snakemake; its jobs keep running
        process.send_signal(number)
    process.wait(timeout=TIMEOUT_SECONDS)
    scored = list((workdir.results / "runs").glob("**/metrics.json"))
    assert len(scored) < len(RUNS)  # otherwise it was interrupted too late
    if number == signal.SIGKILL:
        refused = workdir.snakemake("table1", "table2")
        assert refused.returncode != 0 and "--unlock" in refused.stdout
        assert workdir.snakemake("--unlock").returncode == 0
    answer = workdir.snakemake("table1", "table2", "--rerun-incomplete")
    assert answer.returncode == 0, answer.stdout
    assert tables(workdir) == undisturbed
    assert not in_training(workdir)
