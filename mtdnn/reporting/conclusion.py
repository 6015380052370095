"""What an experiment concludes: a sentence for each table, and the front page of the report."""

import base64
import textwrap
from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.results import read_rows
from mtdnn.reporting.answers import table_of_mixtures
from mtdnn.reporting.blocks import MISSING, Notes, without_empty
from mtdnn.reporting.escaping import one_line
from mtdnn.reporting.tables import main_block
from mtdnn.reporting.wording import listed
from mtdnn.statistics.records import lacks_interval, read_statistics, with_baselines

READING_ORDER = {
    "effects": "Differences from the baseline",
    "cases": "Answers side by side",
    "groups": "Groups of questions",
    "thresholds": "Scores by null threshold",
    "precision_recall": "Precision and recall",
    "interference": "Interference: every task's own score",
    "tasks": "Score of each task by mixture and weight",
    "gradients": "Gradient conflict between corpora",
    "forgetting": "Dev loss of each corpus during training",
    "loss": "Training loss of each corpus",
    "draws": "How often each corpus was drawn",
    "runs": "Runs",
    "settings": "Settings and where they come from",
}
"""Titles of what every report has, in the order in which to read it."""


MAX_NAMED = 4
"""Of more rows about which nothing is known, a verdict gives the number."""


def verdict(statistics: dict[str, Any], table: str) -> str:
    """Return a sentence on what a table shows of its rows against their baselines.

    Args:
        statistics: the content of `statistics.json`.
        table: name of the table.
    """
    entry = statistics["tables"].get(table)
    shown = with_baselines(entry["comparisons"], entry["slice"]) if entry else []
    if not shown:
        return why_not_compared(entry)
    parts: dict[tuple[str, str, str, str], list[str]] = {}
    for conclusion in ("higher", "lower", "open"):
        for each in shown:
            if each["conclusion"] == conclusion:
                reason = _why_open(each) if conclusion == "open" else ""
                parts.setdefault((conclusion, *_against(each), reason), []).append(each["to_label"])
    text = "; ".join(_said(rows, *part) for part, rows in parts.items())
    return f"{text[0].upper()}{text[1:]}.{_published(shown)}"


def why_not_compared(entry: dict[str, Any] | None) -> str:
    """Return a sentence on why no row of a table is compared with a baseline.

    Args:
        entry: the table's entry in `statistics.json`; None if there is none yet.
    """
    if not entry:
        return "No row can be compared with a baseline yet."
    own = [each for each in entry["left_out"] if _is_own(each, entry)]
    for text, left_out in (
        ("No row can be compared with its baseline", with_baselines(own, entry["slice"])),
        ("No two rows can be compared", own),
    ):
        if reasons := list(dict.fromkeys(each["reason"].rstrip(".") for each in left_out)):
            more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            return f"{text}: {reasons[0]}{more}."
    return "No row has a baseline to be compared with."


def _is_own(comparison: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Whether a comparison is on the table's own slice, at the configured threshold."""
    return (comparison["slice"], comparison["threshold"]) == (entry["slice"], "zero")


def _why_open(comparison: dict[str, Any]) -> str:
    """Why it is not known which row is better."""
    seeds = len(comparison["seeds"])
    if seeds > 1 and lacks_interval(comparison):
        return "because the scores do not vary between seeds"
    return f"with {seeds} seed{'s' if seeds > 1 else ''}"


def _said(rows: list[str], conclusion: str, baseline: str, measure: str, reason: str) -> str:
    """Say the same of several rows."""
    if conclusion == "open":
        verb = "differ" if len(rows) > 1 else "differs"
        named = listed(rows) if len(rows) <= MAX_NAMED else f"{len(rows)} others"
        return f"whether {named} {verb} from {baseline} in {measure} is not decidable {reason}"
    return (
        f"{listed(rows)} {'score' if len(rows) > 1 else 'scores'} {conclusion} than {baseline} in "
        f"{measure}"
    )


def _against(comparison: dict[str, Any]) -> tuple[str, str]:
    """The baseline and the measure of a comparison."""
    return comparison["from_label"], comparison["labels"][comparison["headline"]]


def _published(shown: list[dict[str, Any]]) -> str:
    """A sentence on the published differences, if there are any."""
    verdicts = [each["verdict"][each["headline"]] for each in shown if each["published"]]
    if not verdicts:
        return ""
    counts = {word: verdicts.count(word) for word in ("supported", "contradicted", "not decidable")}
    said = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
    return f" Published differences: {said}."


def main_table(experiment: Experiment) -> str:
    """Return the table with the result: that of mixtures, or else the first."""
    return table_of_mixtures(experiment) or next(iter(experiment.tables))


def about(names: list[str], experiment: Experiment) -> str:
    """Return the beginning of a sentence on some tables; nothing if there is only one."""
    titles = listed(f"“{one_line(experiment.tables[name].title)}”" for name in names)
    return f"In {titles}: " if len(experiment.tables) > 1 else ""


def front(experiment: Experiment) -> dict[str, Any]:
    """Return what the front page of the report shows, as plain text.

    Returns:
        `verdict`, a sentence on the main table, which it names if there are others; `table`, its
        `title`, `heading` and `rows`, and `reasons` for what it lacks; `picture`, the figure of
        effects as lines of a data URI, none if it is not drawn yet; `links`, each with a `name` and
        a `title`, in the order in which to read them.
    """
    name = main_table(experiment)
    notes = Notes()
    block = without_empty(main_block(experiment, read_rows(experiment, name), notes))
    picture = experiment.layout.figure("effects", "png")
    content = base64.b64encode(picture.read_bytes()).decode() if picture.exists() else ""
    tables = [name, *(other for other in experiment.tables if other != name)]
    entries = {each: experiment.tables[each].title for each in tables}
    entries |= {each: figure.title for each, figure in experiment.figures.items()}
    links = [{"name": name, "title": title} for name, title in (entries | READING_ORDER).items()]
    return {
        "verdict": about([name], experiment) + verdict(read_statistics(experiment), name),
        "table": {
            "title": experiment.tables[name].title,
            "heading": block.heading,
            "rows": [[cell.text for cell in row] for row in block.body],
            "reasons": [f"{MISSING}: {reason}." for reason in notes.reasons],
        },
        "picture": textwrap.wrap(f"data:image/png;base64,{content}", 5000) if content else [],
        "links": links,
    }
