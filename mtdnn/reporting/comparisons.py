"""The comparisons of a table's rows, as Markdown, CSV and LaTeX."""

from typing import Any

import pandas as pd

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.measures import Measure
from mtdnn.evaluation.results import RowResult, read_rows
from mtdnn.machine.files import replacing, write_text
from mtdnn.reporting.blocks import MISSING, Block, Cell
from mtdnn.reporting.escaping import csv_text, markdown
from mtdnn.reporting.latex_tables import LatexTable, latex_table
from mtdnn.reporting.tables import headlines, interval, markdown_block, number, signed
from mtdnn.reporting.wording import ANSWERING, THRESHOLDS, clusters, is_answering, items, union
from mtdnn.statistics.level import CONFIDENCE
from mtdnn.statistics.records import read_entry


def write(experiment: Experiment, name: str) -> None:
    """Write `comparisons/{name}.md`, `.csv` and `.tex` from the table's statistics."""
    entry, rows = read_entry(experiment, name), read_rows(experiment, name)
    layout, title = experiment.layout, f"{entry['title']}: comparisons"
    write_text(layout.comparison(name, "md"), _markdown(experiment, title, entry, rows))
    block = _block([each for each in entry["comparisons"] if _is_main(entry, each)], rows)
    below = [explanation(rows), *_sentences(entry, rows)]
    table = LatexTable(title, f"{name}-comparisons", [block], below=below)
    write_text(layout.comparison(name, "tex"), latex_table(experiment, table))
    with replacing(layout.comparison(name, "csv")) as draft:
        records = [_record(each, rows) for each in entry["comparisons"]]
        frame = pd.DataFrame(records, columns=None if records else list(_KEYS))
        frame["notice"] = experiment.notice or ""
        draft.write_text(csv_text(frame), encoding="utf-8")


def explanation(rows: list[RowResult]) -> str:
    """Return sentences that explain the numbers of a table's comparisons."""
    headline = headlines(rows)
    seeds = "seeds and over " if any(len(row.results) > 1 for row in rows) else ""
    over = seeds + (
        "questions, which are clustered by paragraph"
        if all(map(is_answering, rows))
        else "items, which are clustered where their corpus has clusters"
    )
    return (
        f"Differences are in points, with {CONFIDENCE:.0%} intervals over {over}. "
        "p: p value of no difference, corrected by Holm's method within this table. Permutation: "
        f"p value of a permutation test of {headline}, uncorrected. Detectable: the smallest "
        f"difference in {headline} that this design finds with a probability of 80%, before "
        "correction."
    )


def _is_main(entry: dict[str, Any], comparison: dict[str, Any]) -> bool:
    """Whether it is on the table's own slice, at the configured threshold."""
    return (comparison["slice"], comparison["threshold"]) == (entry["slice"], "zero")


def _block(comparisons: list[dict[str, Any]], rows: list[RowResult]) -> Block:
    """One row for each comparison; what is missing in all of them has no column."""
    measures = measures_of(comparisons, rows)
    judged = are_judged(comparisons)
    flips = any(each["flips"] is not None for each in comparisons)
    heading = ["From", "To"]
    for position, measure in enumerate(measures):
        heading += [f"Δ {measure.label}", f"p ({measure.label})"]
        heading += ["Permutation", "Detectable"] if position == 0 else []
    if judged:
        heading += [f"Published Δ {measure.label}" for measure in measures]
        heading += [f"Verdict ({measure.label})" for measure in measures]
    else:
        heading.append("Conclusion")
    heading += ["Flips"] if flips else []
    heading += ["Seeds"]
    body = []
    for each in comparisons:
        texts = [each["from_label"], each["to_label"]]
        for position, measure in enumerate(measures):
            texts += _measured(each, measure.column)
            texts += _of_headline(each) if position == 0 else []
        if judged:
            published, verdict = each["published"] or {}, each["verdict"]
            texts += [signed(published.get(measure.column)) for measure in measures]
            texts += [verdict.get(measure.column) or MISSING for measure in measures]
        else:
            texts.append(each["conclusion"])
        texts += [_FLIPS[each["flips"]]] if flips else []
        body.append([Cell(text) for text in [*texts, str(len(each["seeds"]))]])
    return Block(heading, body, 2)


