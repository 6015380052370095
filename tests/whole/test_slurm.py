"""The workflow on a real SLURM: what goes wrong on a cluster costs time and no result.

Trainings are stopped in their middle by a change of `Progress` in the workdir's copy of the
package, which counts for nothing in a run's fingerprint, so that each failure comes at a known
moment. Everything else is as users have it.
"""

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, sha256
from tests.support.slurm import ONE_CORE, QUICK, Slurm, missing
from tests.support.workdir import EXPERIMENT, ROOT, Workdir, make_workdir

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM: {missing()}"),
]
RUN = "tiny/qa/w1.0/default/seed1"
TRAINED = f"results/small/runs/{RUN}/model/run.json"
SETTINGS = {
    **copy.deepcopy(EXPERIMENT),
    "training": {"epochs": 25, "batch_size": 4},
    "variants": {"longer": {"label": "longer", "training": {"epochs": 26}}},
    "figures": {},
}
STARTED: list[subprocess.Popen] = []
# Of the 150 steps of a run.
MIDDLE = 80
PATIENCE_SECONDS = 600
STOPS = f"""
    if done == {MIDDLE}:
        for name in NAMES:
            try:
                with open(name, "x") as file:
                    file.write(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
                break
            except FileExistsError:
                continue
"""
ONE_STOPS, TWO_STOP = STOPS.replace("NAMES", "['one']"), STOPS.replace("NAMES", "['one', 'two']")
GROWS = f"""
    if done >= {MIDDLE} and not hasattr(Progress, "kept"):
        Progress.kept = b"x" * 900_000_000
        time.sleep(6)
"""


class ClusterWorkdir(Workdir):
    """A workdir whose jobs go to the cluster, and keep checkpoints often."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "MTDNN_CHECKPOINT_MINUTES": "0.002"}

    def in_the_middle(self, what: str) -> None:
        """Let trainings do `what` after each step."""
        self.edit("machine/progress.py", "+= units\n", "+= units\n        _middle(self._done)\n")
        with open(self.folder / "package/mtdnn/progress.py", "a", encoding="utf-8") as file:
            file.write(f"\n\nimport os\nimport signal\n\n\ndef _middle(done):{what}")

    def start(
        self, *arguments: str, profile: str = "slurm", cores: Sequence[str] = ONE_CORE
    ) -> subprocess.Popen:
        (self.folder / "small.yaml").write_text(yaml.safe_dump(self.settings, sort_keys=False))
        command = [sys.executable, "-m", "snakemake", *arguments]
        command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "small.yaml"]
        command += ["--workflow-profile", str(ROOT / "profiles" / profile)]
        command += [*QUICK[profile], *cores]
        with open(self.folder / "output", "a") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdout=output, stderr=output
            )
        STARTED.append(process)
        return process

    @property
    def output(self) -> str:
        """What every Snakemake has said here."""
        return (self.folder / "output").read_text()

    @property
    def log(self) -> str:
        """The log of the run's latest training."""
        return (self.results / "logs" / "train" / f"{RUN}.log").read_text()

    def tables(self) -> dict[str, str]:
        """All tables; how long the training took is left out."""
        return {
            path.name: re.sub(r"training time .*", "", path.read_text())
            for path in sorted((self.results / "tables").iterdir())
        }

    def weights(self) -> list[str]:
        folder = self.results / "runs" / RUN / "model"
        return [sha256(folder / f"{name}.safetensors") for name in ("model", "heads")]


@dataclass
class Trouble:
    """A training, its Snakemake, and the SLURM job that meets with trouble."""

    workdir: ClusterWorkdir
    process: subprocess.Popen
    job: str = ""


def wait_until(condition, what: str, process: subprocess.Popen, workdir: ClusterWorkdir) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, f"{what}: Snakemake has ended\n{workdir.output}"
        assert time.monotonic() < deadline, f"{what}: waited too long\n{workdir.output}"
        time.sleep(0.1)


def in_training(workdir: ClusterWorkdir) -> list[int]:
    """Processes that hold a run."""
    numbers = []
    for holder in workdir.results.glob("state/*/holder.json"):
        with suppress(MtdnnError):  # it ends just now
            numbers.append(read_json(holder)["process"])
    return numbers


def stopped(workdir: ClusterWorkdir, process: subprocess.Popen, name: str = "one") -> int:
    """Wait until a training stands in its middle; returns its process."""
    file = workdir.folder / name
    wait_until(lambda: file.exists() and file.read_text(), "training stops", process, workdir)
    number = int(file.read_text())
    status = Path(f"/proc/{number}/status")
    wait_until(lambda: "T (stopped)" in status.read_text(), "it stands", process, workdir)
    return number


