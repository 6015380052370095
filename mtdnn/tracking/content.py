"""The content that MLflow should hold for a run: settings, points of curves, scores.

Nothing here talks to MLflow. Values and times of the points follow from the run's files alone;
the points of an unfinished run are the first points of the finished one.
"""

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtdnn.config.layout import Layout, RunFolder
from mtdnn.config.loading import load_run
from mtdnn.config.yaml_files import read_yaml
from mtdnn.evaluation.measures import MEASURES
from mtdnn.machine.files import digest, read_product
from mtdnn.reporting.escaping import visible
from mtdnn.training.journal import Record, steps_of
from mtdnn.training.log import cosines_with_target, dev_losses, read_training

MAX_POINTS = 1000
"""Points of a curve; a longer curve is averaged over this many windows of equal length."""

OF_EVERY_STEP = {"learning_rate": "lr", "grad_norm": "grad_norm", "penalty": "penalty"}
"""Curves that do not depend on the corpus, and their keys in the log; the last needs an anchor."""

PROMOTED = ("HasAns_f1", "NoAns_exact", "null_odds_auc")
"""Scores of answers on the first slice that have no prefix in MLflow; measures have none either."""

_NO_PARAMS = ("notice", "corpora", "scored")

MAX_PARAM_CHARACTERS = 6000
MAX_PARAM_NAME_CHARACTERS = 250

_COLUMNS = {measure.column: None for family in MEASURES.values() for measure in family}


class Point(NamedTuple):
    """A point of a curve, in MLflow's terms.

    Attributes:
        key: the curve.
        value: the value.
        time: milliseconds since 1970.
        step: the step.
    """

    key: str
    value: float
    time: int
    step: int


class Curves:
    """Turns the steps of a journal into points: loss of each corpus, learning rate, gradient norm.

    A point is the mean over a window of steps, at the step and the time of the last of them. What
    was measured after a step is a point of its own: the cosine of each auxiliary corpus's gradient
    with the target's, over the whole encoder, and the dev loss of each corpus.

    Args:
        counts: number of batches of each corpus in the whole run.
        start: start of training, in milliseconds since 1970.
        steps: number of steps of the whole run; by default each has one batch.
    """

    def __init__(self, counts: dict[str, int], start: int, steps: int | None = None):
        self._totals = {f"loss/{corpus}": count for corpus, count in counts.items()}
        self._totals |= dict.fromkeys(OF_EVERY_STEP, steps or sum(counts.values()))
        self._step = -1
        self._start, self._seconds = start, 0.0
        self._closed: dict[str, int] = {}
        self._open: dict[str, list[float]] = {}

    def add(self, lines: Iterable[dict[str, Any]]) -> Iterator[Point]:
        """Yield the points that these lines of a journal complete."""
        for line in lines:
            # A resumed run's clock continues from its checkpoint, before the last lines.
            self._seconds = max(self._seconds, line.get("seconds") or 0)
            time = self._start + round(1000 * self._seconds)
            if "readings" in line:
                for name, value in line["readings"].items():
                    yield Point(f"system/{name}", float(value), time, line["step"])
                continue
            for key, value in _measured(line):
                yield Point(key, value, time, line["step"])
            names = [(f"loss/{line['corpus']}", "loss")]
            if line["step"] != self._step:  # the batches of a joint step share the rest
                names += OF_EVERY_STEP.items()
            self._step = line["step"]
            for key, name in names:
                if line.get(name) is None:
                    continue
                window = self._open.setdefault(key, [])
                window.append(line[name])
                if len(window) >= self._width(key):
                    yield Point(key, float(np.mean(window)), time, line["step"])
                    window.clear()
                    self._closed[key] = self._closed.get(key, 0) + 1

    def _width(self, key: str) -> int:
        """Return the steps of the open window; the first windows hold one more than the others."""
        width, remainder = divmod(self._totals.get(key, 0), MAX_POINTS)
        return max(1, width + (self._closed.get(key, 0) < remainder)) if width else 1


