"""Descriptions in MLflow: the scores as tables, the notice always, and never more than fits."""

from mtdnn.config.layout import RunId
from mtdnn.machine.files import read_json
from mtdnn.reporting import products
from mtdnn.tracking import descriptions
from mtdnn.tracking.client import MAX_TAG_CHARACTERS, note
from tests.support.answers import HOSTILE
from tests.support.factories import make_experiment, make_run, make_statistics
from tests.support.targets import make_targets

RUN = RunId("base", "qa_sc", 0.8, "default", 1)


def of_run(experiment, run, **changes) -> str:
    metrics = read_json(make_run(experiment, run, **changes) / "metrics.json")
    return descriptions.of_run(experiment, experiment.resolve(run), metrics, ["A remark."])


def test_a_run_shows_its_scores_first_and_then_the_notice(tmp_path):
    experiment = make_experiment(tmp_path)
    text = of_run(experiment, RUN, em=70.0, tuned=True, not_measurable={"official": "seen before"})
    assert "| paper dev | &nbsp;&nbsp;70.00 | &nbsp;&nbsp;73.00 |" in text  # cells have no padding
    text = text.replace("&nbsp;", "")
    assert text.splitlines()[:5] == [
        "| scored on | EM | F1 |",
        "| --- | ---: | ---: |",
        "| paper dev | 70.00 | 73.00 |",
        "| paper dev, threshold tuned on held\\_out | 71.00 | 74.00 |",
        "| official dev: seen before | – | – |",
    ]
    assert "| CoLA | Acc. | 81.50 | 60.00 |" in text
    assert text.endswith(f"A remark.\n\n{note(experiment)}")


def test_a_title_that_asks_gets_no_full_stop(tmp_path):
    experiment = make_experiment(tmp_path, title="Does it help?")
    assert note(experiment) == f"Does it help? {experiment.notice}"
    assert note(make_experiment(tmp_path)).startswith("Made-up scores. ")


def test_a_run_without_scores_has_the_notice(tmp_path):
    experiment = make_experiment(tmp_path)
    assert descriptions.of_run(experiment, experiment.resolve(RUN), {}) == note(experiment)


def test_other_targets_have_their_own_measures(tmp_path):
    experiment = make_targets(tmp_path, {"t": [("stsb", ["cola"])]}, seeds=[1])
    run = experiment.runs()[0]
    metrics = read_json(experiment.layout.run(run) / "metrics.json")
    text = descriptions.of_run(experiment, experiment.resolve(run), metrics).replace("&nbsp;", "")
    assert f"| {metrics['pearson']:.2f} | {metrics['spearman']:.2f} |" in text


def test_the_summary_begins_with_what_it_concludes_and_has_the_tables(tmp_path):
    experiment = make_experiment(tmp_path)
    for run in experiment.runs():
        make_run(experiment, run)
    statistics = make_statistics(experiment)
    for name in experiment.tables:
        products.write_table(experiment, name)
    text = descriptions.of_summary(experiment, statistics)
    assert text.startswith("**QA weight**: ") and "**Mixtures**: " in text
    rows = [line.replace("&nbsp;", "") for line in text.splitlines() if line.startswith("| ")]
    table = experiment.layout.table("table2", "md").read_text().splitlines()
    assert next(line for line in table if line.startswith("| ")) in rows
    assert "report.html" not in text
    experiment.layout.report.write_text("<html>")
    assert "`report.html` and all tables" in descriptions.of_summary(experiment, statistics)


def test_hostile_and_long_text_stays_text_and_fits(tmp_path):
    experiment = make_experiment(tmp_path, title=HOSTILE, notice=f"{HOSTILE} " * 200)
    corpora = experiment.model_dump(mode="json")["corpora"]
    corpora["cola"]["label"] = HOSTILE
    experiment = make_experiment(tmp_path, title=HOSTILE, notice="x" * 9000, corpora=corpora)
    text = of_run(experiment, RUN)
    assert len(text) <= MAX_TAG_CHARACTERS
    assert "<script>" not in text.replace("\\<script\\>", "") and "\\<script\\>" in text
    statistics = make_statistics(experiment)
    many = {f"t{n}": experiment.tables["table1"] for n in range(300)}
    big = experiment.model_copy(update={"tables": many})
    statistics["tables"] = dict.fromkeys(many, statistics["tables"]["table1"])
    text = descriptions.of_summary(big, statistics)
    assert len(text) <= MAX_TAG_CHARACTERS and text.endswith(note(big))
