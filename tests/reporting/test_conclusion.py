"""The conclusion says what the comparisons say, and the front page of the report begins with it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils.core import publish_parts
from jinja2 import Environment

from mtdnn.reporting import conclusion, products
from mtdnn.reporting.facts import Captions
from mtdnn.statistics.records import read_statistics
from tests.support.factories import make_experiment, make_run

REPORT = Path(__file__).parents[2] / "workflow" / "report"


def comparison(to, said, seeds=(1, 2, 3), **changes):
    return {
        "kind": "baseline",
        "slice": "dev",
        "threshold": "zero",
        "from_label": "QA",
        "to_label": to,
        "seeds": list(seeds),
        "headline": "em",
        "labels": {"em": "EM"},
        "measures": {"em": {"low": -1.0, "high": 1.0}},
        "conclusion": said,
        "published": None,
        "verdict": {"em": None},
        **changes,
    }


def sentence(*comparisons, left_out=()):
    table = {"slice": "dev", "comparisons": list(comparisons), "left_out": list(left_out)}
    return conclusion.verdict({"tables": {"t": table}}, "t")


def test_rows_are_sorted_by_what_is_known_of_them():
    other = comparison("X", "higher", slice="official")
    text = sentence(
        comparison("A", "open"), comparison("B", "higher"), comparison("C", "open"), other
    )
    assert text == (
        "B scores higher than QA in EM; whether A and C differ from QA in EM is not decidable with "
        "3 seeds."
    )
    assert sentence(comparison("A", "lower"), comparison("B", "lower")) == (
        "A and B score lower than QA in EM."
    )
    assert sentence(comparison("A", "open", [1])) == (
        "Whether A differs from QA in EM is not decidable with 1 seed."
    )
    assert sentence(comparison("A", "higher"), *(comparison(x, "open") for x in "BCDEF")) == (
        "A scores higher than QA in EM; whether 5 others differ from QA in EM is not decidable "
        "with 3 seeds."
    )
    assert sentence(comparison("A", "open"), comparison("an average", "open", [1])) == (
        "Whether A differs from QA in EM is not decidable with 3 seeds; whether an average differs "
        "from QA in EM is not decidable with 1 seed."
    )


def test_where_nothing_varies_the_number_of_seeds_is_not_the_reason():
    nothing = {"em": {"low": None, "high": None}}
    assert sentence(comparison("A", "open", measures=nothing), comparison("B", "open")) == (
        "Whether A differs from QA in EM is not decidable because the scores do not vary between "
        "seeds; whether B differs from QA in EM is not decidable with 3 seeds."
    )
    assert sentence(comparison("A", "open", [1], measures=nothing)).endswith("with 1 seed.")


def test_it_says_why_no_row_is_compared():
    assert conclusion.verdict({"tables": {}}, "t") == "No row can be compared with a baseline yet."
    assert sentence() == "No row has a baseline to be compared with."
    wrong = [comparison("A", "", reason=reason) for reason in ("not run", "not run", "no seeds")]
    other = comparison("A", "", slice="official", reason="no answers")
    text = "No row can be compared with its baseline: "
    assert sentence(left_out=[other, *wrong[:2]]) == f"{text}not run."
    assert sentence(left_out=wrong) == f"{text}not run, and 1 more."
    neighbours = comparison("A", "", kind="neighbour", reason="they have different targets")
    assert sentence(left_out=[neighbours]) == (
        "No two rows can be compared: they have different targets."
    )
    assert sentence(left_out=[neighbours, wrong[0]]) == f"{text}not run."


def test_verdicts_on_published_differences_are_counted():
    judged = [
        comparison(name, "higher", published={"em": 1.0}, verdict={"em": word})
        for name, word in (("A", "supported"), ("B", "not decidable"), ("C", "supported"))
    ]
    text = sentence(*judged)
    assert text.endswith(" Published differences: 2 supported, 1 not decidable.")


@pytest.mark.parametrize("name", ["answered", "classified"])
def test_the_front_page_is_the_result(request, name):
    experiment = request.getfixturevalue(name)
    products.write_figure(experiment, "effects")
    body, page = rendered(experiment), conclusion.front(experiment)
    table = conclusion.main_table(experiment)
    verdict = conclusion.verdict(read_statistics(experiment), table)
    assert f"In “{experiment.tables[table].title}”: {verdict}" in body
    places = [body.index(text) for text in (verdict, "<table", "<img", "Read on", "Provenance")]
    assert places == sorted(places)
    assert "data:image/png;base64,iVBOR" in body and 'class="system-message"' not in body
    assert [each["name"] for each in page["links"]][:1] == [table]
    for each in page["links"]:
        assert f">{each['title'].replace(chr(39), '’')}</a>" in body.replace("'", "’"), each
    known = {*experiment.tables, *experiment.figures, *products.FIGURES, *products.PAGES}
    assert {each["name"] for each in page["links"]} == known


def test_the_front_page_of_an_experiment_without_runs_says_so(tmp_path):
    experiment = make_experiment(tmp_path)
    assert "No row can be compared with a baseline yet." in rendered(experiment)
    for run in experiment.runs():
        make_run(experiment, run)
    assert "70.00" in rendered(experiment)


def test_the_front_page_says_why_a_score_is_missing(tmp_path):
    experiment = make_experiment(tmp_path)
    first, *_ = experiment.runs()
    make_run(experiment, first)
    assert "–: not run." in rendered(experiment)


def rendered(experiment):
    """The front page as HTML, as Snakemake renders it."""
    layout = experiment.layout
    paths = [layout.page(name) for name in [*experiment.tables, *products.PAGES]]
    paths += [layout.figure(name, "svg") for name in [*experiment.figures, *products.FIGURES]]
    files = [SimpleNamespace(path=path, target=path.name) for path in paths]
    template = (REPORT / "workflow.rst").read_text(encoding="utf-8")
    text = (
        Environment(trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(snakemake={"config": {"facts": Captions(experiment)}}, files=files)
    )
    parts = publish_parts(text, writer="html", settings_overrides={"report_level": 2})
    return parts["html_body"]
