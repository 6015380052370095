"""The workflow on a real SLURM: what goes wrong on a cluster costs time and no result.

Trainings are stopped in their middle by a change of `Progress` in the room's copy of the
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
from tests.support.room import EXPERIMENT, ROOT, Room, make_room
from tests.support.slurm import ONE_CORE, QUICK, Slurm, missing

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


class ClusterRoom(Room):
    """A room whose jobs go to the cluster, and keep checkpoints often."""

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

    room: ClusterRoom
    process: subprocess.Popen
    job: str = ""


def wait_until(condition, what: str, process: subprocess.Popen, room: ClusterRoom) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, f"{what}: Snakemake has ended\n{room.output}"
        assert time.monotonic() < deadline, f"{what}: waited too long\n{room.output}"
        time.sleep(0.1)


def in_training(room: ClusterRoom) -> list[int]:
    """Processes that hold a run."""
    numbers = []
    for holder in room.results.glob("state/*/holder.json"):
        with suppress(MtdnnError):  # it ends just now
            numbers.append(read_json(holder)["process"])
    return numbers


def stopped(room: ClusterRoom, process: subprocess.Popen, name: str = "one") -> int:
    """Wait until a training stands in its middle; returns its process."""
    file = room.folder / name
    wait_until(lambda: file.exists() and file.read_text(), "training stops", process, room)
    number = int(file.read_text())
    status = Path(f"/proc/{number}/status")
    wait_until(lambda: "T (stopped)" in status.read_text(), "it stands", process, room)
    return number


def finish(process: subprocess.Popen, room: ClusterRoom) -> None:
    assert process.wait(timeout=PATIENCE_SECONDS) == 0, room.output


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
    make_room(folder)
    room = ClusterRoom(folder)
    room.settings = copy.deepcopy(SETTINGS)
    room.in_the_middle(TWO_STOP)
    return Trouble(room, room.start("table1", "table2", "--slurm-keep-successful-logs"))


@pytest.fixture(scope="module")
def undisturbed(from_nothing, tmp_path_factory) -> ClusterRoom:
    """The experiment as this machine alone makes it, at the same time."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_room(folder)
    room = ClusterRoom(folder)
    room.settings = copy.deepcopy(SETTINGS)
    finish(room.start("table1", "table2", profile="default"), room)
    return room


def untrained(undisturbed: ClusterRoom, folder: Path) -> ClusterRoom:
    """The experiment with everything that comes before one run's training."""
    shutil.copytree(undisturbed.folder, folder)
    (folder / "output").unlink()
    room = ClusterRoom(folder)
    room.settings = copy.deepcopy(SETTINGS)
    for name in ("model", "training.jsonl", "predictions.parquet", "metrics.json"):
        path = room.results / "runs" / RUN / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return room


def environment(process: int) -> dict[str, str]:
    content = Path(f"/proc/{process}/environ").read_text()
    return dict(entry.split("=", 1) for entry in content.split("\0") if "=" in entry)


@pytest.fixture(scope="module")
def shared_gpus(from_nothing, undisturbed, slurm) -> tuple[list[str], list[str]]:
    """States of the trainings' jobs while two of them stand still, and what GPUs these see."""
    room, process = from_nothing.room, from_nothing.process
    numbers = [stopped(room, process, name) for name in ("one", "two")]
    wait_until(lambda: len(slurm.of(room.folder, "train")) == 3, "a third job", process, room)
    states = [job["state"] for job in slurm.of(room.folder, "train")]
    devices = [environment(number)["CUDA_VISIBLE_DEVICES"] for number in numbers]
    for number in numbers:
        os.kill(number, signal.SIGCONT)
    return sorted(states), sorted(devices)


@pytest.fixture(scope="module")
def troubles(shared_gpus, undisturbed, slurm, tmp_path_factory) -> dict[str, Trouble]:
    """All the trouble of the tests below, at the same time: most of it is waiting."""

    def begin(name: str, middle: str, profile: str = "slurm", **resources: str) -> Trouble:
        room = untrained(undisturbed, tmp_path_factory.mktemp(name) / "room")
        room.in_the_middle(middle)
        resources = {"gpu": "0", **resources}
        wanted = [f"train:{key}={value}" for key, value in resources.items()]
        process = room.start(TRAINED, "--set-resources", *wanted, profile=profile)
        return Trouble(room, process)

    late = begin("time", ONE_STOPS, runtime="attempt")
    stopped(late.room, late.process)  # before the others are begun: it has a minute for that
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
        stopped(trouble.room, trouble.process)
        trouble.job = slurm.of(trouble.room.folder)[0]["id"]
    slurm.call("scancel", begun["cancelled"].job, begun["generic"].job)
    slurm.call("scontrol", "requeue", begun["requeued"].job)
    begun["killed"].process.kill()
    return begun


def test_each_training_has_a_gpu_of_its_own(shared_gpus):
    # Two GPUs and three runs: the third waits.
    assert shared_gpus == (["PENDING", "RUNNING", "RUNNING"], ["0", "1"])


