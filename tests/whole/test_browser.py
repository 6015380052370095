"""Report pages and MLflow's interface in a browser; skipped without Chromium."""

import re

import pytest

from mtdnn.machine.files import read_json
from mtdnn.reporting import products
from mtdnn.tracking import client
from mtdnn.tracking import runs as tracking
from tests.support.answers import HOSTILE, make
from tests.support.browser import open_page
from tests.support.factories import make_experiment, make_run
from tests.support.mlflow_server import Server


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Write the pages of an experiment with three seeds and hostile questions."""
    made = make(tmp_path_factory.mktemp("pages"), seeds=(1, 2, 3))
    products.write_cases(made)
    for page in [*made.tables, *products.PAGES]:
        products.write_page(made, page)
    return made


def test_a_click_on_a_heading_sorts_the_table(experiment):
    with open_page() as page:
        page.goto(experiment.layout.page("runs").as_uri())

        def column(number):
            return page.locator(f"table.sortable tbody td:nth-child({number})").all_inner_texts()

        page.get_by_role("button", name="F1").click()
        known = [float(text) for text in column(5) if text != "–"]
        assert known == sorted(known) and "–" in column(5)[-1]
        page.get_by_role("button", name="F1").click()
        known = [float(text) for text in column(5) if text != "–"]
        assert known == sorted(known, reverse=True) and "–" in column(5)[-1]
        page.get_by_role("button", name="run").click()
        first = column(1)
        page.get_by_role("button", name="run").click()
        assert column(1) == first[::-1] != first


def test_hostile_text_is_shown_and_not_executed(experiment):
    with open_page() as page:
        page.goto(experiment.layout.page("cases").as_uri())
        assert f"Who is {HOSTILE}?" in page.locator(".question").all_inner_texts()
        assert HOSTILE in page.locator("mark.gold").all_inner_texts()
        assert page.locator("img").count() == 0
        page.wait_for_timeout(200)  # an injected script would have opened its dialog by now


@pytest.fixture(scope="module")
def interface(tmp_path_factory):
    """Start MLflow's server on a store with three runs; yield the experiment and the address."""
    made = make_experiment(tmp_path_factory.mktemp("interface"))
    client.create_store(made)
    for number, run in enumerate(made.runs()[:3]):
        tracking.log_run(made, make_run(made, run, em=70.5 + number))
    with Server(tmp_path_factory.mktemp("server"), made.store_uri) as server:
        yield made, server.address


@pytest.mark.slow
def test_mlflow_shows_runs_charts_and_comparison(interface):
    made, address = interface
    allowed = (address, "file:", "data:", "blob:", "https://api.github.com", "https://www.google")
    store = read_json(made.layout.root / "store.json")
    ids = [read_json(made.layout.run(run) / "mlflow.json")["run_id"] for run in made.runs()[:3]]
    with open_page((*allowed, "https://")) as page:
        page.goto(f"{address}/{store['page']}")
        page.get_by_text("QA+MCC+SC w0.5 base seed1").first.wait_for()
        assert page.get_by_text("70.5", exact=True).count() > 0

        page.locator("label:has(input[value=CHART])").click()
        # Each group of metrics has a section, whose heading ends with the number of charts.
        page.get_by_text(re.compile(r"^auxiliary/cola( \(\d+\))?$")).first.wait_for()

        runs = ",".join(f"%22{run}%22" for run in ids)
        page.goto(
            f"{address}/#/compare-runs?runs=[{runs}]&experiments=[%22{store['experiment_id']}%22]"
        )
        page.get_by_text("Comparing 3 Runs").first.wait_for()

        page.goto(f"{address}/#/experiments/{store['experiment_id']}/runs/{ids[0]}")
        page.get_by_text("slices/official/HasAns_f1").first.wait_for()
