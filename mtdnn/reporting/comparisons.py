"""The comparisons of a table's rows, as Markdown, CSV and LaTeX."""

from typing import Any

import pandas as pd

from mtdnn.config.experiment import Experiment
from mtdnn.machine.files import read_product, replacing, write_text
from mtdnn.reporting.tables import (
    MISSING,
    Block,
    Cell,
    csv_text,
    interval,
    latex_table,
    markdown,
    markdown_block,
    signed,
)
from mtdnn.statistics.level import CONFIDENCE


def write(experiment: Experiment, name: str) -> None:
    """Write `comparisons/{name}.md`, `.csv` and `.tex` from the table's statistics."""
    entry = read_product(experiment.layout.statistics(name))
    layout, title = experiment.layout, f"{entry['title']}: comparisons"
    write_text(layout.comparison(name, "md"), _markdown(experiment, title, entry))
    block = _block([each for each in entry["comparisons"] if _is_main(entry, each)])
    below = [EXPLANATION, *_sentences(entry)]
    tex = latex_table(experiment, title, f"{name}-comparisons", block, below)
    write_text(layout.comparison(name, "tex"), tex)
    with replacing(layout.comparison(name, "csv")) as draft:
        records = pd.DataFrame([_record(each) for each in entry["comparisons"]])
        draft.write_text(csv_text(records), encoding="utf-8")


EXPLANATION = (
    f"Differences are in points, with {CONFIDENCE:.0%} intervals over seeds and over questions, "
    "which are clustered by paragraph. p: p value of no difference, corrected by Holm's method "
    "within this table. Permutation: p value of a permutation test of EM, uncorrected. "
    "Detectable: the smallest difference in EM that this design finds with a probability of 80%, "
    "before correction."
)


def _is_main(entry: dict[str, Any], comparison: dict[str, Any]) -> bool:
    """Whether it is on the table's own slice, at the configured threshold."""
    return (comparison["slice"], comparison["threshold"]) == (entry["slice"], "zero")


def _block(comparisons: list[dict[str, Any]]) -> Block:
    flips = any(each["flips"] is not None for each in comparisons)
    heading = ["From", "To", "Δ EM", "p (EM)", "Permutation", "Detectable", "Δ F1", "p (F1)"]
    heading += ["Published Δ EM", "Published Δ F1", "Verdict (EM)", "Verdict (F1)"]
    heading += ["Flips"] if flips else []
    heading += ["Seeds"]
    body = [
        [
            Cell(each["from_label"]),
            Cell(each["to_label"]),
            Cell(interval(each["em"])),
            Cell(p_value(each["em"]["p_holm"])),
            Cell(p_value(each["em"]["p_permutation"])),
            Cell(f"{each['em']['detectable']:.2f}"),
            Cell(interval(each["f1"])),
            Cell(p_value(each["f1"]["p_holm"])),
            *(
                Cell(signed(each["published"][metric]) if each["published"] else MISSING)
                for metric in ("em", "f1")
            ),
            *(Cell(each["verdict"][metric] or MISSING) for metric in ("em", "f1")),
            *([Cell(_FLIPS[each["flips"]])] if flips else []),
            Cell(str(len(each["seeds"]))),
        ]
        for each in comparisons
    ]
    return Block(heading, body, 2)


_FLIPS = {True: "yes", False: "no", None: MISSING}


def p_value(value: float) -> str:
    """Format a p-value with three decimals; no value is shown as zero."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _markdown(experiment: Experiment, title: str, entry: dict[str, Any]) -> str:
    parts = [f"## {markdown(title)}"]
    parts.append(f"Experiment {markdown(experiment.experiment)}: {markdown(experiment.title)}")
    parts += [f"> {markdown(experiment.notice)}"] if experiment.notice else []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in entry["comparisons"]:
        groups.setdefault((each["slice_label"], each["threshold"]), []).append(each)
    for (label, threshold), members in groups.items():
        where = "the configured null threshold" if threshold == "zero" else "the tuned threshold"
        parts.append(
            f"On {markdown(label)} at {where} ({members[0]['questions']:,} questions in "
            f"{members[0]['paragraphs']:,} paragraphs):"
        )
        parts.append(markdown_block(_block(members)))
    sentences = _sentences(entry)
    parts += ["\n".join(f"- {markdown(each)}" for each in sentences)] if sentences else []
    parts.append(markdown(EXPLANATION))
    return "\n\n".join(parts) + "\n"


def _sentences(entry: dict[str, Any]) -> list[str]:
    """Verdicts on the table's own slice, notes, and reasons for missing comparisons; each once."""
    main = [each for each in entry["comparisons"] if _is_main(entry, each)]
    lines = [each["verdict"]["text"] for each in main]
    lines += [note for each in entry["comparisons"] for note in each["notes"]]
    lines += [
        f"{each['from_label']} and {each['to_label']} are not compared on {each['slice_label']} at "
        f"threshold {each['threshold']}: {each['reason']}."
        for each in entry["left_out"]
    ]
    return list(dict.fromkeys(lines))


def _record(comparison: dict[str, Any]) -> dict[str, Any]:
    """One record of the CSV, with all digits."""
    plain = ("kind", "from", "to", "slice", "threshold", "questions", "paragraphs")
    record = {key: comparison[key] for key in plain}
    record["seeds"] = " ".join(map(str, comparison["seeds"]))
    for metric in ("em", "f1"):
        published = comparison["published"] or {}
        record |= {f"{metric}_{key}": value for key, value in comparison[metric].items()}
        record |= {f"{metric}_published": published.get(metric)}
        record |= {f"{metric}_verdict": comparison["verdict"][metric]}
    record |= {"conclusion": comparison["conclusion"], "flips": comparison["flips"]}
    return record | {"text": comparison["verdict"]["text"], "notes": " ".join(comparison["notes"])}
