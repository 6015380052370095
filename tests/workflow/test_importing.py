"""`mtdnn import`: a run trained elsewhere is copied as a whole, or refused with the reason."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from mtdnn.config.dependencies import RunSteps
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import Layout
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import metrics, predictions
from mtdnn.machine.files import digest, read_json, sha256, write_json
from mtdnn.training.fingerprint import Fingerprint
from mtdnn.training.loop import train
from mtdnn.workflow.importing import import_run
from tests.support.tiny import make_run_folder, make_tiny_experiment

MIXTURE = {"mixture": "squad_cola", "weight": 0.5}
CHANGES = {
    "training": {"epochs": 1, "batch_size": 8},
    "tables": {"t": {"title": "t", "rows": [{"encoder": "tiny", **MIXTURE}]}},
}

CHANGED = "was changed after it was written: its sha256 differs; restore it, or redo its step"


def make_trained(folder: Path) -> Path:
    run_dir, settings = make_run_folder(folder, rows=8, **MIXTURE, **CHANGES)
    train(run_dir, settings, threads=1)
    return run_dir


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a trained and evaluated run, with the corpora and the encoder around it."""
    folder = tmp_path_factory.mktemp("finished")
    run_dir = make_trained(folder)
    experiment = make_tiny_experiment(folder, **CHANGES)
    predictions.evaluate(run_dir, experiment.resolve(experiment.runs()[0]), threads=1)
    return run_dir


@pytest.fixture
def there(finished, tmp_path) -> Path:
    """A copy of the run's folder, for tests that change it."""
    return Path(shutil.copytree(finished, tmp_path / "there"))


@pytest.fixture
def here(tmp_path) -> Experiment:
    """The experiment that needs the run, in a folder that holds nothing yet."""
    return make_tiny_experiment(tmp_path / "here", **CHANGES)


def refusal(experiment: Experiment, folder: Path) -> list[str]:
    """The lines with which a run is refused; nothing is left of the attempt."""
    with pytest.raises(MtdnnError) as error:
        import_run(experiment, folder)
    assert not Path(experiment.results).exists()
    return str(error.value).splitlines()


# --- what is imported ------------------------------------------------------------------------


def test_an_evaluated_run_is_copied_and_counts_as_done(here, there):
    target = import_run(here, there)
    run = here.runs()[0]
    assert target == here.layout.run(run)
    for name in ("schedule.parquet", "training.jsonl", "predictions.parquet", "model/run.json"):
        assert (target / name).read_bytes() == (there / name).read_bytes()
    assert (target / "config.yaml").read_text() == dump_yaml(here.resolve(run))
    assert RunSteps(here).imported(run) == ["train", "evaluate"]
    assert len({path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}) == 1
    assert not (target / "mlflow.json").exists()  # it has no scores yet


def test_a_run_without_predictions_counts_as_trained(here, there):
    (there / "predictions.parquet").unlink()
    (there / "auxiliary.parquet").unlink()
    target = import_run(here, there)
    assert RunSteps(here).imported(here.runs()[0]) == ["train"]
    assert not (target / "predictions.parquet").exists()


def test_a_run_with_scores_is_logged_and_its_scores_are_to_be_redone(finished, tmp_path):
    origin = finished.parents[6]
    shutil.copytree(origin, tmp_path / "elsewhere")
    elsewhere = make_tiny_experiment(tmp_path / "elsewhere", **CHANGES)
    folder = tmp_path / "elsewhere" / finished.relative_to(origin)
    metrics.write(folder, elsewhere)
    place = make_tiny_experiment(tmp_path / "here", **CHANGES)
    shutil.copytree(elsewhere.layout.root / "corpora", place.layout.root / "corpora")
    target = import_run(place, folder)
    assert read_json(target / "mlflow.json")["run_id"]
    assert (target / "metrics.json").stat().st_mtime == 1


def test_an_import_changes_nothing_where_the_run_came_from(here, there):
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    import_run(here, there)
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == before


@pytest.mark.parametrize("error", [-600.0, 600.0])
def test_dates_are_those_of_the_disk_even_if_the_clock_here_is_wrong(
    here, there, tmp_path, monkeypatch, error
):
    """Else Snakemake takes the run for older than its features, and trains it again."""
    features = here.layout.features("tiny", "default", "squad")
    features.mkdir(parents=True)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + error)
    target = import_run(here, there)
    (tmp_path / "probe").touch()
    age = (tmp_path / "probe").stat().st_mtime - (target / "model" / "run.json").stat().st_mtime
    assert 0 <= age < 60
    assert (target / "model" / "run.json").stat().st_mtime >= features.stat().st_mtime


def test_settings_that_change_after_an_import_are_reported(here, there, tmp_path):
    import_run(here, there)
    changes = {**CHANGES, "training": {**CHANGES["training"], "epochs": 2}}
    changed = make_tiny_experiment(tmp_path / "here", **changes)
    with pytest.raises(MtdnnError, match=r"run\.json: imported, but "):
        RunSteps(changed).imported(changed.runs()[0])


