"""The workflow as a user runs it: real `snakemake` processes on a tiny experiment.

The first one and all of its jobs start as they do for a user; most later ones are forks of a
process that has imported the libraries (`tests/support/forking.py`).
"""

import copy
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mtdnn.machine.files import read_json
from mtdnn.reporting.products import FIGURES
from tests.support.browser import open_page
from tests.support.names import AWKWARD
from tests.support.workdir import EXPERIMENT, ROOT, RUNS, Workdir, make_workdir


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Workdir:
    """Run a tiny experiment from scratch."""
    workdir = make_workdir(tmp_path_factory.mktemp("finished"))
    workdir.is_forked = False
    answer = workdir.snakemake()
    assert answer.returncode == 0, answer.stdout
    return workdir


@pytest.fixture
def workdir(finished, tmp_path) -> Workdir:
    """Copy the finished experiment, for tests that change it."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    # It holds absolute paths into the original folder; the next call creates a new one.
    (tmp_path / "copy" / "results" / "mlflow.db").unlink()
    return Workdir(tmp_path / "copy")


@pytest.mark.slow
def test_one_call_writes_everything_and_a_second_does_nothing(finished):
    tables = [
        finished.results / "tables" / f"{name}.{end}"
        for name in ("table1", "gradients")
        for end in ("md", "csv", "tex")
    ]
    figures = [
        finished.results / "figures" / f"{name}.{end}"
        for name in ("figure4", *FIGURES)
        for end in ("svg", "png", "pdf")
    ]
    runs = [
        finished.results / "runs" / run / name
        for run in RUNS.values()
        for name in ("config.yaml", "metrics.json", "mlflow.json")
    ]
    others = ["cases.json", "cases.md", "report.html", "agreement.json"]
    others = [finished.results / name for name in others]
    others += [finished.results / "pages" / f"{name}.html" for name in ("table1", "cases", "runs")]
    for file in [*tables, *figures, *runs, *others, finished.folder / "results" / "mlflow.db"]:
        assert file.stat().st_size > 0, file
    assert "QA+SC" in tables[0].read_text()
    assert "| QA+SC, w 0.8 |" in (finished.results / "tables" / "gradients.md").read_text()
    for name in ("gradients", "forgetting"):
        text = (finished.results / "figures" / f"{name}.svg").read_text()
        assert "nothing to" not in text and "To turn it on" not in text
    page = (finished.results / "pages" / "interference.html").read_text()
    assert "Gradient conflict" in page and "Too few to say" in page
    verified = finished.call(sys.executable, "-m", "mtdnn", "verify", str(finished.results))
    assert verified.returncode == 0, verified.stdout
    assert "Nothing to be done" in finished.snakemake().stdout


def followers(workdir: Workdir) -> list[str]:
    """Return the commands of the processes that deliver this experiment's runs to MLflow."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (path / "cmdline").read_bytes().decode().replace("\0", " ")
            if "mtdnn sync" in command and os.readlink(path / "cwd") == str(workdir.folder):
                found.append(command)
    return found


@pytest.mark.slow
def test_live_tracking_delivers_runs_and_ends_after_snakemake(workdir):
    assert not (workdir.results / "logs" / "sync.log").exists()
    workdir.settings["tracking_live"] = True
    workdir.is_forked = False
    shutil.rmtree(workdir.results / "runs" / RUNS["qa"])
    answer = workdir.snakemake("loss")
    assert answer.returncode == 0, answer.stdout
    deadline = time.monotonic() + 60
    while followers(workdir):
        assert time.monotonic() < deadline, "the delivery did not end after snakemake"
        time.sleep(0.2)
    assert (workdir.results / "logs" / "sync.log").read_text() == ""
    run = read_json(workdir.results / "runs" / RUNS["qa"] / "mlflow.json")["run_id"]
    store = f"sqlite:///{workdir.folder / 'results' / 'mlflow.db'}"
    assert MlflowClient(store).get_run(run).info.status == "FINISHED"


