"""Made-up experiments and run folders with everything that their readers need."""

import copy
import json
import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunId
from mtdnn.config.loading import parse
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data.corpora.rows import SCHEMAS
from mtdnn.evaluation import metrics, predictions
from mtdnn.machine.files import digest, write_json, write_text

SMALL = {
    "experiment": "small",
    "title": "A small experiment",
    "tracking_live": False,  # saves every call another process
    "encoders": {"tiny": {"label": "Tiny", "source": {"kind": "hub", "repo": "some/encoder"}}},
    "corpora": {
        "squad": {
            "label": "SQuAD",
            "family": "question_answering",
            "source": {"kind": "synthetic", "recipe": "squad", "train": 9, "dev": 6},
        },
        "cola": {
            "label": "CoLA",
            "family": "sequence_classification",
            "labels": ["bad", "good"],
            "source": {"kind": "synthetic", "recipe": "cola", "train": 16, "dev": 8},
        },
    },
    "mixtures": {
        "qa": {"label": "QA", "corpora": ["squad"]},
        "qa_sc": {"label": "QA+SC", "corpora": ["squad", "cola"]},
    },
    "variants": {"longer": {"training": {"epochs": 3}}},
    "seeds": [1],
    "slices": {"dev": {"label": "dev"}},
    "tables": {
        "table1": {
            "title": "Mixtures",
            "rows": [
                {"encoder": "tiny", "mixture": "qa"},
                {"encoder": "tiny", "mixture": "qa_sc", "weight": 0.8},
            ],
        },
    },
    "figures": {"figure4": {"title": "Mixtures", "table": "table1", "x": "mixture"}},
}

GRID = {
    "encoders": ["tiny"],
    "mixtures": ["qa", "qa_sc"],
    "weights": [0.5, 0.8],
    "settings": {"training.learning_rate": [1e-5, "3e-5"], "schedule.dry": ["skip"]},
}
"""A grid over `SMALL`: six rows of two variants."""


def small(**changes: object) -> dict[str, Any]:
    """Return a copy of `SMALL` with changed values.

    Args:
        changes: new values by place, whose dots are written as double underscores:
            `training__epochs=3`.
    """
    settings = copy.deepcopy(SMALL)
    for path, value in changes.items():
        place: Any = settings
        *parents, last = path.split("__")
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        place[int(last) if isinstance(place, list) else last] = value
    return settings


CORPORA = {
    "squad": ("SQuAD 2.0", "question_answering"),
    "swag": ("SWAG", "multiple_choice"),
    "cola": ("CoLA", "sequence_classification"),
    "mrpc": ("MRPC", "sequence_classification"),
    "mnli": ("MNLI", "sequence_classification"),
}
LABELS = {
    "cola": ["unacceptable", "acceptable"],
    "mrpc": ["not_equivalent", "equivalent"],
    "mnli": ["entailment", "neutral", "contradiction"],
}
WEIGHTS = [{"encoder": "base", "mixture": "qa_mcc_sc", "weight": w} for w in (0.5, 0.7, 0.8, 0.9)]
QA = {"encoder": "base", "mixture": "qa", "weight": 1.0}


def make_experiment(folder: Path, **changes: Any) -> Experiment:
    """Return the paper's tables and figures with synthetic corpora.

    Args:
        folder: folder of the results.
        changes: new values of top-level keys of the YAML.
    """
    mapping = {
        "experiment": "made_up",
        "title": "Made-up scores",
        "notice": "Made-up numbers: no model was trained.",
        "results": str(folder / "results"),
        "seeds": [1],
        "encoders": {
            name: {"label": label, "source": {"kind": "hub", "repo": f"someone/{repo}"}}
            for name, label, repo in (
                ("base", "BERT base", "bert-base-cased"),
                ("large", "BERT large", "bert-large-cased"),
            )
        },
        "corpora": {
            name: {
                "label": label,
                "family": family,
                "labels": LABELS.get(name, []),
                "source": {"kind": "synthetic", "recipe": name, "train": 100, "dev": 50},
            }
            for name, (label, family) in CORPORA.items()
        },
        "mixtures": {
            "qa": {"label": "QA", "corpora": ["squad"]},
            "qa_mcc": {"label": "QA+MCC", "corpora": ["squad", "swag"]},
            "qa_sc": {"label": "QA+SC", "corpora": ["squad", "cola", "mrpc", "mnli"]},
            "qa_mcc_sc": {"label": "QA+MCC+SC", "corpora": list(CORPORA)},
        },
        "slices": {
            "paper_dev": {"label": "paper dev"},
            "official": {"label": "official dev"},
        },
        "tables": {
            "table1": {"title": "QA weight", "rows": [*WEIGHTS, QA]},
            "table2": {
                "title": "Mixtures",
                "rows": [
                    QA,
                    {"encoder": "base", "mixture": "qa_mcc", "weight": 0.8},
                    {"encoder": "base", "mixture": "qa_sc", "weight": 0.8},
                    {"encoder": "base", "mixture": "qa_mcc_sc", "weight": 0.8},
                ],
            },
            "table3": {
                "title": "Large encoder",
                "rows": [
                    {**QA, "encoder": "large"},
                    {"encoder": "large", "mixture": "qa_mcc_sc", "weight": 0.8},
                ],
            },
        },
        "figures": {
            "figure3": {"title": "QA weight and scores", "table": "table1", "x": "weight"},
            "figure4": {"title": "Mixture and scores", "table": "table2", "x": "mixture"},
        },
    }
    return parse({**mapping, **changes}, where="made-up experiment")


