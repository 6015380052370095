"""The cost of an experiment, before it is started: runs, steps, hours, memory.

Steps are counted from the sizes of the corpora. Times come from rates that were measured on this
machine (`mtdnn.workflow.rates`) and are kept next to the results, or, before encoders and features
exist, from assumptions (`mtdnn.workflow.estimates`). Nothing heavy is imported unless a rate is
missing.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from mtdnn.config.dependencies import RunSteps, changed_sources
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import FEATURES, MANIFEST, RunFolder, RunId
from mtdnn.config.phases import phases_of_run
from mtdnn.config.settings import CorpusSettings, RunSettings, SyntheticCorpus
from mtdnn.machine.files import digest, read_product, write_json
from mtdnn.machine.gpus import count_gpus
from mtdnn.machine.progress import say
from mtdnn.machine.provenance import code_digest
from mtdnn.model.fast import plain, trials
from mtdnn.training import budget, expectation
from mtdnn.training.schedule import supplies_of
from mtdnn.workflow import estimates

WORTH_A_GPU_HOURS = 24
"""Remaining time of a CPU from which the time that a GPU would take is shown, too."""

CONFIG = "CONFIG"
"""Stands for the experiment's file in the commands of messages; its name is not known here."""

MAX_TABLE_ROWS = 40
"""Rows of the printed table; a larger grid is collapsed into encoders and mixtures."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Attributes:
        row: the runs' path without the seed.
        encoder: the runs' encoder.
        mixture: the runs' mixture.
        runs: number of runs.
        done: number of runs that are trained and predicted.
        steps: expected optimizer steps of one run; None if the size of a corpus is unknown.
        hours: of one run, training and prediction; None if the steps are.
        memory_mib: peak memory of one run, on the GPU if there is one; None if the steps are.
        missing: why a value is None; empty if none is.
        estimated: why hours and memory are assumed, not measured; empty if they are measured.
        exact: whether every seed has just this number of steps.
        measuring: how much longer training takes for measuring gradients and dev losses, as a
            share of its own time; in the hours.
    """

    row: str
    encoder: str
    mixture: str
    runs: int
    done: int
    steps: float | None
    hours: float | None = None
    memory_mib: float | None = None
    missing: str = ""
    estimated: str = ""
    exact: bool = True
    measuring: float = 0.0