def test_the_report_holds_pages_and_figures_and_needs_no_network(finished):
    with open_page() as page:
        page.goto((finished.results / "report.html").as_uri())
        page.get_by_text("A small experiment").first.wait_for()
        facts = page.locator(".prose").inner_text()
        metrics = read_json(finished.results / "runs" / RUNS["qa"] / "metrics.json")
        for fact in (
            "3 of 3",
            metrics["provenance"]["device"],
            metrics["provenance"]["corpora"]["squad"][:12],
        ):
            assert fact in facts
        page.get_by_text("Tables", exact=True).first.click()
        page.get_by_text("table1: Mixtures").locator("..").locator("a").first.click()
        table = page.frame_locator("iframe")
        link = table.locator("td a").first
        run = read_json(finished.results / "runs" / RUNS["qa"] / "mlflow.json")["run_id"]
        assert link.get_attribute("href").endswith(f"/runs/{run}")
        table.get_by_role("button", name="F1", exact=True).click()
        assert table.locator("th[aria-sort]").inner_text().startswith("F1")
        page.get_by_text("Results", exact=True).first.click()
        page.get_by_text("Figures", exact=True).first.click()
        page.get_by_text("figure4: Mixtures").locator("..").locator("a").first.click()
        page.locator("img[src*='filename=figure4.svg']").wait_for()


@pytest.mark.slow
def test_a_results_folder_may_have_a_name_with_special_characters(tmp_path):
    workdir = make_workdir(tmp_path)
    workdir.settings |= {"results": AWKWARD, "tracking_live": True, "figures": {}}
    del workdir.settings["tables"]["table2"], workdir.settings["tables"]["table1"]["rows"][1]
    answer = workdir.snakemake()
    assert answer.returncode == 0, answer.stdout
    results = tmp_path / AWKWARD / "small"
    for file in (
        "report.html",
        "agreement.json",
        "tables/table1.md",
        f"runs/{RUNS['qa']}/mlflow.json",
    ):
        assert (results / file).stat().st_size > 0, file
    assert (results / "logs" / "sync.log").read_text() == ""
    assert "Nothing to be done" in workdir.snakemake().stdout

    # The handler for failed runs writes to the same folder.
    opened = "        self._seconds = 0.0\n"
    workdir.edit(
        "training/journal.py", opened, f'{opened}        raise SystemExit("made to fail")\n'
    )
    workdir.settings["training"]["epochs"] = 2
    assert workdir.snakemake("--retries", "0").returncode != 0
    for file in ("report.html", "cases.md", "statistics.json", "figures/loss.svg"):
        assert (results / file).stat().st_mtime == 1, file
    assert "made to fail" in (results / "tables" / "table1.md").read_text()
    places = {path.name for path in tmp_path.iterdir()}
    assert places == {AWKWARD, "encoder", "package", "small.yaml", ".snakemake"}


def test_the_workflow_folder_has_a_snakefile_of_its_own(finished):
    own = ROOT / "workflow" / "Snakefile"
    answer = finished.snakemake("--dry-run", snakefile=own)
    assert answer.returncode == 0 and "Nothing to be done" in answer.stdout, answer.stdout


def test_tables_and_figures_are_targets_by_name(finished):
    # All in one call: an unknown target fails, and a missing file would be planned.
    targets = ("table1", "table2", "figure4", *FIGURES, "cases", "report", "all")
    assert finished.planned(*targets) == set()


def trained(plan: set[str]) -> set[str]:
    """Return the runs that a plan trains."""
    return {line.removeprefix("Training ") for line in plan if line.startswith("Training ")}


def evaluated(plan: set[str]) -> set[str]:
    """Return the runs that a plan evaluates."""
    return {line.removeprefix("Evaluating ") for line in plan if line.startswith("Evaluating ")}


@pytest.mark.slow
def test_a_changed_setting_retrains_only_the_runs_that_it_affects(workdir):
    workdir.settings["variants"]["longer"]["training"]["epochs"] = 3
    assert trained(workdir.planned()) == {RUNS["longer"]}
    assert trained(workdir.planned("table1")) == set()

    workdir.settings = copy.deepcopy(EXPERIMENT)
    workdir.settings["schedule"] = {"spread": "families"}
    assert trained(workdir.planned()) == set(RUNS.values())

    workdir.settings = copy.deepcopy(EXPERIMENT)
    workdir.settings["seeds"] = [1, 2]
    new = {run.replace("seed1", "seed2") for run in RUNS.values()}
    plan = workdir.planned()
    assert trained(plan) == evaluated(plan) == new


