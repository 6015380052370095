"""`mtdnn run` and single steps: what is up to date stays, what fails leaves its reason."""

import re
from pathlib import Path

import pytest

from mtdnn.cli.main import main
from mtdnn.config.layout import Layout
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import Busy, MtdnnError
from mtdnn.machine.files import read_json, write_json
from mtdnn.machine.locking import Lease
from mtdnn.workflow import running
from tests.support.tiny import make_run_folder, make_tiny_experiment

CHANGES = {
    "training": {"epochs": 1, "batch_size": 8},
    "tables": {
        "t": {
            "title": "t",
            "rows": [{"encoder": "tiny", "mixture": "squad_cola", "weight": 0.5}],
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
        """Change the experiment's settings."""
        experiment = make_tiny_experiment(self._folder, **{**CHANGES, **changes})
        self.file.write_text(dump_yaml(experiment))

    def run(self) -> int:
        return main(["run", str(self.file), "--threads", "1"])

    def products(self) -> dict[str, int]:
        """The dates of the run's model and predictions."""
        names = ("model/run.json", "predictions.parquet")
        return {name: (self.run_dir / name).stat().st_mtime_ns for name in names}


@pytest.fixture
def trained(tmp_path) -> Trained:
    return Trained(tmp_path)


def test_a_run_that_is_up_to_date_is_left_alone(trained, capsys):
    before = trained.products()
    assert trained.run() == 0 and "seed1: up to date" in capsys.readouterr().err
    assert trained.products() == before


def test_a_run_that_could_not_be_scored_is_refused_before_it_is_trained(tmp_path, capsys):
    run_dir, _ = make_run_folder(tmp_path, mixture="squad_cola", rows=16, **CHANGES)
    squad = Layout.of_run(run_dir).corpus("squad")
    (squad / "dev.parquet").write_bytes((squad / "train.parquet").read_bytes())
    file = tmp_path / "experiment.yaml"
    file.write_text(dump_yaml(make_tiny_experiment(tmp_path, **CHANGES)))
    reason = (
        "slices.dev: no score for tiny/squad_cola/w0.5/default/seed1: 16 of its 16 questions have "
        "the context or the id of a question that the run was trained on; "
    )
    for command in (
        ["run", str(file)],
        ["resolve", str(file), "tiny/squad_cola/w0.5/default/seed1"],
    ):
        assert main(command) == 2
        assert reason in capsys.readouterr().err
        failure = read_json(run_dir / "failure.json")
        assert failure["step"] == "train" and failure["reason"].startswith(reason)
        (run_dir / "failure.json").unlink()
    assert not (run_dir / "model").exists()


def test_a_trained_run_is_scored_whatever_it_shares_with_its_slices(trained, capsys):
    squad = Layout.of_run(trained.run_dir).corpus("squad")
    (squad / "dev.parquet").write_bytes((squad / "train.parquet").read_bytes())
    assert main(["resolve", str(trained.file), "tiny/squad_cola/w0.5/default/seed1"]) == 0
    assert "no score" not in capsys.readouterr().err


def test_a_run_that_is_up_to_date_gets_its_settings_back(trained):
    config = trained.run_dir / "config.yaml"
    settings, before = config.read_text(), trained.products()
    for spoilt in (settings.replace("learning_rate: 3.0e-05", "learning_rate: 0.1"), "a: ["):
        assert spoilt != settings
        config.write_text(spoilt)
        assert trained.run() == 0
        assert config.read_text() == settings
    assert trained.products() == before


def test_settings_of_a_run_that_another_process_holds_are_not_replaced(trained, capsys):
    config = trained.run_dir / "config.yaml"
    settings = config.read_text()
    trained.set(training={**CHANGES["training"], "learning_rate": 1e-4})
    with Lease(Layout.of_run(trained.run_dir).lease(trained.run_dir), "the run is being trained"):
        assert trained.run() == 2
    assert "the run is being trained by process" in capsys.readouterr().err
    assert config.read_text() == settings


def test_a_run_without_current_predictions_is_evaluated_and_not_trained(trained):
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


def test_a_run_of_other_settings_is_retrained(trained):
    before = trained.products()
    trained.set(training={**CHANGES["training"], "learning_rate": 1e-4})
    (trained.run_dir / "metrics.json").write_text("{}")  # scores of the model that is replaced
    assert trained.run() == 0
    assert not (trained.run_dir / "metrics.json").exists()
    after = trained.products()
    assert all(after[name] != before[name] for name in before)


@pytest.mark.parametrize("name", ["model.safetensors", "heads.safetensors"])
def test_evaluation_without_weights_keeps_the_predictions(trained, capsys, name):
    before = trained.products()
    (trained.run_dir / "model" / name).unlink()
    assert main(["evaluate", str(trained.run_dir), "--force"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert re.search(rf"error: .*{name}: no such file; put it back, or ", errors[-1])
    assert trained.products() == before


def test_teachers_speak_before_their_students_learn(trained, capsys):
    teachers = {"cola": {"mixture": "squad_cola", "weight": 0.5}}
    row = CHANGES["tables"]["t"]["rows"][0]
    trained.set(
        variants={"taught": {"training": {"distillation": {"teachers": teachers}}}},
        tables={"t": {"title": "t", "rows": [{**row, "variant": "taught"}]}},
    )
    before = trained.products()
    assert trained.run() == 0
    folder = trained.run_dir.parents[1] / "taught" / trained.run_dir.name
    assert set(read_json(folder / "model" / "run.json")["teachers"]) == {"cola"}
    assert trained.products() == before
    assert trained.run() == 0 and "seed1: up to date" in capsys.readouterr().err
    run = "/".join(trained.run_dir.parts[-5:])
    path = Layout.of_run(trained.run_dir).logits(run, "cola")
    path.unlink()
    assert trained.run() == 0 and not path.exists()  # it has been learnt
    assert main(["logits", str(trained.run_dir), "cola", "--threads", "1"]) == 0
    assert path.exists()


def test_the_first_failure_ends_it_and_names_its_step(tmp_path, capsys):
    """Features are missing, so the schedule cannot be drawn."""
    experiment = make_tiny_experiment(tmp_path, seeds=[1, 2])
    with pytest.raises(MtdnnError, match="no such file"):
        running.train_and_evaluate(experiment, experiment.runs(), threads=1)
    assert not experiment.layout.run(experiment.runs()[1]).exists()


# --- one step --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["schedule", "train", "evaluate", "metrics"])
def test_a_step_that_succeeds_removes_only_an_earlier_failure(tmp_path, step):
    write_json(tmp_path / "failure.json", {"step": "metrics", "reason": "an earlier one"})
    (tmp_path / "metrics.json").touch()
    running.run_step(step, tmp_path, lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MtdnnError("x.json: no such file\nand more"), "x.json: no such file"),
        (OSError(28, "No space left on device", "x.json"), "x.json: No space left on device; "),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (SystemExit(3), "3"),
    ],
)
def test_a_failure_is_kept_in_one_line_and_raised(tmp_path, error, reason):
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        running.run_step("train", tmp_path, fail)
    failure = read_json(tmp_path / "failure.json")
    assert failure["step"] == "train"
    assert failure["reason"].startswith(reason) and "\n" not in failure["reason"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Busy("another process trains it")])
def test_an_interruption_is_not_a_failure(tmp_path, error):
    def stop() -> None:
        raise error

    with pytest.raises(type(error)):
        running.run_step("train", tmp_path, stop)
    assert not (tmp_path / "failure.json").exists()


def test_a_reason_that_cannot_be_written_does_not_hide_the_error(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def fail() -> None:
        raise MtdnnError("the first error")

    monkeypatch.setattr(running, "write_json", full)
    with pytest.raises(MtdnnError, match="the first error"):
        running.run_step("train", tmp_path, fail)
