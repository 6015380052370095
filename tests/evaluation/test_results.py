"""Runs as read from disk: their scores, or the reason why they have none."""

import pytest

from mtdnn.config.layout import RunFolder, RunId
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.results import Score, read_published, read_result, read_results, read_rows
from mtdnn.machine.files import write_text
from tests.support.comparisons import PUBLISHED, make_mixtures
from tests.support.factories import fail_run, make_experiment, make_run

QA = RunId("base", "qa", 1.0, "default", 1)


def test_a_run_has_scores_or_a_reason(tmp_path):
    experiment = make_experiment(tmp_path)
    assert read_result(experiment, QA).missing == "not run"
    folder = make_run(experiment, QA, em=70.0, not_measurable={"official": "seen in training"})
    result = read_result(experiment, QA)
    assert (result.run, result.folder, result.missing) == (QA, folder, None)
    scores, reason = result.values("paper_dev")
    assert (scores["exact"], reason) == (70.0, None)
    assert result.values("official") == ({}, "not measurable: seen in training")
    assert result.values("elsewhere") == ({}, "not scored on elsewhere")
    assert result.values("paper_dev", tuned=True) == ({}, "no threshold was tuned")
    RunFolder(folder).metrics.unlink()
    result = read_result(experiment, QA)
    assert (result.metrics, result.missing) == (None, "trained, not scored")
    assert result.values("paper_dev") == ({}, "trained, not scored")


def test_a_failure_hides_the_scores_of_an_earlier_attempt(tmp_path):
    experiment = make_experiment(tmp_path)
    make_run(experiment, QA)
    fail_run(experiment, QA, "evaluate", "no disk")
    result = read_result(experiment, QA)
    assert (result.metrics, result.missing) == (None, "evaluate failed: no disk")


def test_a_file_that_is_not_readable_is_the_reason(tmp_path):
    experiment = make_experiment(tmp_path)
    path = RunFolder(make_run(experiment, QA)).metrics
    path.write_text("{", encoding="utf-8")
    result = read_result(experiment, QA)
    assert result.metrics is None and str(path) in result.missing


def test_all_runs_are_read_in_the_order_of_the_tables(tmp_path):
    experiment = make_experiment(tmp_path, seeds=[1, 2])
    assert [result.run for result in read_results(experiment)] == experiment.runs()


def test_mean_and_deviation_over_seeds():
    assert (Score((70.0, 72.0, 74.0)).mean, Score((70.0, 72.0, 74.0)).deviation) == (72.0, 2.0)
    assert (Score((70.0,)).mean, Score((70.0,)).deviation) == (70.0, None)
    assert (Score(()).mean, Score(()).deviation) == (None, None)


def test_a_row_has_a_value_for_each_seed_and_each_reason_once(tmp_path):
    experiment = make_mixtures(tmp_path)
    row = read_rows(experiment, "table2")[0]
    assert (row.label, row.encoder_label, row.slice_name) == ("QA", "BERT base", "paper_dev")
    assert (row.published, row.present) == ({"em": 73.544, "f1": 76.18}, [])
    assert row.missing == ["not run"]
    make_run(experiment, QA, em=70.0)
    fail_run(experiment, RunId("base", "qa", 1.0, "default", 3), "train", "no memory")
    row = read_rows(experiment, "table2")[0]
    assert [result.run.seed for result in row.present] == [1]
    assert row.missing == ["seed 2: not run", "seed 3: train failed: no memory"]
    assert row.score("paper_dev", "exact").values == (70.0,)
    assert row.score("paper_dev", "exact").reasons == tuple(row.missing)
    assert row.score("paper_dev", "speed").reasons == ("no speed", *row.missing)


def test_variants_and_other_splits_have_no_published_scores(tmp_path):
    write_text(tmp_path / "published.csv", PUBLISHED)
    row = {"encoder": "base", "mixture": "qa"}
    experiment = make_experiment(
        tmp_path,
        published=str(tmp_path / "published.csv"),
        variants={"v": {"label": "other", "training": {"span_loss": "mean"}}},
        tables={
            "table2": {"title": "Mixtures", "rows": [row, {**row, "variant": "v"}]},
            "table3": {"title": "Elsewhere", "slice": "official", "rows": [row]},
        },
        figures={},
    )
    plain, variant = read_rows(experiment, "table2")
    assert plain.published == {"em": 73.544, "f1": 76.18}
    assert (variant.published, variant.variant_label) == ({}, "other")
    assert read_rows(experiment, "table3")[0].published == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the published numbers"),
        (b"\xff\xfe", "cannot read the published numbers"),
        (b"table,encoder\ntable1,base\n", "line 2: no value for em, f1, mixture, qa_weight, split"),
        (PUBLISHED.replace("76.18", "high").encode(), "line 2: f1: 'high' is not a number"),
    ],
)
def test_bad_published_numbers_are_refused(tmp_path, content, message):
    path = tmp_path / "published.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MtdnnError, match=f"^{path}: {message}"):
        read_published(make_experiment(tmp_path, published=str(path)))


def test_without_published_numbers_there_are_none(tmp_path):
    assert read_published(make_experiment(tmp_path)) == []
