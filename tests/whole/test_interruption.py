"""Snakemake is interrupted during parallel runs, and started again."""

import copy
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
    """Start Snakemake in its own session, as a terminal does; `snakemake.log` has what it says."""
    workdir.planned("table1")  # writes small.yaml
    command = [sys.executable, "-m", "snakemake", "table1", "table2", "--cores", "2"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "small.yaml"]
    command += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    with open(workdir.folder / "snakemake.log", "w") as log:
        return subprocess.Popen(
            command,
            cwd=workdir.folder,
            env=workdir.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
            # A shell ignores it for what it starts in the background, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for something that Snakemake is to do."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


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
    wait_for(lambda: len(in_training(workdir)) >= 2, process)
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


@pytest.mark.slow
def test_a_second_ctrl_c_skips_the_partial_tables(tmp_path, monkeypatch):
    workdir = make_workdir(tmp_path / "workdir")
    monkeypatch.setattr(workdir, "is_forked", False)  # forks may miss what a terminal sends
    workdir.settings = copy.deepcopy(SETTINGS)
    process = begin(workdir)
    log = workdir.folder / "snakemake.log"
    wait_for(lambda: bool(in_training(workdir)), process)
    os.killpg(process.pid, signal.SIGINT)
    wait_for(lambda: "writing tables, figures and the report" in log.read_text(), process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) != 0
    assert "mtdnn: skipped\n" in log.read_text()
