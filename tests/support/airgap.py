"""Commands without a network."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.workdir import ROOT

NAMESPACE = ["unshare", "--net"]
"""Command that runs another one without a network."""

CUT_OFF = shutil.which("unshare") and subprocess.run([*NAMESPACE, "true"]).returncode == 0
"""Whether that works here."""

WITHOUT = "cannot create a network namespace; this needs unshare and root"
"""Why a test is skipped if it does not."""


def call(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a command in `folder` with its own home folder and these environment variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MTDNN_"))}
    home = {"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=folder,
        env={**kept, **home, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def exports(output: str) -> dict[str, str]:
    """Return the environment variables that `mtdnn fetch` says to set."""
    lines = [line for line in output.splitlines() if line.startswith("export ")]
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)