@pytest.mark.slow
def test_changed_decoding_or_labels_retrain_nothing(workdir):
    workdir.settings["decoding"] = {"n_best": 5}
    plan = workdir.planned()
    assert trained(plan) == set() and evaluated(plan) == set(RUNS.values())

    workdir.settings = copy.deepcopy(EXPERIMENT)
    workdir.settings["slices"]["dev"]["label"] = "another name"
    plan = workdir.planned()
    assert {line.split()[0] for line in plan} == {
        *("Scoring", "Logging", "Writing", "Drawing", "Checking", "Recording")
    }

    workdir.settings = copy.deepcopy(EXPERIMENT)
    workdir.settings["figures"]["figure4"]["title"] = "Another title"
    assert {line.split()[0] for line in workdir.planned()} == {
        *("Writing", "Drawing", "Checking", "Recording")
    }

    # Weights that were deleted to save space are not missed until a run must be evaluated again.
    workdir.settings = copy.deepcopy(EXPERIMENT)
    for run in RUNS.values():
        (workdir.results / "runs" / run / "model" / "model.safetensors").unlink()
    assert workdir.planned() == set()
    workdir.settings["decoding"] = {"n_best": 5}
    answer = workdir.snakemake()
    assert answer.returncode != 0 and "restore the file, or delete" in answer.stdout
    assert "Traceback" not in answer.stdout
    for run in RUNS.values():
        assert (workdir.results / "runs" / run / "predictions.parquet").exists()


@pytest.mark.slow
def test_edited_code_redoes_only_the_steps_that_run_it(workdir):
    workdir.edit("reporting/figures/registry.py", "\nfrom ", "\nUNUSED = 1\nfrom ")
    assert {line.split()[0] for line in workdir.planned()} == {
        *("Writing", "Drawing", "Checking", "Recording")
    }
    workdir.edit("reporting/figures/registry.py", "\nUNUSED = 1\n", "\n")

    workdir.edit("training/loop.py", "\ndef train(", "\n\n# Only a comment.\ndef train(")
    assert workdir.planned() == set()

    workdir.edit("training/loop.py", "\ndef train(", "\nUNUSED = 1\n\n\ndef train(")
    assert trained(workdir.planned()) == set(RUNS.values())


@pytest.mark.slow
def test_a_failed_run_does_not_stop_others_and_is_retried_later(workdir):
    rows = workdir.settings["tables"]["table1"]["rows"]
    rows += [{**rows[1], "weight": weight} for weight in (0.5, 0.6)]
    folders = [workdir.results / f"runs/tiny/qa_sc/w{w}/default/seed1" for w in (0.5, 0.6)]
    # Training runs with QA weight 0.5 fail; no fingerprint includes this module.
    opened = "        self._seconds = 0.0\n"
    broken = (
        f'{opened}        if "w0.5" in str(folder):\n'
        "            from mtdnn.errors import MtdnnError\n\n"
        '            raise MtdnnError("made to fail")\n'
    )
    workdir.edit("training/journal.py", opened, broken)

    answer = workdir.snakemake("table1", "--retries", "0")
    assert answer.returncode != 0
    assert "made to fail" in answer.stdout and "Traceback" not in answer.stdout
    assert not (folders[0] / "metrics.json").exists()
    assert (folders[1] / "metrics.json").exists()
    table = (workdir.results / "tables" / "table1.md").read_text()
    assert "–" in table and "made to fail" in table
    page = (workdir.results / "pages" / "table1.html").read_text()
    assert "–" in page and "made to fail" in page
    assert (workdir.results / "report.html").stat().st_mtime == 1

    # Without the row, the table can be written at once; with the bug fixed, the run is trained.
    assert trained(workdir.planned("table1")) == {"tiny/qa_sc/w0.5/default/seed1"}
    del rows[2]
    assert workdir.planned("table1") == {"Writing table1", "Writing the comparisons of table1"}
    rows.insert(2, {**rows[1], "weight": 0.5})
    workdir.edit("training/journal.py", broken, opened)
    answer = workdir.snakemake("table1")
    assert answer.returncode == 0, answer.stdout
    assert "made to fail" not in (workdir.results / "tables" / "table1.md").read_text()


@pytest.fixture
def elsewhere(workdir, tmp_path) -> Path:
    """Move a finished run out of the experiment, and return its new folder."""
    place = tmp_path / "elsewhere"
    shutil.move(workdir.results / "runs" / RUNS["qa_sc"], place)
    return place


def take_in(workdir: Workdir, folder: Path) -> subprocess.CompletedProcess:
    return workdir.call(sys.executable, "-m", "mtdnn", "import", "small.yaml", str(folder))