def make_run(
    experiment: Experiment,
    run: RunId,
    em: float = 70.0,
    f1: float | None = None,
    *,
    steps: int = 60,
    fingerprint: str | None = None,
    tuned: bool | None = None,
    not_measurable: dict[str, str] | None = None,
    slices: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """Write the files of a finished run and return its folder.

    Args:
        em, f1: percent on the first slice; every further slice gets one point less.
        steps: number of steps in `schedule.parquet` and `training.jsonl`.
        fingerprint: by default the digest of the settings.
        tuned: whether to add scores at a tuned threshold; by default if the experiment tunes one.
        not_measurable: reasons by slice, for slices without scores.
        slices: new values in the scores of a slice.
    """
    settings = experiment.resolve(run)
    folder = experiment.layout.run(run)
    fingerprint = fingerprint or digest(settings.model_dump(mode="json"))[:16]
    f1 = em + 3 if f1 is None else f1
    if tuned is None:
        tuned = experiment.tune_threshold_on is not None
    draw = random.Random(f"{run.path} {em}")
    write_text(folder / "config.yaml", dump_yaml(settings))
    corpora = _write_schedule(folder, settings, steps, draw)
    seconds = _write_training(folder, corpora, draw)
    _write_predictions(folder, draw)
    provenance = {
        "commit": "0123456789ab",
        "python": "3.11.0",
        "torch": "2.13.0",
        "device": "cpu",
        "threads": 1,
        "precision": "fp32",
        "started": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).isoformat(),
        "seconds": seconds,
        "steps": steps,
        "tokens": 1000 * steps,
    }
    corpus_digests = {name: digest(name) for name in settings.corpora}
    model = {
        "fingerprint": fingerprint,
        "config_digest": digest(settings.model_dump(mode="json")),
        "corpora": corpus_digests,
        "encoder": digest(run.encoder),
        "code": "abcdef",
        "provenance": provenance,
    }
    write_json(folder / "model" / "run.json", model)
    scores = {}
    for distance, (name, entry) in enumerate(experiment.slices.items()):
        reason = (not_measurable or {}).get(name)
        if reason:
            scores[name] = {"label": entry.label, "measurable": False, "reason": reason}
            continue
        scores[name] = _slice(entry.label, em - distance, f1 - distance, tuned)
        scores[name].update((slices or {}).get(name, {}))
    first = next(iter(scores.values()))
    written = {
        "experiment": experiment.experiment,
        "notice": experiment.notice,
        "run": {
            "encoder": run.encoder,
            "mixture": run.mixture,
            "weight": run.weight,
            "variant": run.variant,
            "seed": run.seed,
            "target": settings.target,
        },
        "measures": ["exact", "f1"],
        "em": first.get("exact"),
        "f1": first.get("f1"),
        "slices": scores,
        "auxiliary": {
            name: {
                "label": corpus.label,
                "accuracy": 81.5,
                "matthews": 50.0,
                "f1": 80.0,
                "majority": 60.0,
                "rows": 50,
            }
            for name, corpus in settings.corpora.items()
            if name != settings.target
        },
        "fingerprint": fingerprint,
        "provenance": {
            **provenance,
            "scored": {"commit": "ba9876543210"},
            "corpora": corpus_digests,
        },
    }
    write_json(folder / "metrics.json", written)
    return folder


