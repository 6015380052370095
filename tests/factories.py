"""Made-up experiments and run folders, complete as far as their readers are concerned."""

import json
import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtdnn.config import Experiment, dump_yaml, parse
from mtdnn.files import digest, write_json, write_text
from mtdnn.layout import RunId

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
WEIGHTS = [
    {"encoder": "base", "mixture": "qa_mcc_sc", "qa_weight": w} for w in (0.5, 0.7, 0.8, 0.9)
]
QA = {"encoder": "base", "mixture": "qa", "qa_weight": 1.0}


def make_experiment(folder: Path, **changes: Any) -> Experiment:
    """The paper's tables and figures over synthetic corpora; results go below `folder`.

    `changes` replace top-level keys of the YAML.
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
                    {"encoder": "base", "mixture": "qa_mcc", "qa_weight": 0.8},
                    {"encoder": "base", "mixture": "qa_sc", "qa_weight": 0.8},
                    {"encoder": "base", "mixture": "qa_mcc_sc", "qa_weight": 0.8},
                ],
            },
            "table3": {
                "title": "Large encoder",
                "rows": [
                    {**QA, "encoder": "large"},
                    {"encoder": "large", "mixture": "qa_mcc_sc", "qa_weight": 0.8},
                ],
            },
        },
        "figures": {
            "figure3": {"title": "QA weight and scores", "table": "table1", "x": "qa_weight"},
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
        em, f1: percent on the first slice; each further slice gets a point less
        steps: optimiser steps in `schedule.parquet` and `training.jsonl`.
        fingerprint: made from the settings when absent.
        tuned: add scores at a tuned threshold; as the experiment wants it when None.
        not_measurable: reasons by slice, for slices without scores.
        slices: keys to replace in the scores of a slice.
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
    metrics = {
        "experiment": experiment.experiment,
        "notice": experiment.notice,
        "run": {
            "encoder": run.encoder,
            "mixture": run.mixture,
            "qa_weight": run.qa_weight,
            "variant": run.variant,
            "seed": run.seed,
        },
        "em": first.get("exact"),
        "f1": first.get("f1"),
        "slices": scores,
        "auxiliary": {
            name: {
                "label": corpus.label,
                "accuracy": 81.5,
                "matthews": 0.5,
                "f1": 80.0,
                "majority": 60.0,
                "rows": 50,
            }
            for name, corpus in settings.corpora.items()
            if name != settings.primary
        },
        "fingerprint": fingerprint,
        "provenance": {
            **provenance,
            "scored": {"commit": "ba9876543210"},
            "corpora": corpus_digests,
        },
    }
    write_json(folder / "metrics.json", metrics)
    return folder


def fail_run(experiment: Experiment, run: RunId, step: str, reason: str) -> Path:
    """Write what a failed step leaves: its settings and the reason."""
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
    others = [name for name in settings.corpora if name != settings.primary]
    weights = [settings.qa_weight]
    weights += [(1 - settings.qa_weight) / len(others)] * len(others) if others else []
    names = draw.choices([settings.primary, *others], weights, k=steps)
    schedule = pa.table(
        {
            "step": pa.array(range(steps), pa.int32()),
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
