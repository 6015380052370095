"""The files by which strangers judge, cite and run the project agree with its code."""

import re
from pathlib import Path

import pytest
import yaml

import mtdnn
from mtdnn.config.loading import load

ROOT = Path(__file__).parents[1]


def read(name: str):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_has_the_version_and_licence_of_the_package():
    citation = read("CITATION.cff")
    assert citation["version"] == mtdnn.__version__
    assert f"license = {citation['license']}\n" in (ROOT / "setup.cfg").read_text()
    assert (ROOT / "LICENSE").read_text().startswith(f"{citation['license']} License")


def test_the_newest_entry_of_the_changelog_is_this_version_or_not_released_yet():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert newest in (mtdnn.__version__, "Unreleased")


@pytest.mark.parametrize("workflow", ["tests", "environments"])
def test_public_checks_run_what_is_here(workflow):
    jobs = read(f".github/workflows/{workflow}.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    for word in " ".join(commands).split():
        if word.startswith(("envs/", ".ci/")):
            assert (ROOT / word).exists(), word


def test_the_tiny_run_of_the_catalog_is_valid():
    """The workflow catalog expects it in this place; its README has the command."""
    experiment = load(ROOT / ".test/config/config.yaml")
    assert len(experiment.runs()) == 2
    assert "--configfile .test/config/config.yaml" in (ROOT / ".test/README.md").read_text()


def test_the_catalog_names_a_config_that_exists():
    usage = read(".snakemake-workflow-catalog.yml")["usage"]
    assert (ROOT / usage["mandatory-flags"]["flags"].split()[-1]).exists()
