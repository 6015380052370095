"""Snakemake interrupted in the middle of parallel runs, and started again."""

import copy
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.room import EXPERIMENT, ROOT, RUNS, Room, make_room

SETTINGS = {
    **copy.deepcopy(EXPERIMENT),
    "training": {"epochs": 30, "batch_size": 4},
    "variants": {"longer": {"label": "longer", "training": {"epochs": 31}}},
    "figures": {},
}
PATIENCE_SECONDS = 900


def tables(room: Room) -> dict[str, str]:
    """The experiment's tables; how long the training took, and where it was killed, is left out."""
    return {
        path.name: re.sub(r"training time .*", "", path.read_text())
        for path in sorted((room.results / "tables").glob("table*"))
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    room = make_room(tmp_path_factory.mktemp("undisturbed"))
    room.settings = copy.deepcopy(SETTINGS)
    answer = room.snakemake("table1", "table2")
    assert answer.returncode == 0, answer.stdout
    return tables(room)


def begin(room: Room) -> subprocess.Popen:
    """Start Snakemake in a session of its own, as a terminal does."""
    room.planned("table1")  # writes the experiment's file
    command = [sys.executable, "-m", "snakemake", "table1", "table2", "--cores", "2"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "small.yaml"]
    command += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    return subprocess.Popen(
        command,
        cwd=room.folder,
        env=room.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def in_training(room: Room) -> list[Path]:
    return list((room.results / "state").glob("*/holder.json"))


@pytest.mark.patient
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_in_parallel_runs_it_ends_with_the_same_tables(tmp_path, undisturbed, number):
    room = make_room(tmp_path / "room")
    room.settings = copy.deepcopy(SETTINGS)
    process = begin(room)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(in_training(room)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if number == signal.SIGINT:  # Ctrl-C goes to all processes of the terminal
        os.killpg(process.pid, number)
    else:  # the jobs live on when Snakemake is killed alone
        process.send_signal(number)
    process.wait(timeout=PATIENCE_SECONDS)
    scored = list((room.results / "runs").glob("**/metrics.json"))
    assert len(scored) < len(RUNS)  # it was in the middle
    if number == signal.SIGKILL:
        refused = room.snakemake("table1", "table2")
        assert refused.returncode != 0 and "--unlock" in refused.stdout
        assert room.snakemake("--unlock").returncode == 0
    answer = room.snakemake("table1", "table2", "--rerun-incomplete")
    assert answer.returncode == 0, answer.stdout
    assert tables(room) == undisturbed
    assert not in_training(room)
