"""Every profile is read by Snakemake itself; those of systems that are not here meet stand-ins."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mtdnn.machine.gpus import count_gpus
from tests.support.workdir import ROOT, Workdir, make_workdir

PROFILES = sorted(path.name for path in (ROOT / "profiles").iterdir() if path.is_dir())
RUN = "tiny/qa/w1.0/default/seed1"
TOKENISED = "results/small/features/tiny/default/cola/features.json"


def snakemake(
    workdir: Workdir, profile: str | Path, *arguments: str, snakefile: Path = ROOT / "Snakefile"
) -> subprocess.CompletedProcess:
    return workdir.call(
        *(sys.executable, "-m", "snakemake", *arguments, "--configfile", "small.yaml"),
        *("--snakefile", str(snakefile)),
        *("--workflow-profile", str(ROOT / "profiles" / profile)),
    )


# With their messages, jobs are shown without their threads and resources.
SPEAKING = f"""
include: "{ROOT}/Snakefile"
for each in workflow.rules:
    each.message = None
"""


def asked(workdir: Workdir, profile: str | Path) -> tuple[int, int]:
    """GPUs and threads of a training."""
    target = f"results/small/runs/{RUN}/model/run.json"
    (workdir.folder / "encoder").mkdir(exist_ok=True)
    (workdir.folder / "Speaking").write_text(SPEAKING)
    speaking = workdir.folder / "Speaking"
    answer = snakemake(workdir, profile, target, "--dry-run", "--cores", "64", snakefile=speaking)
    assert answer.returncode == 0, answer.stdout
    (job,) = re.findall(r"rule train:\n(?: .*\n)+", answer.stdout)
    gpus, threads = re.search(r"gpu=(\d+)", job), re.search(r"threads: (\d+)", job)
    return int(gpus[1]) if gpus else 0, int(threads[1]) if threads else 1


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_read_and_a_run_gets_its_gpus(profile, tmp_path):
    workdir = Workdir(tmp_path)
    one, three = (1, 4), (3, 12)
    if profile == "default":  # what this machine has
        here = count_gpus()
        one, three = [(min(n, here), 4 * n if here else 1) for n in (1, 3)]
    assert asked(workdir, profile) == one
    workdir.settings["training"] = {"gpus": 3}
    assert asked(workdir, profile) == three


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "default"])
def test_a_site_without_gpus_uncomments_what_says_so(profile, tmp_path):
    mine = shutil.copytree(ROOT / "profiles" / profile, tmp_path / "mine")
    text = (mine / "config.yaml").read_text()
    text, count = re.subn(r"(?m)^# (set-resources:|set-threads:|  train:|  evaluate:)", r"\1", text)
    assert count == 4
    (mine / "config.yaml").write_text(text)
    assert asked(Workdir(tmp_path), mine) == (0, 1)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_entry_of_a_profile_is_explained(profile):
    text = (ROOT / "profiles" / profile / "config.yaml").read_text()
    blocks = [block.splitlines() for block in text.split("\n\n")]
    entries = [lines for lines in blocks if any(re.match(r"[\w?]", line) for line in lines)]
    keys = [line for lines in entries for line in lines if re.match(r"[\w?]", line)]
    assert len(keys) == len(yaml.safe_load(text))
    assert all(lines[0].startswith("#") for lines in entries)


# A stand-in for a batch system: it notes the call, runs the script, and remembers how it ended.
SUBMIT = """#!{python}
import json, os, subprocess, sys
number = str(1 + len(os.listdir("{folder}")))
json.dump(sys.argv[1:], open("{folder}/" + number, "w"))
place = "{folder}/../" + number
command = f"{{sys.argv[-1]}} > {{place}}.log 2>&1; echo $? > {{place}}.end"
subprocess.Popen(command, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("{said}".replace("NUMBER", number))
"""
STAND_INS = {
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
STAND_INS["kubernetes"] = {
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
ASKED = {
    "kubernetes": ['"cpu": "1"', '"memory": "4000M"', '"activeDeadlineSeconds": 3600'],
    "lsf": ["-n 1", "-M 4000MB", "-R rusage[mem=4000MB]", "-W 60", "-J mtdnn-features"],
    "sge": ["-l h_vmem=4000M,h_rt=3600", "-N mtdnn-features"],
}


@pytest.mark.slow
@pytest.mark.parametrize("profile", STAND_INS)
def test_jobs_are_submitted_and_their_ends_seen(profile, tmp_path, monkeypatch):
    workdir = make_workdir(tmp_path / "workdir")
    programs, folder = tmp_path / "programs", tmp_path / "jobs" / "calls"
    programs.mkdir()
    folder.mkdir(parents=True)
    said = STAND_INS[profile]["said"]
    for name, text in STAND_INS[profile].items():
        if name != "said":
            program = text.format(python=sys.executable, folder=folder, said=said)
            (programs / name).write_text(program)
            (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    wait = ["--seconds-between-status-checks", "1", "--latency-wait", "5"]
    answer = snakemake(workdir, profile, TOKENISED, *wait)
    assert answer.returncode == 0, answer.stdout
    assert (workdir.folder / TOKENISED).exists()
    # Fetching was done here; the batch system saw one job.
    (call,) = folder.iterdir()
    asked = " ".join(json.loads(call.read_text()))
    assert all(wish in asked for wish in ASKED[profile]), asked
    assert "gpu" not in asked

    # A job that fails is noticed, and tried as often as the profile says.
    (workdir.folder / TOKENISED).unlink()
    workdir.edit("data/tokenising.py", "\ndef prepare(", "\nraise SystemExit(3)\n\n\ndef prepare(")
    began = time.monotonic()
    answer = snakemake(workdir, profile, TOKENISED, *wait, "--retries", "1")
    assert answer.returncode != 0 and time.monotonic() - began < 120
    calls = [" ".join(json.loads(path.read_text())) for path in folder.iterdir()]
    assert len(calls) == 3 and sum("8000M" in call for call in calls) == 1


def test_scripts_can_be_executed():
    names = ("submit", "status", "cancel")
    for script in [script for name in names for script in ROOT.glob(f"profiles/*/{name}")]:
        assert os.access(script, os.X_OK), script
        assert Path(script).read_text().startswith("#!")
