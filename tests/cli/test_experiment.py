"""Commands for an experiment as a whole."""

import json
import subprocess
import sys

import pytest

from mtdnn.cli.main import main
from mtdnn.config.experiment import Experiment

DEMO = "config/demo.yaml"


def test_check_counts_the_runs(capsys):
    assert main(["check", DEMO]) == 0
    assert capsys.readouterr().out == "config/demo.yaml: valid, 9 runs\n"


def test_plan_prints_json_and_imports_nothing_heavy():
    code = (
        "import sys, mtdnn.cli.main as cli;"
        "cli.main(['plan', '--json', '--no-measuring', sys.argv[1]]);"
        "assert not {'torch', 'transformers', 'mlflow'} & set(sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, DEMO], capture_output=True, text=True, check=True
    )
    planned = json.loads(answer.stdout)
    assert planned["total"]["runs"] == sum(group["runs"] for group in planned["groups"]) == 9


def test_plan_prints_a_table(capsys):
    assert main(["plan", "--no-measuring", DEMO]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["runs", "done", "steps", "time", "memory"]
    assert any(line.split()[:2] == ["all", "9"] for line in lines)


@pytest.mark.parametrize("command", ["run", "resolve"])
def test_an_unknown_run_gets_a_message_with_the_known_ones(capsys, command):
    assert main([command, DEMO, "base/qa/w1.0/default/seed7"]) == 2
    error = capsys.readouterr().err
    assert "unknown run 'base/qa/w1.0/default/seed7'; known are base/" in error


def test_settings_explains_every_section(capsys):
    assert main(["settings"]) == 0
    text = capsys.readouterr().out
    assert "learning_rate" in text and "n_best" in text


def test_schema_is_written(tmp_path):
    assert main(["schema", str(tmp_path / "schema.json")]) == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == Experiment.model_json_schema()
