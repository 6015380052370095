"""Made-up experiments that several tests read."""

import pytest

from mtdnn.config.layout import RunId
from mtdnn.machine.files import write_json
from mtdnn.reporting import products
from tests.support.answers import HOSTILE_MARKUP, make
from tests.support.factories import fail_run, make_experiment, make_run


@pytest.fixture(scope="session")
def answered(tmp_path_factory):
    """Table 2 with three seeds whose answers differ from the baseline's in every way."""
    return make(tmp_path_factory.mktemp("answered"), seeds=(1, 2, 3))


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
