"""Orders of corpora by one YAML file: scores beside questions, STILTs, an anti-curriculum, PackNet.

A real Snakemake trains them to their report. Every training is killed in the middle of a phase or
at a boundary, or both, and Snakemake tries again by itself; the weights are those of an
undisturbed training.
"""

import json
import shutil
import sys

import pytest

from mtdnn.config.layout import RunFolder
from mtdnn.config.loading import load_run
from mtdnn.machine.files import read_json
from mtdnn.training.loop import train
from tests.support.interrupted import assert_same, outcome
from tests.support.trained import schedule_of
from tests.support.workdir import make_workdir

# Python runs this before a program. It saves a checkpoint at every step of a training, and kills
# it once at each of its moments: after so many steps, or before the first one.
KILL = """\
import json, os, signal, sys
from pathlib import Path

if "train" in sys.orig_argv:
    from mtdnn.training.checkpoints import Checkpoints

    run = sys.orig_argv[sys.orig_argv.index("train") + 1].partition("/runs/")[2]
    folder = Path(__file__).with_name("moments")
    moments = json.loads((folder / "all.json").read_text()).get(run, [])
    save, restore = Checkpoints.save, Checkpoints.restore

    def die_at(moment):
        done = folder / f"{run.replace('/', '-')}-{moment}"
        if moment in moments and not done.exists():
            done.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def save_and_die(self, step, *rest):
        save(self, step, *rest)
        die_at(step)

    def die_or_restore(self, *rest):
        die_at(0)
        return restore(self, *rest)

    Checkpoints.save, Checkpoints.restore = save_and_die, die_or_restore
    Checkpoints.due = True
"""


def synthetic(recipe, train=16):
    return {"kind": "synthetic", "recipe": recipe, "train": train, "dev": 12}


CORPORA = {
    "squad": {
        "label": "SQuAD",
        "family": "question_answering",
        "source": {**synthetic("squad", 9), "dev": 6},
    },
    "mnli": {
        "label": "MNLI",
        "family": "sequence_classification",
        "labels": ["entailment", "neutral", "contradiction"],
        "source": synthetic("mnli"),
    },
    "stsb": {"label": "STS-B", "family": "regression", "source": synthetic("stsb")},
}
MIXTURES = {
    "qa": {"label": "QA", "corpora": ["squad"]},
    "mnli": {"label": "MNLI", "corpora": ["mnli"]},
    "all": {"label": "QA+MNLI+STS-B", "corpora": ["squad", "mnli", "stsb"]},
    "stsb": {"label": "STS-B", "corpora": ["stsb"]},
    "stsb_qa": {"label": "STS-B+QA", "corpora": ["stsb", "squad"], "target": "stsb"},
}
ANTI_CURRICULUM = [
    {"corpora": ["squad"], "steps": 4},
    {"policy": "round_robin", "steps": 6, "restart": True},
    {"corpora": ["squad"], "steps": 3, "learning_rate": 1e-3},
]
ANCHOR = {"to": "phase_start", "strength": 100, "by": "true_fisher", "corpus": "squad", "items": 4}
VARIANTS = {
    "anti_curriculum": {"label": "anti-curriculum", "schedule": {"phases": ANTI_CURRICULUM}},
    "anchored": {
        "label": "anti-curriculum, anchored",
        "schedule": {"phases": ANTI_CURRICULUM},
        "training": {"anchor": ANCHOR},
    },
    "packnet": {
        "label": "the others, then SQuAD in weights set free",
        "schedule": {
            "phases": [
                {"corpora": ["mnli", "stsb"], "policy": "round_robin", "steps": 6, "prune": 0.5},
                {"corpora": ["squad"], "steps": 4, "restart": True},
            ]
        },
    },
    "stilts": {
        "label": "after MNLI",
        "schedule": {"steps": 8},
        "training": {"start_from": {"mixture": "mnli", "variant": "short"}},
    },
    "short": {"label": "eight steps", "schedule": {"steps": 8}},
}
TABLES = {
    "orders": [
        {"encoder": "tiny", "mixture": "qa"},
        {"encoder": "tiny", "mixture": "qa", "variant": "stilts"},
        {"encoder": "tiny", "mixture": "all", "variant": "anti_curriculum"},
        {"encoder": "tiny", "mixture": "all", "variant": "anchored"},
        {"encoder": "tiny", "mixture": "all", "variant": "packnet"},
    ],
    "similarity": [
        {"encoder": "tiny", "mixture": "stsb"},
        {"encoder": "tiny", "mixture": "stsb_qa", "weight": 0.5, "variant": "short"},
    ],
}
# Eight steps are two epochs of four.
MOMENTS = {
    "tiny/mnli/w1.0/short/seed1": [3],
    "tiny/qa/w1.0/stilts/seed1": [0, 3],
    "tiny/all/w1.0/anti_curriculum/seed1": [4, 7],
    "tiny/all/w1.0/anchored/seed1": [4, 7],
    "tiny/all/w1.0/packnet/seed1": [5, 6],
    "tiny/stsb_qa/w0.5/short/seed1": [3, 4],
}


@pytest.mark.slow
def test_orders_of_corpora_reach_their_report_although_every_training_is_killed(tmp_path):
    workdir = make_workdir(tmp_path / "workdir")
    workdir.settings |= {
        "corpora": CORPORA,
        "mixtures": MIXTURES,
        "variants": VARIANTS,
        "training": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3},
        "tables": {name: {"title": name, "rows": rows} for name, rows in TABLES.items()},
        "figures": {},
    }
    del workdir.settings["slices"]
    killed = workdir.folder / "package" / "moments"
    killed.mkdir()
    (killed / "all.json").write_text(json.dumps(MOMENTS))
    killed.with_name("sitecustomize.py").write_text(KILL)
    answer = workdir.snakemake()
    assert answer.returncode == 0, answer.stdout
    assert len(list(killed.glob("tiny-*"))) == sum(map(len, MOMENTS.values()))
    for name in ("report.html", "agreement.json", "checksums.json", "figures/draws.svg"):
        assert (workdir.results / name).stat().st_size > 0, name
    verified = workdir.call(sys.executable, "-m", "mtdnn", "verify", str(workdir.results))
    assert verified.returncode == 0, verified.stdout
    assert "Nothing to be done" in workdir.snakemake().stdout

    table = (workdir.results / "tables" / "orders.md").read_text()
    assert "anti-curriculum | –" in table.replace("  ", " "), table
    assert "Pearson" in (workdir.results / "tables" / "similarity.md").read_text()
    assert "Not drawn" not in (workdir.results / "figures" / "draws.svg").read_text()
    runs = workdir.results / "runs"
    scores = read_json(RunFolder(runs / "tiny/stsb_qa/w0.5/short/seed1").metrics)
    assert scores["measures"] == ["pearson", "spearman"] and set(scores["auxiliary"]) == {"squad"}
    steps = schedule_of(runs / "tiny/all/w1.0/anti_curriculum/seed1")
    assert [step.phase for step in steps] == [0] * 4 + [1] * 6 + [2] * 3
    assert [step.corpus for step in steps[4:10]] == ["squad", "mnli", "stsb"] * 2

    shutil.copytree(workdir.results, tmp_path / "undisturbed")
    for name in MOMENTS:  # MNLI before the run that starts from it
        again = tmp_path / "undisturbed" / "runs" / name
        train(again, load_run(RunFolder(again).config), threads=1, force=True)
        assert_same(outcome(again), outcome(runs / name))
