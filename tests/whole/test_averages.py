"""Rows that train nothing, by one YAML file: from other runs' models to the tables and MLflow."""

import copy
import json
import sys

import pytest

from tests.support.workdir import EXPERIMENT, make_workdir

BOTH = {"mixture": "qa_sc", "weight": 0.8}
AVERAGES = {
    "seeds": {"of": [{**BOTH, "seeds": [1, 2]}]},
    "ties": {"method": "ties", "of": [{"mixture": "qa"}, {"mixture": "cola"}]},
}
ROWS = [
    {"encoder": "tiny", "mixture": "qa"},
    {"encoder": "tiny", **BOTH},
    {"encoder": "tiny", "mixture": "qa_sc", "variant": "seeds"},
    {"encoder": "tiny", "mixture": "qa", "variant": "ties"},
]
MADE = {"qa_sc/w1.0/seeds/seed1", "qa/w1.0/ties/seed1"}
SCORED = {"qa/w1.0/default/seed1", "qa_sc/w0.8/default/seed1", *MADE}
NEEDED = {"qa_sc/w0.8/default/seed2", "cola/w1.0/default/seed1"}


@pytest.mark.slow
def test_averages_reach_tables_figures_and_mlflow(tmp_path):
    workdir = make_workdir(tmp_path / "workdir")
    base = copy.deepcopy(EXPERIMENT)
    workdir.settings = {
        **base,
        "mixtures": {**base["mixtures"], "cola": {"label": "CoLA", "corpora": ["cola"]}},
        "variants": {name: {"training": {"average": each}} for name, each in AVERAGES.items()},
        "tables": {"table1": {"title": "Averages", "rows": ROWS}},
        "figures": {},
    }
    answer = workdir.snakemake()
    assert answer.returncode == 0, answer.stdout
    runs = workdir.results / "runs" / "tiny"
    trained = {
        str(path.parents[1].relative_to(runs)) for path in runs.glob("*/*/*/*/model/run.json")
    }
    assert trained == SCORED | NEEDED
    scored = {str(path.parent.relative_to(runs)) for path in runs.glob("*/*/*/*/metrics.json")}
    assert scored >= SCORED
    for name in MADE:
        assert (runs / name / "training.jsonl").read_text() == ""
        assert json.loads((runs / name / "mlflow.json").read_text())["run_id"]
    table = (workdir.results / "tables" / "table1.md").read_text()
    assert all(name in table for name in AVERAGES), table
    draws = (workdir.results / "figures" / "draws.svg").read_text()
    assert "Not drawn" not in draws
    assert "Nothing to be done" in workdir.snakemake().stdout
    verified = workdir.call(sys.executable, "-m", "mtdnn", "verify", str(workdir.results))
    assert verified.returncode == 0, verified.stdout
    planned = workdir.call(sys.executable, "-m", "mtdnn", "plan", "small.yaml", "--no-measuring")
    assert planned.returncode == 0, planned.stdout

    # A run that is trained again is averaged again, and nothing else is.
    cola = runs / "cola" / "w1.0" / "default" / "seed1" / "model" / "run.json"
    forced = workdir.planned("--forcerun", str(cola.relative_to(workdir.folder)))
    again = {message for message in forced if message.startswith("Training")}
    assert again == {
        "Training tiny/cola/w1.0/default/seed1",
        "Training tiny/qa/w1.0/ties/seed1",
    }

    # The table of interference waits for the scores of runs that are only averaged.
    scores = runs / "qa_sc" / "w0.8" / "default" / "seed2" / "metrics.json"
    forced = workdir.planned("--forcerun", str(scores.relative_to(workdir.folder)))
    assert "Writing the answers side by side" in forced