def _measured(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the names and values of what was measured after a step; nothing after most."""
    for corpus, cosine in cosines_with_target(line).items():
        yield f"gradient_cosine/{corpus}", cosine
    for corpus, loss in dev_losses(line).items():
        yield f"dev_loss/{corpus}", loss


class Source:
    """A run's files as MLflow should mirror them; call `read` repeatedly while the run is trained.

    The curves come from the journal, or from `training.jsonl` if a finished run has no
    complete journal: it was imported, or its disk was full.

    Attributes:
        folder: the run's folder.
        record: its journal.
        metrics: its scores; empty if it is not scored.
        model: the description of its trained model; empty if it is not trained.
        failure: the step that failed and the reason; empty if none did.
        provenance: when, where and from what it was trained.
        from_journal: whether the curves come from the journal.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.record = Record(self.folder)
        self._lines: list[dict[str, Any]] | None = self.record.read()
        if self._is_outdated():
            self.record, self._lines = Record(self.folder), []
        files = RunFolder(self.folder)
        self.metrics = read_optional_json(files.metrics)
        self.model = read_optional_json(files.description)
        self.failure = read_optional_json(files.failure)
        self.provenance: dict[str, Any] = {
            key: self.record.about[key]
            for key in ("commit", "device", "started")
            if key in self.record.about
        }
        trained = self.model or self.metrics
        ours = self.record.about.get("fingerprint") == trained.get("fingerprint")
        self.from_journal = bool(self.record.about) and (
            not trained or (ours and self.record.complete)
        )
        for product in (self.model, self.metrics):
            self.provenance |= product.get("provenance", {})
        if self.from_journal:
            self.provenance["started"] = self.record.about["started"]
            counts, steps = self.record.about["corpora"], steps_of(self.record.about)
        else:
            self._lines = read_training(self.folder)
            counts = Counter(line["corpus"] for line in self._lines)
            steps = len({line["step"] for line in self._lines})
        self._curves = Curves(counts, self.start or 0, steps)

    def _is_outdated(self) -> bool:
        """Whether the run's settings have changed since its journal was written."""
        written = self.record.about.get("config_digest")
        if not written:
            return False
        settings = load_run(RunFolder(self.folder).config)
        return bool(written != digest(settings.determining()))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to mirror yet."""
        return not (self.record.about or self.model or self.metrics or self.failure)

    @property
    def fingerprint(self) -> str | None:
        """The run's fingerprint; None if the run failed before it had one."""
        places = (self.metrics, self.model, self.record.about)
        return next((each["fingerprint"] for each in places if each.get("fingerprint")), None)

    @property
    def is_running(self) -> bool:
        """Whether the run is being trained, or was when its process was killed."""
        ended = self.record.status or self.model or self.metrics or self.failure
        return bool(self.record.about) and not ended

    @property
    def start(self) -> int | None:
        """Start of training, in milliseconds since 1970; None if unknown."""
        started = self.provenance.get("started")
        return round(1000 * datetime.fromisoformat(started).timestamp()) if started else None

    @property
    def end(self) -> int | None:
        """End of training, in milliseconds since 1970; interruptions do not count."""
        seconds = self.provenance.get("seconds") or self.record.seconds
        return None if self.start is None else self.start + round(1000 * seconds)

    @property
    def status(self) -> str:
        """MLflow's status: RUNNING, FINISHED, FAILED or KILLED."""
        if self.failure:
            killed = self.failure["step"] == "train" and self.record.status == "KILLED"
            return "KILLED" if killed else "FAILED"
        if self.is_running:
            return "RUNNING"
        finished = self.model or self.metrics or not self.record.about
        return "FINISHED" if finished else str(self.record.status)

    @property
    def reason(self) -> str | None:
        """Why the run failed or was killed; None if it did not."""
        if self.failure:
            return f"{self.failure['step']}: {self.failure['reason']}"
        return self.record.reason if self.status in ("FAILED", "KILLED") else None

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each corpus."""
        return {**self.model.get("corpora", {}), **self.provenance.get("corpora", {})}

    def read(self) -> Iterator[Point]:
        """Yield the points that are new since the last call."""
        lines, self._lines = self._lines, None
        if lines is None:
            lines = self.record.read() if self.from_journal else []
        yield from self._curves.add(lines)

    def scores(self) -> Iterator[Point]:
        """Yield what a finished run has once: scores, and training totals."""
        end = self.end or 0
        for name, value in scores(self.metrics).items():
            yield Point(name, value, end, 0)
        for name in ("seconds", "steps", "tokens"):
            if self.provenance.get(name) is not None:
                yield Point(f"training/{name}", float(self.provenance[name]), end, 0)


def scores(metrics: dict[str, Any]) -> dict[str, float]:
    """Return a run's numbers by name: a measure, `slices/{slice}/…`, `auxiliary/{corpus}/…`."""
    return {
        name: float(value)
        for name, path in paths(metrics).items()
        if isinstance(value := _at(metrics, path), int | float) and not isinstance(value, bool)
    }


def paths(metrics: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the keys that lead to each of MLflow's scores in `metrics.json`, by score."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in _COLUMNS if name in metrics}
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
    """Return a run's resolved settings by path, for instance `training.learning_rate`.

    Unset settings and the notice are left out. Of the corpora there are only the names: their
    settings would fill the pages that compare runs, are the same in all of them, and stand in
    `config.yaml`.
    """
    flat: dict[str, str] = {}

    def descend(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                descend(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None and value != []:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[_param_name(prefix)] = visible(text)[:MAX_PARAM_CHARACTERS]

    settings = read_yaml(config)
    descend("", {key: value for key, value in settings.items() if key not in _NO_PARAMS})
    if settings.get("corpora"):
        flat["corpora"] = ", ".join(settings["corpora"])[:MAX_PARAM_CHARACTERS]
    return flat


def _param_name(path: str) -> str:
    """Return the name of a param: MLflow refuses some characters, which names of files may have."""
    name = re.sub(r"[^\w./: -]", "_", path)[:MAX_PARAM_NAME_CHARACTERS]
    return name if posixpath.normpath(name) == name else name.replace("/", "_")


# --- the whole experiment --------------------------------------------------------------------


def summary_numbers(statistics: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield means of rows, and differences between rows with their intervals, by name."""
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
    """Yield what the comparisons say about the published differences, by name."""
    for name, metric, _, verdict in _compared(statistics):
        if verdict:
            yield f"verdict/{name}/{metric}", verdict


def _compared(
    statistics: dict[str, Any],
) -> Iterator[tuple[str, str, dict[str, Any], str | None]]:
    """Yield name, measure, numbers and verdict of each comparison."""
    for table, entry in statistics["tables"].items():
        for each in entry["comparisons"]:
            pair = f"{each['to']} vs {each['from']}"
            threshold = "" if each["threshold"] == "zero" else f"/{each['threshold']}"
            name = f"{table}/{pair}/{each['slice']}{threshold}"
            for metric, numbers in each["measures"].items():
                yield name, metric, numbers, (each.get("verdict") or {}).get(metric)


def run_folders(layout: Layout) -> list[Path]:
    """Return the folders of all runs that exist, sorted."""
    return sorted(path.parent for path in layout.root.glob(f"runs/*/*/*/*/*/{RunFolder.config}"))


def read_optional_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; return an empty one if the file is missing."""
    return read_product(path) if path.exists() else {}
