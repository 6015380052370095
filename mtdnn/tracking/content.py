"""What MLflow is to hold of a run: settings, points of curves, scores. Nothing here talks to it.

The points follow from a run's files alone, values and times: those of a training that is still
going on are the first of those that it will have when it is finished.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtdnn.config.layout import RunFolder
from mtdnn.config.loading import load_run
from mtdnn.config.yaml_files import read_yaml
from mtdnn.machine.files import digest, read_json
from mtdnn.training.journal import Record
from mtdnn.training.log import read_training

MAX_POINTS = 1000
"""Points of a curve; longer ones are averaged in that many equal windows."""

PROMOTED = ("HasAns_f1", "NoAns_exact", "null_odds_auc")  # of the first slice, beside em and f1
_LONGEST_PARAM = 6000


class Point(NamedTuple):
    """A point of a curve, in MLflow's terms; `time` in milliseconds."""

    key: str
    value: float
    time: int
    step: int


class Curves:
    """Loss of each corpus, learning rate and gradient norm, point by point as steps come.

    A point is the mean of a window, at the window's last step and at its real time.

    Args:
        counts: steps of each corpus in the whole training.
        start: when it was started, in milliseconds.
    """

    def __init__(self, counts: dict[str, int], start: int):
        self._totals = {f"loss/{corpus}": count for corpus, count in counts.items()}
        self._totals |= dict.fromkeys(("learning_rate", "grad_norm"), sum(counts.values()))
        self._start, self._seconds = start, 0.0
        self._closed: dict[str, int] = {}
        self._open: dict[str, list[float]] = {}

    def add(self, lines: Iterable[dict[str, Any]]) -> Iterator[Point]:
        """The points that these lines of a journal complete."""
        for line in lines:
            # The clock of a resumed training goes on from its checkpoint, before the last lines.
            self._seconds = max(self._seconds, line.get("seconds") or 0)
            time = self._start + round(1000 * self._seconds)
            if "readings" in line:
                for name, value in line["readings"].items():
                    yield Point(f"system/{name}", float(value), time, line["step"])
                continue
            names = ((f"loss/{line['corpus']}", "loss"), ("learning_rate", "lr"))
            for key, name in (*names, ("grad_norm", "grad_norm")):
                if line.get(name) is None:
                    continue
                window = self._open.setdefault(key, [])
                window.append(line[name])
                if len(window) >= self._width(key):
                    yield Point(key, float(np.mean(window)), time, line["step"])
                    window.clear()
                    self._closed[key] = self._closed.get(key, 0) + 1

    def _width(self, key: str) -> int:
        """Steps in the window that is open: equal ones, of which the first take the remainder."""
        width, remainder = divmod(self._totals.get(key, 0), MAX_POINTS)
        return max(1, width + (self._closed.get(key, 0) < remainder)) if width else 1


