"""Gradient conflict: cosines in the logs, and whether they foretell scores."""

import math
import statistics
from dataclasses import replace

import pytest

from mtdnn.reporting import gradients, products
from mtdnn.reporting.figures import registry
from mtdnn.training.log import cosines_with_target, read_training
from tests.support.factories import make_experiment, make_run
from tests.support.measured import measure

COSINES = {"swag": 0.15, "cola": -0.05, "mrpc": 0.05, "mnli": 0.3}
NO_RUN = "No run of this experiment has compared the gradients of several corpora."


def paired(folder, gains, **changes):
    """An experiment of pairs of the target and one auxiliary corpus, with these gains in EM."""
    mixtures = {"qa": {"label": "QA", "corpora": ["squad"]}}
    mixtures |= {name: {"label": f"QA+{name}", "corpora": ["squad", name]} for name in gains}
    rows = [{"encoder": "base", "mixture": "qa", "weight": 1.0}]
    rows += [{"encoder": "base", "mixture": name, "weight": 0.8} for name in gains]
    rows += [{**row, "encoder": "large"} for row in rows]
    table = {"title": "Pairs", "rows": rows}
    experiment = make_experiment(
        folder, mixtures=mixtures, tables={"table1": table}, figures={}, **changes
    )
    for run in experiment.runs():
        better = gains.get(run.mixture, 0.0) + (0.5 if run.encoder == "large" else 0)
        run_dir = make_run(experiment, run, em=70 + better)
        measure(run_dir, COSINES, noise=0.01)
    return experiment


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The paper's experiment with three seeds, all measured."""
    experiment = make_experiment(tmp_path_factory.mktemp("measured"), seeds=[1, 2, 3])
    for number, run in enumerate(experiment.runs()):
        measure(make_run(experiment, run, em=70 + number % 7, steps=100), COSINES)
    return experiment


def test_early_and_late_cosines_are_means_of_the_quarters(measured):
    products.write_gradients(measured)
    found = gradients.rows(measured)
    assert {row.corpus for row in found} == set(COSINES)
    row = next(each for each in found if each.run.mixture == "qa_mcc")
    early, late = [], []
    for seed in (1, 2, 3):
        run = replace(row.run, seed=seed)
        lines = read_training(measured.layout.run(run))
        places = [((line["step"] + 1) / len(lines), cosines_with_target(line)) for line in lines]
        early.append(statistics.fmean(v["swag"] for p, v in places if v and p <= 0.25))
        late.append(statistics.fmean(v["swag"] for p, v in places if v and p > 0.75))
    assert row.early.values == pytest.approx(early)
    assert row.late.values == pytest.approx(late)
    assert row.is_pair and row.early.mean > row.late.mean + 0.05
    text = measured.layout.table("gradients", "md").read_text()
    assert f"{row.early.mean:.3f} ± {row.early.deviation:.3f}" in text
    assert "Too few to say: 1 pair of" in text
    tex = measured.layout.table("gradients", "tex").read_text()
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    lines = measured.layout.table("gradients", "csv").read_text().splitlines()
    assert len(lines) == len(found) + 1
    assert all(line.endswith(measured.notice) for line in lines[1:])


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ({"swag": 1, "cola": -1, "mrpc": 0.2, "mnli": 3}, "in these pairs it does"),
        ({"swag": -1, "cola": 1, "mrpc": -0.2, "mnli": -3}, "in these pairs it misleads"),
        ({"swag": -2, "cola": 1, "mrpc": 2, "mnli": 0.5}, "do not show that it does"),
        ({"swag": 1, "cola": -1}, "Too few to say: 4 pairs"),
    ],
)
def test_the_answer_follows_the_pairs(tmp_path, gains, said):
    experiment = paired(tmp_path, gains)
    found = gradients.rows(experiment)
    assert all(row.is_pair and row.target == "squad" for row in found)
    for row in found:
        assert row.difference == pytest.approx(gains[row.corpus])
    assert said in gradients.verdict(found)


def test_mixtures_of_several_corpora_are_marked_and_say_nothing_of_one(measured):
    found = gradients.rows(measured)
    several = [row for row in found if not row.is_pair]
    assert several and gradients.verdict(several).count("Too few to say: 0 pairs") == 1
    assert " * |" in measured.layout.table("gradients", "md").read_text()


