"""What MLflow shows as the description of runs: their scores as Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.config.settings import RunSettings
from mtdnn.evaluation.measures import Measure, measures_of
from mtdnn.reporting.conclusion import verdict
from mtdnn.reporting.escaping import markdown
from mtdnn.tracking.client import MAX_TAG_CHARACTERS, note


def of_run(
    experiment: Experiment,
    settings: RunSettings,
    metrics: Mapping[str, Any],
    remarks: Sequence[str] = (),
) -> str:
    """Return the description of a run: its scores, and the experiment's note.

    Args:
        experiment: the experiment.
        settings: the run's settings.
        metrics: the run's scores; empty before it is scored.
        remarks: sentences to add, in Markdown.
    """
    parts = []
    if slices := metrics.get("slices"):
        parts.append(_slices(measures_of(settings.corpora[settings.target]), slices))
    auxiliary = {
        name: numbers
        for name, numbers in metrics.get("auxiliary", {}).items()
        if name in settings.corpora
    }
    if auxiliary:
        parts.append(_auxiliary(settings, auxiliary))
    return _joined([*parts, *remarks], note(experiment))


def of_summary(experiment: Experiment, statistics: Mapping[str, Any]) -> str:
    """Return the description of the summary: what it concludes, and the tables.

    Tables that do not fit are left out; all are artifacts.
    """
    layout = experiment.layout
    parts = []
    for name, table in experiment.tables.items():
        parts.append(f"**{markdown(table.title)}**: {markdown(verdict(dict(statistics), name))}")
    for name, table in experiment.tables.items():
        path = layout.table(name, "md")
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = "\n".join(_spaced(line) for line in lines if line.startswith("|"))
            parts.append(f"**{markdown(table.title)}**\n\n{rows}")
    attached = "`report.html` and all" if layout.report.exists() else "All"
    remark = f"{attached} tables and figures are among the artifacts."
    return _joined(parts, f"{remark}\n\n{note(experiment)}")


def _slices(measures: Sequence[Measure], slices: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for numbers in slices.values():
        label = markdown(str(numbers.get("label", "")))
        if numbers.get("measurable") is False:
            reason = markdown(str(numbers.get("reason", "")))
            rows.append([f"{label}: {reason}", *"–" * len(measures)])
            continue
        rows.append([label, *(_number(numbers.get(each.key)) for each in measures)])
        if tuned := numbers.get("tuned"):
            values = [_number(tuned.get(each.key)) for each in measures]
            rows.append([f"{label}, threshold tuned on {markdown(tuned['tuned_on'])}", *values])
    return _table(["scored on", *(each.label for each in measures)], rows)


def _auxiliary(settings: RunSettings, auxiliary: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, numbers in auxiliary.items():
        corpus = settings.corpora[name]
        measure = measures_of(corpus)[0]
        values = numbers.get(measure.key), numbers.get("majority", numbers.get("floor"))
        rows.append([markdown(corpus.label), measure.label, *map(_number, values)])
    return _table(["auxiliary corpus", "measure", "score", "without training"], rows)


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "–"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---", *(["---:"] * (len(heading) - 1))], *rows]
    return "\n".join(_spaced(f"| {' | '.join(line)} |") for line in lines)


def _spaced(line: str) -> str:
    """Return a line of a table with spaces between the cells, where MLflow's page has none."""
    return line if line.startswith("| --") else line.replace(" | ", " | &nbsp;&nbsp;")


def _joined(parts: Iterable[str], last: str) -> str:
    """Join paragraphs; of those before the last, only as many as MLflow has place for."""
    kept: list[str] = []
    for part in parts:
        if len("\n\n".join([*kept, part, last])) <= MAX_TAG_CHARACTERS:
            kept.append(part)
    return "\n\n".join([*kept, last])
