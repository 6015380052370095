"""The workflow on a real SLURM: trouble on a cluster costs time but changes no result.

Each trouble comes at a known moment: training is stopped halfway by a change to `Progress` in the
copy of the package, which is not part of a run's fingerprint. Everything else is as users have it.
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
STOP_AFTER_STEPS = 80  # of the 150 of a run
TIMEOUT_SECONDS = 600
STOPS = f"""
    if done == {STOP_AFTER_STEPS}:
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
    if done >= {STOP_AFTER_STEPS} and not hasattr(Progress, "kept"):
        Progress.kept = b"x" * 900_000_000
        time.sleep(6)
"""


class ClusterWorkdir(Workdir):
    """A working directory whose jobs run on the cluster and write checkpoints often."""

    is_forked = False  # a job belongs to its cluster

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "MTDNN_CHECKPOINT_MINUTES": "0.002"}

    def after_each_step(self, code: str) -> None:
        """Make training run `code` after each step."""
        module = "machine/progress.py"
        self.edit(module, "+= units\n", "+= units\n        _after_step(self._done)\n")
        with open(self.folder / "package/mtdnn" / module, "a", encoding="utf-8") as file:
            file.write(f"\n\nimport os\nimport signal\n\n\ndef _after_step(done):{code}")

    def start(
        self, *arguments: str, profile: str = "slurm", cores: Sequence[str] = ONE_CORE
    ) -> subprocess.Popen:
        """Start Snakemake; its output is added to the file `output`."""
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
        """The output of every Snakemake that ran here."""
        return (self.folder / "output").read_text()

    @property
    def log(self) -> str:
        """The log of the last time the run was trained."""
        return (self.results / "logs" / "train" / f"{RUN}.log").read_text()

    def tables(self) -> dict[str, str]:
        """Return all tables without training times."""
        return {
            path.name: re.sub(r"training time .*", "", path.read_text())
            for path in sorted((self.results / "tables").iterdir())
        }

    def weights(self) -> list[str]:
        """Return the digests of the run's weights."""
        folder = self.results / "runs" / RUN / "model"
        return [sha256(folder / f"{name}.safetensors") for name in ("model", "heads")]


@dataclass
class Trouble:
    """A Snakemake and the SLURM job that trains its run, which runs into trouble."""

    workdir: ClusterWorkdir
    process: subprocess.Popen
    job: str = ""


def wait_until(condition, what: str, process: subprocess.Popen, workdir: ClusterWorkdir) -> None:
    """Wait for a condition; fail if Snakemake ends first."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert process.poll() is None, f"{what}: Snakemake has ended\n{workdir.output}"
        assert time.monotonic() < deadline, f"{what}: waited too long\n{workdir.output}"
        time.sleep(0.1)


def in_training(workdir: ClusterWorkdir) -> list[int]:
    """Return the processes that are training a run."""
    numbers = []
    for holder in workdir.results.glob("state/runs/*/holder.json"):
        with suppress(MtdnnError):  # it has just ended
            numbers.append(read_json(holder)["process"])
    return numbers


def stopped(workdir: ClusterWorkdir, process: subprocess.Popen, name: str = "one") -> int:
    """Wait until a training run has stopped halfway, and return its process."""
    file = workdir.folder / name
    wait_until(lambda: file.exists() and file.read_text(), "training stops", process, workdir)
    number = int(file.read_text())
    status = Path(f"/proc/{number}/status")
    wait_until(
        lambda: "T (stopped)" in status.read_text(), "the process is stopped", process, workdir
    )
    return number


def finish(process: subprocess.Popen, workdir: ClusterWorkdir) -> None:
    assert process.wait(timeout=TIMEOUT_SECONDS) == 0, workdir.output


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster
        for process in STARTED:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def from_scratch(slurm, tmp_path_factory) -> Trouble:
    """Start the whole experiment on the cluster; two of its training runs stop halfway."""
    folder = tmp_path_factory.mktemp("from_scratch")
    make_workdir(folder)
    workdir = ClusterWorkdir(folder)
    workdir.settings = copy.deepcopy(SETTINGS)
    workdir.after_each_step(TWO_STOP)
    return Trouble(workdir, workdir.start("table1", "table2", "--slurm-keep-successful-logs"))


@pytest.fixture(scope="module")
def undisturbed(from_scratch, tmp_path_factory) -> ClusterWorkdir:
    """Run the same experiment without the cluster, at the same time."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_workdir(folder)
    workdir = ClusterWorkdir(folder)
    workdir.settings = copy.deepcopy(SETTINGS)
    workdir.is_forked = True
    finish(workdir.start("table1", "table2", profile="default"), workdir)
    return workdir


def untrained(undisturbed: ClusterWorkdir, folder: Path) -> ClusterWorkdir:
    """Copy the experiment and delete the products of training one run."""
    shutil.copytree(undisturbed.folder, folder)
    (folder / "output").unlink()
    workdir = ClusterWorkdir(folder)
    workdir.settings = copy.deepcopy(SETTINGS)
    for name in ("model", "training.jsonl", "predictions.parquet", "metrics.json"):
        path = workdir.results / "runs" / RUN / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return workdir


def environment(process: int) -> dict[str, str]:
    """Return the environment of a process."""
    content = Path(f"/proc/{process}/environ").read_text()
    return dict(entry.split("=", 1) for entry in content.split("\0") if "=" in entry)


