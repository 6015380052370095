"""What an experiment will cost, before it is started: runs, steps, hours, memory.

Steps are counted from the sizes of the corpora, times come from rates that were measured on this
machine (`mtdnn.workflow.rates`), kept beside the results. Nothing heavy is imported unless one is
missing.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mtdnn.config.dependencies import RunSteps, code_of
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import FEATURES, MANIFEST, RunFolder, RunId
from mtdnn.config.settings import CorpusSettings, RunSettings, SyntheticCorpus
from mtdnn.machine.files import digest, read_json, write_json
from mtdnn.machine.gpus import count_gpus
from mtdnn.training.schedule import shares

LINES = 40
"""Rows of the printed table; a larger grid is folded to encoders and mixtures."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
        row: the runs' path without the seed.
        runs: how many there are, and how many of them are `done` (trained and predicted).
        steps: expected optimiser steps of one run; None when a corpus's size is not known.
        hours: of one run, training and prediction; None when a rate is not known.
        memory_mb: largest memory of one run (of the GPU where there is one).
        missing: why something is None; empty otherwise.
    """

    row: str
    encoder: str
    mixture: str
    runs: int
    done: int
    steps: float | None
    hours: float | None = None
    memory_mb: float | None = None
    missing: str = ""


def plan(experiment: Experiment, threads: int | None, measure: bool = True) -> dict[str, Any]:
    """The groups of an experiment's runs, and their totals.

    Args:
        threads: CPU threads of a run; by default what the workflow gives it.
        measure: measure rates that are not known yet, where encoder and features are there.
    """
    gpus = count_gpus()
    threads = threads or (4 if gpus else 1)
    at_once = gpus or max(1, (os.cpu_count() or 1) // threads)
    runs = experiment.runs()
    alike: dict[RunId, list[RunId]] = {}
    for run in runs:
        alike.setdefault(replace(run, seed=0), []).append(run)
    sizes: dict[Any, tuple[float | None, float]] = {}
    rates = _Rates(experiment, threads, measure)
    asked = RunSteps(experiment)
    groups = [_group(experiment, members, sizes, rates, asked) for members in alike.values()]
    left = [group.runs - group.done for group in groups]
    due = [(group.hours, n) for group, n in zip(groups, left, strict=True) if n]
    known = all(hours is not None for hours, _ in due)
    work = sum(hours * n for hours, n in due) if known else None
    longest = max((hours for hours, _ in due), default=0.0) if known else None
    counted = all(g.steps is not None for g in groups)
    return {
        "experiment": experiment.experiment,
        "threads": threads,
        "runs_at_once": at_once,
        "device": "GPU" if gpus else "CPU",
        "groups": [asdict(group) for group in groups],
        "total": {
            "runs": len(runs),
            "done": sum(group.done for group in groups),
            "steps": sum(g.steps * g.runs for g in groups) if counted else None,
            "hours": work / at_once if known else None,
            # Of one GPU, or of so many CPU threads.
            "device_hours": work,
            # With so many at once all end within twice the longest run (Graham 1969).
            "jobs_at_once": ceil(work / longest) if longest else None,
            "longest_hours": longest,
            "memory_mb": max((g.memory_mb or 0 for g in groups), default=0) * at_once
            if known
            else None,
        },
    }


def _group(
    experiment: Experiment,
    members: list[RunId],
    sizes: dict,
    rates: "_Rates",
    asked: RunSteps,
) -> Group:
    run, settings = members[0], experiment.resolve(members[0])
    folder = experiment.layout.run
    group = Group(
        row=run.row_path,
        encoder=run.encoder,
        mixture=run.mixture,
        runs=len(members),
        done=sum(_is_done(folder(member), asked.settings(member, "train")) for member in members),
        steps=None,
    )
    items, tokens = {}, {}
    for name in settings.corpora:
        place = (run.encoder, settings.features_variant, name)
        if place not in sizes:
            sizes[place] = size(experiment, *place)
        items[name], tokens[name] = sizes[place]
        if items[name] is None:
            return replace(group, missing=f"the size of {name} is not known; fetch it")
    steps = expected_steps(settings, items)
    group = replace(group, steps=sum(steps.values()))
    if group.done == group.runs:
        return group
    known = rates.of(run, settings)
    if isinstance(known, str):
        return replace(group, missing=known)
    seconds = sum(steps[name] * known[name]["step_s"] for name in steps)
    seconds += sum(tokens[name] * known[name]["token_s"] for name in steps)
    memory = max(known[name]["memory_mb"] for name in steps)
    return replace(group, hours=seconds / 3600, memory_mb=memory)


def _is_done(folder: Path, settings: str) -> bool:
    """Whether a run was trained under these settings (their digest), and evaluated."""
    description = RunFolder(folder).description
    if not description.exists() or not RunFolder(folder).predictions.exists():
        return False
    return read_json(description).get("config_digest") == settings


# --- steps -----------------------------------------------------------------------------------


def expected_steps(run: RunSettings, items: dict[str, float]) -> dict[str, float]:
    """Expected optimiser steps on each corpus, by the definition of the schedule.

    Question answering takes all its batches; on average the others are drawn in the proportion
    of their shares, as often as their batches last where they are not refilled.
    """
    share = shares(run.corpora, run.qa_weight, run.schedule.spread)
    batches = {name: ceil(count / run.training.batch_size) for name, count in items.items()}
    rounds = batches[run.primary] / (run.schedule.steps_of_weight or share[run.primary])
    drawn = {name: rounds * part for name, part in share.items()}
    others = [name for name in share if name != run.primary]
    if run.schedule.dry == "skip":
        drawn |= {name: min(drawn[name], batches[name]) for name in others}
    elif run.schedule.dry == "renormalise":
        wanted, lasting = sum(drawn[n] for n in others), set(others)
        while lasting:
            scale = wanted / sum(share[n] for n in lasting)
            dry = {n for n in lasting if share[n] * scale >= batches[n]}
            drawn |= {n: batches[n] if n in dry else share[n] * scale for n in lasting}
            wanted -= sum(batches[n] for n in dry)
            lasting -= dry
            if not dry:
                break
    return {name: count * run.training.epochs for name, count in drawn.items()}


def size(
    experiment: Experiment, encoder: str, variant: str, corpus: str
) -> tuple[float | None, float]:
    """Training items of a corpus (None if unknown) and tokens of its other splits.

    From its features when they are there, else from its rows, else from the numbers of rows
    that the experiment expects. Long contexts have several windows: without features, a question
    counts as one.
    """
    layout, settings = experiment.layout, experiment.corpora[corpus]
    table = layout.corpus(corpus) / "train.parquet"
    rows = pq.read_metadata(table).num_rows if table.exists() else None
    features = layout.features(encoder, variant, corpus) / FEATURES
    if features.exists():
        splits = read_json(features)["splits"]
        tokens = sum(counts["tokens"] for split, counts in splits.items() if split != "train")
        choices = settings.family == "multiple_choice"
        return rows if choices and rows else splits["train"]["sequences"], tokens
    return rows or _expected_rows(settings), 0.0


def _expected_rows(corpus: CorpusSettings) -> int | None:
    if isinstance(corpus.source, SyntheticCorpus):
        return corpus.source.train
    return corpus.rows.get("train")


# --- rates -----------------------------------------------------------------------------------


class _Rates:
    """Measured rates, kept below the experiment's results."""

    def __init__(self, experiment: Experiment, threads: int, measure: bool):
        self._experiment, self._threads, self._measure = experiment, threads, measure
        self._folder = experiment.layout.root / "rates"
        self._code = code_of("evaluate")

    def of(self, run: RunId, settings: RunSettings) -> dict[str, dict[str, float]] | str:
        """The rates of each corpus of a run, or why they are not known."""
        layout = self._experiment.layout
        encoder = layout.encoder(run.encoder)
        folders = {
            name: layout.features(run.encoder, settings.features_variant, name)
            for name in settings.corpora
        }
        if not (encoder / MANIFEST).exists():
            return f"the encoder {run.encoder} is not there; `mtdnn encoder` fetches it"
        for name, folder in folders.items():
            if not (folder / FEATURES).exists():
                return f"the features of {name} are not there; `mtdnn features` makes them"
        files = {
            name: self._folder / f"{self._key(settings, encoder, folder)}.json"
            for name, folder in folders.items()
        }
        absent = [name for name, file in files.items() if not file.exists()]
        if absent and not self._measure:
            return "no rate was measured yet; leave out --no-measuring"
        if absent:
            from mtdnn.workflow import rates

            for name, rate in rates.measure(settings, encoder, folders, absent, self._threads):
                write_json(files[name], rate)
        return {name: read_json(file) for name, file in files.items()}

    def _key(self, settings: RunSettings, encoder: Path, features: Path) -> str:
        """What a rate depends on."""
        training = settings.training
        return digest(
            [
                os.uname().nodename,
                os.environ.get("CUDA_VISIBLE_DEVICES"),
                self._threads,
                read_json(encoder / MANIFEST)["digest"],
                settings.encoder.model_dump(mode="json", exclude={"label", "source"}),
                read_json(features / FEATURES),
                training.model_dump(include={"batch_size", "precision", "accumulation"}),
                settings.decoding.precision,
                self._code,
            ]
        )[:32]