@pytest.mark.parametrize("paths", ["dropout", "all"])
def test_a_run_of_the_reference_paths_is_accepted(tmp_path, here, monkeypatch, paths):
    """MTDNN_PLAIN gives another fingerprint, but not other code."""
    with monkeypatch.context() as patch:
        patch.setenv("MTDNN_PLAIN", paths)
        run_dir = make_trained(tmp_path / "there")
    assert "-dropout" in read_json(run_dir / "model" / "run.json")["code"]
    target = import_run(here, run_dir)
    assert (target / "model" / "run.json").exists()


# --- what is refused -------------------------------------------------------------------------


def test_a_folder_that_is_not_a_run_is_refused(here, tmp_path):
    (tmp_path / "empty").mkdir()
    assert refusal(here, tmp_path / "empty") == [f"{tmp_path}/empty/config.yaml: no such file"]


def test_a_run_that_no_table_needs_is_refused(there, tmp_path):
    row = {"encoder": "tiny", "mixture": "squad", "weight": 1.0}
    other = make_tiny_experiment(
        tmp_path / "here", **{**CHANGES, "tables": {"t": {"title": "t", "rows": [row]}}}
    )
    (line,) = refusal(other, there)
    assert line.startswith(f"{there}/config.yaml: is tiny/squad_cola/w0.5/default/seed1, which no ")


def test_missing_files_are_named_and_nothing_else(here, there):
    for name in ("model/run.json", "schedule.parquet", "auxiliary.parquet"):
        (there / name).unlink()
    (there / "training.jsonl").write_text("")  # a second problem, which can wait
    assert sorted(refusal(here, there)) == [
        f"{there}/{name}: no such file"
        for name in ("auxiliary.parquet", "model/run.json", "schedule.parquet")
    ]


def test_settings_that_differ_are_named_by_their_keys(there, tmp_path):
    changes = {**CHANGES, "training": {**CHANGES["training"], "learning_rate": 1e-3}}
    other = make_tiny_experiment(tmp_path / "here", **changes, decoding={"n_best": 5})
    assert refusal(other, there) == [
        f"{there}/config.yaml: training.learning_rate: is 3e-05, but 0.001 in the experiment",
        f"{there}/config.yaml: decoding.n_best: is 20, but 5 in the experiment",
    ]


def test_decoding_does_not_matter_to_a_run_without_predictions(there, tmp_path):
    (there / "predictions.parquet").unlink()
    (there / "auxiliary.parquet").unlink()
    other = make_tiny_experiment(tmp_path / "here", **CHANGES, decoding={"n_best": 5})
    assert import_run(other, there).exists()


def test_truncated_files_are_named(here, there):
    weights = there / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    lines = (there / "training.jsonl").read_text().splitlines(keepends=True)
    (there / "training.jsonl").write_text("".join(lines[:-1]))
    assert refusal(here, there) == [f"{weights}: {CHANGED}", f"{there}/training.jsonl: {CHANGED}"]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("model/model.safetensors", lambda path: flip(path, -1)),
        ("model/heads.safetensors", lambda path: flip(path, -1)),
        ("model/tokenizer.json", lambda path: flip(path, -2)),
        (
            "training.jsonl",
            lambda path: path.write_text(path.read_text().replace('"loss": ', '"loss": 1', 1)),
        ),
        ("schedule.parquet", lambda path: flip(path, 100)),
    ],
)
def test_a_changed_file_is_refused_by_its_name(here, there, name, spoil):
    spoil(there / name)
    (line,) = refusal(here, there)
    assert line == f"{there / name}: {CHANGED}"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_an_answer_that_its_context_does_not_give_is_refused(finished, there, tmp_path):
    """Where the corpus is at hand."""
    place = make_tiny_experiment(tmp_path / "with_corpora", **CHANGES)
    root = Layout.of_run(finished).root
    shutil.copytree(root / "corpora", place.layout.root / "corpora")
    table = pq.read_table(there / "predictions.parquet")
    answers = table["answer"].to_pylist()
    answers[3] = "x"
    column = table.schema.get_field_index("answer")
    pq.write_table(table.set_column(column, "answer", [answers]), there / "predictions.parquet")
    with pytest.raises(MtdnnError) as error:
        import_run(place, there)
    question = table["id"][3].as_py()
    assert str(error.value) == (
        f"{there}/predictions.parquet: {question}: its answer is not what its offsets point to"
    )


