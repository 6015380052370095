"""`mtdnn verify`: accepts what is unchanged, and names every file that was changed."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from mtdnn.cli.main import main
from mtdnn.machine.files import digest, read_json, sha256, write_json
from tests.support.finished import make_finished

# Neither results nor inputs; the experiment itself cannot be read when it is damaged.
UNWATCHED = ("state", "experiment.yaml")
RUN = "runs/tiny/squad_cola/w0.5/default/seed1"
TABLES = {
    "t": {
        "title": "t",
        "rows": [{"encoder": "tiny", "mixture": "squad_cola", "weight": 0.5}],
    }
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return make_finished(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def results(finished, tmp_path) -> Path:
    """A copy, for tests that change it."""
    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "tiny"


def verify(folder: Path, capsys, *options: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["verify", str(folder), *options])
    return status, *capsys.readouterr()


def test_an_unchanged_experiment_is_correct(finished, capsys):
    status, said, errors = verify(finished, capsys, "--predictions", "--threads", "1")
    assert status == 0 and "mtdnn: error" not in errors, errors
    counts = dict(re.findall(r"^(.*): (\d+ of \d+) correct$", said, re.MULTILINE))
    assert counts == {
        "finished files": "1 of 1",
        "answers": "1 of 1",
        "encoders": "1 of 1",
        "corpora": "2 of 2",
        "features": "2 of 2",
        "models": "1 of 1",
        "scores": "1 of 1",
        "tables": "3 of 3",
        "runs in MLflow": "1 of 1",
        "predictions": "1 of 1",
    }


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def drop_a_row(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


def other_rows(root: Path) -> None:
    """Replace a corpus together with its manifest's digest of the file."""
    path = root / "corpora" / "cola" / "train.parquet"
    drop_a_row(path)
    manifest = read_json(path.parent / "manifest.json")
    manifest["splits"]["train"]["sha256"] = sha256(path)
    write_json(path.parent / "manifest.json", manifest)


def test_what_a_killed_process_left_half_written_is_no_part_of_the_experiment(results, capsys):
    for name in ("encoders", "corpora", "features/tiny/default"):
        (results / name / ".cola.k1ll3d00" / "cola").mkdir(parents=True)
    assert verify(results, capsys)[0] == 0


def better_scores(root: Path) -> None:
    scores = read_json(root / RUN / "metrics.json")
    scores["em"] = scores["slices"]["dev"]["exact"] = 99.5
    write_json(root / RUN / "metrics.json", scores)


def better_table(root: Path) -> None:
    path = root / "tables" / "t.md"
    path.write_text(re.sub(r"\d+\.\d+ \|", "99.9 |", path.read_text(), count=1))


def another_answer(root: Path) -> None:
    path = root / RUN / "predictions.parquet"
    table = pq.read_table(path)
    answers = ["something else", *table["answer"].to_pylist()[1:]]
    place = table.schema.get_field_index("answer")
    pq.write_table(table.set_column(place, "answer", pa.array(answers)), path)


def another_setting(root: Path) -> None:
    path = root / RUN / "config.yaml"
    path.write_text(path.read_text().replace("learning_rate: 3.0e-05", "learning_rate: 0.1"))


def another_model(root: Path) -> None:
    """Replace weights together with their digest."""
    path = root / RUN / "model" / "model.safetensors"
    weights = load_file(path)
    weights["qa_outputs.bias"] += 3 * weights["qa_outputs.bias"].new_tensor([1, 0])
    weights["qa_outputs.weight"] = -weights["qa_outputs.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    record = read_json(path.parent / "run.json")
    record["files"]["model.safetensors"] = sha256(path)
    write_json(path.parent / "run.json", record)


def another_fingerprint(root: Path) -> None:
    path = root / RUN / "model" / "run.json"
    write_json(path, {**read_json(path), "fingerprint": digest("mine")[:32]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: shorten(root / "encoders/tiny/model.safetensors"),
            "model.safetensors: was changed",
        ),
        (lambda root: drop_a_row(root / "corpora/cola/dev.parquet"), "dev.parquet: was changed"),
        (lambda root: (root / RUN / "model/run.json").unlink(), "run.json: is missing"),
        (other_rows, "cola/manifest.json: digest: does not match its rows"),
        (
            lambda root: shorten(root / "features/tiny/default/cola/train.arrow"),
            "train.arrow: was changed",
        ),
        (lambda root: (root / "features/tiny/default/cola/dev.arrow").unlink(), "no such file"),
        (another_setting, "config_digest: does not match"),
        (another_fingerprint, "fingerprint: does not match its parts"),
        (
            lambda root: shorten(root / RUN / "model/heads.safetensors"),
            "heads.safetensors: was changed",
        ),
        (better_scores, "metrics.json: em: is 99.5, but the predictions give"),
        (better_scores, "em: 99.5 in metrics.json"),  # and MLflow does not agree
        (better_table, r"t.md: line \d+: does not match metrics.json"),
        (lambda root: (root / "tables/interference.md").write_text(""), "interference.md: line 1"),
        (
            lambda root: (root / "tables/t9.md").touch(),
            "t9.md: is no longer a table of the experiment",
        ),
        (lambda root: (root / RUN / "metrics.json").write_text("{"), "not readable as JSON"),
        (lambda root: (root / "corpora/cola/manifest.json").write_text("[]"), "not readable"),
    ],
)
def test_a_changed_file_is_named(results, capsys, change, message):
    change(results)
    status, _, errors = verify(results, capsys)
    assert status == 2
    assert re.search(message, errors), errors
    assert all(line.startswith("mtdnn: error: ") for line in errors.splitlines())


