"""Runs in phases, with an anchor or without, and from another run's encoder, by one YAML file.

Real processes: Snakemake trains them to their tables, and those in phases are killed in the middle
of a phase and at the boundary of two.
"""

import copy
import shutil
import subprocess
import sys
import time

import pytest

from tests.support.interrupted import assert_same, outcome, states
from tests.support.trained import schedule_of
from tests.support.workdir import EXPERIMENT, make_workdir

TIMEOUT_SECONDS = 600
PHASES = [
    {"corpora": ["cola"], "epochs": 1},
    {"policy": "shuffled", "epochs": 1, "restart": True},
    {"corpora": ["squad"], "steps": 6, "learning_rate": 1e-3},
]
ANCHOR = {"to": "phase_start", "strength": 100, "by": "true_fisher", "corpus": "cola", "items": 9}
ROWS = [
    {"encoder": "tiny", "mixture": "qa"},
    {"encoder": "tiny", "mixture": "qa_sc", "variant": "phased"},
    {"encoder": "tiny", "mixture": "qa_sc", "variant": "anchored"},
    {"encoder": "tiny", "mixture": "qa", "variant": "stilts"},
]


def killed_at(step: int, run_dir, workdir) -> None:
    """Train in a process of its own, and kill it when it has saved a checkpoint of this step."""
    command = [sys.executable, "-m", "mtdnn", "train", str(run_dir), "--threads", "1"]
    process = subprocess.Popen(
        [*command, "--checkpoint-minutes", "0"],
        cwd=workdir.folder,
        env=workdir.environment(),
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not any(state.name >= f"step{step:08d}" for state in states(run_dir)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()
    for state in states(run_dir):  # it may have gone on meanwhile
        if state.name > f"step{step:08d}":
            shutil.rmtree(state)
    assert states(run_dir)[-1].name == f"step{step:08d}"


@pytest.mark.slow
def test_phases_and_starting_runs_reach_their_tables_also_after_a_kill(tmp_path):
    workdir = make_workdir(tmp_path / "workdir")
    workdir.settings = {
        **copy.deepcopy(EXPERIMENT),
        "variants": {
            "phased": {"label": "in phases", "schedule": {"phases": PHASES}},
            "anchored": {
                "label": "elastic",
                "schedule": {"phases": PHASES},
                "training": {"anchor": ANCHOR, "optimizer": "adamw"},
            },
            "stilts": {
                "label": "after all together",
                "training": {"start_from": {"mixture": "qa_sc", "variant": "phased"}},
            },
        },
        "tables": {"table1": {"title": "Orders", "rows": ROWS}},
        "figures": {},
    }
    answer = workdir.snakemake("table1", "draws", "loss")
    assert answer.returncode == 0, answer.stdout
    table = (workdir.results / "tables" / "table1.md").read_text()
    assert "in phases | –" in table.replace("  ", " "), table
    assert "Not drawn" not in (workdir.results / "figures" / "draws.svg").read_text()
    runs = workdir.results / "runs" / "tiny"
    phased = runs / "qa_sc" / "w1.0" / "phased" / "seed1"
    starts = [step.step for step in schedule_of(phased)]
    phases = [step.phase for step in schedule_of(phased)]
    first, second = phases.index(1), phases.index(2)
    assert sorted(set(phases)) == [0, 1, 2] and len(starts) == second + 6
    assert workdir.planned("table1") == set()

    for run_dir in (phased, runs / "qa_sc" / "w1.0" / "anchored" / "seed1"):
        expected = outcome(run_dir)
        assert any(line.get("penalty", 0) > 0 for line in expected[1]) == (run_dir != phased)
        drawn = (run_dir / "schedule.parquet").read_bytes()
        for name in ("model", "training.jsonl", "schedule.parquet"):
            path = run_dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for step in (first // 2 + 1, first, (first + second) // 2, second, second + 3):
            killed_at(step, run_dir, workdir)
        train = (sys.executable, "-m", "mtdnn", "train", str(run_dir), "--threads", "1")
        answer = workdir.call(*train)
        assert answer.returncode == 0, answer.stdout
        assert_same(outcome(run_dir), expected)
        assert (run_dir / "schedule.parquet").read_bytes() == drawn
