"""Answers as a table: those that the scores were computed from, in order, and not too many."""

import json

import pytest

from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json
from mtdnn.tracking import answers, runs
from mtdnn.tracking.client import MlflowClient
from tests.support.answers import BASELINE, HOSTILE, MIXTURE, QUESTIONS, make
from tests.support.targets import make_targets


def table_of(experiment, run) -> tuple[answers.Table | None, dict]:
    folder = RunFolder(experiment.layout.run(run))
    metrics = read_json(folder.metrics)
    return answers.read(experiment, folder, experiment.resolve(run), metrics), metrics


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    return make(tmp_path_factory.mktemp("answers"))


def qa_sc(experiment):
    return next(run for run in experiment.runs() if run.mixture == "qa_sc")


@pytest.fixture
def run(answered):
    return qa_sc(answered)


def test_a_table_of_questions_has_the_final_answers_and_their_scores(answered, run):
    table, metrics = table_of(answered, run)
    assert table.columns[:2] == ["question", "answer"]
    assert [row[-1] for row in table.rows] == [each["id"] for each in QUESTIONS]
    by_id = {row[-1]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert by_id["lost"]["answer"] == "(no answer)" and by_id["lost"]["exact"] == 0
    assert by_id["found"]["answer"] == by_id["found"]["gold"] == "Ada Fell"
    assert by_id["open"]["gold"] == "(no answer)" and by_id["open"]["exact"] == 1
    assert by_id["hostile"]["answer"] == HOSTILE  # as text; MLflow escapes what it shows
    for key in ("exact", "f1"):
        mean = sum(row[key] for row in by_id.values()) / len(by_id)
        assert 100 * mean == pytest.approx(metrics["slices"]["dev"][key], abs=0.01)
    assert table.note == f"answers.json: answers to all {len(QUESTIONS)} items of dev."


def test_equal_questions_stay_apart(tmp_path):
    twice = [*QUESTIONS, {**QUESTIONS[0], "id": "again"}]
    known = {"again": BASELINE["found"]}
    experiment = make(tmp_path, {**BASELINE, **known}, {**MIXTURE, **known}, twice)
    table, _ = table_of(experiment, qa_sc(experiment))
    shown = [row[0] for row in table.rows]
    assert len(set(shown)) == len(twice) and f"{QUESTIONS[0]['question']} [again]" in shown


def test_a_long_table_and_a_long_text_are_cut_and_the_note_says_so(answered, run, monkeypatch):
    monkeypatch.setattr(answers, "MAX_ROWS", 3)
    monkeypatch.setattr(answers, "MAX_CELL_CHARACTERS", 8)
    table, _ = table_of(answered, run)
    assert [row[-1] for row in table.rows] == [each["id"] for each in QUESTIONS[:3]]
    assert table.rows[0][0] == "Who buil…"
    assert table.note == f"answers.json: answers to the first 3 of {len(QUESTIONS)} items of dev."


@pytest.mark.parametrize("target", ["mnli", "stsb", "wnut", "swag"])
def test_other_targets_have_names_of_labels(tmp_path, target):
    experiment = make_targets(tmp_path, {"t": [(target, ["cola"])]}, seeds=[1])
    table, metrics = table_of(experiment, experiment.runs()[0])
    assert table.columns == ["item", "answer", "gold", "equal", "id"]
    assert len(table.rows) == table.total == metrics["slices"]["dev"]["questions"]
    labels = experiment.corpora[target].labels
    golds = {word for row in table.rows for word in str(row[2]).split()}
    if labels:
        assert golds <= set(labels)
    if target == "mnli":
        right = sum(row[3] for row in table.rows) / len(table.rows)
        assert 100 * right == pytest.approx(metrics["accuracy"])


def test_without_corpus_or_scores_there_is_no_table(answered, run, tmp_path):
    folder = RunFolder(answered.layout.run(run))
    settings = answered.resolve(run)
    assert answers.read(answered, folder, settings, {}) is None
    elsewhere = answered.model_copy(update={"results": str(tmp_path)})
    assert answers.read(elsewhere, folder, settings, read_json(folder.metrics)) is None


def test_mlflow_has_the_table_and_knows_it_as_one(answered, run):
    folder = answered.layout.run(run)
    run_id = runs.log_run(answered, folder)
    client = MlflowClient(answered.store_uri)
    tags = client.get_run(run_id).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "answers.json", "type": "table"}]
    copy = read_json(client.download_artifacts(run_id, "answers.json"))
    assert copy["data"] == table_of(answered, run)[0].rows
    assert "answers to all 7 items of dev" in tags["mlflow.note.content"]


def test_damaged_answers_do_not_keep_the_run_from_mlflow(tmp_path, capsys, monkeypatch):
    experiment = make(tmp_path)
    folder = experiment.layout.run(qa_sc(experiment))

    def damaged(*_):
        raise MtdnnError("predictions.parquet: 1 question is missing")

    monkeypatch.setattr(answers, "read", damaged)
    run_id = runs.log_run(experiment, folder)
    assert MlflowClient(experiment.store_uri).get_run(run_id).info.status == "FINISHED"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "mtdnn:" in line]
    assert "1 question is missing; MLflow gets no table of answers" in line