def test_scores_that_come_along_are_ignored(finished, there, tmp_path):
    foreign = {"em": 1e9, "f1": 1e9, "slices": {}, "provenance": {}}
    write_json(there / "metrics.json", foreign)
    place = make_tiny_experiment(tmp_path / "with_corpora", **CHANGES)
    root = Layout.of_run(finished).root
    shutil.copytree(root / "corpora", place.layout.root / "corpora")
    target = import_run(place, there)
    scores = read_json(target / "metrics.json")
    assert scores["slices"] and scores["auxiliary"] and scores["em"] != foreign["em"]
    logged = MlflowClient(place.store_uri).get_run(read_json(target / "mlflow.json")["run_id"])
    assert logged.data.metrics.get("em") == scores["em"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("schedule.parquet", "neither Parquet nor JSON"),
        ("training.jsonl", "neither Parquet nor JSON"),
        ("training.jsonl", "[" * 100_000),
    ],
)
def test_files_of_another_kind_are_named(here, there, name, content):
    (there / name).write_text(content)
    record_digest(there, name)
    (line,) = refusal(here, there)
    assert line.startswith(f"{there}: schedule.parquet or training.jsonl: not readable: ")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "files"),
        ({"files": ["a"]}, "files"),
        ({"beside": "a"}, "beside"),
        ({"code": 5}, "code"),
    ],
)
def test_a_record_of_another_kind_is_refused(here, there, changes, key):
    path = there / "model" / "run.json"
    record = read_json(path)
    write_json(path, {**record, **changes} if changes else [1])
    (line,) = refusal(here, there)
    assert line == f"{path}: {key}: is not what training writes; retrain the run"


def record_digest(folder: Path, name: str) -> None:
    """Record a changed file's digest, as somebody does who wants it to be accepted."""
    record = read_json(folder / "model" / "run.json")
    record["beside"][name] = sha256(folder / name)
    write_json(folder / "model" / "run.json", record)


def change_record(folder: Path, **changes: object) -> None:
    """Change parts of a run's fingerprint, and the digest of them all accordingly."""
    path = folder / "model" / "run.json"
    record = read_json(path)
    parts = replace(Fingerprint.recorded(record), **changes)
    write_json(path, {**record, **parts.record()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": "0123456789abcdef"}, "code: the run was trained by other code"),
        ({"code": None}, "code: the run was trained by other code"),
        ({"config_digest": digest("other")}, "config_digest: does not match its config.yaml"),
    ],
)
def test_a_model_of_another_origin_is_refused(here, there, changes, message):
    change_record(there, **changes)
    (line,) = refusal(here, there)
    assert line.startswith(f"{there}/model/run.json: {message}")


def test_a_record_that_was_edited_is_refused(here, there):
    path = there / "model" / "run.json"
    write_json(path, {**read_json(path), "fingerprint": digest("mine")[:32]})
    (line,) = refusal(here, there)
    assert "fingerprint: does not match its parts; the file was changed" in line


@pytest.mark.parametrize(
    ("place", "key"),
    [("corpora/cola", "corpora.cola"), ("encoders/tiny", "encoder")],
)
def test_what_exists_here_must_be_what_the_run_was_trained_on(here, there, place, key):
    manifest = here.layout.root / place / "manifest.json"
    write_json(manifest, {"digest": "another"})
    with pytest.raises(MtdnnError) as error:
        import_run(here, there)
    assert f"{there}/model/run.json: {key}: does not match {manifest}; " in str(error.value)
    assert not here.layout.run(here.runs()[0]).exists()


def test_a_trained_run_is_not_replaced(here, there):
    target = import_run(here, there)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert import_run(here, there) == target  # repeated, it changes nothing
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    record = read_json(there / "model" / "run.json")
    write_json(there / "model" / "run.json", {**record, "provenance": {}})
    with pytest.raises(MtdnnError, match="already holds a trained run; delete it to import"):
        import_run(here, there)
    assert import_run(here, target) == target  # a run already in its place is not another one


def test_an_import_that_fails_halfway_leaves_nothing(here, there, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mtdnn.workflow.importing.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        import_run(here, there)
    assert not here.layout.run(here.runs()[0]).exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: (model / "weights.bin").write_bytes(b""), "weights.bin: is not a file of a"),
        (lambda model: (model / "own.py").write_text(""), "own.py: is not a file of a model"),
        (lambda model: (model / "vocab.txt").symlink_to("/etc/passwd"), "is a symbolic link"),
        (lambda model: (model / "more").mkdir(), "more: is not a file of a model"),
        (
            lambda model: (
                (model / "a.json" / "b").mkdir(parents=True)
                or (model / "a.json" / "b" / "own.py").write_text("")
            ),
            "own.py: is not a file of a model",
        ),
        (
            lambda model: shutil.move(model, model.parent / "m") and model.symlink_to("m"),
            "model: is a symbolic link",
        ),
        (
            lambda model: (
                (model.parent / "journal.jsonl").unlink()
                or (model.parent / "journal.jsonl").symlink_to("/etc/passwd")
            ),
            "journal.jsonl: is a symbolic link",
        ),
    ],
)
def test_links_pickles_and_code_are_refused(here, there, spoil, message):
    spoil(there / "model")
    assert any(message in line for line in refusal(here, there))


def test_steps_that_were_not_logged_in_order_are_refused(here, there):
    path = there / "training.jsonl"
    lines = path.read_text().splitlines()
    first = json.dumps({**json.loads(lines[0]), "step": 1})
    path.write_text("\n".join([first, *lines[1:]]) + "\n")
    record_digest(there, "training.jsonl")
    (line,) = refusal(here, there)
    count = len(lines)
    assert f"has other steps than schedule.parquet ({count} against {count})" in line
