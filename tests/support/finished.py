"""A finished experiment of one tiny run."""

from pathlib import Path

from mtdnn.config.yaml_files import dump_yaml
from mtdnn.evaluation import metrics, predictions
from mtdnn.reporting import products
from mtdnn.tracking import client, runs
from mtdnn.training.loop import train
from mtdnn.workflow import checksums
from tests.support.tiny import make_run_folder, make_tiny_experiment

TABLES = {
    "t": {
        "title": "t",
        "rows": [{"encoder": "tiny", "mixture": "squad_cola", "weight": 0.5}],
    }
}


def make_finished(folder: Path) -> Path:
    """Make an experiment, from its corpora to its table and MLflow, and return its folder."""
    changes = {"training": {"epochs": 1, "batch_size": 8}, "tables": TABLES}
    run_dir, run = make_run_folder(folder, mixture="squad_cola", rows=16, **changes)
    experiment = make_tiny_experiment(folder, **changes)
    train(run_dir, run, threads=1)
    predictions.evaluate(run_dir, run, threads=1)
    metrics.write(run_dir, experiment)
    products.write_table(experiment, "t")
    products.write_interference(experiment)
    products.write_gradients(experiment)
    client.create_store(experiment)
    runs.log_run(experiment, run_dir)
    (experiment.layout.root / "experiment.yaml").write_text(dump_yaml(experiment))
    checksums.write(experiment)
    return experiment.layout.root