class Source:
    """A run's files as MLflow is to mirror them; `read` again while the run goes on.

    The curves come from the journal. A finished training without a whole one (it was imported,
    or its disk was full) has them in `training.jsonl`.

    Attributes:
        folder: the run's folder.
        points: those that were found by the last call of `read`, in order.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.record = Record(self.folder)
        self._lines = self.record.read()
        if self._is_outdated():
            self.record, self._lines = Record(self.folder), []
        self.metrics = _optional_json(RunFolder(self.folder).metrics)
        self.model = _optional_json(RunFolder(self.folder).description)
        self.failure = _optional_json(RunFolder(self.folder).failure)
        self.provenance = {
            key: self.record.about[key]
            for key in ("commit", "device", "started")
            if key in self.record.about
        }
        trained = self.model or self.metrics
        ours = self.record.about.get("fingerprint") == trained.get("fingerprint")
        self.from_journal = bool(self.record.about) and (
            not trained or (ours and self.record.complete)
        )
        for made in (self.model, self.metrics):
            self.provenance |= made.get("provenance", {})
        if self.from_journal:
            self.provenance["started"] = self.record.about["started"]
            counts = self.record.about["corpora"]
        else:
            self._lines = read_training(self.folder)
            counts = _counts(self._lines)
        self._curves = Curves(counts, self.start or 0)

    def _is_outdated(self) -> bool:
        """Whether the run's settings were changed since its journal was written."""
        written = self.record.about.get("config_digest")
        if not written:
            return False
        return written != digest(load_run(RunFolder(self.folder).config).determining())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing yet that could be mirrored."""
        return not (self.record.about or self.model or self.metrics or self.failure)

    @property
    def fingerprint(self) -> str | None:
        """The run's fingerprint; None for one that failed before it had one."""
        places = (self.metrics, self.model, self.record.about)
        return next((each["fingerprint"] for each in places if each.get("fingerprint")), None)

    @property
    def is_going_on(self) -> bool:
        """Whether it is being trained, or was until its process was killed."""
        ended = self.record.status or self.model or self.metrics or self.failure
        return bool(self.record.about) and not ended

    @property
    def start(self) -> int | None:
        """When the training was started, in milliseconds."""
        started = self.provenance.get("started")
        return round(1000 * datetime.fromisoformat(started).timestamp()) if started else None

    @property
    def end(self) -> int | None:
        """When it ended, by the training's own clock, which stands still while it is stopped."""
        seconds = self.provenance.get("seconds") or self.record.seconds
        return None if self.start is None else self.start + round(1000 * seconds)

    @property
    def status(self) -> str:
        """What MLflow calls it."""
        if self.failure:
            killed = self.failure["step"] == "train" and self.record.status == "KILLED"
            return "KILLED" if killed else "FAILED"
        if self.is_going_on:
            return "RUNNING"
        finished = self.model or self.metrics or not self.record.about
        return "FINISHED" if finished else str(self.record.status)

    @property
    def reason(self) -> str | None:
        """Why it failed."""
        if self.failure:
            return f"{self.failure['step']}: {self.failure['reason']}"
        return self.record.reason if self.status in ("FAILED", "KILLED") else None

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the corpora."""
        return {**self.model.get("corpora", {}), **self.provenance.get("corpora", {})}

    def read(self) -> Iterator[Point]:
        """The points that were not there at the last call."""
        lines, self._lines = self._lines, None
        if lines is None:
            lines = self.record.read() if self.from_journal else []
        yield from self._curves.add(lines)

    def scores(self) -> Iterator[Point]:
        """What a finished run has once, at its end."""
        end = self.end or 0
        for name, value in scores(self.metrics).items():
            yield Point(name, value, end, 0)
        for name in ("seconds", "steps", "tokens"):
            if self.provenance.get(name) is not None:
                yield Point(f"training/{name}", float(self.provenance[name]), end, 0)


def _counts(steps: list[dict[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for step in steps:
        counts[step["corpus"]] = counts.get(step["corpus"], 0) + 1
    return counts


def scores(metrics: dict[str, Any]) -> dict[str, float]:
    """All numbers of `metrics.json`: `em`, `f1`, `slices/{slice}/…`, `auxiliary/{corpus}/…`."""
    return {
        name: float(value)
        for name, path in paths(metrics).items()
        if isinstance(value := _at(metrics, path), int | float) and not isinstance(value, bool)
    }


def paths(metrics: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Where in `metrics.json` each of MLflow's scores stands."""
    found: dict[str, tuple[str, ...]] = {"em": ("em",), "f1": ("f1",)}
    slices = metrics.get("slices", {})
    first = next(iter(slices), "")
    found |= {name: ("slices", first, name) for name in PROMOTED}
    for name, values in slices.items():
        found |= {f"slices/{name}/{key}": ("slices", name, key) for key in values}
        for key in values.get("tuned") or {}:
            found[f"slices/{name}/tuned/{key}"] = ("slices", name, "tuned", key)
    for name, values in metrics.get("auxiliary", {}).items():
        found |= {f"auxiliary/{name}/{key}": ("auxiliary", name, key) for key in values}
    return found


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def parameters(config: Path) -> dict[str, str]:
    """A run's resolved settings, flattened: `training.learning_rate`, `corpora.squad.label`, …

    Settings that are absent, and texts that describe rather than determine, are left out.
    """
    flat: dict[str, str] = {}

    def descend(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                descend(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None and value != []:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[prefix] = text[:_LONGEST_PARAM]

    settings = read_yaml(config)
    descend("", {key: value for key, value in settings.items() if key != "notice"})
    return flat


# --- the whole experiment --------------------------------------------------------------------


def summary_numbers(statistics: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Means of the rows, and differences between them with their intervals, by name."""
    for row, slices in statistics["cells"].items():
        for slice_name, scored in slices.items():
            for metric, values in scored.items():
                for key in ("mean", "deviation"):
                    if values.get(key) is not None:
                        yield f"{row}/{slice_name}/{metric}/{key}", float(values[key])
    for name, metric, values, _ in _compared(statistics):
        for key in ("difference", "low", "high", "p_holm"):
            if values.get(key) is not None:
                yield f"{name}/{metric}/{key}", float(values[key])


def summary_verdicts(statistics: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the comparisons say about the published differences, by name."""
    for name, metric, _, verdict in _compared(statistics):
        if verdict:
            yield f"verdict/{name}/{metric}", verdict


def _compared(
    statistics: dict[str, Any],
) -> Iterator[tuple[str, str, dict[str, Any], str | None]]:
    """Name, metric, numbers and verdict of each comparison."""
    for table, entry in statistics["tables"].items():
        for each in entry["comparisons"]:
            pair = f"{each['to']} vs {each['from']}"
            threshold = "" if each["threshold"] == "zero" else f"/{each['threshold']}"
            name = f"{table}/{pair}/{each['slice']}{threshold}"
            for metric in ("em", "f1"):
                verdict = (each.get("verdict") or {}).get(metric)
                yield name, metric, each[metric], verdict


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
