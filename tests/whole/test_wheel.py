"""A wheel holds all that a workflow needs, outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.workdir import ROOT


def call(folder: Path, *command: str, **variables: str) -> str:
    answer = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout
    return answer.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build a wheel from a copy of the files that git knows, so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    call(source, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", "dist", ".")
    (built,) = (source / "dist").iterdir()
    return built


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_the_workflow_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "py.typed",
        "workflow/start.yaml",
        "reporting/templates/base.html.j2",
        "share/workflow/Snakefile",
        "share/workflow/rules/common.smk",
        "share/workflow/report/workflow.rst",
        "share/workflow/profiles/default/config.yaml",
        "share/config/paper.yaml",
        "share/envs/environment.yaml",
        "share/results/published/published.csv",
    ):
        assert f"mtdnn/{name}" in names
    assert {name.split("/")[0] for name in names} == {
        "mtdnn",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }


@pytest.mark.slow
def test_a_workflow_runs_from_an_empty_folder(wheel, tmp_path):
    installed, work = tmp_path / "installed", tmp_path / "work"
    work.mkdir()
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(installed)]
    call(work, *pip, str(wheel))
    here = {"PYTHONPATH": str(installed)}
    snakefile = call(work, "-m", "mtdnn", "workflow", **here).strip()
    assert snakefile == str(installed / "mtdnn" / "share" / "workflow" / "Snakefile")
    call(work, "-m", "mtdnn", "new", "mine", **here)
    dry = ["-m", "snakemake", "-n", "-s", snakefile, "--configfile", "mine.yaml"]
    listed = call(work, *dry, **here)
    assert "train" in listed and "total" in listed
    assert str(ROOT) not in listed
