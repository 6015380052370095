"""Read the runs of an experiment from disk: their scores, or why they have none."""

import csv
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtdnn.config.experiment import Experiment, Row, nearest
from mtdnn.config.layout import Layout, RunFolder, RunId
from mtdnn.config.loading import load
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.measures import Measure, measures_of
from mtdnn.machine.files import read_product

_UNDEFINED = {
    "HasAns_f1": "no answerable questions",
    "NoAns_exact": "no unanswerable questions",
    "null_odds_auc": "needs answerable and unanswerable questions",
}
"""Why a scored run lacks a score, for the reader of a table."""


@dataclass(frozen=True)
class Result:
    """One run: its `metrics.json`, or the reason why it has none.

    Attributes:
        run: which run it is.
        folder: the run's folder.
        metrics: content of `metrics.json`; None if the run is missing or failed.
        missing: why there is no `metrics.json`; None if there is.
    """

    run: RunId
    folder: Path
    metrics: dict[str, Any] | None
    missing: str | None

    def values(self, slice_name: str, tuned: bool = False) -> tuple[dict[str, Any], str | None]:
        """Return the scores on a slice, or the reason why there are none.

        Args:
            slice_name: the slice.
            tuned: whether to return the scores at the threshold tuned on other questions.

        Returns:
            Scores by the keys of measures, for questions also those of
            `mtdnn.evaluation.scoring.summary`, all times 100; empty if there are none. And the
            reason, None if there are scores.
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
    """One score of a table's row, with a value for each seed that has it.

    Attributes:
        values: the score of each seed, in the score's own unit (measures times 100).
        reasons: why seeds are missing; empty if none are.
    """

    values: tuple[float, ...]
    reasons: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None without any."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds (ddof 1); None below two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class RowResult:
    """One row of a table with its runs.

    Attributes:
        row: the row's settings.
        experiment: the experiment to which its runs belong, which need not be the table's.
        label: how the row is shown, next to its encoder, weight and variant.
        long_label: the label with whatever tells it from the table's other rows, for sentences.
        encoder_label: how its encoder is shown.
        variant_label: how its variant is shown.
        results: its runs, one per seed.
        published: published `em` and `f1` in percent; empty if there are none.
        slice_name: the slice on which the table scores.
        target: the name of its runs' target.
        target_label: how the target is shown.
        family: the family of the target.
        measures: the measures of the target, the headline first.
    """

    row: Row
    experiment: Experiment
    label: str
    long_label: str
    encoder_label: str
    variant_label: str
    results: tuple[Result, ...]
    published: dict[str, float]
    slice_name: str
    target: str
    target_label: str
    family: str
    measures: tuple[Measure, ...]

    @property
    def path(self) -> str:
        """The path that its runs share, for instance `base/qa_sc/w0.8/default`.

        It is the whole path if they belong to another experiment.
        """
        return f"{self.row.origin}/runs/{self.row.path}" if self.row.origin else self.row.path

    @property
    def is_alone(self) -> bool:
        """Whether its runs train on the target alone."""
        return self.experiment.mixtures[self.row.mixture].is_alone

    def corpus(self, slice_name: str) -> str | None:
        """Return the name of the corpus on which a slice scores its runs; None if it cannot."""
        return self.experiment.scored_corpus(self.row.mixture, slice_name)

    @property
    def present(self) -> list[Result]:
        """The runs that have scores."""
        return [result for result in self.results if result.metrics is not None]

    def score(self, slice_name: str, key: str, tuned: bool = False) -> Score:
        """Return one score over this row's seeds.

        Args:
            slice_name: the slice.
            key: an official key such as `exact`, or `null_odds_auc`.
            tuned: whether to read the scores at the threshold tuned on other questions.
        """
        values: list[float] = []
        reasons: dict[str, None] = {}
        for result in self.results:
            scores, reason = result.values(slice_name, tuned)
            value = scores.get(key)
            if value is not None:
                values.append(value)
            elif result.metrics is not None:
                reasons[reason or _UNDEFINED.get(key, f"no {key}")] = None
        return Score(tuple(values), (*reasons, *self.missing))

    @property
    def missing(self) -> list[str]:
        """Why runs have no scores: each reason once, with its seeds unless it applies to all."""
        unscored = [result for result in self.results if result.metrics is None]
        merged = []
        for reason in dict.fromkeys(str(result.missing) for result in unscored):
            seeds = [str(result.run.seed) for result in unscored if result.missing == reason]
            whose = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: "
            merged.append(reason if len(seeds) == len(self.results) else whose + reason)
        return merged


def read_result(experiment: Experiment, run: RunId) -> Result:
    """Read a run's scores, or why it has none.

    After a failed step, the scores of an earlier attempt do not count.
    """
    folder = experiment.layout.run(run)
    files = RunFolder(folder)
    try:
        if files.failure.exists():
            failure = read_product(files.failure)
            return Result(run, folder, None, f"{failure['step']} failed: {failure['reason']}")
        if files.metrics.exists():
            return Result(run, folder, _read_metrics(files.metrics), None)
    except MtdnnError as error:
        return Result(run, folder, None, str(error))
    trained = files.description.exists()
    return Result(run, folder, None, "trained, not scored" if trained else "not run")


def _read_metrics(path: Path) -> dict[str, Any]:
    """Read a run's `metrics.json`, of which every reader needs the slices."""
    metrics = read_product(path)
    slices = metrics.get("slices")
    if not isinstance(slices, dict) or not all(isinstance(each, dict) for each in slices.values()):
        raise MtdnnError(f"{path}: has no scores of slices; score the run again")
    return metrics