def fail_run(experiment: Experiment, run: RunId, step: str, reason: str) -> Path:
    """Write the files of a run of which a step failed: its settings and the reason."""
    folder = experiment.layout.run(run)
    write_text(folder / "config.yaml", dump_yaml(experiment.resolve(run)))
    write_json(folder / "failure.json", {"step": step, "reason": reason})
    return folder


def _slice(label: str, em: float, f1: float, tuned: bool) -> dict[str, Any]:
    official = {
        "exact": em,
        "f1": f1,
        "total": 6078,
        "HasAns_exact": em - 5,
        "HasAns_f1": f1 - 4,
        "HasAns_total": 2910,
        "NoAns_exact": em + 6,
        "NoAns_f1": em + 6,
        "NoAns_total": 3168,
    }
    better = {key: value if key.endswith("total") else value + 1 for key, value in official.items()}
    return {
        "label": label,
        "questions": 6078,
        "threshold": 0.0,
        **official,
        "best_exact": em + 2,
        "best_exact_thresh": -1.5,
        "best_f1": f1 + 2,
        "best_f1_thresh": -1.25,
        "null_odds_auc": em / 100 + 0.1,
        "tuned": {"threshold": -1.0, "tuned_on": "held_out", **better} if tuned else None,
    }


def _write_schedule(folder: Path, settings: Any, steps: int, draw: random.Random) -> list[str]:
    others = [name for name in settings.corpora if name != settings.target]
    weights = [settings.weight]
    weights += [(1 - settings.weight) / len(others)] * len(others) if others else []
    names = draw.choices([settings.target, *others], weights, k=steps)
    schedule = pa.table(
        {
            "step": pa.array(range(steps), pa.int32()),
            "phase": pa.array([0] * steps, pa.int16()),
            "epoch": pa.array([2 * step // steps for step in range(steps)], pa.int16()),
            "corpus": pa.array(names, pa.string()),
            "rows": pa.array([[step % 100] for step in range(steps)], pa.list_(pa.int32())),
        }
    )
    pq.write_table(schedule, folder / "schedule.parquet")
    return names


def _write_training(folder: Path, corpora: list[str], draw: random.Random) -> float:
    start = {"squad": 8.0, "swag": 1.39, "cola": 0.7, "mrpc": 0.7, "mnli": 1.1}
    steps = len(corpora)
    lines = []
    for step, corpus in enumerate(corpora):
        fall = 0.35 + 0.65 * math.exp(-4 * step / steps)
        line = {
            "step": step,
            "epoch": 2 * step // steps,
            "corpus": corpus,
            "loss": start.get(corpus, 1.0) * fall * draw.lognormvariate(0, 0.2),
            "lr": 3e-5 * min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps)),
            "grad_norm": draw.lognormvariate(1, 0.3),
            "tokens": 1000,
            "seconds": 0.25 * (step + 1),
        }
        lines.append(json.dumps(line) + "\n")
    write_text(folder / "training.jsonl", "".join(lines))
    return 0.25 * steps


def _write_predictions(folder: Path, draw: random.Random) -> None:
    odds = [draw.gauss(0, 3) for _ in range(20)]
    predictions = pa.table(
        {
            "corpus": ["squad"] * 20,
            "split": ["dev"] * 20,
            "id": [f"q{number}" for number in range(20)],
            "answer": ["seven"] * 20,
            "answer_start": pa.array([0] * 20, pa.int32()),
            "answer_end": pa.array([5] * 20, pa.int32()),
            "score": [1.0] * 20,
            "null_score": [1.0 + each for each in odds],
            "null_odds": odds,
        }
    )
    pq.write_table(predictions, folder / "predictions.parquet")


def make_questions(experiment: Experiment, rows: list[dict[str, Any]]) -> None:
    """Write the dev split of SQuAD, and manifests of all corpora with the digests of `make_run`.

    Args:
        rows: `id`, `question`, `context`, and `answers`, a list of texts from the context.
    """
    table = [
        {
            "id": row["id"],
            "title": row.get("title", "An article"),
            "paragraph": number,
            "context": row["context"],
            "question": row["question"],
            "answer_texts": row["answers"],
            "answer_starts": [row["context"].index(text) for text in row["answers"]],
        }
        for number, row in enumerate(rows)
    ]
    folder = experiment.layout.corpus("squad")
    folder.mkdir(parents=True, exist_ok=True)
    schema = SCHEMAS["question_answering"]
    pq.write_table(pa.Table.from_pylist(table, schema), folder / "dev.parquet")
    other = {**table[0], "id": "of training", "context": "Another context."}
    pq.write_table(pa.Table.from_pylist([other], schema), folder / "train.parquet")
    for name in experiment.corpora:
        manifest = {"digest": digest(name), "splits": {"dev": {"rows": 4}}}
        write_json(experiment.layout.corpus(name) / "manifest.json", manifest)