def plan(experiment: Experiment, threads: int | None, measure: bool = True) -> dict[str, Any]:
    """Return the groups of an experiment's runs, and their totals.

    Args:
        experiment: the experiment.
        threads: CPU threads of a run; as in the workflow when None.
        measure: whether to measure rates that are unknown, if encoder and features exist.
    """
    # Here, because it needs scipy; what benchmarks take from this module is part of the core.
    from mtdnn.statistics import power

    gpus = count_gpus()
    threads = threads or (4 if gpus else 1)
    at_once = gpus or max(1, (os.cpu_count() or 1) // threads)
    seeds: dict[RunId, list[RunId]] = {}
    for run in experiment.runs():
        seeds.setdefault(replace(run, seed=0), []).append(run)
    cores = None if gpus else threads
    planner = _Planner(experiment, _Rates(experiment, threads, measure), cores)
    groups = [planner.group(runs) for runs in seeds.values()]
    left = {group.encoder for group in groups if group.estimated}
    return {
        "experiment": experiment.experiment,
        "threads": threads,
        "runs_at_once": at_once,
        "device": "GPU" if gpus else "CPU",
        "unknown_encoders": sorted(n for n in left if not estimates.is_known(experiment, n)),
        "groups": [asdict(group) for group in groups],
        "total": _total(groups, at_once),
        "power": [asdict(outlook) for outlook in power.outlooks(experiment)],
    }


def _total(groups: list[Group], at_once: int) -> dict[str, float | bool | str | None]:
    """Return runs and steps of all groups, and the time and memory of what is left to do.

    Args:
        groups: all groups.
        at_once: number of runs that share the machine.
    """
    left = [(group, group.runs - group.done) for group in groups if group.done < group.runs]
    at_once = min(at_once, sum(count for _, count in left) or at_once)
    work = _sum((group.hours, count) for group, count in left)
    longest = max((group.hours or 0.0 for group, _ in left), default=0.0)
    memory = max((group.memory_mib or 0.0 for group in groups), default=0.0)
    known = work is not None
    return {
        "runs": sum(group.runs for group in groups),
        "done": sum(group.done for group in groups),
        "steps": _sum((group.steps, group.runs) for group in groups),
        "exact": all(group.exact for group in groups),
        "estimated": next((group.estimated for group, _ in left if group.estimated), ""),
        "hours": None if work is None else max(longest, work / at_once),
        # Hours of one device: a GPU, or the CPU threads of one run.
        "device_hours": work,
        # With this many jobs at once, all end within twice the longest run (Graham 1969).
        "jobs_at_once": ceil(work / longest) if work is not None and longest else None,
        "longest_hours": longest if known else None,
        "memory_mib": memory * at_once if known else None,
    }


def _sum(parts: Iterable[tuple[float | None, int]]) -> float | None:
    """Return the sum of value × count; None if a value is unknown."""
    total = 0.0
    for value, count in parts:
        if value is None:
            return None
        total += value * count
    return total


class _Planner:
    """Works out groups of runs; what several groups share is looked up once."""

    def __init__(self, experiment: Experiment, rates: "_Rates", cores: int | None):
        self._experiment, self._rates, self._cores = experiment, rates, cores
        self._run_steps = RunSteps(experiment)
        self._size = cache(lambda *place: size(experiment, *place))
        self._is_outdated = cache(lambda corpus: bool(changed_sources(experiment, corpus)))

    def group(self, runs: list[RunId]) -> Group:
        """Return the group of runs that differ only in their seed."""
        run, settings = runs[0], self._experiment.resolve(runs[0])
        group = Group(
            row=run.row_path,
            encoder=run.encoder,
            mixture=run.mixture,
            runs=len(runs),
            done=sum(map(self._is_done, runs)),
            steps=None,
        )
        items: dict[str, float] = {}
        tokens: dict[str, float] = {}
        for name in settings.corpora:
            count, tokens[name] = self._size(run.encoder, settings.features_variant, name)
            if count is None:
                command = f"`mtdnn corpus {CONFIG} {name}`"
                return replace(
                    group, missing=f"the size of {name} is unknown; {command} fetches it"
                )
            items[name] = count
        steps = expected_steps(settings, items)
        folders = [self._features(run, settings, name) / FEATURES for name in settings.corpora]
        sized = all(folder.exists() for folder in folders)
        exact = sized and expectation.is_exact(phases_of_run(settings))
        group = replace(group, steps=_number_of_steps(settings, items), exact=exact)
        if group.done == group.runs:
            return group
        lengths = {name: self._length(run, settings, name, items[name]) for name in items}
        group = replace(group, measuring=_measuring(settings, steps, lengths))
        rates = self._rates.of(run, settings)
        if isinstance(rates, str):
            group = replace(group, estimated=rates)
            shape = estimates.shape_of(self._experiment, run.encoder)
            rates = estimates.rates(shape, settings, lengths, self._cores)
            dev = {name: _expected_rows(settings.corpora[name], "dev") or 0 for name in items}
            tokens = {name: tokens[name] or dev[name] * lengths[name] for name in items}
        seconds = sum(steps[name] * rates[name]["step_s"] for name in steps)
        seconds *= 1 + group.measuring
        # What teachers say of the training items is predicted once, as the dev sets are.
        for name in settings.teachers:
            tokens[name] += items[name] * lengths[name]
        seconds += sum(tokens[name] * rates[name]["token_s"] for name in steps)
        memory = max(rates[name]["memory_mib"] for name in steps)
        return replace(group, hours=seconds / 3600, memory_mib=memory)

    def _length(self, run: RunId, settings: RunSettings, corpus: str, items: float) -> float:
        """The mean number of tokens of a training item; assumed if there are no features."""
        features = self._features(run, settings, corpus) / FEATURES
        if features.exists():
            return float(read_product(features)["splits"]["train"]["tokens"] / max(items, 1))
        longest = settings.features.max_length
        return estimates.tokens_of_item(corpus, settings.corpora[corpus], longest)

    def _features(self, run: RunId, settings: RunSettings, corpus: str) -> Path:
        layout = self._experiment.layout
        return layout.features(run.encoder, settings.features_variant, corpus)

    def _is_done(self, run: RunId) -> bool:
        """Whether a run was trained with the experiment's settings and rows, and predicted."""
        corpora = self._experiment.mixtures[run.mixture].corpora
        sources = self._experiment.sources_of(run)
        if any(map(self._is_outdated, corpora)) or not all(map(self._is_done, sources)):
            return False
        files = RunFolder(self._experiment.layout.run(run))
        if not files.description.exists() or not files.predictions.exists():
            return False
        record = read_product(files.description)
        settings = self._run_steps.settings(run, "train")
        is_same = bool(record.get("config_digest") == settings)
        return is_same and self._has_rows(corpora, record)

    def _has_rows(self, corpora: Iterable[str], record: dict[str, Any]) -> bool:
        """Whether a run was trained on the rows that its corpora have; those that are missing fit.

        An imported run may have come without them.
        """
        manifests = {name: self._experiment.layout.corpus(name) / MANIFEST for name in corpora}
        return all(
            read_product(manifest)["digest"] == record.get("corpora", {}).get(name)
            for name, manifest in manifests.items()
            if manifest.exists()
        )


# --- steps -----------------------------------------------------------------------------------


def expected_steps(run: RunSettings, items: dict[str, float]) -> dict[str, float]:
    """Return the expected optimizer steps with each corpus, as the schedule draws them.

    Args:
        run: settings of the run.
        items: number of training items of each corpus (windows, rows).
    """
    phases = _by_phase(run, items)
    return {name: sum(phase.get(name, 0.0) for phase in phases) for name in items}


def _measuring(run: RunSettings, steps: dict[str, float], lengths: dict[str, float]) -> float:
    """The share of the training time for `training.interference`, given the tokens of an item."""
    sizes = {name: run.training.batch_size_of(name) for name in lengths}
    loads = {name: budget.Load(steps[name], sizes[name], lengths[name]) for name in lengths}
    epochs = sum(phase.epochs for phase in phases_of_run(run))
    return budget.plan(run.training.interference, loads, epochs).share


def _number_of_steps(run: RunSettings, items: dict[str, float]) -> float:
    """The expected optimizer steps, where a joint one counts once."""
    return expectation.number_of_steps(phases_of_run(run), _by_phase(run, items))


def _by_phase(run: RunSettings, items: dict[str, float]) -> list[dict[str, float]]:
    if run.training.average:
        return [dict.fromkeys(items, 0.0) for _ in phases_of_run(run)]
    supplies = supplies_of(run, {name: round(count) for name, count in items.items()})
    return expectation.expected_steps(phases_of_run(run), supplies, run.weight)


def size(
    experiment: Experiment, encoder: str, variant: str, corpus: str
) -> tuple[float | None, float]:
    """Return the training items of a corpus (None if unknown) and the tokens of its other splits.

    The numbers come from its features if they exist, or else from its rows, or else from the
    numbers of rows that the experiment expects. A long context has several windows, but without
    features a question counts as one item.
    """
    layout, settings = experiment.layout, experiment.corpora[corpus]
    table = layout.corpus(corpus) / "train.parquet"
    rows = pq.read_metadata(table).num_rows if table.exists() else None
    features = layout.features(encoder, variant, corpus) / FEATURES
    if features.exists():
        splits = read_product(features)["splits"]
        tokens = sum(counts["tokens"] for split, counts in splits.items() if split != "train")
        choices = settings.family == "multiple_choice"
        return rows if choices and rows else splits["train"]["sequences"], tokens
    return rows or _expected_rows(settings, "train"), 0.0


def _expected_rows(corpus: CorpusSettings, split: Literal["train", "dev"]) -> int | None:
    if isinstance(corpus.source, SyntheticCorpus):
        return corpus.source.train if split == "train" else corpus.source.dev
    return corpus.rows.get(split)


# --- rates -----------------------------------------------------------------------------------

_TIMED = {
    *("precision", "accumulation", "activation_checkpointing", "deterministic"),
    *("encoder_dropout", "optimizer", "frozen_layers", "lora"),
}
"""Settings of training on which the time or the memory of a step depends."""


class _Rates:
    """Measured rates, kept below the experiment's results.

    Args:
        experiment: the experiment.
        threads: CPU threads of a run.
        measure: whether to measure rates that are unknown.
    """

    def __init__(self, experiment: Experiment, threads: int, measure: bool):
        self._experiment, self._threads, self._measure = experiment, threads, measure
        self._folder = experiment.layout.root / "rates"
        self._code = code_digest("workflow.rates")

    def of(self, run: RunId, settings: RunSettings) -> dict[str, dict[str, float]] | str:
        """Return the rates of each corpus of a run, or the reason why they are unknown."""
        layout = self._experiment.layout
        encoder = layout.encoder(run.encoder)
        folders = {
            name: layout.features(run.encoder, settings.features_variant, name)
            for name in settings.corpora
        }
        if not (encoder / MANIFEST).exists():
            command = f"`mtdnn encoder {CONFIG} {run.encoder}`"
            return f"the encoder {run.encoder} is missing; {command} fetches it"
        for name, folder in folders.items():
            if not (folder / FEATURES).exists():
                return f"the features of {name} are missing; `mtdnn features` writes them"
        files = {
            name: self._folder / f"{self._key(settings, encoder, folder, name)}.json"
            for name, folder in folders.items()
        }
        missing = [name for name, file in files.items() if not file.exists()]
        if missing and not self._measure:
            return "no rate was measured yet; leave out --no-measuring"
        if missing:
            from mtdnn.workflow import rates

            say(
                f"{run.row_path}: measuring steps of {', '.join(missing)}, for up to "
                f"{rates.MAX_SECONDS:g} s each; the times are kept"
            )
            for name, rate in rates.measure(settings, encoder, folders, missing, self._threads):
                write_json(files[name], rate)
        return {name: read_product(file) for name, file in files.items()}

    def _key(self, settings: RunSettings, encoder: Path, features: Path, corpus: str) -> str:
        """Return a digest of what a rate depends on."""
        training = settings.training
        return digest(
            [
                os.uname().nodename,
                os.environ.get("CUDA_VISIBLE_DEVICES"),
                self._threads,
                read_product(encoder / MANIFEST)["digest"],
                settings.encoder.model_dump(mode="json", exclude={"label", "source"}),
                read_product(features / FEATURES),
                training.model_dump(mode="json", include=_TIMED),
                training.model_dump(mode="json")["heads"].get(corpus),
                training.batch_size_of(corpus),
                settings.decoding.precision,
                [*plain(), *trials()],
                self._code,
            ]
        )[:32]


# --- the printed table -----------------------------------------------------------------------


def lines(planned: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that `mtdnn plan` prints: a table, totals last, and notes on it.

    Args:
        planned: what `plan` returned.
    """
    from mtdnn.statistics import power

    groups, total = planned["groups"], planned["total"]
    if len(groups) > MAX_TABLE_ROWS:
        groups = _folded(groups)
    width = max(len(group["row"]) for group in groups)
    yield f"{'':{width}}  {'runs':>6}  {'done':>6}  {'steps':>15}  {'time':>13}  {'memory':>12}"
    for row in (*groups, {**total, "row": "all"}):
        yield (
            f"{row['row']:{width}}  {row['runs']:>6,}  {row['done']:>6,}  "
            f"{_steps(row):>15}  {_marked(_range(row['hours'], _time), not row['estimated']):>13}  "
            f"{_marked(_range(row['memory_mib'], _memory), not row['estimated']):>12}"
        )
    threads = planned["threads"]
    yield (
        "A row shows the steps, time and memory of one run with "
        f"{threads} CPU thread{'s' if threads > 1 else ''}."
    )
    yield (
        "The last row shows the steps of all runs, and the time and memory of the remaining runs, "
        f"{planned['runs_at_once']} at a time."
    )
    if share := max(group["measuring"] for group in planned["groups"]):
        yield (
            f"Times include up to {100 * share:.1f} % of training for measuring gradients and dev "
            "losses (training.interference)."
        )
    if not all(row["exact"] for row in groups):
        yield (
            "~ before steps: a mean over seeds, or an estimate until all features exist; the rest "
            "is exact."
        )
    yield from _assumptions(planned)
    if total["jobs_at_once"]:
        longest = total["longest_hours"]
        yield (
            f"Remaining {planned['device']} time: {_time(total['device_hours'])}. On a cluster, "
            f"{total['jobs_at_once']:,} parallel jobs finish within {_time(2 * longest)}; the "
            f"longest one takes {_time(longest)}."
        )
    yield from power.lines([power.Outlook(**outlook) for outlook in planned["power"]])
    yield from sorted({f"–: {group['missing']}" for group in groups if group["missing"]})


def _assumptions(planned: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that say which times and memory are assumed, why, and from what."""
    reasons = sorted({group["estimated"] for group in planned["groups"] if group["estimated"]})
    if not reasons:
        return
    yield from (f"~ before time and memory: assumed, because {reason}." for reason in reasons)
    per_thread = f"{estimates.CPU_SPEED / 1e9:.0f} GFLOP/s of a CPU thread"
    gpu = f"{estimates.GPU_SPEED / 1e12:.0f} TFLOP/s of a GPU"
    yield (
        f"Assumed: {gpu if planned['device'] == 'GPU' else per_thread}; items as long as those of "
        "SQuAD, SWAG and GLUE; fp32. Measured rates replace this as soon as features exist."
    )
    if planned["unknown_encoders"]:
        names = ", ".join(planned["unknown_encoders"])
        yield f"Assumed of unknown encoders ({names}): the size of {estimates.OTHER}."
    hours = planned["total"]["device_hours"]
    if planned["device"] == "CPU" and hours and hours > WORTH_A_GPU_HOURS:
        faster = estimates.GPU_SPEED / (estimates.CPU_SPEED * planned["threads"])
        yield f"With {gpu} instead, all remaining runs would take about {_time(hours / faster)}."


def _folded(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join groups of the same encoder and mixture; values that differ become lists."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for group in groups:
        alike.setdefault((group["encoder"], group["mixture"]), []).append(group)
    return [
        {
            "row": f"{encoder}/{mixture}/…",
            "runs": sum(group["runs"] for group in members),
            "done": sum(group["done"] for group in members),
            **{
                key: next((group[key] for group in members if group[key]), "")
                for key in ("missing", "estimated")
            },
            "exact": all(group["exact"] for group in members),
            **{
                key: [group[key] for group in members if group[key] is not None]
                for key in ("steps", "hours", "memory_mib")
            },
        }
        for (encoder, mixture), members in alike.items()
    ]


def _range(value: float | list[float] | None, shown: Callable[[float], str]) -> str:
    """Return a value, or the smallest and the largest of several, as a person reads them."""
    if value is None or value == []:
        return "–"
    values = value if isinstance(value, list) else [value]
    low, high = shown(min(values)), shown(max(values))
    return low if low == high else f"{low}–{high}"


def _steps(row: dict[str, Any]) -> str:
    """Return a row's number of steps, with a mark if it is a mean."""
    return _marked(_range(row["steps"], _count), row["exact"])


def _marked(text: str, exact: bool) -> str:
    return text if exact or text == "–" else f"~ {text}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def _memory(mib: float) -> str:
    return f"{mib:,.0f} MiB"