def read_results(experiment: Experiment) -> list[Result]:
    """Read all runs of the experiment, in the order of their first use in a table."""
    return [read_result(experiment, run) for run in experiment.runs()]


def read_rows(experiment: Experiment, table: str) -> list[RowResult]:
    """Read the rows of a table with their runs and published numbers.

    Runs of another experiment are read where they are; their labels name that experiment.

    Raises:
        MtdnnError: the file of published numbers is not readable or not valid, or the other
            experiment of a row is missing or has no such run.
    """
    published = read_published(experiment)
    others: dict[str, Experiment] = {}
    rows = []
    for index, row in enumerate(experiment.tables[table].rows):
        if row.origin is None:
            found = _published_of(experiment, table, row, published)
            rows.append(_read_row(experiment, experiment, table, row, found))
        else:
            other = others.setdefault(row.origin, other_experiment(row.origin))
            _check_names(f"tables.{table}.rows.{index}", other, row)
            rows.append(_read_row(experiment, other, table, row, {}))
    return _told_apart(rows)


def other_experiment(folder: str) -> Experiment:
    """Return the experiment whose results are in a folder, as a row's `from` names it.

    Raises:
        MtdnnError: the folder holds no experiment.
    """
    other = load(Layout(Path(folder)).experiment)
    update = {"results": str(Path(folder).absolute().parent), "experiment": Path(folder).name}
    return other.model_copy(update=update)


def _check_names(place: str, other: Experiment, row: Row) -> None:
    variants = {"default", *other.variants}
    for key, names in (
        ("encoder", other.encoders),
        ("mixture", other.mixtures),
        ("variant", variants),
    ):
        name = getattr(row, key)
        if name not in names:
            raise MtdnnError(f"{place}.{key}: {row.origin} has no {name!r}{nearest(name, names)}")


def _read_row(
    experiment: Experiment, own: Experiment, table: str, row: Row, published: dict[str, float]
) -> RowResult:
    """Read a row of a table of `experiment`, whose runs belong to the experiment `own`."""
    target = own.target_of(row.mixture)
    assert target is not None, "an experiment is checked when it is loaded"
    results = tuple(read_result(own, run) for run in own.runs_of(row))
    origin = ""
    if own is not experiment:
        results = tuple(_on_same_slices(each, experiment, own) for each in results)
        if len({each.origin for each in experiment.tables[table].rows}) > 1:
            origin = f" ({own.experiment})"
    return RowResult(
        row=row,
        experiment=own,
        label=own.row_label(row) + origin,
        long_label=own.long_row_label(row) + origin,
        encoder_label=own.encoders[row.encoder].label,
        variant_label=own.variant_label(row.variant),
        results=results,
        published=published,
        slice_name=experiment.slice_of(table),
        target=target,
        target_label=own.corpora[target].label,
        family=own.corpora[target].family,
        measures=measures_of(own.corpora[target]),
    )


