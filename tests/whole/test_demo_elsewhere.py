"""The whole demo without a network and on a cluster, with the same tables.

config/demo.yaml is run twice, unchanged and from scratch: with the profile `default`, the network
cut off after `mtdnn fetch`, and with the profile `slurm` on a real SLURM. Each takes two cores for
about eight minutes, one thread for each run:

    python -m pytest -m patient tests/whole/test_demo_elsewhere.py
"""

import re
import sys
from pathlib import Path

import pytest

from mtdnn.machine.files import sha256
from tests.support.airgap import CUT_OFF, NAMESPACE, WITHOUT, call, exports
from tests.support.slurm import ONE_CORE, QUICK, Slurm, missing
from tests.support.workdir import ROOT

pytestmark = [pytest.mark.patient, pytest.mark.slow]
DEMO = str(ROOT / "config" / "demo.yaml")


def demo(folder: Path, profile: str, *before: str, **variables: str) -> Path:
    """Run the demo from scratch in a new folder, and return the folder of its results.

    Args:
        before: command that runs Snakemake, for instance in a network namespace.
        variables: environment variables to add.
    """
    folder.mkdir()
    answer = call(
        folder,
        *(*before, sys.executable, "-m", "snakemake", "--configfile", DEMO),
        *("--snakefile", str(ROOT / "Snakefile")),
        *("--workflow-profile", str(ROOT / "profiles" / profile)),
        *(*QUICK[profile], *ONE_CORE),
        **variables,
    )
    assert answer.returncode == 0, answer.stdout
    return folder / "results" / "demo"


def tables(results: Path) -> dict[str, str]:
    """Return all tables and comparisons without training times."""
    return {
        str(path.relative_to(results)): re.sub(r"training time .*", "", path.read_text())
        for folder in ("tables", "comparisons")
        for path in sorted((results / folder).iterdir())
    }


def weights(results: Path) -> dict[str, str]:
    """Return the digest of every run's weights."""
    paths = sorted((results / "runs").glob("**/model/*.safetensors"))
    return {str(path.relative_to(results)): sha256(path) for path in paths}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory) -> dict[str, str]:
    """Fetch what the demo downloads, and return the environment variables that name the folder."""
    folder = tmp_path_factory.mktemp("fetched")
    answer = call(folder, sys.executable, "-m", "mtdnn", "fetch", DEMO, "downloads")
    if answer.returncode:
        pytest.skip(f"the demo's encoder cannot be fetched: {answer.stdout}")
    return exports(answer.stdout)


@pytest.fixture(scope="module")
def cut_off(fetched, tmp_path_factory) -> Path:
    """Run the demo on this machine without a network."""
    if not CUT_OFF:
        pytest.skip(WITHOUT)
    folder = tmp_path_factory.mktemp("cut_off")
    encoder = (*NAMESPACE, sys.executable, "-m", "mtdnn", "encoder", DEMO, "base")
    assert call(folder, *encoder).returncode == 2  # it can no longer be fetched
    return demo(folder / "workdir", "default", *NAMESPACE, **fetched)


def test_the_demo_runs_without_a_network(cut_off):
    assert (cut_off / "report.html").stat().st_size > 100_000
    assert len(weights(cut_off)) == 18
    assert {"tables/table1.md", "tables/table2.md", "tables/table3.md"} < tables(cut_off).keys()


@pytest.mark.slurm
@pytest.mark.skipif(bool(missing()), reason=f"no SLURM: {missing()}")
def test_the_cluster_produces_the_same_tables(cut_off, fetched, tmp_path_factory):
    # Two CPUs and two GPUs, so that no more jobs run at once than without the cluster.
    with Slurm(tmp_path_factory.mktemp("slurm"), gpus=2, cpus=2) as slurm:
        results = demo(tmp_path_factory.mktemp("cluster") / "workdir", "slurm", **fetched)
        trainings = slurm.of(results.parents[1], "train")
    assert [job["state"] for job in trainings] == ["COMPLETED"] * 9
    assert tables(results) == tables(cut_off)
    assert weights(results) == weights(cut_off)