def test_from_nothing_to_the_same_tables(from_nothing, troubles, undisturbed, slurm):
    room = from_nothing.room
    finish(from_nothing.process, room)
    assert room.tables() == undisturbed.tables()

    jobs = slurm.of(room.folder)
    assert {job["comment"].split("_wildcards")[0] for job in jobs} == {
        *("rule_features", "rule_train", "rule_evaluate")
    }
    trainings = [slurm.details(job["id"]) for job in slurm.of(room.folder, "train")]
    assert [job["TresPerJob"] for job in trainings] == ["gres:gpu:1"] * 3
    for job in jobs:
        assert list((room.folder / ".snakemake/slurm_logs").rglob(f"{job['id']}.log")), job


@pytest.mark.parametrize("name", ["cancelled", "generic"])
def test_a_cancelled_job(name, troubles, undisturbed, slurm):
    trouble = troubles[name]
    finish(trouble.process, trouble.room)
    states = [job["state"] for job in slurm.of(trouble.room.folder)]
    assert states == ["CANCELLED", "COMPLETED"]
    assert f"resumes after {MIDDLE + 1} steps" in trouble.room.log
    assert trouble.room.weights() == undisturbed.weights()


def test_a_requeued_job(troubles, undisturbed, slurm):
    trouble = troubles["requeued"]
    finish(trouble.process, trouble.room)
    details = slurm.details(trouble.job)
    assert (details["JobState"], details["Restarts"]) == ("COMPLETED", "1")
    assert len(slurm.of(trouble.room.folder)) == 1
    assert f"resumes after {MIDDLE + 1} steps" in trouble.room.log
    assert trouble.room.weights() == undisturbed.weights()


def test_a_killed_snakemake_never_leads_to_two_writers(troubles, undisturbed, slurm):
    trouble = troubles["killed"]
    room = trouble.room
    trouble.process.wait()
    training = int((room.folder / "one").read_text())
    assert room.start("--unlock").wait() == 0
    process = room.start(TRAINED, "--set-resources", "train:gpu=0")
    wait_until(lambda: "waiting for it" in room.log, "the second job waits", process, room)
    jobs = slurm.of(room.folder)
    assert [job["state"] for job in jobs] == ["RUNNING", "RUNNING"]
    assert in_training(room) == [training]
    os.kill(training, signal.SIGCONT)
    finish(process, room)
    jobs = slurm.of(room.folder)
    assert (jobs[0]["id"], jobs[1]["state"]) == (trouble.job, "COMPLETED")
    assert "resumes after" not in room.log
    steps = (room.results / "runs" / RUN / "training.jsonl").read_text().splitlines()
    assert len(steps) == read_json(room.folder / TRAINED)["provenance"]["steps"]
    assert room.weights() == undisturbed.weights()


def test_a_job_over_its_memory(troubles, undisturbed, slurm):
    trouble = troubles["memory"]
    finish(trouble.process, trouble.room)
    jobs = slurm.of(trouble.room.folder)
    assert [(job["state"], job["memory"]) for job in jobs] == [
        ("FAILED", "1200M"),
        ("COMPLETED", "2400M"),
    ]
    assert "resumes after" in trouble.room.log
    assert trouble.room.weights() == undisturbed.weights()


def test_a_job_over_its_time(troubles, undisturbed, slurm):
    trouble = troubles["time"]
    finish(trouble.process, trouble.room)
    jobs = slurm.of(trouble.room.folder)
    assert [(job["state"], job["limit"]) for job in jobs] == [
        ("TIMEOUT", "1:00"),
        ("COMPLETED", "2:00"),
    ]
    assert f"resumes after {MIDDLE + 1} steps" in trouble.room.log
    assert trouble.room.weights() == undisturbed.weights()


def test_a_node_that_fails(undisturbed, slurm, tmp_path):
    room = untrained(undisturbed, tmp_path / "room")
    room.in_the_middle(ONE_STOPS)
    process = room.start(TRAINED)
    training = stopped(room, process)
    slurm.call("scontrol", "update", f"NodeName={slurm.node}", "State=DOWN", "Reason=test")
    os.kill(training, signal.SIGKILL)  # as without power
    wait_until(lambda: not Path(f"/proc/{training}").exists(), "it is gone", process, room)
    slurm.call("scontrol", "update", f"NodeName={slurm.node}", "State=RESUME")
    finish(process, room)
    assert "resumes after" in room.log
    assert room.weights() == undisturbed.weights()


def test_a_run_of_two_gpus_asks_for_two(undisturbed, slurm, tmp_path):
    room = untrained(undisturbed, tmp_path / "room")
    room.settings["training"] |= {"gpus": 2, "epochs": 1}
    finish(room.start(TRAINED, cores=()), room)
    (job,) = slurm.of(room.folder, "train")
    details = slurm.details(job["id"])
    asked = [details[key] for key in ("TresPerJob", "NumCPUs", "NumNodes", "MinMemoryNode")]
    assert asked == ["gres:gpu:2", "8", "1", "6000M"]