def measures_of(comparisons: list[dict[str, Any]], rows: list[RowResult]) -> list[Measure]:
    """Return the measures of the rows that any of their comparisons has; all without any."""
    measures = union(row.measures for row in rows)
    found = {name for each in comparisons for name in each["measures"]}
    return [measure for measure in measures if measure.column in found] or measures


def are_judged(comparisons: list[dict[str, Any]]) -> bool:
    """Return whether a table has published differences: then it shows verdicts on them."""
    return any(each["published"] for each in comparisons)


def _measured(comparison: dict[str, Any], name: str) -> list[str]:
    """A difference with its interval, and its p value; rows with another target have neither."""
    numbers = comparison["measures"].get(name)
    return [interval(numbers), p_value(numbers["p_holm"])] if numbers else [MISSING] * 2


def _of_headline(comparison: dict[str, Any]) -> list[str]:
    numbers = comparison["measures"][comparison["headline"]]
    return [p_value(numbers["p_permutation"]), number(numbers["detectable"])]


_FLIPS = {True: "yes", False: "no", None: MISSING}


def p_value(value: float) -> str:
    """Format a p-value with three decimals; no value is shown as zero."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _markdown(
    experiment: Experiment, title: str, entry: dict[str, Any], rows: list[RowResult]
) -> str:
    parts = [f"## {markdown(title)}"]
    parts.append(f"Experiment {markdown(experiment.experiment)}: {markdown(experiment.title)}")
    parts += [f"> {markdown(experiment.notice)}"] if experiment.notice else []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in entry["comparisons"]:
        groups.setdefault((each["slice_label"], each["threshold"]), []).append(each)
    for (label, threshold), members in groups.items():
        parts.append(f"On {markdown(label)}{_at(threshold, rows)} ({_size(members[0])}):")
        parts.append(markdown_block(_block(members, rows)))
    sentences = _sentences(entry, rows)
    parts += ["\n".join(f"- {markdown(each)}" for each in sentences)] if sentences else []
    parts.append(markdown(explanation(rows)))
    return "\n\n".join(parts) + "\n"


def _at(threshold: str, rows: list[RowResult]) -> str:
    """The threshold of comparisons, if any row has one."""
    if not any(map(is_answering, rows)):
        return ""
    return f" at the {THRESHOLDS[threshold]} null threshold"


def _size(comparison: dict[str, Any]) -> str:
    """How many items were compared, in how many clusters."""
    number, clustered = comparison["questions"], comparison["clusters"]
    what = [comparison["family"]]
    size = f"{number:,} {items(what)}"
    apart = what != [ANSWERING] and clustered == number
    return size if apart else f"{size} in {clustered:,} {clusters(what)}"


def _sentences(entry: dict[str, Any], rows: list[RowResult]) -> list[str]:
    """Verdicts on the table's own slice, notes, and reasons for missing comparisons; each once."""
    main = [each for each in entry["comparisons"] if _is_main(entry, each)]
    lines = [each["verdict"]["text"] for each in main]
    lines += [note for each in entry["comparisons"] for note in each["notes"]]
    lines += [
        f"{each['from_label']} and {each['to_label']} are not compared on {each['slice_label']}"
        f"{_at(each['threshold'], rows)}: {each['reason']}."
        for each in entry["left_out"]
    ]
    return list(dict.fromkeys(lines))


_KEYS = ("kind", "from", "to", "slice", "threshold")


def _record(comparison: dict[str, Any], rows: list[RowResult]) -> dict[str, Any]:
    """One record of the CSV, with all digits."""
    families = [row.family for row in rows]
    record = {key: comparison[key] for key in _KEYS}
    record |= {items(families): comparison["questions"]}
    record |= {clusters(families): comparison["clusters"]}
    record["seeds"] = " ".join(map(str, comparison["seeds"]))
    for name, numbers in comparison["measures"].items():
        published = comparison["published"] or {}
        record |= {f"{name}_{key}": value for key, value in numbers.items()}
        record |= {f"{name}_published": published.get(name)}
        record |= {f"{name}_verdict": comparison["verdict"].get(name)}
    record |= {"conclusion": comparison["conclusion"], "flips": comparison["flips"]}
    return record | {"text": comparison["verdict"]["text"], "notes": " ".join(comparison["notes"])}
