"""One MLflow run for the whole experiment: verdicts, tables, figures and the report.

It has no metrics of its own: they would fill the page of charts with sections of one bar each.
"""

import json
from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.machine.files import digest, read_product, sha256
from mtdnn.reporting.products import FIGURES
from mtdnn.tracking.client import (
    CURRENT,
    MlflowClient,
    RunTag,
    ensure_experiment,
    log_tags,
    open_store,
    results_folder,
    tag_values,
)
from mtdnn.tracking.content import summary_numbers, summary_verdicts
from mtdnn.tracking.descriptions import of_summary

_FORMAT = 3
"""Raised when the run holds more than before, so that it is replaced."""

_NUMBERS = "numbers.json"


def log_summary(experiment: Experiment) -> str:
    """Log the experiment as a whole as one MLflow run, and return that run's id.

    The run holds the verdicts of `statistics.json` as tags, and as artifacts the tables,
    comparisons, figures and the report, and every mean and difference with its interval as
    `numbers.json`, a table. It is replaced when one of these has changed.

    Raises:
        MtdnnError: `statistics.json` is missing, or the store does not answer.
    """
    root = experiment.layout.root
    statistics = read_product(experiment.layout.all_statistics)
    files = _summary_files(experiment)
    content = digest([_FORMAT, {str(path.relative_to(root)): sha256(path) for path in files}])
    with open_store(experiment) as client:
        experiment_id = ensure_experiment(client, experiment)
        if logged := _up_to_date(client, experiment_id, experiment, content):
            return logged
        tags = tag_values(
            {
                "kind": "summary",
                CURRENT: "true",
                "results": results_folder(experiment),
                "experiment": experiment.experiment,
                "notice": experiment.notice,
                "mlflow.note.content": of_summary(experiment, statistics),
                "mlflow.source.name": "mtdnn",
                "mlflow.source.type": "LOCAL",
            }
        )
        name = f"summary of {experiment.experiment}"
        run_id: str = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        numbers = {"columns": ["name", "value"], "data": list(summary_numbers(statistics))}
        client.log_text(run_id, json.dumps(numbers), _NUMBERS)
        log_tags(client, run_id, [RunTag(*each) for each in summary_verdicts(statistics)])
        for path in files:
            folder = str(path.parent.relative_to(root))
            client.log_artifact(run_id, str(path), None if folder == "." else folder)
        client.set_tag(run_id, "content", content)  # last: it says that the run is complete
        client.set_terminated(run_id)
    return run_id


def _up_to_date(
    client: MlflowClient, experiment_id: str, experiment: Experiment, content: str
) -> str | None:
    """Return the id of the summary with this content, if it exists; delete all others."""
    kept: str | None = None
    for run in list(client.search_runs([experiment_id], "tags.kind = 'summary'")):
        if run.data.tags.get("results") != results_folder(experiment):
            continue
        if kept is None and run.data.tags.get("content") == content:
            kept = run.info.run_id
        else:
            client.delete_run(run.info.run_id)
    return kept


def _summary_files(experiment: Experiment) -> list[Path]:
    """Return the tables, comparisons, figures and report that exist, and the numbers behind."""
    layout = experiment.layout
    wanted = [layout.all_statistics]
    for end in ("md", "csv", "tex"):
        wanted += [layout.table(name, end) for name in experiment.tables]
        wanted += [layout.comparison(name, end) for name in experiment.tables]
    for end in ("svg", "png", "pdf"):
        wanted += [layout.figure(name, end) for name in [*experiment.figures, *FIGURES]]
    wanted.append(layout.report)
    return [path for path in wanted if path.exists()]
