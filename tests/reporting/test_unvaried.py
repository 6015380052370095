"""Where no score varies, everything that shows a verdict or lacks an interval says so."""

import numpy as np
import pytest

from mtdnn.reporting import conclusion, products
from mtdnn.reporting.figures import effects, scores
from mtdnn.statistics import records
from mtdnn.statistics.records import NO_INTERVAL
from tests.support.comparisons import answer, make_mixtures, make_questions

REASON = "because the scores do not vary between seeds"


@pytest.fixture(scope="module")
def unvaried(tmp_path_factory):
    """An experiment whose runs answer every question correctly, with three seeds."""
    experiment = make_mixtures(tmp_path_factory.mktemp("unvaried"))
    rows = make_questions(experiment)
    for run in experiment.runs():
        answer(experiment, run, rows, np.ones(len(rows), bool))
    records.write(experiment, experiment.tables)
    records.collect(experiment)
    return experiment


def test_tables_and_comparisons_say_why_nothing_is_decided(unvaried):
    products.write_table(unvaried, "table2")
    products.write_comparisons(unvaried, "table2")
    layout = unvaried.layout
    for name in (layout.table("table2", "md"), layout.comparison("table2", "md")):
        text = name.read_text(encoding="utf-8")
        assert f"Not decidable {REASON}: whether QA+MCC at w 0.8 differs from QA" in text.replace(
            "\\", ""
        )
        assert "many seeds" not in text
    assert NO_INTERVAL in layout.comparison("table2", "md").read_text(encoding="utf-8")


def test_pages_and_the_summary_say_why_intervals_are_missing(unvaried):
    products.write_page(unvaried, "table2")
    products.write_summary(unvaried)
    for path in (unvaried.layout.page("table2"), unvaried.layout.summary):
        text = path.read_text(encoding="utf-8")
        assert NO_INTERVAL in text and REASON in text and "many seeds" not in text
    assert text.count(NO_INTERVAL) == len(unvaried.tables) + 1  # below each table in LaTeX, too
    assert REASON in conclusion.front(unvaried)["verdict"]


def test_figures_say_why_bars_are_missing(unvaried):
    for figure in (effects.draw(unvaried), scores.draw(unvaried, "figure4")):
        assert NO_INTERVAL in " ".join(figure.subfigs[1].texts[0].get_text().split())
