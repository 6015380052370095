"""Report pages and MLflow's interface in a browser; skipped without Chromium."""

import re
from collections import Counter
from contextlib import contextmanager

import pytest
from mlflow import MlflowClient

from mtdnn.machine.files import read_json
from mtdnn.reporting import products
from mtdnn.tracking import client
from mtdnn.tracking import runs as tracking
from mtdnn.tracking.summary import log_summary
from mtdnn.training.log import read_training
from tests.support.answers import HOSTILE, make
from tests.support.browser import open_page
from tests.support.factories import make_statistics
from tests.support.journals import make_journal
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
    """Start MLflow's server on a store with runs and a summary, all of whose text is hostile.

    Yields the experiment, the runs that it has, and the server's address.
    """
    made = make(tmp_path_factory.mktemp("interface"))
    client.create_store(made)
    runs = [run for run in made.runs() if made.layout.run(run).exists()]
    for run in runs:
        folder = made.layout.run(run)
        _add_readings(folder)
        tracking.log_run(made, folder)
    make_statistics(made)
    for name in made.tables:
        products.write_table(made, name)
    made.layout.report.write_text("<p>The report</p>")
    log_summary(made)
    with Server(tmp_path_factory.mktemp("server"), made.store_uri) as server:
        yield made, runs, server.address


def _add_readings(folder) -> None:
    """Give a run the journal of its training, with what the machine was doing."""
    lines = read_training(folder)
    about = {
        "fingerprint": read_json(folder / "model" / "run.json")["fingerprint"],
        "corpora": dict(Counter(line["corpus"] for line in lines)),
    }
    with make_journal(folder, steps=len(lines), **about) as journal:
        for line in lines:
            journal.add([line])


@contextmanager
def mlflow_page(address: str):
    """A page of MLflow's interface, which asks some other addresses for news."""
    with open_page((address, "file:", "data:", "blob:", "https://")) as page:
        page.set_default_timeout(45_000)
        yield page


def ids_of(made, runs) -> list[str]:
    return [read_json(made.layout.run(run) / "mlflow.json")["run_id"] for run in runs]


@pytest.mark.slow
def test_the_plain_address_leads_to_the_scores(interface):
    """There MLflow takes every experiment for one with agents; the link in the note helps."""
    made, _, address = interface
    with mlflow_page(address) as page:
        page.goto(f"{address}/")
        page.get_by_role("link", name=made.experiment, exact=True).first.click()
        # A new browser is told what MLflow can do for agents first.
        page.add_locator_handler(page.get_by_text("Got it"), lambda button: button.click())
        with page.context.expect_page() as opened:  # a tab of its own
            page.locator("a", has_text="Runs and scores").first.click()
        scores = opened.value
        scores.get_by_text("QA+MCC+SC w0.8 base seed1").first.wait_for()
        scores.get_by_text("NoAns_exact").first.wait_for()


@pytest.mark.slow
def test_mlflow_shows_runs_charts_and_comparison(interface):
    made, runs, address = interface
    store = read_json(made.layout.root / "store.json")
    em = read_json(made.layout.run(runs[0]) / "metrics.json")["em"]
    with mlflow_page(address) as page:
        page.goto(f"{address}/{store['page']}")
        page.get_by_text("QA+MCC+SC w0.8 base seed1").first.wait_for()
        assert page.get_by_text(f"{em:.5f}"[:7]).count() > 0

        page.locator("label:has(input[value=CHART])").click()
        # Each group of metrics has a section, whose heading ends with the number of charts.
        page.get_by_text(re.compile(r"^Scores( \(\d+\))?$")).first.wait_for()
        names = re.compile(r"^(Scores|loss|training|(auxiliary|slices)/\w+)( \(\d+\))?$")
        headings = page.get_by_text(names).all_inner_texts()
        assert headings[0].startswith("Scores") and "loss" in " ".join(headings)

        page.locator("label:has(input[value=ARTIFACT])").click()
        page.get_by_text("answers.json").first.wait_for()
        page.get_by_text(f"Who is {HOSTILE}?").first.wait_for()

        listed = ",".join(f"%22{run}%22" for run in ids_of(made, runs))
        page.goto(
            f"{address}/#/compare-runs?runs=[{listed}]&experiments=[%22{store['experiment_id']}%22]"
        )
        page.get_by_text(f"Comparing {len(runs)} Runs").first.wait_for()
        page.get_by_text("squad, cola, mrpc, mnli").first.wait_for()
        assert page.get_by_text("corpora.squad", exact=False).count() == 0


@pytest.mark.slow
def test_mlflow_s_first_view_shows_no_run_that_another_replaced(interface):
    made, _, address = interface
    store = read_json(made.layout.store)
    tags = {"results": "elsewhere", "current": "false"}
    client = MlflowClient(address)
    client.create_run(store["experiment_id"], tags=tags, run_name="an older one")
    with mlflow_page(address) as page:
        page.goto(f"{address}/{store['page']}")
        page.get_by_text("QA+MCC+SC w0.8 base seed1").first.wait_for()
        assert page.get_by_text("an older one").count() == 0
        page.goto(f"{address}/#/experiments/{store['experiment_id']}/runs?searchFilter=")
        page.get_by_text("an older one").first.wait_for()


@pytest.mark.slow
def test_mlflow_shows_a_run_with_its_model_and_datasets(interface):
    made, runs, address = interface
    place = f"{address}/#/experiments/{read_json(made.layout.store)['experiment_id']}"
    with mlflow_page(address) as page:
        page.goto(f"{place}/runs/{ids_of(made, runs)[-1]}")
        page.get_by_role("columnheader", name="scored on").first.wait_for()
        page.get_by_text("slices/dev/HasAns_f1").first.wait_for()
        page.get_by_text("squad/train").first.click()
        page.get_by_text("answer_texts").first.wait_for()
        page.keyboard.press("Escape")

        page.goto(f"{place}/runs/{ids_of(made, runs)[-1]}/system-metrics")
        page.get_by_text("memory_mib").first.wait_for()

        page.goto(f"{place}/models?workflowType=machine_learning")
        page.get_by_role("link", name="QA+MCC+SC w0_8 base seed1").first.click()
        page.get_by_text("squad/dev").first.wait_for()
        page.get_by_text("auxiliary/cola/matthews").first.wait_for()


@pytest.mark.slow
def test_mlflow_shows_the_summary_with_its_tables(interface):
    made, _, address = interface
    known = MlflowClient(made.store_uri).get_experiment_by_name(made.experiment)
    (summary,) = MlflowClient(made.store_uri).search_runs(
        [known.experiment_id], "tags.kind = 'summary'"
    )
    with mlflow_page(address) as page:
        page.goto(f"{address}/#/experiments/{known.experiment_id}/runs/{summary.info.run_id}")
        page.get_by_text("Mixtures").first.wait_for()
        page.get_by_text("Show more").first.click()
        page.get_by_role("cell", name="QA+MCC+SC").first.wait_for()
        page.goto(
            f"{address}/#/experiments/{known.experiment_id}/runs/{summary.info.run_id}/artifacts"
        )
        page.get_by_text("report.html").first.wait_for()