@pytest.mark.parametrize("change", [another_answer, another_model])
def test_predictions_of_another_model_are_named(results, capsys, change):
    change(results)
    status, _, errors = verify(results, capsys, "--predictions", "--threads", "1")
    assert status == 2
    assert re.search(
        r"predictions.parquet: \d+ of 16 rows differ from what its model predicts: "
        r"\('squad', 'dev', 'dev-q",
        errors,
    )


def test_the_folder_is_not_changed(finished, capsys):
    def dates():
        return {path: path.stat().st_mtime_ns for path in finished.rglob("*")}

    before = dates()
    verify(finished, capsys)
    assert dates() == before


def test_a_folder_of_another_name_is_refused(results, capsys):
    moved = results.rename(results.with_name("other"))
    status, _, errors = verify(moved, capsys)
    assert status == 2 and "holds the experiment 'tiny'" in errors
    assert json.loads((moved / RUN / "metrics.json").read_text())["experiment"] == "tiny"


def test_a_model_of_other_settings_than_the_experiment_s_is_named(results, capsys):
    path = results / "experiment.yaml"
    path.write_text(path.read_text().replace("learning_rate: 3.0e-05", "learning_rate: 0.1"))
    status, _, errors = verify(results, capsys)
    assert status == 2 and "run.json: was trained under other settings" in errors


def test_a_folder_without_an_experiment_is_refused_with_an_example(tmp_path, capsys):
    status, _, errors = verify(tmp_path, capsys)
    assert status == 2
    assert f"{tmp_path}: has no experiment.yaml" in errors and "such as results/demo" in errors


def test_a_lost_description_is_named_with_the_command_that_makes_it_again(results, capsys):
    (results / RUN / "model" / "run.json").unlink()
    status, _, errors = verify(results, capsys)
    assert status == 2 and "is missing, though the run has scores" in errors
    assert f"`mtdnn train {results / RUN} --force`, then snakemake" in errors


@pytest.mark.slow
def test_half_of_any_file_is_found_and_named(results, capsys):
    paths = sorted(path for path in results.rglob("*") if path.is_file())
    watched = [path for path in paths if path.relative_to(results).parts[0] not in UNWATCHED]
    assert len(watched) > 25
    for path in watched:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        status, _, errors = verify(results, capsys)
        assert status == 2 and str(path) in errors, path
        path.write_bytes(content)
    assert verify(results, capsys)[0] == 0


def test_an_answer_that_does_not_follow_from_its_context_is_named(results, capsys):
    (path,) = results.rglob("predictions.parquet")
    table = pq.read_table(path)
    answers = ["x", *table["answer"].to_pylist()[1:]]
    column = table.schema.get_field_index("answer")
    pq.write_table(table.set_column(column, "answer", [answers]), path)
    status, _, errors = verify(results, capsys)
    question = table["id"][0].as_py()
    assert status == 2
    assert f"{path}: {question}: its answer is not what its offsets point to" in errors


def test_a_folder_may_have_a_name_that_looks_like_a_pattern(finished, tmp_path, capsys):
    folder = tmp_path / "[a-z]*" / "tiny"
    shutil.copytree(finished, folder)
    (folder / "corpora" / "squad" / "train.parquet").write_bytes(b"")
    status, said, _ = verify(folder, capsys)
    assert status == 2 and "corpora: 1 of 2 correct" in said
