"""A run that is ready for training, and what MLflow holds of it."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from mtdnn.config.yaml_files import dump_yaml
from mtdnn.machine.files import write_text
from mtdnn.tracking import client, content, delivery
from mtdnn.training.journal import Record
from mtdnn.training.loop import train
from tests.support.tiny import make_run_folder, make_tiny_experiment

MIXTURE = {"mixture": "squad_cola", "weight": 0.5}
TABLES = {"t": {"title": "t", "rows": [{"encoder": "tiny", **MIXTURE}]}}
PATIENCE_SECONDS = 300


class TrackedRun:
    """An experiment of one run that is ready for training."""

    def __init__(self, folder: Path, uri: str, epochs: int = 2, rows: int = 40):
        settings = {"experiment": f"e-{folder.name}"[:50], "tracking_uri": uri, "tables": TABLES}
        settings["training"] = {"epochs": epochs, "batch_size": 4}
        self.experiment = make_tiny_experiment(folder, **settings)
        self.run_dir, self.run = make_run_folder(folder, rows=rows, **MIXTURE, **settings)
        self.config = folder / "experiment.yaml"
        write_text(self.config, dump_yaml(self.experiment))
        self.client = MlflowClient(self.experiment.store_uri)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mtdnn", *arguments]

    def begin_training(self, *options: str) -> subprocess.Popen:
        command = self.command("train", str(self.run_dir), "--threads", "1", *options)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def train(self) -> None:
        train(self.run_dir, self.run, threads=1)

    def sync(self) -> None:
        delivery.sync(self.experiment)

    @property
    def record(self) -> Record:
        """The run's journal as it is now."""
        record = Record(self.run_dir)
        record.read()
        return record

    def logged_runs(self) -> list[Run]:
        """The experiment's runs in MLflow, the newest first."""
        found = self.client.get_experiment_by_name(self.experiment.experiment)
        return self.client.search_runs([found.experiment_id])

    def only_run(self) -> Run:
        (run,) = self.logged_runs()
        return run

    def history(self, key: str) -> list[Metric]:
        return self.client.get_metric_history(self.only_run().info.run_id, key)

    def assert_exact(self) -> None:
        """Check that MLflow holds each point of the finished run once, in order."""
        lines = [json.loads(line) for line in (self.run_dir / "training.jsonl").open()]
        expected = Counter(f"loss/{line['corpus']}" for line in lines)
        expected |= dict.fromkeys(("learning_rate", "grad_norm"), len(lines))
        for key, steps in expected.items():
            assert len(self.history(key)) == min(steps, content.MAX_POINTS), key
        everything = [
            (key, point.value, point.timestamp, point.step)
            for key in self.only_run().data.metrics
            for point in self.history(key)
        ]
        source = content.Source(self.run_dir)
        assert sorted(everything) == sorted([*map(tuple, source.read()), *source.scores()])
        for key in expected:
            steps = [point.step for point in self.history(key)]
            assert steps == sorted(set(steps))


def make_store(folder: Path) -> str:
    """Create an MLflow store, which takes seconds, and return its URI."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client.create_store(make_tiny_experiment(folder, tracking_uri=uri))
    return uri


def wait_until(condition: Callable[[], object], problem: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.05)
