"""A run in MLflow for the whole experiment: means, verdicts, tables and figures."""

import time
from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.machine.files import digest, read_json, sha256
from mtdnn.reporting.products import FIGURES
from mtdnn.tracking.client import (
    Metric,
    RunTag,
    find_experiment,
    note_of,
    open_store,
    results_folder,
    send,
)
from mtdnn.tracking.content import summary_numbers, summary_verdicts


def log_summary(experiment: Experiment) -> str:
    """A run in MLflow of the whole experiment, made anew when something of it has changed.

    It holds means, differences with intervals, and verdicts of `statistics.json`, and as
    artifacts the tables, comparisons and figures. Its MLflow run's id is returned.

    Raises:
        MtdnnError: there is no `statistics.json`, or the store does not answer.
    """
    root = experiment.layout.root
    statistics = read_json(experiment.layout.all_statistics)
    files = _summary_files(experiment)
    content = digest({str(path.relative_to(root)): sha256(path) for path in files})
    with open_store(experiment) as client:
        experiment_id = find_experiment(client, experiment)
        logged = None
        for known in list(client.search_runs([experiment_id], "tags.kind = 'summary'")):
            if known.data.tags.get("results") != results_folder(experiment):
                continue
            if logged is None and known.data.tags.get("content") == content:
                logged = known.info.run_id
            else:
                client.delete_run(known.info.run_id)
        if logged:
            return logged
        tags = {"kind": "summary", "results": results_folder(experiment), "experiment": root.name}
        tags |= {"mlflow.note.content": note_of(experiment), "notice": experiment.notice or ""}
        tags |= {"mlflow.source.name": "mtdnn", "mlflow.source.type": "LOCAL"}
        name = f"summary of {experiment.experiment}"
        run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        now = round(1000 * time.time())
        numbers = summary_numbers(statistics)
        send(client, run_id, "metrics", [Metric(*each, now, 0) for each in numbers])
        verdicts = summary_verdicts(statistics)
        send(client, run_id, "tags", [RunTag(*each) for each in verdicts])
        for path in files:
            folder = str(path.parent.relative_to(root))
            client.log_artifact(run_id, str(path), None if folder == "." else folder)
        client.set_tag(run_id, "content", content)
        client.set_terminated(run_id)
    return run_id


def _summary_files(experiment: Experiment) -> list[Path]:
    """Tables, comparisons and figures that exist, and the numbers behind them."""
    layout = experiment.layout
    wanted = [layout.all_statistics]
    for end in ("md", "csv", "tex"):
        wanted += [layout.table(name, end) for name in experiment.tables]
        wanted += [layout.comparison(name, end) for name in experiment.tables]
    for end in ("svg", "png", "pdf"):
        wanted += [layout.figure(name, end) for name in [*experiment.figures, *FIGURES]]
    return [path for path in wanted if path.exists()]
