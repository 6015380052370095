"""Made-up experiments that several tests read."""

import pytest

from mtdnn.config.layout import RunId
from mtdnn.machine.files import write_json
from mtdnn.reporting import products
from tests.support.answers import HOSTILE_MARKUP, make
from tests.support.factories import fail_run, make_experiment, make_run
from tests.support.targets import CLASSIFIED_NOTE, make_targets


@pytest.fixture(scope="session")
def answered(tmp_path_factory):
    """Table 2 with three seeds whose answers differ from the baseline's in every way."""
    return make(tmp_path_factory.mktemp("answered"), seeds=(1, 2, 3))


@pytest.fixture(scope="session")
def classified(tmp_path_factory):
    """Targets of sequence classification, one scored on SNLI, too; a table has a note."""
    rows = {
        "nli": [("mnli", []), ("mnli", ["squad"]), ("mnli", ["swag", "cola"])],
        "cola": [("cola", []), ("cola", ["mnli"])],
    }
    experiment = make_targets(tmp_path_factory.mktemp("classified"), rows, evaluate_on=["snli"])
    tables = dict(experiment.tables)
    tables["nli"] = tables["nli"].model_copy(update={"note": CLASSIFIED_NOTE})
    experiment = experiment.model_copy(update={"tables": tables})
    write_products(experiment)
    return experiment


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """A table whose rows have three targets, of two families."""
    rows = [("squad", []), ("squad", ["mnli"]), ("mnli", []), ("mnli", ["squad"]), ("cola", [])]
    experiment = make_targets(tmp_path_factory.mktemp("mixed"), {"targets": rows})
    write_products(experiment)
    return experiment


@pytest.fixture(scope="session")
def scored_and_tagged(tmp_path_factory):
    """Targets of regression and token classification, also as auxiliaries; one table has both."""
    rows = {
        "similarity": [("stsb", []), ("stsb", ["squad"])],
        "entities": [("wnut", []), ("wnut", ["stsb", "mnli"])],
        "questions": [("squad", []), ("squad", ["stsb", "wnut"])],
        "targets": [("stsb", []), ("wnut", []), ("squad", [])],
    }
    experiment = make_targets(tmp_path_factory.mktemp("scored_and_tagged"), rows)
    write_products(experiment)
    return experiment


def write_products(experiment):
    """Write every product but the figures."""
    for table in experiment.tables:
        products.write_comparisons(experiment, table)
        products.write_table(experiment, table)
    products.write_interference(experiment)
    products.write_cases(experiment)
    for page in [*experiment.tables, *products.PAGES]:
        products.write_page(experiment, page)
    products.write_summary(experiment)


@pytest.fixture(scope="session")
def unfinished(tmp_path_factory):
    """Two seeds, but one run was killed and one never started; all pages; a hostile title."""
    experiment = make_experiment(
        tmp_path_factory.mktemp("unfinished"), seeds=[1, 2], title=HOSTILE_MARKUP
    )
    for number, run in enumerate(experiment.runs()):
        if run == RunId("base", "qa_sc", 0.8, "default", 2):
            fail_run(experiment, run, "train", f"killed {HOSTILE_MARKUP}")
        elif run.encoder != "large" or run.seed == 1:
            folder = make_run(experiment, run, em=70 + 0.1 * number)
            write_json(folder / "mlflow.json", {"run_id": f"run{number}"})
    write_json(experiment.layout.store, {"experiment_id": "7"})
    write_json(experiment.layout.cases("json"), {"reason": "No predictions were made."})
    for page in [*experiment.tables, *products.PAGES]:
        products.write_page(experiment, page)
    return experiment
