"""Figures of scores show what the runs and the published file hold."""

import statistics

from mtdnn.config.layout import RunFolder, RunId
from mtdnn.machine.files import read_json, write_json
from mtdnn.reporting.figures import scores
from tests.support.factories import QA, make_experiment, make_run
from tests.support.targets import make_targets


def panels(figure):
    return {axes.get_ylabel()[:2]: axes for axes in figure.subfigs[0].axes}


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
    (mixture, baseline) = panel.containers
    assert statistics.fmean(ems) in list(mixture.lines[0].get_ydata())
    assert list(mixture.lines[0].get_xdata()) == [0.5, 0.7, 0.8]
    assert list(baseline.lines[0].get_xdata()) == [1.0]
    dashed = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [baseline.lines[0].get_ydata()[0]]


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
        (classified, "figure_cola", ["MCC (× 100)", "accuracy (%)"]),
        (mixed, "figure_targets", ["EM (%)", "accuracy (%)", "MCC (× 100)"]),
        (
            scored_and_tagged,
            "figure_similarity",
            ["Pearson correlation (× 100)", "Spearman correlation (× 100)"],
        ),
        (scored_and_tagged, "figure_entities", ["entity F1 (%)", "accuracy by token (%)"]),
    ):
        figure = scores.draw(experiment, name)
        assert [axes.get_ylabel() for axes in figure.subfigs[0].axes] == labels
        text = figure.subfigs[1].texts[0].get_text()
        assert ("null threshold" in text) == (experiment is mixed)
    answers, labels = scores.draw(mixed, "figure_targets").subfigs[0].axes[:2]
    assert [len(axes.containers[0].lines[0].get_xdata()) for axes in (answers, labels)] == [2, 3]


def test_negative_correlations_are_inside_the_frame(tmp_path):
    experiment = make_targets(tmp_path, {"cola": [("cola", [])]}, seeds=[1])
    (run,) = experiment.runs()
    metrics = RunFolder(experiment.layout.run(run)).metrics
    changed = read_json(metrics)
    changed["slices"]["dev"]["matthews"] = -12.5
    write_json(metrics, changed)
    axes = scores.draw(experiment, "figure_cola").subfigs[0].axes[0]
    low, high = axes.get_ylim()
    assert low < -12.5 < high
