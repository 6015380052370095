"""Figures of scores show what the runs and the published file hold."""

import statistics

import pytest

from mtdnn.config.layout import RunFolder, RunId
from mtdnn.machine.files import read_json, write_json
from mtdnn.reporting.figures import scores
from mtdnn.reporting.figures.palette import GREY
from mtdnn.statistics import records
from tests.support.comparisons import SLICES, make_mixtures, make_runs
from tests.support.factories import QA, make_experiment, make_run
from tests.support.targets import make_targets


def panels(figure):
    """The panels of scores, which are below those of differences, by measure."""
    return {axes.get_ylabel()[:2]: axes for axes in scored(figure)}


def compared(figure):
    """The panels of differences."""
    axes = figure.subfigs[0].axes
    return axes[: len(axes) // 2]


def scored(figure):
    axes = figure.subfigs[0].axes
    return axes[len(axes) // 2 :]


@pytest.fixture(scope="module")
def compared_rows(tmp_path_factory):
    """Tables 1 and 2 with three seeds, published scores, and their statistics."""
    experiment = make_mixtures(tmp_path_factory.mktemp("compared"))
    make_runs(experiment, "table1", [0.5, 0.6, 0.7, 0.65, 0.6])
    make_runs(experiment, "table2", [0.6, 0.63, 0.6, 0.7])
    records.write(experiment, ["table1", "table2"])
    return experiment


def hollow(axes):
    """Heights of the hollow markers, which show published values."""
    lines = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    return sorted(float(y) for line in lines for y in line.get_ydata())


def test_published_values_are_hollow_markers(drawn):
    axes = panels(scores.draw(drawn, "figure3"))
    assert hollow(axes["EM"]) == [73.544, 73.92, 74.58]
    assert hollow(axes["F1"]) == [76.18, 76.47, 77.15]
    # Every value, measured or published, is inside the frame.
    for panel in axes.values():
        low, high = panel.get_ylim()
        assert all(low < y < high for line in panel.lines for y in line.get_ydata())


def test_a_figure_shows_means_and_every_seed(drawn):
    panel = panels(scores.draw(drawn, "figure3"))["EM"]
    runs = [RunId("base", "qa_mcc_sc", 0.7, "default", seed) for seed in (1, 2, 3)]
    ems = [read_json(RunFolder(drawn.layout.run(run)).metrics)["em"] for run in runs]
    seeds = [sorted(line.get_ydata()) for line in panel.lines if line.get_markersize() == 3]
    assert sorted(ems) in seeds
    (mixture,) = [line for line in panel.lines if list(line.get_xdata()) == [0.5, 0.7, 0.8]]
    assert statistics.fmean(ems) in list(mixture.get_ydata())
    assert len(panel.collections) == 1  # the ribbon
    (baseline,) = [line for line in panel.lines if line.get_label() == "baseline"]
    assert list(baseline.get_xdata()) == [1.0]
    dashed = [line for line in panel.lines if list(line.get_xdata()) == [0, 1]]
    assert [line.get_ydata()[0] for line in dashed] == [baseline.get_ydata()[0]]
    assert {line.get_color() for line in [baseline, *dashed]} == {GREY}


def test_differences_come_first_with_their_intervals_and_the_published_ones(compared_rows):
    experiment = compared_rows
    table = read_json(experiment.layout.statistics("table2"))
    found = [each for each in table["comparisons"] if _is_shown(each, table)]
    panel = compared(scores.draw(experiment, "figure4"))[0]
    assert panel.get_ylabel().startswith("difference in EM")
    bars = [line.get_ydata() for line in panel.lines if len(set(line.get_xdata())) < 2]
    bars = [list(each) for each in bars if len(each) == 2]
    ends = [[each["measures"]["em"][end] for end in ("low", "high")] for each in found]
    assert bars == [pytest.approx(each) for each in ends]
    assert hollow(panel) == pytest.approx(sorted(each["published"]["em"] for each in found))
    points = [line for line in panel.lines if line.get_label() == "baseline"]
    assert [(line.get_color(), list(line.get_ydata())) for line in points] == [(GREY, [0.0])]
    note = scores.draw(experiment, "figure4").subfigs[1].texts[0].get_text()
    assert "bars: 95% intervals over seeds and paragraphs" in note and "paired" not in note


def _is_shown(comparison, table):
    own = (table["slice"], "baseline", "zero")
    return (comparison["slice"], comparison["kind"], comparison["threshold"]) == own


def test_points_are_joined_only_with_several_seeds(compared_rows, tmp_path):
    weights = [0.5, 0.7, 0.8, 0.9]
    for panel in scores.draw(compared_rows, "figure3").subfigs[0].axes:
        assert [list(line.get_xdata()) for line in panel.lines].count(weights) == 1
        assert len(panel.collections) == 1
    experiment = make_experiment(tmp_path, slices=SLICES)
    make_runs(experiment, "table1", [0.5, 0.6, 0.7, 0.8, 0.6])
    records.write(experiment, ["table1"])
    figure = scores.draw(experiment, "figure3")
    for panel in figure.subfigs[0].axes:
        assert weights not in [list(line.get_xdata()) for line in panel.lines]
        assert not panel.collections
    text = " ".join(figure.subfigs[1].texts[0].get_text().split())
    assert "One seed: they do not include the variance between seeds." in text


def test_a_row_that_is_not_drawn_is_named_with_its_variant(tmp_path):
    experiment = make_experiment(
        tmp_path,
        variants={"legacy": {"label": "old code", "training": {"epochs": 3}}},
        tables={"table1": {"title": "Variants", "rows": [QA, {**QA, "variant": "legacy"}]}},
        figures={"figure3": {"title": "Variants", "table": "table1", "x": "weight"}},
    )
    make_run(experiment, RunId("base", "qa", 1.0, "default", 1))
    text = scores.draw(experiment, "figure3").subfigs[1].texts[0].get_text()
    assert "Not drawn: QA, old code: not run." in text.replace("\n", " ")


def test_panels_are_the_measures_of_the_target_or_the_headline_of_each(
    classified, mixed, scored_and_tagged
):
    for experiment, name, labels in (
        (classified, "figure_nli", ["accuracy (%)", "F1 (%)"]),
        (classified, "figure_cola", ["Matthews correlation (× 100)", "accuracy (%)"]),
        (mixed, "figure_targets", ["EM (%)", "accuracy (%)", "Matthews correlation (× 100)"]),
        (
            scored_and_tagged,
            "figure_similarity",
            ["Pearson correlation (× 100)", "Spearman correlation (× 100)"],
        ),
        (scored_and_tagged, "figure_entities", ["entity F1 (%)", "accuracy by token (%)"]),
    ):
        figure = scores.draw(experiment, name)
        assert [axes.get_ylabel() for axes in scored(figure)] == labels
        text = figure.subfigs[1].texts[0].get_text()
        assert ("null threshold" in text) == (experiment is mixed)
    answers, labels = scored(scores.draw(mixed, "figure_targets"))[:2]
    points = [sum(line.get_markersize() == 4.5 for line in a.lines) for a in (answers, labels)]
    assert points == [2, 3]


def test_each_of_several_baselines_is_in_the_legend(mixed):
    (legend,) = scores.draw(mixed, "figure_targets").subfigs[0].legends
    assert [text.get_text() for text in legend.get_texts() if "baseline" in text.get_text()] == [
        *("SQuAD (baseline)", "MNLI (baseline)", "CoLA (baseline)")
    ]
    markers = [handle.get_marker() for handle in legend.legend_handles]
    assert len(set(markers)) == 3


def test_a_variant_of_the_target_alone_is_no_second_baseline(tmp_path):
    row = {"encoder": "base", "mixture": "squad", "weight": 1.0}
    experiment = make_targets(
        tmp_path,
        {"t": [("squad", [])]},
        variants={"longer": {"label": "longer", "training": {"epochs": 5}}},
        tables={"t": {"title": "Variants", "rows": [row, {**row, "variant": "longer"}]}},
    )
    (legend,) = scores.draw(experiment, "figure_t").subfigs[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["baseline", "longer"]


def test_a_comparison_that_will_never_come_is_not_awaited(tmp_path):
    rows = {"targets": [("squad", []), ("mnli", [])]}
    experiment = make_targets(tmp_path, rows)
    figure = scores.draw(experiment, "figure_targets")
    assert {axes.texts[0].get_text() for axes in compared(figure)} == {"nothing to compare"}
    note = figure.subfigs[1].texts[0].get_text()
    assert "No two rows can be compared: they have different targets." in note
    experiment.layout.statistics("targets").unlink()
    figure = scores.draw(experiment, "figure_targets")
    assert {axes.texts[0].get_text() for axes in compared(figure)} == {"nothing to compare yet"}


def test_what_several_rows_lack_is_said_once(tmp_path):
    experiment = make_experiment(tmp_path, slices=SLICES)
    make_run(experiment, RunId("base", "qa", 1.0, "default", 1))
    text = scores.draw(experiment, "figure4").subfigs[1].texts[0].get_text()
    assert text.count("not run") == 1
    assert "Not drawn: QA+MCC at w 0.8; QA+SC at w 0.8; " in text.replace("\n", " ")


def test_negative_correlations_are_inside_the_frame(tmp_path):
    experiment = make_targets(tmp_path, {"cola": [("cola", [])]}, seeds=[1])
    (run,) = experiment.runs()
    metrics = RunFolder(experiment.layout.run(run)).metrics
    changed = read_json(metrics)
    changed["slices"]["dev"]["matthews"] = -12.5
    write_json(metrics, changed)
    axes = scored(scores.draw(experiment, "figure_cola"))[0]
    low, high = axes.get_ylim()
    assert low < -12.5 < high
