"""The figure of differences shows every row against its baseline."""

import pytest
from matplotlib.text import Text

from mtdnn.reporting.figures import effects
from mtdnn.reporting.figures.drawing import PAPER, SCREEN, styled
from mtdnn.statistics.level import LEVEL
from mtdnn.statistics.records import read_statistics
from tests.support.factories import make_experiment, make_statistics
from tests.support.targets import make_targets


def test_bars_are_the_intervals_and_diamonds_the_published_differences(tmp_path):
    experiment = make_experiment(tmp_path)
    comparisons = make_statistics(experiment)["tables"]["table2"]["comparisons"]
    axes = effects.draw(experiment).subfigs[0].axes[2]  # EM of the second table
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [each["to_label"] for each in comparisons]
    assert axes.get_title("left").endswith(", against QA")
    for place, each in enumerate(comparisons):
        here = [line for line in axes.lines if set(line.get_ydata()) == {place}]
        bar, mean, diamond = (list(line.get_xdata()) for line in here)
        assert bar == pytest.approx([each["measures"]["em"]["low"], each["measures"]["em"]["high"]])
        assert mean == pytest.approx([each["measures"]["em"]["difference"]])
        assert diamond == pytest.approx([each["published"]["em"]])


def test_variants_of_a_mixture_have_their_own_labels_and_say_what_is_decided(tmp_path):
    names = ["round robin", "shuffled", "a strategy whose long label does not fit into one line"]
    variants = {
        f"v{n}": {"label": name, "training": {"epochs": n + 3}} for n, name in enumerate(names)
    }
    row = {"encoder": "base", "mixture": "squad_mnli", "weight": 0.8}
    rows = [row, *({**row, "variant": name} for name in variants)]
    experiment = make_targets(
        tmp_path,
        {"t": [("squad", ["mnli"])]},
        variants=variants,
        tables={"t": {"title": "Strategies", "rows": rows}},
    )
    body = effects.draw(experiment).subfigs[0]
    axes = body.axes[0]
    assert axes.get_title("left") == "Strategies, against SQuAD+MNLI at w 0.8"
    labels = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert labels == names
    comparisons = read_statistics(experiment)["tables"]["t"]["comparisons"]
    decided = [
        each["measures"]["em"]["p_holm"] <= LEVEL
        for each in comparisons
        if each["kind"] == "baseline"
    ]
    assert len(set(decided)) == 2
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() != "white" for line in marks] == decided


def test_every_panel_has_numbers_and_the_last_says_what_they_are(tmp_path):
    experiment = make_experiment(tmp_path)
    make_statistics(experiment)
    figure = effects.draw(experiment)
    figure.draw_without_rendering()
    panels = figure.subfigs[0].axes
    assert len(panels) == 6
    for axes in panels:
        shown = [tick.label1 for tick in axes.xaxis.get_major_ticks()]
        assert any(label.get_visible() and label.get_text() for label in shown)
    assert [bool(axes.get_xlabel()) for axes in panels] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("page", [SCREEN, *PAPER], ids=lambda page: page.name or "screen")
def test_a_long_title_of_a_table_wraps_within_the_page(tmp_path, page):
    experiment = make_experiment(tmp_path)
    make_statistics(experiment)
    title = "Mixtures of a large encoder, in full and once more"
    tables = {
        name: table.model_copy(update={"title": title}) for name, table in experiment.tables.items()
    }
    with styled(page):
        figure = effects.draw(experiment.model_copy(update={"tables": tables}))
        figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if "large" in text.get_text()]
    assert shown
    for text in shown:
        assert text.get_window_extent().x1 <= figure.bbox.x1 + 1, text


def test_without_any_comparison_the_reason_is_said_for_each_table(tmp_path):
    experiment = make_targets(
        tmp_path, {"a": [("squad", []), ("mnli", [])], "b": [("mnli", []), ("squad", [])]}
    )
    figure = effects.draw(experiment)
    assert figure.subfigs[0].axes[0].texts[0].get_text() == "nothing to compare"
    assert (
        figure.subfigs[1]
        .texts[0]
        .get_text()
        .startswith(
            "In “Table of a” and “Table of b”: No two rows can be compared: they have different "
            "targets."
        )
    )


def test_each_table_names_what_its_panels_show(tmp_path):
    experiment = make_targets(
        tmp_path,
        {"nli": [("mnli", []), ("mnli", ["cola"])], "swag": [("swag", []), ("swag", ["cola"])]},
    )
    panels = [axes for axes in effects.draw(experiment).subfigs[0].axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in panels] == [
        *("difference in Acc. (points)", "difference in F1 (points)"),
        "difference in Acc. (points)",
    ]