def make_answers(experiment: Experiment, run: RunId, answers: dict[str, tuple[str, float]]) -> Path:
    """Write a finished and scored run and return its folder.

    Args:
        answers: the answer and its null odds for each question.
    """
    folder = make_run(experiment, run)
    dev = pq.read_table(experiment.layout.corpus("squad") / "dev.parquet").to_pylist()
    rows = []
    for row in dev:
        text, odds = answers[row["id"]]
        start = row["context"].index(text)
        rows.append(
            {
                "corpus": "squad",
                "split": "dev",
                "id": row["id"],
                "answer": text,
                "answer_start": start,
                "answer_end": start + len(text),
                "score": 1.0,
                "null_score": 1.0 + odds,
                "null_odds": odds,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    corpora = [name for name in experiment.resolve(run).corpora if name != "squad"]
    rows = [
        {"corpus": name, "split": "dev", "row": row, "label": row % 2, "prediction": row % 2}
        for name in corpora
        for row in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows, predictions.LABELS), folder / "auxiliary.parquet")
    metrics.write(folder, experiment)
    return folder


def make_statistics(experiment: Experiment) -> dict[str, Any]:
    """Write and return statistics with made-up differences between the rows of every table."""
    draw = random.Random(experiment.experiment)
    tables, cells = {}, {}
    for name, table in experiment.tables.items():
        own = experiment.slice_of(name)
        paths = [experiment.runs_of(row)[0].path.rpartition("/")[0] for row in table.rows]
        labels = [row.label or experiment.mixtures[row.mixture].label for row in table.rows]
        for path in paths:
            cells[path] = {
                slice_name: {
                    column: {
                        "mean": draw.uniform(60, 80),
                        "deviation": draw.uniform(0, 1) if len(experiment.seeds) > 1 else None,
                        "seeds": experiment.seeds,
                    }
                    for column in ("em", "f1")
                }
                for slice_name in experiment.slices
            }
        base = next(n for n, row in enumerate(table.rows) if row.mixture == "qa")
        tables[name] = {
            "title": table.title,
            "slice": own,
            "comparisons": [
                _comparison(experiment, draw, own, (paths[base], labels[base]), each)
                for each in zip(paths, labels, strict=True)
                if each[0] != paths[base]
            ],
            "left_out": [],
        }
    statistics = {
        "experiment": experiment.experiment,
        "notice": experiment.notice,
        "confidence": 0.95,
        "resamples": 100,
        "seeds": experiment.seeds,
        "tables": tables,
        "cells": cells,
    }
    write_json(experiment.layout.root / "statistics.json", statistics)
    return statistics


def _comparison(
    experiment: Experiment,
    draw: random.Random,
    slice_name: str,
    first: tuple[str, str],
    second: tuple[str, str],
) -> dict[str, Any]:
    def numbers() -> dict[str, float]:
        difference, reach = draw.uniform(-2, 2), draw.uniform(0.3, 2)
        return {
            "difference": difference,
            "low": difference - reach,
            "high": difference + reach,
            "p_holm": draw.random(),
            "detectable": draw.uniform(1, 3),
        }

    published = {"em": draw.uniform(-1, 1), "f1": draw.uniform(-1, 1)}
    word = draw.choice(["supported", "contradicted", "not decidable"])
    return {
        "kind": "baseline",
        "from": first[0],
        "to": second[0],
        "from_label": first[1],
        "to_label": second[1],
        "slice": slice_name,
        "slice_label": experiment.slices[slice_name].label,
        "threshold": "zero",
        "seeds": experiment.seeds,
        "target": "squad",
        "family": "question_answering",
        "measures": {"em": numbers(), "f1": numbers()},
        "headline": "em",
        "labels": {"em": "EM", "f1": "F1"},
        "published": published,
        "verdict": {"em": word, "f1": word, "text": f"A sentence on {second[1]}."},
        "conclusion": draw.choice(["higher", "lower", "open"]),
        "notes": ["A note."],
    }