@pytest.fixture(scope="module")
def shared_gpus(from_scratch, undisturbed, slurm) -> tuple[list[str], list[str]]:
    """Return the states of the jobs while two training runs are stopped, and the GPUs of these."""
    workdir, process = from_scratch.workdir, from_scratch.process
    numbers = [stopped(workdir, process, name) for name in ("one", "two")]
    wait_until(lambda: len(slurm.of(workdir.folder, "train")) == 3, "a third job", process, workdir)
    states = [job["state"] for job in slurm.of(workdir.folder, "train")]
    devices = [environment(number)["CUDA_VISIBLE_DEVICES"] for number in numbers]
    for number in numbers:
        os.kill(number, signal.SIGCONT)
    return sorted(states), sorted(devices)


@pytest.fixture(scope="module")
def troubles(shared_gpus, undisturbed, slurm, tmp_path_factory) -> dict[str, Trouble]:
    """Start all the trouble of the tests below at the same time, because most of it is waiting."""

    def begin(name: str, middle: str, profile: str = "slurm", **resources: str) -> Trouble:
        workdir = untrained(undisturbed, tmp_path_factory.mktemp(name) / "workdir")
        workdir.after_each_step(middle)
        resources = {"gpu": "0", **resources}
        wanted = [f"train:{key}={value}" for key, value in resources.items()]
        process = workdir.start(TRAINED, "--set-resources", *wanted, profile=profile)
        return Trouble(workdir, process)

    late = begin("time", ONE_STOPS, runtime="attempt")
    stopped(late.workdir, late.process)  # before the others start: this job has a minute
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


def test_each_training_run_has_its_own_gpu(shared_gpus):
    # There are two GPUs for three runs, so the third waits.
    assert shared_gpus == (["PENDING", "RUNNING", "RUNNING"], ["0", "1"])


def test_the_cluster_writes_the_same_tables(from_scratch, troubles, undisturbed, slurm):
    workdir = from_scratch.workdir
    finish(from_scratch.process, workdir)
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
def test_a_cancelled_job_resumes(name, troubles, undisturbed, slurm):
    trouble = troubles[name]
    finish(trouble.process, trouble.workdir)
    states = [job["state"] for job in slurm.of(trouble.workdir.folder)]
    assert states == ["CANCELLED", "COMPLETED"]
    assert f"resumes after {STOP_AFTER_STEPS + 1} steps" in trouble.workdir.log
    assert trouble.workdir.weights() == undisturbed.weights()


def test_a_requeued_job_resumes(troubles, undisturbed, slurm):
    trouble = troubles["requeued"]
    finish(trouble.process, trouble.workdir)
    details = slurm.details(trouble.job)
    assert (details["JobState"], details["Restarts"]) == ("COMPLETED", "1")
    assert len(slurm.of(trouble.workdir.folder)) == 1
    assert f"resumes after {STOP_AFTER_STEPS + 1} steps" in trouble.workdir.log
    assert trouble.workdir.weights() == undisturbed.weights()


def test_a_second_job_waits_for_the_job_of_a_killed_snakemake(troubles, undisturbed, slurm):
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
    assert "resumes after" not in workdir.log
    steps = (workdir.results / "runs" / RUN / "training.jsonl").read_text().splitlines()
    assert len(steps) == read_json(workdir.folder / TRAINED)["provenance"]["steps"]
    assert workdir.weights() == undisturbed.weights()


def test_a_job_over_its_memory_resumes_with_more(troubles, undisturbed, slurm):
    trouble = troubles["memory"]
    finish(trouble.process, trouble.workdir)
    jobs = slurm.of(trouble.workdir.folder)
    assert [(job["state"], job["memory"]) for job in jobs] == [
        ("FAILED", "1200M"),
        ("COMPLETED", "2400M"),
    ]
    assert "resumes after" in trouble.workdir.log
    assert trouble.workdir.weights() == undisturbed.weights()


def test_a_job_over_its_time_resumes_with_more(troubles, undisturbed, slurm):
    trouble = troubles["time"]
    finish(trouble.process, trouble.workdir)
    jobs = slurm.of(trouble.workdir.folder)
    assert [(job["state"], job["limit"]) for job in jobs] == [
        ("TIMEOUT", "1:00"),
        ("COMPLETED", "2:00"),
    ]
    assert f"resumes after {STOP_AFTER_STEPS + 1} steps" in trouble.workdir.log
    assert trouble.workdir.weights() == undisturbed.weights()


def test_a_job_resumes_after_its_node_failed(undisturbed, slurm, tmp_path):
    workdir = untrained(undisturbed, tmp_path / "workdir")
    workdir.after_each_step(ONE_STOPS)
    process = workdir.start(TRAINED)
    training = stopped(workdir, process)
    slurm.call("scontrol", "update", f"NodeName={slurm.node}", "State=DOWN", "Reason=test")
    os.kill(training, signal.SIGKILL)  # as a power failure would
    wait_until(lambda: not Path(f"/proc/{training}").exists(), "the process ends", process, workdir)
    slurm.call("scontrol", "update", f"NodeName={slurm.node}", "State=RESUME")
    finish(process, workdir)
    assert "resumes after" in workdir.log
    assert workdir.weights() == undisturbed.weights()


def test_a_run_on_two_gpus_requests_two(undisturbed, slurm, tmp_path):
    workdir = untrained(undisturbed, tmp_path / "workdir")
    workdir.settings["training"] |= {"gpus": 2, "epochs": 1}
    finish(workdir.start(TRAINED, cores=()), workdir)
    (job,) = slurm.of(workdir.folder, "train")
    details = slurm.details(job["id"])
    requested = [details[key] for key in ("TresPerJob", "NumCPUs", "NumNodes", "MinMemoryNode")]
    assert requested == ["gres:gpu:2", "8", "1", "6000M"]