@pytest.mark.slow
def test_an_imported_run_is_not_retrained(workdir, elsewhere):
    # As on a machine that has trained nothing: no features, no corpora, no records.
    for folder in (workdir.results, workdir.folder / ".snakemake"):
        shutil.rmtree(folder)
    answer = take_in(workdir, elsewhere)
    assert answer.returncode == 0, answer.stdout
    imported = workdir.results / "runs" / RUNS["qa_sc"]
    assert not (imported / "metrics.json").exists()  # its corpora are missing, so it has no scores

    others = {RUNS["qa"], RUNS["longer"]}
    assert trained(workdir.planned()) == evaluated(workdir.planned()) == others
    del workdir.settings["tables"]["table2"]
    del workdir.settings["tables"]["table1"]["rows"][0]
    answer = workdir.snakemake()
    assert answer.returncode == 0, answer.stdout
    assert "Scoring" in answer.stdout and "Training" not in answer.stdout
    assert "Nothing to be done" in workdir.snakemake().stdout

    workdir.settings["training"]["epochs"] = 2
    answer = workdir.snakemake("--dry-run")
    assert answer.returncode != 0 and "run.json: imported, but" in answer.stdout


def test_an_import_that_does_not_match_is_refused(workdir, elsewhere):
    workdir.settings["training"]["learning_rate"] = 1e-3
    answer = take_in(workdir, elsewhere)
    assert answer.returncode == 2
    assert "training.learning_rate: is 3e-05, but 0.001 in the experiment" in answer.stdout

    workdir.settings = copy.deepcopy(EXPERIMENT)
    lines = (elsewhere / "training.jsonl").read_text().splitlines(keepends=True)
    (elsewhere / "training.jsonl").write_text("".join(lines[:-1]))
    weights = (elsewhere / "model" / "model.safetensors").read_bytes()
    (elsewhere / "model" / "model.safetensors").write_bytes(weights[:-1])
    answer = take_in(workdir, elsewhere)
    assert answer.returncode == 2
    for name in ("training.jsonl", "model/model.safetensors"):
        assert f"{elsewhere}/{name}: was changed after it was written" in answer.stdout

    (elsewhere / "model" / "run.json").unlink()
    answer = take_in(workdir, elsewhere)
    assert answer.stdout.splitlines() == [f"mtdnn: error: {elsewhere}/model/run.json: no such file"]
    assert not (workdir.results / "runs" / RUNS["qa_sc"]).exists()


def change(path: str, value: object):
    """Return a function that sets `value` at a dotted path of the experiment's settings."""

    def apply(settings: dict) -> None:
        *parents, last = path.split(".")
        for key in parents:
            settings = settings[int(key)] if isinstance(settings, list) else settings[key]
        settings[last] = value

    return apply


FILES = {
    "kind": "files",
    "format": "squad",
    "root": "gone",
    "splits": {"train": ["a"], "dev": ["b"]},
}


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (change("trainig", {}), "trainig: unknown key; did you mean 'training'?"),
        (
            change("tables.table1.rows.1.mixture", "qa_cs"),
            "tables.table1.rows.1.mixture: unknown name 'qa_cs'; did you mean 'qa_sc'?",
        ),
        (
            change("results", "all {results}"),
            "results: should be a path without a leading dash, line breaks and { } ? ' \\, "
            "not 'all {results}'",
        ),
        (
            change("tables.table1.rows.1.weight", 1.2),
            "tables.table1.rows.1.weight: must be at most 1, not 1.2",
        ),
        (
            change("training.learning_rate", "fast"),
            "training.learning_rate: must be a number, not 'fast'",
        ),
        (
            change("corpora.squad.source", FILES),
            "corpora.squad.source.root: no such folder: gone",
        ),
        (change("data_root", "gone"), None),
        (
            change("encoders.tiny.source.path", "gone"),
            "encoders.tiny.source.path: no such folder: gone",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line_before_anything_starts(tmp_path, mistake, message):
    workdir = Workdir(tmp_path)
    (tmp_path / "encoder").mkdir()
    mistake(workdir.settings)
    if message is None:
        workdir.settings["corpora"]["squad"]["source"] = {**FILES, "root": "squad"}
        message = "data_root: no such folder: gone; set it, or the environment variable MTDNN_DATA"
    answer = workdir.snakemake()
    assert answer.returncode != 0
    lines = [line for line in answer.stdout.splitlines() if not line.startswith("Using ")]
    place = re.match(r"mtdnn: error: small\.yaml: line (\d+): ", lines[0])
    assert place and lines == [f"{place[0]}{message}"]
    written = (tmp_path / "small.yaml").read_text().splitlines()[int(place[1]) - 1]
    assert message.partition(": ")[0].rpartition(".")[2] in written
    assert not (tmp_path / "results").exists()