def _on_same_slices(result: Result, experiment: Experiment, other: Experiment) -> Result:
    """Return another experiment's result without slices that select other items than ours."""
    if result.metrics is None:
        return result
    shown = {"label", "published", "questions", "answerable"}
    slices = dict(result.metrics["slices"])
    for name in slices.keys() & experiment.slices.keys():
        theirs, ours = (
            each.slices[name].model_dump(exclude=shown) if name in each.slices else None
            for each in (other, experiment)
        )
        if theirs != ours:
            reason = f"the slice {name} of {other.experiment} is another"
            slices[name] = {"measurable": False, "reason": reason}
    return replace(result, metrics={**result.metrics, "slices": slices})


def _told_apart(rows: list[RowResult]) -> list[RowResult]:
    """Return the rows of a table with labels that tell different runs apart."""
    paths = [f"{row.row.origin}/{row.path}" for row in rows]
    names = tell_apart(
        [row.long_label for row in rows],
        paths,
        [row.encoder_label for row in rows],
        [row.variant_label for row in rows],
        paths,
    )
    mixtures: dict[Any, set[str]] = {}
    columns = [(row.label, row.row.encoder, row.row.weight, row.row.variant) for row in rows]
    for key, row in zip(columns, rows, strict=True):
        mixtures.setdefault(key, set()).add(row.row.mixture)
    # A table has columns of encoder, weight and variant, but none of the mixture.
    labels = [
        f"{row.label}, {row.experiment.mixtures[row.row.mixture].label}"
        if len(mixtures[key]) > 1
        else row.label
        for row, key in zip(rows, columns, strict=True)
    ]
    return [
        replace(row, label=label, long_label=name)
        for row, label, name in zip(rows, labels, names, strict=True)
    ]


def tell_apart(names: list[str], paths: list[str], *additions: list[str]) -> list[str]:
    """Return the names of rows, with additions to those that several rows share.

    Args:
        names: the name of each row.
        paths: the path of each row; equal rows may have equal names.
        additions: what else to say of each row, in the order of preference; it is added only
            where it differs between the rows of one name.
    """
    for texts in additions:
        owners: dict[str, set[str]] = {}
        said: dict[str, set[str]] = {}
        for name, path, text in zip(names, paths, texts, strict=True):
            owners.setdefault(name, set()).add(path)
            said.setdefault(name, set()).add(text)
        names = [
            f"{name}, {text}" if min(len(owners[name]), len(said[name])) > 1 else name
            for name, text in zip(names, texts, strict=True)
        ]
    return names


def read_published(experiment: Experiment) -> list[dict[str, str]]:
    """Read the CSV of published numbers; EM and F1 are in percent.

    Returns:
        A row for each line, by column: table, encoder, mixture, qa_weight, split, em, f1.

    Raises:
        MtdnnError: the file is not readable, a value is missing or is not a number.
    """
    if not experiment.published:
        return []
    path = Path(experiment.published)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise MtdnnError(f"{path}: cannot read the published numbers: {error}") from None
    columns = {"table", "encoder", "mixture", "qa_weight", "split", "em", "f1"}
    for number, row in enumerate(rows, start=2):
        missing = sorted(column for column in columns if not row.get(column))
        if missing:
            raise MtdnnError(f"{path}: line {number}: no value for {', '.join(missing)}")
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
    """Find the published scores for a row: same table, encoder, mixture, weight and split.

    The CSV may name the encoder by its key, its label or the last part of its repository.
    Variants are our own addition, so they have no published counterpart; nor have other targets
    than question answering.
    """
    if experiment.corpora[experiment.target_of(row.mixture) or ""].family != "question_answering":
        return {}
    encoder = experiment.encoders[row.encoder]
    repository = getattr(encoder.source, "repo", "").rpartition("/")[2]
    split = experiment.published_split(experiment.slice_of(table))
    wanted = (table, row.mixture, row.weight, split)
    for line in published:
        key = (line["table"], line["mixture"], float(line["qa_weight"]), line["split"])
        same_encoder = line["encoder"] in (row.encoder, encoder.label, repository)
        if row.variant == "default" and same_encoder and key == wanted:
            return {"em": float(line["em"]), "f1": float(line["f1"])}
    return {}