# --- in words --------------------------------------------------------------------------------


def described(planned: dict[str, Any]) -> Iterator[str]:
    """Lines of a table that a person can read, totals last."""
    groups, total = planned["groups"], planned["total"]
    if len(groups) > LINES:
        groups = _folded(groups)
    width = max(len(group["row"]) for group in groups)
    yield f"{'':{width}}  {'runs':>6}  {'done':>6}  {'steps':>15}  {'time':>13}  {'memory':>8}"
    for group in groups:
        yield (
            f"{group['row']:{width}}  {group['runs']:>6,}  {group['done']:>6,}  "
            f"{_range(group['steps'], _count):>15}  {_range(group['hours'], _time):>13}  "
            f"{_range(group['memory_mb'], _memory):>8}"
        )
    yield (
        f"{'all':{width}}  {total['runs']:>6,}  {total['done']:>6,}  "
        f"{_range(total['steps'], _count):>15}  {_range(total['hours'], _time):>13}  "
        f"{_range(total['memory_mb'], _memory):>8}"
    )
    yield (
        f"steps, time and memory of one run, with {planned['threads']} CPU threads; the last line "
        f"is what is left of all, {planned['runs_at_once']} at once"
    )
    if total["jobs_at_once"]:
        jobs, longest = total["jobs_at_once"], total["longest_hours"]
        yield (
            f"{planned['device']} time left in all: {_time(total['device_hours'])}; on a cluster "
            f"{jobs:,} jobs at once end within {_time(2 * longest)}, the longest takes "
            f"{_time(longest)}"
        )
    yield from sorted({f"–: {group['missing']}" for group in groups if group["missing"]})


def _folded(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of the same encoder and mixture together, with ranges of what differs."""
    together: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for group in groups:
        together.setdefault((group["encoder"], group["mixture"]), []).append(group)
    return [
        {
            "row": f"{encoder}/{mixture}/…",
            "runs": sum(g["runs"] for g in some),
            "done": sum(g["done"] for g in some),
            "missing": next((g["missing"] for g in some if g["missing"]), ""),
            **{
                key: [g[key] for g in some if g[key] is not None]
                for key in ("steps", "hours", "memory_mb")
            },
        }
        for (encoder, mixture), some in together.items()
    ]


def _range(value: Any, words: Any) -> str:
    values = value if isinstance(value, list) else [value]
    if not values or values[0] is None:
        return "–"
    low, high = words(min(values)), words(max(values))
    return low if low == high else f"{low}–{high}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def _memory(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB"
