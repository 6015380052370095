"""The command line in a fresh process, with the real client libraries, against a stand-in Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from tests.support.hub_corpora import CORPORA
from tests.support.hub_server import HubServer


class Client:
    """Runs commands with a cache and an experiment of its own in `folder`.

    Attributes:
        corpora: the experiment's corpora; tests change them.
        encoder: its encoder `tiny`.
        lock: its lock file.
        program: how Python starts `mtdnn`; tests that change its limits do so here.
    """

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder, self.endpoint = folder, hub.url
        self.corpora = json.loads(json.dumps(CORPORA))
        self.encoder = {"label": "tiny", "source": {"kind": "hub", "repo": "made/tiny-bert"}}
        self.lock = folder / "experiment.lock.json"
        self.program = ["-m", "mtdnn"]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        """Run `mtdnn COMMAND EXPERIMENT.yaml …`."""
        experiment = {
            "experiment": "x",
            "title": "x",
            "results": str(self.folder / "results"),
            "encoders": {"tiny": self.encoder},
            "corpora": self.corpora,
            "mixtures": {"qa": {"label": "QA", "corpora": ["squad"]}},
            "seeds": [1],
            "slices": {"all": {"label": "all"}},
            "tables": {"t": {"title": "t", "rows": [{"encoder": "tiny", "mixture": "qa"}]}},
        }
        path = self.folder / "experiment.yaml"
        path.write_text(yaml.safe_dump(experiment))
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        return subprocess.run(
            [sys.executable, *self.program, command[0], str(path), *command[1:]],
            env={
                **kept,
                "HF_ENDPOINT": self.endpoint,
                "HF_HOME": str(self.folder / "hf"),
                # By default the client waits for minutes for a server.
                "HF_HUB_DOWNLOAD_TIMEOUT": "2",
                "HF_HUB_ETAG_TIMEOUT": "2",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )

    def manifest(self, name: str, kind: str = "corpora") -> dict:
        return json.loads((self.folder / f"results/x/{kind}/{name}/manifest.json").read_text())

    def rows(self, name: str, split: str) -> list[dict]:
        return pq.read_table(self.folder / f"results/x/corpora/{name}/{split}.parquet").to_pylist()

    def fetched(self, name: str, kind: str = "corpora") -> list[Path]:
        folder = self.folder / f"results/x/{kind}"
        return list(folder.iterdir()) if folder.exists() else []


def refused(done: subprocess.CompletedProcess, *parts: str) -> None:
    """Check that the command failed with one line that contains all of `parts`."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("mtdnn: error:")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[0]
