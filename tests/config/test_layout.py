"""The layout of results: names of files, the order of steps, the way back from a run's folder."""

from pathlib import Path

import pytest

from mtdnn.config.layout import DESCRIPTION, STEPS, WEIGHTS, Layout, RunFolder, RunId, outdated_by

RUN = RunId("base", "qa_sc", 0.8, "default", 1)


@pytest.mark.parametrize(
    ("weight", "folder"), [(1.0, "w1.0"), (0.8, "w0.8"), (0.95, "w0.95"), (0.123456, "w0.123456")]
)
def test_a_run_s_folder_shows_its_weight_in_the_shortest_form(weight, folder):
    assert RunId("base", "qa", weight, "longer", 7).path == f"base/qa/{folder}/longer/seed7"


def test_a_run_s_folder_leads_back_to_its_experiment():
    layout = Layout(Path("results/demo"))
    assert Layout.of_run(layout.run(RUN)) == layout


def test_a_file_is_a_name_of_the_class_and_a_path_of_a_folder():
    assert RunFolder.metrics == "metrics.json"
    assert RunFolder(Path("run")).metrics == Path("run/metrics.json")
    assert RunFolder.description == f"{RunFolder.model}/{DESCRIPTION}"
    assert RunFolder(Path("run")).weights() == [Path("run/model", name) for name in WEIGHTS]


def test_new_products_of_a_step_outdate_those_of_later_steps_and_a_failure():
    assert outdated_by("metrics") == [RunFolder.failure]
    assert outdated_by("evaluate") == [RunFolder.failure, RunFolder.metrics]
    every = [name for products in STEPS.values() for name in products]
    assert [*STEPS["schedule"], *outdated_by("schedule")[1:]] == every
    assert len(set(every)) == len(every)
    assert RunFolder.failure not in every and RunFolder.config not in every


def test_no_two_paths_of_an_experiment_are_the_same():
    layout = Layout(Path("results/demo"))
    same = "name"
    paths = [
        layout.experiment,
        layout.encoder(same),
        layout.corpus(same),
        layout.features(same, same, same),
        layout.run(RUN),
        layout.state(same),
        layout.table(same, "md"),
        layout.figure(same, "svg"),
        layout.statistics(same),
        layout.comparison(same, "md"),
        layout.page(same),
        layout.all_statistics,
        layout.cases("md"),
        layout.summary,
        layout.report,
        layout.store,
        layout.agreement,
    ]
    assert len(set(paths)) == len(paths)
    assert all(layout.root in path.parents for path in paths)