def finish(process: subprocess.Popen, workdir: ClusterWorkdir) -> None:
    assert process.wait(timeout=PATIENCE_SECONDS) == 0, workdir.output


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster
        for process in STARTED:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def from_nothing(slurm, tmp_path_factory) -> Trouble:
    """The experiment as the cluster makes it; two of its trainings stop in their middle."""
    folder = tmp_path_factory.mktemp("from_nothing")
    make_workdir(folder)
    workdir = ClusterWorkdir(folder)
    workdir.settings = copy.deepcopy(SETTINGS)
    workdir.in_the_middle(TWO_STOP)
    return Trouble(workdir, workdir.start("table1", "table2", "--slurm-keep-successful-logs"))


@pytest.fixture(scope="module")
def undisturbed(from_nothing, tmp_path_factory) -> ClusterWorkdir:
    """The experiment as this machine alone makes it, at the same time."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_workdir(folder)
    workdir = ClusterWorkdir(folder)
    workdir.settings = copy.deepcopy(SETTINGS)
    finish(workdir.start("table1", "table2", profile="default"), workdir)
    return workdir


def untrained(undisturbed: ClusterWorkdir, folder: Path) -> ClusterWorkdir:
    """The experiment with everything that comes before one run's training."""
    shutil.copytree(undisturbed.folder, folder)
    (folder / "output").unlink()
    workdir = ClusterWorkdir(folder)
    workdir.settings = copy.deepcopy(SETTINGS)
    for name in ("model", "training.jsonl", "predictions.parquet", "metrics.json"):
        path = workdir.results / "runs" / RUN / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return workdir


def environment(process: int) -> dict[str, str]:
    content = Path(f"/proc/{process}/environ").read_text()
    return dict(entry.split("=", 1) for entry in content.split("\0") if "=" in entry)


@pytest.fixture(scope="module")
def shared_gpus(from_nothing, undisturbed, slurm) -> tuple[list[str], list[str]]:
    """States of the trainings' jobs while two of them stand still, and what GPUs these see."""
    workdir, process = from_nothing.workdir, from_nothing.process
    numbers = [stopped(workdir, process, name) for name in ("one", "two")]
    wait_until(lambda: len(slurm.of(workdir.folder, "train")) == 3, "a third job", process, workdir)
    states = [job["state"] for job in slurm.of(workdir.folder, "train")]
    devices = [environment(number)["CUDA_VISIBLE_DEVICES"] for number in numbers]
    for number in numbers:
        os.kill(number, signal.SIGCONT)
    return sorted(states), sorted(devices)


@pytest.fixture(scope="module")
def troubles(shared_gpus, undisturbed, slurm, tmp_path_factory) -> dict[str, Trouble]:
    """All the trouble of the tests below, at the same time: most of it is waiting."""

    def begin(name: str, middle: str, profile: str = "slurm", **resources: str) -> Trouble:
        workdir = untrained(undisturbed, tmp_path_factory.mktemp(name) / "workdir")
        workdir.in_the_middle(middle)
        resources = {"gpu": "0", **resources}
        wanted = [f"train:{key}={value}" for key, value in resources.items()]
        process = workdir.start(TRAINED, "--set-resources", *wanted, profile=profile)
        return Trouble(workdir, process)

    late = begin("time", ONE_STOPS, runtime="attempt")
    stopped(late.workdir, late.process)  # before the others are begun: it has a minute for that
    begun = {
        "time": late,
        "cancelled": begin("cancelled", ONE_STOPS),
        "generic": begin("generic", ONE_STOPS, profile="slurm-generic"),
        "requeued": begin("requeued", ONE_STOPS),
        "killed": begin("killed", ONE_STOPS),
        "memory": begin("memory", GROWS, mem_mb="1200*attempt"),
    }
    for name in ("cancelled", "generic", "requeued", "killed"):
        trouble = begun[name]
        stopped(trouble.workdir, trouble.process)
        trouble.job = slurm.of(trouble.workdir.folder)[0]["id"]
    slurm.call("scancel", begun["cancelled"].job, begun["generic"].job)
    slurm.call("scontrol", "requeue", begun["requeued"].job)
    begun["killed"].process.kill()
    return begun


def test_each_training_has_a_gpu_of_its_own(shared_gpus):
    # Two GPUs and three runs: the third waits.
    assert shared_gpus == (["PENDING", "RUNNING", "RUNNING"], ["0", "1"])


def test_from_nothing_to_the_same_tables(from_nothing, troubles, undisturbed, slurm):
    workdir = from_nothing.workdir
    finish(from_nothing.process, workdir)
    assert workdir.tables() == undisturbed.tables()

    jobs = slurm.of(workdir.folder)
    assert {job["comment"].split("_wildcards")[0] for job in jobs} == {
        *("rule_features", "rule_train", "rule_evaluate")
    }
    trainings = [slurm.details(job["id"]) for job in slurm.of(workdir.folder, "train")]
    assert [job["TresPerJob"] for job in trainings] == ["gres:gpu:1"] * 3
    for job in jobs:
        assert list((workdir.folder / ".snakemake/slurm_logs").rglob(f"{job['id']}.log")), job


