"""A real SLURM on this machine with one node and fake GPUs, started and stopped by a test.

`python -m tests.support.slurm COMMAND …` runs a command with it:
`python -m tests.support.slurm snakemake --workflow-profile slurm`.
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
PACKAGES = "slurm-wlm slurmctld slurmd slurm-client munge"
# The default place, because the executor's job step removes SLURM_CONF from its environment.
CONFIGURATION = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
OWNER = "owner.pid"  # in the folder of a cluster: the process that started it
TIMEOUT_SECONDS = 30
LIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED")

QUICK = {
    "slurm": ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"],
    "slurm-generic": ["--seconds-between-status-checks", "2", "--latency-wait", "10"],
    "default": ["--cores", "2"],
}
"""Options of Snakemake for each profile: check the jobs' states often."""

ONE_CORE = ["--set-threads", "train=1", "evaluate=1"]
"""Options of Snakemake: one thread for each run, as without a GPU, for identical results."""


def missing() -> str:
    """Return why SLURM cannot be started here, or an empty string."""
    absent = [name for name in PROGRAMS if not _program(name)]
    if absent:
        return f"no {', '.join(absent)}; on Debian: apt-get install {PACKAGES}"
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons"
    for name in FILES:
        place = CONFIGURATION / name
        if (place.exists() or place.is_symlink()) and not _is_left_over(place):
            return f"{place}: SLURM is already configured on this machine"
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.mknod(Path(folder, "gpu"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except OSError as error:
            return f"cannot create devices for fake GPUs: {error.strerror}"
    return ""


class Slurm:
    """A cluster of one node, used as a context manager.

    Args:
        folder: scratch folder for configuration, keys, state and logs.
        gpus: number of fake GPUs, character devices on which nothing can be computed.
        cpus: number of the node's CPUs, which may exceed the machine's.
    """

    def __init__(self, folder: Path, gpus: int = 2, cpus: int = 8):
        self.folder, self.gpus, self.cpus = folder, gpus, cpus
        self.node = socket.gethostname().split(".")[0]
        self.name = f"test{os.getpid()}"

    def __enter__(self) -> "Slurm":
        reason = missing()
        if reason:
            raise RuntimeError(reason)
        for name in FILES:
            if (CONFIGURATION / name).is_symlink():
                self._stop_left_over((CONFIGURATION / name).readlink().parent)
        self._configure()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        try:
            self.wait_until(lambda: not self.live(), "jobs end")
        finally:
            self._stop()
            self._kill_orphans()

    # --- commands for tests

    def call(self, *command: str) -> str:
        """Run a command and return its output."""
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Return every job that SLURM remembers, the oldest first."""
        shown = self.call("squeue", "--noheader", "--states=all", "--format=%i|%T|%k|%l|%m|%Z")
        keys = ("id", "state", "comment", "limit", "memory", "folder")
        rows = [dict(zip(keys, line.split("|"), strict=True)) for line in shown.splitlines()]
        return sorted(rows, key=lambda row: int(row["id"]))

    def live(self) -> list[dict[str, str]]:
        """Return the jobs that have not finished."""
        return [job for job in self.jobs() if job["state"] in LIVE]

    def of(self, folder: Path, rule: str = "") -> list[dict[str, str]]:
        """Return every job from a folder, or of one rule, which the plugin names in the comment."""
        jobs = [job for job in self.jobs() if job["folder"] == str(folder)]
        return [job for job in jobs if not rule or job["comment"].startswith(f"rule_{rule}")]

    def details(self, job: str) -> dict[str, str]:
        """Return the output of `scontrol show job`."""
        shown = self.call("scontrol", "--oneliner", "show", "job", job)
        return dict(part.split("=", 1) for part in shown.split() if "=" in part)

    def wait_until(self, condition, what: str, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until a condition holds; fail with `what` after some seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} seconds"
            time.sleep(0.1)

    # --- daemons

    def _configure(self) -> None:
        for name in ("state", "spool", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / OWNER).write_text(str(os.getpid()))
        devices = self.folder / "devices"
        devices.mkdir(exist_ok=True)
        for number in range(self.gpus):
            os.mknod(devices / f"gpu{number}", 0o20666, os.makedev(1, 3))
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        (self.folder / "slurm.conf").write_text(self._slurm_conf())
        (self.folder / "gres.conf").write_text(
            f"NodeName={self.node} Name=gpu Type=fake File={devices}/gpu[0-{self.gpus - 1}]\n"
        )
        CONFIGURATION.mkdir(exist_ok=True)
        for name in FILES:
            (CONFIGURATION / name).unlink(missing_ok=True)
            (CONFIGURATION / name).symlink_to(self.folder / name)

    def _slurm_conf(self) -> str:
        node = (
            f"NodeName={self.node} NodeAddr=127.0.0.1 Port={_free_port()} CPUs={self.cpus} "
            f"RealMemory=64000 Gres=gpu:fake:{self.gpus} State=UNKNOWN"
        )
        return f"""
ClusterName={self.name}
SlurmctldHost={self.node}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge.socket,cred_expire=20
CredType=cred/munge
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.pid
SlurmctldLogFile={self.folder}/log/slurmctld
SlurmdLogFile={self.folder}/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=1
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
DefMemPerCPU=200
MinJobAge=900
KillWait=15
GresTypes=gpu
{node}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""

    def _start(self) -> None:
        socket_ = f"{self.folder}/munge.socket"
        _run(
            _program("munged"),
            f"--key-file={self.folder}/munge.key",
            f"--socket={socket_}",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/log/munged",
            f"--seed-file={self.folder}/munge.seed",
            "--force",  # the scratch folder's parents may be writable by others
        )
        answers = f"munge -S {socket_} -n | unmunge -S {socket_}"
        self.wait_until(lambda: _works("sh", "-c", answers), "munged answers")
        _run(_program("slurmctld"), "-i")
        self.wait_until(lambda: _works("scontrol", "ping"), "slurmctld answers")
        _run(_program("slurmd"), "-N", self.node)
        self.wait_until(
            lambda: "idle" in self.call("sinfo", "--noheader", "--format=%t"), "the node is idle"
        )

    def _stop(self) -> None:
        for name in ("slurmd", "slurmctld", "munged"):
            _end(self.folder / f"{name}.pid")
        for name in FILES:
            place = CONFIGURATION / name
            if place.is_symlink() and place.readlink() == self.folder / name:
                place.unlink()

    @staticmethod
    def _stop_left_over(folder: Path) -> None:
        """Stop the cluster of a test that was killed."""
        with suppress(OSError):
            left = Slurm(folder)
            left.name = f"test{(folder / OWNER).read_text()}"
            left._stop()
            left._kill_orphans()

    def _kill_orphans(self) -> None:
        """Kill processes left over from jobs: a node set to DOWN does not always do so."""
        mark = f"SLURM_CLUSTER_NAME={self.name}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)


def _is_left_over(place: Path) -> bool:
    """Return whether a configuration file belongs to a test that was killed."""
    if not place.is_symlink() or not place.exists():
        return place.is_symlink()
    try:
        owner = int((place.readlink().parent / OWNER).read_text())
    except OSError:
        return False  # not from a test: leave it alone
    return not Path(f"/proc/{owner}").exists()


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def _works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _end(pid_file: Path) -> None:
    """Stop the daemon of a pid file and wait for it to end."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, Slurm(Path(folder)):
        return subprocess.run(sys.argv[1:]).returncode


if __name__ == "__main__":
    sys.exit(main())
