"""Steps that are called once more by hand: what is there already is not computed again or lost."""

import re
from pathlib import Path

import pytest

from mtdnn.cli.main import main
from mtdnn.config.yaml_files import dump_yaml
from tests.support.tiny import make_run_folder, make_tiny_experiment

CHANGES = {
    "training": {"epochs": 1, "batch_size": 8},
    "tables": {
        "t": {
            "title": "t",
            "rows": [{"encoder": "tiny", "mixture": "squad_cola", "qa_weight": 0.5}],
        }
    },
}


class Trained:
    """An experiment of one run, which `mtdnn run` has trained and evaluated."""

    def __init__(self, folder: Path):
        self.run_dir, _ = make_run_folder(folder, mixture="squad_cola", rows=16, **CHANGES)
        self._folder, self.file = folder, folder / "experiment.yaml"
        self.set()
        assert self.run() == 0

    def set(self, **changes: object) -> None:
        experiment = make_tiny_experiment(self._folder, **{**CHANGES, **changes})
        self.file.write_text(dump_yaml(experiment))

    def run(self) -> int:
        return main(["run", str(self.file), "--threads", "1"])

    def products(self) -> dict[str, int]:
        names = ("model/run.json", "predictions.parquet")
        return {name: (self.run_dir / name).stat().st_mtime_ns for name in names}


@pytest.fixture
def trained(tmp_path) -> Trained:
    return Trained(tmp_path)


def test_a_run_that_is_there_is_left_alone(trained, capsys):
    before = trained.products()
    assert trained.run() == 0 and "is there already" in capsys.readouterr().err
    assert trained.products() == before


def test_what_lacks_predictions_is_evaluated_and_not_trained(trained):
    before = trained.products()
    (trained.run_dir / "predictions.parquet").unlink()
    assert trained.run() == 0
    assert trained.products()["model/run.json"] == before["model/run.json"]
    trained.set(decoding={"n_best": 5})
    before = trained.products()
    assert trained.run() == 0
    after = trained.products()
    assert after["model/run.json"] == before["model/run.json"]
    assert after["predictions.parquet"] != before["predictions.parquet"]


def test_a_run_of_other_settings_is_trained_anew(trained):
    before = trained.products()
    trained.set(training={**CHANGES["training"], "learning_rate": 1e-4})
    (trained.run_dir / "metrics.json").write_text("{}")  # scores of the model that goes
    assert trained.run() == 0
    assert not (trained.run_dir / "metrics.json").exists()
    after = trained.products()
    assert all(after[name] != before[name] for name in before)


@pytest.mark.parametrize("name", ["model.safetensors", "heads.safetensors"])
def test_evaluation_without_weights_loses_no_predictions(trained, capsys, name):
    before = trained.products()
    (trained.run_dir / "model" / name).unlink()
    assert main(["evaluate", str(trained.run_dir)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert re.search(rf"error: .*{name}: no such file; put it back, or .*train again", errors[-1])
    assert trained.products() == before


def test_models_of_other_settings_than_the_experiment_s_are_named(trained, capsys):
    trained.set(training={**CHANGES["training"], "learning_rate": 1e-4})
    root = trained.run_dir.parents[5]
    (root / "experiment.yaml").write_text(trained.file.read_text())
    assert main(["verify", str(root)]) == 2
    assert "run.json: was trained under other settings" in capsys.readouterr().err


def test_only_folders_of_runs_are_delivered(trained, capsys):
    assert main(["sync", str(trained.file), "base/qa/w1.0"]) == 2
    assert "base/qa/w1.0: is no folder of a run" in capsys.readouterr().err
