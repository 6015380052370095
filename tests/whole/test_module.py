"""The workflow imported as a module by another workflow, as Snakemake's documentation shows it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.workdir import EXPERIMENT, ROOT, Workdir, make_workdir

OUTER = """
configfile: "outer.yaml"


module mtdnn:
    snakefile:
        {snakefile!r}
    config:
        config["pipeline"]


use rule * from mtdnn{renamed}


rule everything:
    default_target: True
    input:
        "results/small/tables/table1.md",
        "results/small/report.html",
    output:
        "copied.md",
    shell:
        "cp {{input[0]}} {{output}}"
"""


def outer(workdir: Workdir, renamed: str, *options: str) -> subprocess.CompletedProcess:
    """Run a workflow of another project that imports ours."""
    snakefile = str(ROOT / "workflow" / "Snakefile")
    text = OUTER.format(snakefile=snakefile, renamed=renamed)
    (workdir.folder / "Snakefile").write_text(text)
    settings = yaml.safe_dump({"unrelated": 1, "pipeline": EXPERIMENT}, sort_keys=False)
    (workdir.folder / "outer.yaml").write_text(settings)
    return workdir.call(sys.executable, "-m", "snakemake", "--cores", "2", *options)


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Workdir:
    """Run the workflow as a module without a prefix."""
    workdir = make_workdir(tmp_path_factory.mktemp("module"))
    answer = outer(workdir, "")
    assert answer.returncode == 0, answer.stdout
    return workdir


@pytest.mark.slow
def test_a_module_runs_to_its_report(imported):
    assert "QA+SC" in (imported.folder / "copied.md").read_text()
    assert (imported.results / "report.html").stat().st_size > 0
    assert "Nothing to be done" in outer(imported, "").stdout


@pytest.mark.slow
def test_a_module_with_a_prefix_takes_what_is_there(imported, tmp_path):
    folder = Path(shutil.copytree(imported.folder, tmp_path / "copy"))
    (folder / "results" / "small" / "tables" / "table1.md").unlink()
    (folder / "copied.md").unlink()
    answer = outer(Workdir(folder), " as paper_*")
    assert answer.returncode == 0, answer.stdout
    assert re.search(r"^paper_table +1$", answer.stdout, re.MULTILINE)
    assert "paper_train" not in answer.stdout
    assert "localrules directive" not in answer.stdout
    assert "QA+SC" in (folder / "copied.md").read_text()


@pytest.mark.slow
def test_a_mistake_in_the_settings_of_a_module_is_one_line(imported, tmp_path):
    folder = Path(shutil.copytree(imported.folder, tmp_path / "copy"))
    snakefile = (folder / "Snakefile").read_text().replace('config["pipeline"]', "{'seeds': [1]}")
    (folder / "Snakefile").write_text(snakefile)
    answer = Workdir(folder).call(sys.executable, "-m", "snakemake", "--cores", "2")
    assert answer.returncode != 0
    assert "mtdnn: error: config of the module: experiment: is missing" in answer.stdout
    assert "Traceback" not in answer.stdout
