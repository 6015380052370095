"""The command line: quick to answer, honest when it fails, light where it must be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mtdnn.cli.main import main

STEPS = [
    "check",
    "plan",
    "encoder",
    "corpus",
    "features",
    "resolve",
    "schedule",
    "train",
    "evaluate",
    "metrics",
    "store",
    "sync",
    "table",
    "figure",
    "score",
    "predict",
    "export",
    "import",
    "run",
    "bench",
    "settings",
    "schema",
]


def imported_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after `statement`."""
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {step} " in text for step in STEPS)


def test_command_line_and_config_import_nothing_heavy():
    heavy = {"torch", "transformers", "numpy", "pyarrow", "mlflow", "pandas", "datasets"}
    assert not heavy & imported_by(
        "import mtdnn.cli.main, mtdnn.config.experiment, mtdnn.config.dependencies"
    )


def test_training_core_needs_neither_snakemake_nor_mlflow():
    """It also runs on machines that have only torch and transformers."""
    modules = imported_by(
        "import mtdnn.cli.main, mtdnn.training.loop, mtdnn.evaluation.predictions"
    )
    assert not {"snakemake", "mlflow", "datasets", "matplotlib"} & modules
    assert "torch" in modules


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys):
    assert main(["check", str(tmp_path / "none.yaml")]) == 2
    error = capsys.readouterr().err
    assert error == f"mtdnn: error: {tmp_path / 'none.yaml'}: no such file\n"


def test_unknown_names_are_answered_with_the_known_ones(capsys):
    demo = Path(__file__).parents[2] / "config" / "demo.yaml"
    assert main(["corpus", str(demo), "squid"]) == 2
    error = capsys.readouterr().err
    assert "unknown corpus 'squid'" in error
    assert "squad" in error and "Traceback" not in error


def test_a_failed_step_leaves_its_reason_for_the_tables(tmp_path: Path, capsys):
    run = tmp_path / "results/x/runs/base/qa/w1.0/default/seed1"
    run.mkdir(parents=True)
    demo = Path(__file__).parents[2] / "config" / "demo.yaml"
    assert main(["resolve", str(demo), "base/qa/w1.0/default/seed7"]) == 2
    assert "unknown run" in capsys.readouterr().err
    assert main(["train", str(run)]) == 2  # there is no config.yaml yet
    assert not (run / "failure.json").exists()
    from mtdnn.config.loading import load
    from mtdnn.config.yaml_files import dump_yaml

    experiment = load(demo)
    settings = experiment.resolve(experiment.runs()[0])
    (run / "config.yaml").write_text(dump_yaml(settings), encoding="utf-8")
    assert main(["train", str(run)]) == 2
    reason = json.loads((run / "failure.json").read_text(encoding="utf-8"))
    assert reason["step"] == "train"
    assert reason["reason"].endswith("features.json: no such file")