def test_a_score_without_the_target_alone_has_no_difference(tmp_path):
    rows = [{"encoder": "base", "mixture": "qa_mcc", "weight": 0.8}]
    tables = {"table1": {"title": "One", "rows": rows}}
    experiment = make_experiment(tmp_path, tables=tables, figures={})
    measure(make_run(experiment, experiment.runs()[0]), COSINES)
    (row,) = gradients.rows(experiment)
    assert row.difference is None and not math.isnan(row.early.mean)
    products.write_gradients(experiment)
    assert "| – |" in experiment.layout.table("gradients", "md").read_text()


def test_the_page_shows_the_table_only_if_there_is_one(tmp_path, measured):
    products.write_page(measured, "interference")
    page = measured.layout.page("interference").read_text()
    assert "<h2>Gradient conflict</h2>" in page and "Too few to say" in page
    plain = make_experiment(tmp_path)
    for run in plain.runs():
        make_run(plain, run)
    products.write_page(plain, "interference")
    assert "Gradient conflict" not in plain.layout.page("interference").read_text()
    products.write_gradients(plain)
    for suffix in ("md", "tex"):
        assert NO_RUN in plain.layout.table("gradients", suffix).read_text()


# --- figures ---------------------------------------------------------------------------------


def panels(figure):
    return [axes for axes in figure.subfigs[0].get_figure(root=True).axes if axes.get_visible()]


def test_the_figure_has_a_matrix_layers_and_a_course_of_each_mixture(measured):
    figure = registry.draw(measured, "gradients")
    matrix, layers, *courses = panels(figure)
    shown = [text.get_text() for text in matrix.texts]
    assert len(shown) == 10  # pairs of five corpora
    means = dict(
        zip(("swag", "cola", "mrpc", "mnli"), (shown[0], shown[1], shown[3], shown[6]), strict=True)
    )
    for corpus, text in means.items():
        assert float(text.replace("−", "-")) == pytest.approx(COSINES[corpus] - 0.05, abs=0.02)
    assert [tick.get_text() for tick in layers.get_xticklabels()] == ["E", "1", "2", "3"]
    kinds = {row.run.row_path for row in gradients.rows(measured)}
    assert len(courses) == len(kinds)
    assert all(axes.collections for axes in courses)  # ribbons over seeds
    note = " ".join(figure.subfigs[1].texts[0].get_text().split())
    assert "dashed: BERT large" in note and "Not drawn" not in note


def test_the_figure_of_forgetting_has_a_panel_for_each_corpus(measured):
    figure = registry.draw(measured, "forgetting")
    titles = [axes.get_title() for axes in panels(figure)]
    assert titles == ["SQuAD 2.0", "SWAG", "CoLA", "MRPC", "MNLI"]
    lines = panels(figure)[0].lines
    assert len(lines) == 9  # every kind of run trains the target
    assert all(len(line.get_xdata()) == 2 for line in lines)


@pytest.mark.parametrize(
    ("name", "setting"), [("gradients", "measurements"), ("forgetting", "dev_items")]
)
def test_a_figure_without_measurements_says_which_setting_turns_them_on(tmp_path, name, setting):
    experiment = make_experiment(tmp_path)
    figure = registry.draw(experiment, name)
    assert figure.subfigs[0].axes[0].texts[0].get_text() == "nothing to draw yet"
    for run in experiment.runs():
        make_run(experiment, run)
    figure = registry.draw(experiment, name)
    assert figure.subfigs[0].axes[0].texts[0].get_text() == "nothing was measured during training"
    note = " ".join(figure.subfigs[1].texts[0].get_text().split())
    assert f"set training.interference.{setting} above 0" in note and "Cosines" not in note


def test_corpora_alone_have_no_gradients_to_compare(tmp_path):
    experiment = paired(tmp_path, {})
    figure = registry.draw(experiment, "gradients")
    assert figure.subfigs[0].axes[0].texts[0].get_text() == (
        "nothing to compare: every run trains on one corpus alone"
    )


def test_runs_without_measurements_are_named(tmp_path):
    experiment = make_experiment(tmp_path)
    first, *others = (run for run in experiment.runs() if run.mixture == "qa_mcc_sc")
    measure(make_run(experiment, first), COSINES)
    for run in others:
        make_run(experiment, run)
    for name in ("gradients", "forgetting"):
        figure = registry.draw(experiment, name)
        note = " ".join(figure.subfigs[1].texts[0].get_text().split())
        assert "nothing was measured during training" in note and "not run" in note
        products.write_figure(experiment, name)
