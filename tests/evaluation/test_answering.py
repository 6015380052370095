"""`mtdnn predict` gives the answers that `mtdnn evaluate` gives."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mtdnn.cli.main import main
from mtdnn.config.layout import Layout
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.evaluation import predictions
from mtdnn.training.loop import train
from tests.support.tiny import make_run_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir, run = make_run_folder(tmp_path_factory.mktemp("run"), rows=40)
    (run_dir / "config.yaml").write_text(dump_yaml(run), encoding="utf-8")
    train(run_dir, run, threads=1)
    predictions.evaluate(run_dir, run, threads=1)
    return run_dir


def squad_file(target: Path, rows: list[dict], answers: bool) -> Path:
    """Write rows in SQuAD's format, with or without gold answers."""
    paragraphs = []
    for row in rows:
        question = {"id": row["id"], "question": row["question"]}
        if answers:
            pairs = zip(row["answer_texts"], row["answer_starts"], strict=True)
            question["answers"] = [{"text": t, "answer_start": s} for t, s in pairs]
            question["is_impossible"] = not question["answers"]
        paragraphs.append({"context": row["context"], "qas": [question]})
    content = {"version": "v2.0", "data": [{"title": "all", "paragraphs": paragraphs}]}
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


@pytest.mark.parametrize("answers", [True, False])
def test_predict_answers_a_file_as_evaluate_answered_the_dev_set(trained, tmp_path, answers):
    rows = pq.read_table(Layout.of_run(trained).corpus("squad") / "dev.parquet").to_pylist()
    data = squad_file(tmp_path / "questions.json", rows, answers)
    output, odds = tmp_path / "answers.json", tmp_path / "odds.json"
    command = ["predict", "--model", str(trained / "model"), "--data", str(data)]
    command += ["--output", str(output), "--null-odds", str(odds), "--threads", "1"]
    assert main([*command, "--null-threshold", "0.25"]) == 0
    known = {p["id"]: p for p in pq.read_table(trained / "predictions.parquet").to_pylist()}
    given = json.loads(output.read_text(encoding="utf-8"))
    assert given.keys() == known.keys()
    for name, value in json.loads(odds.read_text(encoding="utf-8")).items():
        assert value == pytest.approx(known[name]["null_odds"], abs=1e-5)
        assert given[name] == ("" if value > 0.25 else known[name]["answer"])


def test_predict_without_questions_or_model_is_an_error_in_one_line(trained, tmp_path, capsys):
    data = tmp_path / "empty.json"
    data.write_text('{"data": []}', encoding="utf-8")
    output = tmp_path / "answers.json"
    command = ["--data", str(data), "--output", str(output)]
    assert main(["predict", "--model", str(trained / "model"), *command]) == 2
    assert capsys.readouterr().err.strip().startswith(f"mtdnn: error: {data}: ")
    assert main(["predict", "--model", str(tmp_path), *command]) == 2
    assert capsys.readouterr().err == f"mtdnn: error: {tmp_path / 'run.json'}: no such file\n"
    assert not output.exists()
