"""The runs of an experiment as they lie on disk: their scores, or why there are none."""

import csv
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdnn.config.experiment import Experiment, Row
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json


@dataclass(frozen=True)
class Result:
    """One run: its `metrics.json`, or the reason why it has none."""

    run: RunId
    folder: Path
    metrics: dict[str, Any] | None
    missing: str | None

    def values(self, slice_name: str, tuned: bool = False) -> tuple[dict[str, Any], str | None]:
        """Scores on a slice by their official keys, and the reason if there are none.

        `tuned` gives those at the threshold that was tuned on other questions.
        """
        if self.metrics is None:
            return {}, self.missing
        scores = self.metrics["slices"].get(slice_name)
        if scores is None:
            return {}, f"not scored on {slice_name}"
        if not scores.get("measurable", True):
            return {}, f"not measurable: {scores['reason']}"
        if not tuned:
            return scores, None
        tuned_scores = scores.get("tuned")
        return tuned_scores or {}, None if tuned_scores else "no threshold was tuned"


@dataclass(frozen=True)
class Score:
    """One number of a table's row: a value for each seed that has it."""

    values: tuple[float, ...]
    reasons: tuple[str, ...] = ()
    """Why seeds are missing; empty when all are there."""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds (ddof 1); None below two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class RowResult:
    """One row of a table with its runs."""

    row: Row
    label: str
    long_label: str
    """The label with QA weight and variant, for sentences."""
    encoder_label: str
    variant_label: str
    results: tuple[Result, ...]
    published: dict[str, float]
    """Published `em` and `f1`; empty when there are none."""
    slice_name: str
    """The slice on which the table scores."""

    @property
    def path(self) -> str:
        """The path that its runs share, for instance `base/qa_sc/w0.8/default`."""
        return self.results[0].run.row_path

    @property
    def present(self) -> list[Result]:
        return [result for result in self.results if result.metrics is not None]

    def score(self, slice_name: str, key: str, tuned: bool = False) -> Score:
        """The score `key` (an official key or `null_odds_auc`) over this row's seeds."""
        values, reasons = [], {}
        for result in self.results:
            scores, reason = result.values(slice_name, tuned)
            value = scores.get(key)
            if value is not None:
                values.append(value)
            elif result.metrics is not None:
                reasons[reason or f"{key} does not exist there"] = None
        return Score(tuple(values), (*reasons, *self.missing))

    @property
    def missing(self) -> list[str]:
        """Why runs have no scores: each reason once, with its seeds unless it holds for all."""
        absent = [result for result in self.results if result.metrics is None]
        merged = []
        for reason in dict.fromkeys(str(result.missing) for result in absent):
            seeds = [str(result.run.seed) for result in absent if result.missing == reason]
            whose = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: "
            merged.append(reason if len(seeds) == len(self.results) else whose + reason)
        return merged


def read_result(experiment: Experiment, run: RunId) -> Result:
    """A run's scores. A step that failed outdates what an earlier attempt has left."""
    folder = experiment.layout.run(run)
    try:
        if RunFolder(folder).failure.exists():
            failure = read_json(RunFolder(folder).failure)
            return Result(run, folder, None, f"{failure['step']} failed: {failure['reason']}")
        if RunFolder(folder).metrics.exists():
            return Result(run, folder, read_json(RunFolder(folder).metrics), None)
    except MtdnnError as error:
        return Result(run, folder, None, str(error))
    trained = RunFolder(folder).description.exists()
    return Result(run, folder, None, "trained, not scored" if trained else "not run")


def read_results(experiment: Experiment) -> list[Result]:
    """All runs of the experiment, in the order of their first use in a table."""
    return [read_result(experiment, run) for run in experiment.runs()]


def read_rows(experiment: Experiment, table: str) -> list[RowResult]:
    """The rows of a table with their runs and published numbers."""
    published = read_published(experiment)
    return [
        RowResult(
            row=row,
            label=experiment.row_label(row),
            long_label=experiment.long_row_label(row),
            encoder_label=experiment.encoders[row.encoder].label,
            variant_label=experiment.variant_label(row.variant),
            results=tuple(read_result(experiment, run) for run in experiment.runs_of(row)),
            published=_published_of(experiment, table, row, published),
            slice_name=experiment.slice_of(table),
        )
        for row in experiment.tables[table].rows
    ]


def read_published(experiment: Experiment) -> list[dict[str, str]]:
    """Rows of the CSV of published numbers (table, encoder, mixture, qa_weight, split, em, f1)."""
    if not experiment.published:
        return []
    path = Path(experiment.published)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise MtdnnError(f"{path}: published numbers are not readable: {error}") from None
    columns = {"table", "encoder", "mixture", "qa_weight", "split", "em", "f1"}
    for number, row in enumerate(rows, start=2):
        absent = sorted(column for column in columns if not row.get(column))
        if absent:
            raise MtdnnError(f"{path}: line {number}: no value for {', '.join(absent)}")
        for column in ("qa_weight", "em", "f1"):
            try:
                float(row[column])
            except ValueError:
                raise MtdnnError(
                    f"{path}: line {number}: {column}: {row[column]!r} is not a number"
                ) from None
    return rows


def _published_of(
    experiment: Experiment, table: str, row: Row, published: Iterable[dict[str, str]]
) -> dict[str, float]:
    """Published scores of the same table, encoder, mixture and QA weight, for its slice's split.

    The encoder may be named by its key, its label or the last part of its repository. A
    variant is our own addition, so it has no published counterpart.
    """
    encoder = experiment.encoders[row.encoder]
    repository = getattr(encoder.source, "repo", "").rpartition("/")[2]
    split = experiment.published_split(experiment.slice_of(table))
    wanted = (table, row.mixture, row.qa_weight, split)
    for line in published:
        key = (line["table"], line["mixture"], float(line["qa_weight"]), line["split"])
        same_encoder = line["encoder"] in (row.encoder, encoder.label, repository)
        if row.variant == "default" and same_encoder and key == wanted:
            return {"em": float(line["em"]), "f1": float(line["f1"])}
    return {}
