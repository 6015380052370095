"""Runs that learn from single-corpus teachers, by one YAML file: to the tables and MLflow."""

import copy
import json
import sys

import pytest

from mtdnn.config.layout import Layout
from mtdnn.data.logits import Logits
from tests.support.workdir import EXPERIMENT, make_workdir

BOTH = {"mixture": "qa_sc", "weight": 0.8}
TEACHERS = {"squad": {"mixture": "qa"}, "cola": {"mixture": "cola"}}
VARIANTS = {
    "taught": {"training": {"distillation": {"teachers": TEACHERS}}},
    # Born again: the teacher of a student was one.
    "again": {
        "training": {
            "distillation": {
                "teachers": {"cola": {**BOTH, "variant": "taught"}},
                "share": 0.5,
                "temperature": 2,
            }
        }
    },
}
ROWS = [
    {"encoder": "tiny", "mixture": "qa"},
    {"encoder": "tiny", **BOTH},
    {"encoder": "tiny", **BOTH, "variant": "taught"},
    {"encoder": "tiny", **BOTH, "variant": "again"},
]
QA, COLA, TAUGHT, AGAIN = (
    f"tiny/{name}/seed1"
    for name in ("qa/w1.0/default", "cola/w1.0/default", "qa_sc/w0.8/taught", "qa_sc/w0.8/again")
)
SPOKEN = {(QA, "squad"), (COLA, "cola"), (TAUGHT, "cola")}


@pytest.mark.slow
def test_students_reach_the_tables_after_their_teachers(tmp_path):
    workdir = make_workdir(tmp_path / "workdir")
    base = copy.deepcopy(EXPERIMENT)
    workdir.settings = {
        **base,
        "seeds": [1],
        "mixtures": {**base["mixtures"], "cola": {"label": "CoLA", "corpora": ["cola"]}},
        "variants": VARIANTS,
        "tables": {"table1": {"title": "Distillation", "rows": ROWS}},
        "figures": {},
    }
    answer = workdir.snakemake()
    assert answer.returncode == 0, answer.stdout
    results = workdir.results
    files = {Layout(results).logits(run, corpus) for run, corpus in SPOKEN}
    assert files == set((results / "logits").rglob("*.safetensors"))
    described = json.loads((results / "runs" / TAUGHT / "model" / "run.json").read_text())
    said = {run: Logits(Layout(results).logits(run, corpus)).header for run, corpus in SPOKEN}
    expected = {"squad": said[QA]["weights"], "cola": said[COLA]["weights"]}
    assert described["teachers"] == expected
    for run in (TAUGHT, AGAIN):
        assert json.loads((results / "runs" / run / "mlflow.json").read_text())["run_id"]
    table = (results / "tables" / "table1.md").read_text()
    assert "taught" in table and "again" in table, table
    assert "Nothing to be done" in workdir.snakemake().stdout
    verified = workdir.call(sys.executable, "-m", "mtdnn", "verify", str(results))
    assert verified.returncode == 0, verified.stdout
    assert "teachers' logits: 3 of 3 correct" in verified.stdout
    planned = workdir.call(sys.executable, "-m", "mtdnn", "plan", "small.yaml", "--no-measuring")
    assert planned.returncode == 0, planned.stdout

    # A teacher that is trained again speaks again, and only its students learn again.
    description = results / "runs" / COLA / "model" / "run.json"
    again = workdir.planned("--forcerun", str(description.relative_to(workdir.folder)))
    assert {m for m in again if m.startswith(("Training", "Predicting"))} == {
        *(f"Training {run}" for run in (COLA, TAUGHT, AGAIN)),
        f"Predicting the training items of cola with {COLA}",
        f"Predicting the training items of cola with {TAUGHT}",
    }

    # Logits can be deleted to save space; a damaged file is found.
    Layout(results).logits(QA, "squad").unlink()
    assert not workdir.planned()
    damaged = Layout(results).logits(COLA, "cola")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    verified = workdir.call(sys.executable, "-m", "mtdnn", "verify", str(results))
    assert verified.returncode != 0 and f"{damaged}: was changed" in verified.stdout
