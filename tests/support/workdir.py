"""A working directory with a tiny experiment, in which a real Snakemake runs."""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import mtdnn
from tests.support.factories import SMALL
from tests.support.forking import FORKS
from tests.support.tiny import make_encoder

ROOT = Path(__file__).parents[2]
PACKAGE = Path(mtdnn.__file__).parent
RUNS = {
    "qa": "tiny/qa/w1.0/default/seed1",
    "qa_sc": "tiny/qa_sc/w0.8/default/seed1",
    "longer": "tiny/qa/w1.0/longer/seed1",
}
EXPERIMENT = {
    **SMALL,
    "encoders": {"tiny": {"label": "Tiny", "source": {"kind": "files", "path": "encoder"}}},
    "features": {"max_length": 96, "max_question_length": 48, "stride_tokens": 24},
    "training": {
        "epochs": 1,
        "interference": {"measurements": 4, "dev_items": 8, "max_share": 10},
    },
    "variants": {"longer": {"label": "longer", "training": {"epochs": 2}}},
    "tables": {
        **SMALL["tables"],
        "table2": {
            "title": "Variants",
            "rows": [{"encoder": "tiny", "mixture": "qa", "variant": "longer"}],
        },
    },
}


class Workdir:
    """A working directory with its own experiment and its own copy of the package.

    Attributes:
        folder: the working directory.
        settings: the experiment, written to `small.yaml` before every call.
        is_forked: whether its programs start as forks, without importing libraries.
    """

    is_forked = True

    def __init__(self, folder: Path):
        self.folder = folder
        self.settings = copy.deepcopy(EXPERIMENT)

    @property
    def results(self) -> Path:
        """The folder of the experiment's results."""
        return self.folder / "results" / "small"

    def environment(self) -> dict[str, str]:
        """Return the environment of a call: it imports the copy of the package, if there is one."""
        kept = {key: value for key, value in os.environ.items() if key != "MTDNN_DATA"}
        places = [self.folder / "package", PACKAGE.parent]
        if self.is_forked:
            places.insert(0, FORKS)
        return {**kept, "PYTHONPATH": os.pathsep.join(map(str, places))}

    def call(self, *command: str) -> subprocess.CompletedProcess:
        """Run a command here; its errors are part of its output."""
        (self.folder / "small.yaml").write_text(yaml.safe_dump(self.settings, sort_keys=False))
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=1200,
        )

    def snakemake(
        self, *arguments: str, snakefile: Path = ROOT / "Snakefile"
    ) -> subprocess.CompletedProcess:
        """Run Snakemake with the profile `default`."""
        return self.call(
            *(sys.executable, "-m", "snakemake", *arguments),
            *("--snakefile", str(snakefile)),
            *("--workflow-profile", str(ROOT / "profiles" / "default")),
            *("--cores", "2", "--configfile", "small.yaml"),
        )

    def planned(self, *arguments: str) -> set[str]:
        """Return the messages of the jobs that a call would run; the last one does nothing."""
        answer = self.snakemake(*arguments, "--dry-run")
        assert answer.returncode == 0, answer.stdout
        messages = re.findall(r"^Job \d+: (.*)$", answer.stdout, re.MULTILINE)
        return {text for text in messages if not text.startswith("Everything would be finished")}

    def edit(self, module: str, old: str, new: str) -> None:
        """Replace the first `old` in a module of the copied package."""
        path = self.folder / "package" / "mtdnn" / module
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))


def make_workdir(folder: Path) -> Workdir:
    """Create a working directory with an encoder and a copy of the package."""
    folder.mkdir(exist_ok=True)
    make_encoder(folder / "encoder")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "package" / "mtdnn", ignore=ignored)
    return Workdir(folder)
