"""Snakemake with every profile; stubs replace the batch systems that are not installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtdnn.machine.gpus import count_gpus
from tests.support.names import AWKWARD
from tests.support.workdir import ROOT, Workdir, make_workdir

PROFILES = sorted(path.name for path in (ROOT / "profiles").iterdir() if path.is_dir())
RUN = "tiny/qa/w1.0/default/seed1"
TOKENISED = f"{AWKWARD}/small/features/tiny/default/cola/features.json"


def snakemake(
    workdir: Workdir, profile: str | Path, *arguments: str, snakefile: Path = ROOT / "Snakefile"
) -> subprocess.CompletedProcess:
    return workdir.call(
        *(sys.executable, "-m", "snakemake", *arguments, "--configfile", "small.yaml"),
        *("--snakefile", str(snakefile)),
        *("--workflow-profile", str(ROOT / "profiles" / profile)),
    )


# Snakemake prints threads and resources only for jobs without a message.
VERBOSE = f"""
include: "{ROOT}/Snakefile"
for each in workflow.rules:
    each.message = None
"""


def requested(workdir: Workdir, profile: str | Path) -> tuple[int, int]:
    """Return the numbers of GPUs and threads that a training run requests."""
    target = f"results/small/runs/{RUN}/model/run.json"
    (workdir.folder / "encoder").mkdir(exist_ok=True)
    (workdir.folder / "Verbose").write_text(VERBOSE)
    verbose = workdir.folder / "Verbose"
    answer = snakemake(workdir, profile, target, "--dry-run", "--cores", "64", snakefile=verbose)
    assert answer.returncode == 0, answer.stdout
    (job,) = re.findall(r"rule train:\n(?: .*\n)+", answer.stdout)
    gpus, threads = re.search(r"gpu=(\d+)", job), re.search(r"threads: (\d+)", job)
    return int(gpus[1]) if gpus else 0, int(threads[1]) if threads else 1


@pytest.mark.parametrize("profile", PROFILES)
def test_a_training_run_requests_the_gpus_in_its_settings(profile, tmp_path):
    workdir = Workdir(tmp_path)
    one, three = (1, 4), (3, 12)
    if profile == "default":  # limited to what this machine has
        present = count_gpus()
        one, three = [(min(n, present), 4 * n if present else 1) for n in (1, 3)]
    assert requested(workdir, profile) == one
    workdir.settings["training"] = {"gpus": 3}
    assert requested(workdir, profile) == three


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "default"])
def test_the_commented_lines_are_for_a_site_without_gpus(profile, tmp_path):
    mine = shutil.copytree(ROOT / "profiles" / profile, tmp_path / "mine")
    text = (mine / "config.yaml").read_text()
    text, count = re.subn(r"(?m)^# (set-resources:|set-threads:|  train:|  evaluate:)", r"\1", text)
    assert count == 4
    (mine / "config.yaml").write_text(text)
    assert requested(Workdir(tmp_path), mine) == (0, 1)


# A stub of a batch system: it records its arguments, runs the script and keeps its exit status.
SUBMIT = """#!{python}
import json, os, subprocess, sys
number = str(1 + len(os.listdir("{folder}")))
json.dump(sys.argv[1:], open("{folder}/" + number, "w"))
place = "{folder}/../" + number
command = f"{{sys.argv[-1]}} > {{place}}.log 2>&1; echo $? > {{place}}.end"
subprocess.Popen(command, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("{said}".replace("NUMBER", number))
"""
STUBS = {
    "lsf": {
        "said": "Job <NUMBER> is submitted to queue <normal>.",
        "bsub": SUBMIT,
        "bjobs": """#!/bin/sh
for number; do :; done
case $(cat {folder}/../$number.end 2>/dev/null) in
  "") echo RUN ;; 0) echo DONE ;; *) echo EXIT ;; esac
""",
    },
    "sge": {
        "said": "NUMBER",
        "qsub": SUBMIT,
        "qstat": "#!/bin/sh\n! test -e {folder}/../$2.end\n",
        "qacct": "#!/bin/sh\necho failed 0; echo exit_status $(cat {folder}/../$2.end)\n",
    },
}
STUBS["kubernetes"] = {
    "said": "",
    "kubectl": """#!{python}
import json, os, subprocess, sys
if sys.argv[1] == "create":
    job = json.load(sys.stdin)
    place = "{folder}/../" + job["metadata"]["name"]
    json.dump([json.dumps(job)], open("{folder}/" + job["metadata"]["name"], "w"))
    command, = [c["command"] for c in job["spec"]["template"]["spec"]["containers"]]
    command = f"{{' '.join(command)}} > {{place}}.log 2>&1; echo $? > {{place}}.end"
    subprocess.Popen(command, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
else:
    end = "{folder}/../" + sys.argv[3] + ".end"
    ended = open(end).read().strip() if os.path.exists(end) else ""
    print({{"": "/", "0": "1/"}}.get(ended, "/1"))
""",
}
REQUESTED = {
    "kubernetes": ['"cpu": "1"', '"memory": "4000M"', '"activeDeadlineSeconds": 3600'],
    "lsf": ["-n 1", "-M 4000MB", "-R rusage[mem=4000MB]", "-W 60", "-J mtdnn-features"],
    "sge": ["-l h_vmem=4000M,h_rt=3600", "-N mtdnn-features"],
}


@pytest.mark.slow
@pytest.mark.parametrize("profile", STUBS)
def test_jobs_are_submitted_and_their_ends_noticed(profile, tmp_path, monkeypatch):
    workdir = make_workdir(tmp_path / "workdir")
    workdir.settings["results"] = AWKWARD
    programs, folder = tmp_path / "programs", tmp_path / "jobs" / "calls"
    programs.mkdir()
    folder.mkdir(parents=True)
    said = STUBS[profile]["said"]
    for name, text in STUBS[profile].items():
        if name != "said":
            program = text.format(python=sys.executable, folder=folder, said=said)
            (programs / name).write_text(program)
            (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    wait = ["--seconds-between-status-checks", "1", "--latency-wait", "5"]
    answer = snakemake(workdir, profile, TOKENISED, *wait)
    assert answer.returncode == 0, answer.stdout
    assert (workdir.folder / TOKENISED).exists()
    # The corpora were fetched locally; the batch system got one job.
    (call,) = folder.iterdir()
    arguments = " ".join(json.loads(call.read_text()))
    assert all(option in arguments for option in REQUESTED[profile]), arguments
    assert "gpu" not in arguments

    # A failed job is noticed and submitted again with more memory.
    (workdir.folder / TOKENISED).unlink()
    workdir.edit("data/tokenising.py", "\ndef prepare(", "\nraise SystemExit(3)\n\n\ndef prepare(")
    began = time.monotonic()
    answer = snakemake(workdir, profile, TOKENISED, *wait, "--retries", "1")
    assert answer.returncode != 0 and time.monotonic() - began < 120
    calls = [" ".join(json.loads(path.read_text())) for path in folder.iterdir()]
    assert len(calls) == 3 and sum("8000M" in call for call in calls) == 1
