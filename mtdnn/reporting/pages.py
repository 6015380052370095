"""The pages of the HTML report: one for each table, and those that every experiment has.

Each page is a self-contained file below `pages/`; Snakemake's `--report` embeds it in
`report.html`.
"""

import csv
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import MANIFEST
from mtdnn.config.reference import DESCRIBED
from mtdnn.evaluation.measures import measures_of
from mtdnn.evaluation.results import read_results, read_rows
from mtdnn.machine.files import read_product, write_text
from mtdnn.reporting import comparisons, gradients, interference, tables
from mtdnn.reporting.blocks import MISSING, Notes, without_empty
from mtdnn.reporting.conclusion import verdict
from mtdnn.reporting.facts import compare_link, facts, line, run_link
from mtdnn.reporting.templating import render
from mtdnn.reporting.wording import clustered, is_answering, items, targets, union
from mtdnn.statistics.level import CONFIDENCE
from mtdnn.statistics.records import NO_INTERVAL, lack_interval, read_statistics


def write_page(experiment: Experiment, name: str) -> None:
    """Write `pages/{name}.html` for a table of the experiment or a key of `BUILT_IN`."""
    if name in experiment.tables:
        template, values = "table.html", _table(experiment, name)
    else:
        template, values = f"{name}.html", BUILT_IN[name](experiment)
    text = render(template, experiment, facts=facts(experiment), line=line, **values)
    write_text(experiment.layout.page(name), text)


def _table(experiment: Experiment, name: str) -> dict[str, Any]:
    rows, notes = read_rows(experiment, name), Notes()
    main = tables.main_block(experiment, rows, notes)
    statistics = read_statistics(experiment)
    found = statistics["tables"].get(name, {"comparisons": [], "left_out": []})
    others = tables.slices_block(experiment, rows, notes, found["comparisons"])
    shown = (rows[0].slice_name, "zero")
    own = [each for each in found["comparisons"] if (each["slice"], each["threshold"]) == shown]
    remarks = [note for each in own for note in each["notes"]]
    remarks += [NO_INTERVAL] if lack_interval(found["comparisons"]) else []
    return {
        "table": experiment.tables[name],
        "main": without_empty(main),
        "others": others and without_empty(others),
        "notes": notes.reasons,
        "links": [compare_link(row.experiment, row.present) for row in rows],
        "explanation": tables.explanation(experiment, rows),
        "sure": f"{CONFIDENCE:.0%}",
        "seeds": max((len(each["seeds"]) for each in found["comparisons"]), default=0),
        "comparisons": found["comparisons"],
        "left_out": found["left_out"],
        "own": rows[0].slice_name,
        "measures": comparisons.measures_of(found["comparisons"], rows),
        "headlines": tables.headlines(rows),
        "judged": comparisons.are_judged(found["comparisons"]),
        "remarks": list(dict.fromkeys(remarks)),
        "verdict": verdict(statistics, name),
        "thresholds": any(map(is_answering, rows)),
        "items": items(row.family for row in rows),
        "clusters": clustered(row.family for row in rows),
    }


def _cases(experiment: Experiment) -> dict[str, Any]:
    return {"cases": read_product(experiment.layout.cases("json"))}


def _interference(experiment: Experiment) -> dict[str, Any]:
    conflict = gradients.shown(experiment)
    return {
        **interference.shown(experiment),
        "gradients": conflict["gradients"],
        "verdict": conflict["verdict"],
        "compare_link": compare_link,
    }


def _runs(experiment: Experiment) -> dict[str, Any]:
    measures = union(measures_of(experiment.corpora[name]) for name in targets(experiment))
    return {
        "results": (results := read_results(experiment)),
        "costs": {each.run.path: _costs(experiment, each.run.path) for each in results},
        "measures": measures,
        "corpora": [_corpus(experiment, name) for name in experiment.corpora],
        "run_link": run_link,
    }


def _costs(experiment: Experiment, run: str) -> dict[str, dict[str, float]]:
    """What the jobs of a run took, by step: `s`, `max_rss` and `cpu_time` in seconds and MiB.

    Snakemake measures the attempt that succeeded; an imported run has no jobs.
    """
    found = {}
    for step in ("train", "evaluate"):
        path = experiment.layout.benchmark(step, run)
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                row = next(csv.DictReader(file, delimiter="\t"), {})
            found[step] = {name: float(row[name]) for name in COSTS if _is_measured(row.get(name))}
    return found


COSTS = ("s", "max_rss", "cpu_time")


def _is_measured(cell: str | None) -> bool:
    """Whether a cell of Snakemake's file is a number; a job of less than a second has none."""
    return bool(cell) and cell not in ("-", "NA")


def _corpus(experiment: Experiment, name: str) -> dict[str, str]:
    """The rows and digest of a corpus; they are missing until it has been fetched."""
    path = experiment.layout.corpus(name) / MANIFEST
    manifest = read_product(path) if path.exists() else {}
    rows = {split: f"{each['rows']:,}" for split, each in manifest.get("splits", {}).items()}
    return {
        "label": experiment.corpora[name].label,
        "train": rows.get("train", MISSING),
        "dev": rows.get("dev", MISSING),
        "test": rows.get("test", MISSING),
        "digest": manifest.get("digest", MISSING),
    }


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Every setting that affects results: its value here, its default, origin and meaning."""
    sections = {}
    for section, model in DESCRIBED.items():
        values = getattr(experiment, section)
        sections[section] = [
            {
                "name": name,
                "value": _shown(getattr(values, name)),
                "default": _shown(field.get_default(call_default_factory=True)),
                "origin": _origin(field),
                "meaning": (field.description or "") + _allowed(field.annotation),
            }
            for name, field in model.model_fields.items()
        ]
    return {"sections": sections}


def _shown(value: Any) -> str:
    return MISSING if value is None else str(value)


def _origin(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["origin"]) if isinstance(extra, dict) else MISSING


def _allowed(annotation: Any) -> str:
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f" ({', '.join(map(str, values))})" if values else ""


BUILT_IN: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    "cases": _cases,
    "interference": _interference,
    "runs": _runs,
    "settings": _settings,
}