@pytest.mark.parametrize("name", ["cancelled", "generic"])
def test_a_cancelled_job(name, troubles, undisturbed, slurm):
    trouble = troubles[name]
    finish(trouble.process, trouble.workdir)
    states = [job["state"] for job in slurm.of(trouble.workdir.folder)]
    assert states == ["CANCELLED", "COMPLETED"]
    assert f"goes on after {MIDDLE + 1} steps" in trouble.workdir.log
    assert trouble.workdir.weights() == undisturbed.weights()


def test_a_requeued_job(troubles, undisturbed, slurm):
    trouble = troubles["requeued"]
    finish(trouble.process, trouble.workdir)
    details = slurm.details(trouble.job)
    assert (details["JobState"], details["Restarts"]) == ("COMPLETED", "1")
    assert len(slurm.of(trouble.workdir.folder)) == 1
    assert f"goes on after {MIDDLE + 1} steps" in trouble.workdir.log
    assert trouble.workdir.weights() == undisturbed.weights()


def test_a_killed_snakemake_never_leads_to_two_writers(troubles, undisturbed, slurm):
    trouble = troubles["killed"]
    workdir = trouble.workdir
    trouble.process.wait()
    training = int((workdir.folder / "one").read_text())
    assert workdir.start("--unlock").wait() == 0
    process = workdir.start(TRAINED, "--set-resources", "train:gpu=0")
    wait_until(lambda: "waiting for it" in workdir.log, "the second job waits", process, workdir)
    jobs = slurm.of(workdir.folder)
    assert [job["state"] for job in jobs] == ["RUNNING", "RUNNING"]
    assert in_training(workdir) == [training]
    os.kill(training, signal.SIGCONT)
    finish(process, workdir)
    jobs = slurm.of(workdir.folder)
    assert (jobs[0]["id"], jobs[1]["state"]) == (trouble.job, "COMPLETED")
    assert "goes on after" not in workdir.log
    steps = (workdir.results / "runs" / RUN / "training.jsonl").read_text().splitlines()
    assert len(steps) == read_json(workdir.folder / TRAINED)["provenance"]["steps"]
    assert workdir.weights() == undisturbed.weights()


def test_a_job_over_its_memory(troubles, undisturbed, slurm):
    trouble = troubles["memory"]
    finish(trouble.process, trouble.workdir)
    jobs = slurm.of(trouble.workdir.folder)
    assert [(job["state"], job["memory"]) for job in jobs] == [
        ("FAILED", "1200M"),
        ("COMPLETED", "2400M"),
    ]
    assert "goes on after" in trouble.workdir.log
    assert trouble.workdir.weights() == undisturbed.weights()


def test_a_job_over_its_time(troubles, undisturbed, slurm):
    trouble = troubles["time"]
    finish(trouble.process, trouble.workdir)
    jobs = slurm.of(trouble.workdir.folder)
    assert [(job["state"], job["limit"]) for job in jobs] == [
        ("TIMEOUT", "1:00"),
        ("COMPLETED", "2:00"),
    ]
    assert f"goes on after {MIDDLE + 1} steps" in trouble.workdir.log
    assert trouble.workdir.weights() == undisturbed.weights()


def test_a_node_that_fails(undisturbed, slurm, tmp_path):
    workdir = untrained(undisturbed, tmp_path / "workdir")
    workdir.in_the_middle(ONE_STOPS)
    process = workdir.start(TRAINED)
    training = stopped(workdir, process)
    slurm.call("scontrol", "update", f"NodeName={slurm.node}", "State=DOWN", "Reason=test")
    os.kill(training, signal.SIGKILL)  # as without power
    wait_until(lambda: not Path(f"/proc/{training}").exists(), "it is gone", process, workdir)
    slurm.call("scontrol", "update", f"NodeName={slurm.node}", "State=RESUME")
    finish(process, workdir)
    assert "goes on after" in workdir.log
    assert workdir.weights() == undisturbed.weights()


def test_a_run_of_two_gpus_asks_for_two(undisturbed, slurm, tmp_path):
    workdir = untrained(undisturbed, tmp_path / "workdir")
    workdir.settings["training"] |= {"gpus": 2, "epochs": 1}
    finish(workdir.start(TRAINED, cores=()), workdir)
    (job,) = slurm.of(workdir.folder, "train")
    details = slurm.details(job["id"])
    asked = [details[key] for key in ("TresPerJob", "NumCPUs", "NumNodes", "MinMemoryNode")]
    assert asked == ["gres:gpu:2", "8", "1", "6000M"]
