"""Answers side by side: which rows are compared, and what their final answers are."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtdnn.config.layout import RunFolder
from mtdnn.reporting.answers import read_answers, table_of_mixtures
from tests.support.answers import BASELINE, MIXTURE, make
from tests.support.factories import QA, fail_run, make_experiment
from tests.support.targets import make_targets


def test_the_table_with_the_most_mixtures_besides_qa_alone_is_chosen(tmp_path):
    assert table_of_mixtures(make_experiment(tmp_path)) == "table2"
    mixture = {"encoder": "base", "mixture": "qa_mcc", "weight": 0.8}
    for rows in ([QA], [mixture]):
        tables = {"table1": {"title": "One mixture", "rows": rows}}
        assert table_of_mixtures(make_experiment(tmp_path, tables=tables, figures={})) is None


def test_a_final_answer_is_empty_where_the_null_odds_exceed_the_threshold(answered):
    answers = read_answers(answered)
    for row, made_up in zip(answers.rows, [BASELINE, *3 * [MIXTURE]], strict=True):
        for run in row.seeds.values():
            for n, question in enumerate(answers.questions):
                text, odds = made_up[question.id]
                assert run.text[n] == ("" if odds > 0 else text)
                right = run.text[n] in [gold for gold, _ in question.golds] or (
                    not question.golds and not run.text[n]
                )
                assert run.exact[n] == right


def test_the_most_frequent_answer_is_shown_and_of_equals_the_first_seed_s(tmp_path):
    experiment = make(tmp_path, seeds=(1, 2, 3))
    row = read_answers(experiment).rows[0]
    run, agreeing = row.usual(0)
    assert (run.seed, agreeing) == (1, 3)


def test_a_seed_without_scores_is_left_out_with_its_reason(tmp_path):
    experiment = make(tmp_path, seeds=(1, 2))
    run = experiment.runs_of(experiment.tables["table2"].rows[1])[1]
    fail_run(experiment, run, "evaluate", "no disk")
    baseline, row, *_ = read_answers(experiment).rows
    assert list(row.seeds) == row.common(baseline) == [1]
    assert row.missing == ("seed 2: evaluate failed: no disk",)


def test_without_a_scored_baseline_there_are_no_answers(tmp_path):
    assert read_answers(make_experiment(tmp_path)) is None


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_only_rows_of_the_baselines_encoder_and_without_variant_are_compared(tmp_path, seeds):
    experiment = make(tmp_path, seeds=seeds)
    answers = read_answers(experiment)
    assert [row.path for row in answers.rows] == [
        "base/qa/w1.0/default",
        "base/qa_mcc/w0.8/default",
        "base/qa_sc/w0.8/default",
        "base/qa_mcc_sc/w0.8/default",
    ]


def test_questions_of_two_corpora_may_have_the_same_ids(tmp_path):
    rows = {"qa": [("squad", []), ("squad", ["mnli"])]}
    experiment = make_targets(tmp_path, rows, seeds=[1])
    (before,) = [row.seeds[1] for row in read_answers(experiment).rows[1:]]
    run = experiment.runs()[1]
    path = RunFolder(experiment.layout.run(run)).predictions
    table = pq.read_table(path)
    others = table.set_column(0, "corpus", pa.array(["news"] * len(table)))
    others = others.set_column(3, "answer", pa.array(["another"] * len(table)))
    pq.write_table(pa.concat_tables([table, others]), path)
    (after,) = [row.seeds[1] for row in read_answers(experiment).rows[1:]]
    assert after.text == before.text and "another" not in after.text


def test_only_rows_with_the_baselines_target_are_compared(mixed):
    answers = read_answers(mixed)
    assert [row.label for row in answers.rows] == ["SQuAD", "SQuAD+MNLI"]
