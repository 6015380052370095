"""Compare the rows of a table and judge the published effects.

Differences are in points, because all measures are times 100. A verdict follows from two
hypotheses, "no difference" and "the published difference". Their p-values are corrected by Holm
(1979) over the comparisons of the table on the same items, at the same threshold and for the same
measure; a hypothesis is rejected if its corrected p is at most 1 - confidence. A published effect
is

- supported if "no difference" is rejected and the measured difference has the published sign;
- contradicted if "no difference" is rejected and the sign is the opposite, or if "the published
  difference" is rejected and the measured one is smaller or has the opposite sign;
- not decidable otherwise, and always with one seed, because the claim is about a method.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from mtdnn.config.experiment import Experiment
from mtdnn.config.settings import CorpusSettings
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.measures import Measure
from mtdnn.evaluation.results import Result, RowResult, read_rows
from mtdnn.statistics.inference import Arm, Estimate, compare, flips, labelings, permutation_test
from mtdnn.statistics.level import CONFIDENCE, LEVEL, RESAMPLES
from mtdnn.statistics.records import NO_INTERVAL, lack_interval, lacks_interval
from mtdnn.statistics.scores import Members, Predicted, Split, open_split


@dataclass(frozen=True)
class Pair:
    """Two rows of a table to compare.

    Attributes:
        kind: `baseline`, `variant`, `chosen` or `neighbour`, as in `mtdnn.statistics.records`.
        first: the row that `second` is compared with.
        second: the other row.
    """

    kind: str
    first: RowResult
    second: RowResult

    @property
    def names(self) -> dict[str, str]:
        """The fields of a comparison that name its rows."""
        return {
            "kind": self.kind,
            "from": self.first.path,
            "to": self.second.path,
            "from_label": self.first.long_label,
            "to_label": self.second.long_label,
        }

    @property
    def measures(self) -> list[Measure]:
        """The measures that both rows have, the headline first."""
        keys = {measure.key for measure in self.second.measures}
        return [measure for measure in self.first.measures if measure.key in keys]


def compare_tables(
    experiment: Experiment, names: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compare the rows of tables, from the runs that exist.

    Yields:
        The name of each table in `names`, and its entry as `mtdnn.statistics.records` describes.

    Raises:
        MtdnnError: the published numbers are not readable.
    """
    reader = _Reader(experiment)
    for name in names:
        rows = read_rows(experiment, name)
        first = experiment.slice_of(name)
        slices = [first, *(other for other in experiment.slices if other != first)]
        groups = [_Group(each, "zero") for each in slices]
        groups += [_Group(each, "tuned") for each in slices if experiment.tuned_on(each)]
        comparisons, left_out = [], []
        for group in groups:
            compared, impossible = _family(experiment, reader, rows, group)
            comparisons += compared
            left_out += impossible
        yield (
            name,
            {
                "title": experiment.tables[name].title,
                "slice": first,
                "comparisons": comparisons,
                "left_out": left_out,
                "cells": {row.path: _cells(experiment, row) for row in rows},
            },
        )


def pairs(rows: list[RowResult]) -> list[Pair]:
    """Return the pairs of a table's rows to compare, each once.

    - Each row with its baseline: the target alone with the same encoder, of the same variant if
      the table has such a row, else of the default variant. If the table has neither, it is the
      first row with that encoder and target.
    - A variant whose target alone is not in the table, with its mixture as it is without the
      variant, or else with the first row of that mixture. Variants are not compared with each
      other: each such comparison would cost all others power in Holm's correction.
    - A row with the one that its `against` names.
    - Adjacent rows that share encoder and variant, and so differ in mixture or weight.
    """
    found = [
        Pair("baseline", _baseline(row, rows), row)
        for row in rows
        if row.row.origin or not (row.is_alone and row.row.variant == "default")
    ]
    found += [Pair("variant", _plain(row, rows), row) for row in rows if _needs_plain(row, rows)]
    by_path = {row.row.path: row for row in rows}
    found += [
        Pair("chosen", by_path[row.row.compared_path], row) for row in rows if row.row.compared_path
    ]
    found += [
        Pair("neighbour", above, row)
        for above, row in itertools.pairwise(rows)
        if (above.row.encoder, above.row.variant) == (row.row.encoder, row.row.variant)
    ]
    unique: dict[frozenset[str], Pair] = {}
    for pair in found:
        unique.setdefault(frozenset((pair.first.path, pair.second.path)), pair)
    return [pair for paths, pair in unique.items() if len(paths) == 2]


def _baseline(row: RowResult, rows: list[RowResult]) -> RowResult:
    """Return the row that a row is compared with in the first place; perhaps the row itself."""
    same = [
        each for each in rows if (each.row.encoder, each.target) == (row.row.encoder, row.target)
    ]
    for variant in dict.fromkeys((row.row.variant, "default")):
        for each in same:
            if each.is_alone and each.row.variant == variant and each is not row:
                return each
    return same[0]


def _needs_plain(row: RowResult, rows: list[RowResult]) -> bool:
    """Return whether a row is a variant whose target alone is not in the table."""
    baseline = _baseline(row, rows)
    has_own = baseline.is_alone and baseline.row.variant == row.row.variant
    return row.row.variant != "default" and not has_own


def _plain(row: RowResult, rows: list[RowResult]) -> RowResult:
    """Return the row of a variant's mixture without the variant; else the mixture's first row."""
    same = [
        each
        for each in rows
        if (each.row.encoder, each.row.mixture) == (row.row.encoder, row.row.mixture)
    ]
    plain = [each for each in same if each.row.variant == "default"]
    of_weight = [each for each in plain if each.row.weight == row.row.weight]
    return (of_weight or plain or same)[0]


class _Reader:
    """Reads the scores of runs, each only once."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._settings: dict[Path, CorpusSettings] = {}
        self.split = cache(self._split)
        self.members = cache(self._members)
        self.predicted = cache(self._predicted)
        self.signs = cache(self._signs)

    def place(self, row: RowResult, corpus: str) -> Path:
        """Return the folder of a corpus of a row's experiment."""
        folder = row.experiment.layout.corpus(corpus)
        self._settings[folder] = row.experiment.corpora[corpus]
        return folder

    def _split(self, place: Path, split: str) -> Split:
        return open_split(place, split, self._settings[place])

    def _members(self, place: Path, slice_name: str) -> Members:
        entry = self._experiment.slices[slice_name]
        return self.split(place, entry.split).members(entry)

    def _predicted(self, place: Path, split: str, run_dir: Path, corpus: str) -> Predicted:
        return self.split(place, split).predicted(run_dir, corpus)

    def _signs(self, clusters: int) -> NDArray[np.float32]:
        return flips(clusters, RESAMPLES, np.random.default_rng(clusters))

    def sums(
        self, place: Path, row: RowResult, result: Result, group: "_Group", measures: list[Measure]
    ) -> NDArray[np.float64]:
        """Return (measures, clusters) sums of a run's scores, each item counting times 100.

        Args:
            place: folder of the corpus on which the run was scored, or of an equal one.
            row: the run's row.
            result: the run.
            group: slice and threshold.
            measures: what to score.
        """
        split = self._experiment.slices[group.slice_name].split
        scores, _ = result.values(group.slice_name, group.tuned)
        corpus = row.corpus(group.slice_name)
        assert corpus is not None, "a row that has scores has a corpus"
        predicted = self.predicted(place, split, result.folder, corpus)
        sums: NDArray[np.float64] = 100 * self.split(place, split).sums(
            predicted,
            self.members(place, group.slice_name),
            scores.get("threshold", 0.0),
            measures,
        )
        return sums


@dataclass(frozen=True)
class _Group:
    """The slice and the null threshold of a family of comparisons."""

    slice_name: str
    threshold: str

    @property
    def tuned(self) -> bool:
        return self.threshold == "tuned"


def _family(
    experiment: Experiment, reader: _Reader, rows: list[RowResult], group: _Group
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare the rows of a table on one slice at one threshold.

    Returns:
        The comparisons, and those that were not possible, with the reason.
    """
    comparisons: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    compared: list[Pair] = []
    for pair in pairs(rows):
        if group.tuned and pair.first.family != "question_answering":
            continue
        slice_name, threshold = group.slice_name, group.threshold
        place = {"slice": slice_name, "slice_label": experiment.slices[slice_name].label}
        place["threshold"] = threshold
        try:
            seeds, arms, members = _arms(reader, pair, group)
            estimates = [
                compare(*both, CONFIDENCE, 100 * measure.span)
                for both, measure in zip(arms, pair.measures, strict=True)
            ]
        except (MtdnnError, ValueError) as error:
            left_out.append({**pair.names, **place, "reason": str(error)})
            continue
        is_published = slice_name == pair.first.slice_name and threshold == "zero"
        published = _published(pair) if is_published else None
        permuted = _permuted(reader, arms, len(seeds))
        names = [measure.column for measure in pair.measures]
        numbers = {
            name: _numbers(estimate, p, published.get(name) if published else None)
            for name, estimate, p in zip(names, estimates, permuted, strict=True)
        }
        entry: dict[str, Any] = {**pair.names, **place, "seeds": seeds}
        entry |= {"target": pair.first.target, "family": pair.first.family}
        entry |= {"questions": len(members.items), "clusters": len(members.sizes)}
        entry |= {"measures": numbers, "headline": names[0]}
        entry["labels"] = {measure.column: measure.label for measure in pair.measures}
        entry["published"] = published
        entry["notes"] = list(_notes(experiment, pair, group, seeds))
        entry["notes"] += [NO_INTERVAL] if lack_interval([entry]) else []
        comparisons.append(entry)
        compared.append(pair)
    _correct(comparisons)
    for entry, pair in zip(comparisons, compared, strict=True):
        entry["verdict"] = _verdict(entry, pair.measures[0].name)
        entry["conclusion"] = _conclusion(entry)
    for entry, pair in zip(comparisons, compared, strict=True):
        entry["flips"] = _flips(entry, pair, comparisons, compared)
    return comparisons, left_out


def _arms(
    reader: _Reader, pair: Pair, group: _Group
) -> tuple[list[int], list[tuple[Arm, Arm]], Members]:
    """Read the scores of a pair of rows.

    Returns:
        The seeds that both rows have, the arms for each measure, and the slice's items.

    Raises:
        MtdnnError: the rows cannot be compared; the message is the reason.
    """
    first, second = pair.first, pair.second
    if first.experiment is second.experiment and first.target != second.target:
        raise MtdnnError("they have different targets")
    usable = [
        {
            result.run.seed: result
            for result in row.results
            if result.values(group.slice_name, group.tuned)[1] is None
        }
        for row in (first, second)
    ]
    seeds = [seed for seed in usable[0] if seed in usable[1]]
    if not seeds:
        raise MtdnnError(_reasons(pair, group) or "they have no seed in common")
    if first.experiment is not second.experiment:
        _check_same_items(pair, group, usable)
    corpus = first.corpus(group.slice_name)
    assert corpus is not None, "a row that has scores has a corpus"
    place = reader.place(first, corpus)
    sums = np.array(
        [
            [reader.sums(place, row, results[seed], group, pair.measures) for seed in seeds]
            for row, results in zip((first, second), usable, strict=True)
        ]
    )
    members = reader.members(place, group.slice_name)
    arms = [
        (Arm(sums[0, :, number], members.sizes), Arm(sums[1, :, number], members.sizes))
        for number in range(len(pair.measures))
    ]
    return seeds, arms, members


def _check_same_items(pair: Pair, group: _Group, usable: list[dict[int, Result]]) -> None:
    """Check that rows of different experiments were scored on the same items, by digest.

    Raises:
        MtdnnError: they were not.
    """
    found = set()
    for row, results in zip((pair.first, pair.second), usable, strict=True):
        corpus = row.corpus(group.slice_name)
        for result in results.values():
            digests = result.metrics["provenance"]["corpora"] if result.metrics else {}
            found.add((row.family, digests.get(corpus)))
    if len(found) > 1 or None in {digest for _, digest in found} or not pair.measures:
        raise MtdnnError("their experiments score them on different items")


def _reasons(pair: Pair, group: _Group) -> str:
    """Return why seeds of a pair are missing, by row."""
    parts = []
    for row in (pair.first, pair.second):
        reasons = row.score(group.slice_name, row.measures[0].key, group.tuned).reasons
        parts += [f"{row.long_label}: {', '.join(reasons)}"] if reasons else []
    return "; ".join(parts)


def _permuted(reader: _Reader, arms: list[tuple[Arm, Arm]], seeds: int) -> list[float]:
    random = np.random.default_rng(seeds)
    labels = labelings(seeds, RESAMPLES, random) if seeds > 1 else None
    return permutation_test(arms, labels, reader.signs(len(arms[0][0].sizes)))


def _numbers(estimate: Estimate, permuted: float, published: float | None) -> dict[str, Any]:
    known = estimate.error > 0  # where nothing varies, an interval of one point would be a lie
    return {
        "difference": estimate.difference,
        "low": estimate.low if known else None,
        "high": estimate.high if known else None,
        "error": estimate.error,
        "degrees": estimate.degrees,
        "p": estimate.p(),
        "p_holm": None,
        "p_permutation": permuted,
        "p_published": None if published is None else estimate.p(published),
        "p_published_holm": None,
        "detectable": estimate.detectable() if known else None,
    }


def _correct(family: list[dict[str, Any]]) -> None:
    """Fill in the p-values corrected by Holm over a family of comparisons."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for entry in family:
        for column, numbers in entry["measures"].items():
            for key in ("p", "p_published"):
                if numbers[key] is not None:
                    groups.setdefault((entry["target"], column, key), []).append(numbers)
    for (_, _, key), group in groups.items():
        corrected = multipletests([each[key] for each in group], method="holm")[1]
        for each, p in zip(group, corrected, strict=True):
            each[f"{key}_holm"] = float(p)


def _published(pair: Pair) -> dict[str, float] | None:
    """Return the published difference in points, rounded because its terms have three decimals."""
    before, after = pair.first.published, pair.second.published
    if not before or not after:
        return None
    return {column: round(after[column] - before[column], 6) for column in before}


def _verdict(entry: dict[str, Any], name: str) -> dict[str, str | None]:
    """Return a word for each score, and a sentence on the headline, whose name is given."""
    words = {column: _word(entry, column) for column in entry["measures"]}
    to, origin = entry["to_label"], entry["from_label"]
    measured, word = _conclusion(entry), words[entry["headline"]]
    reason = "with this many seeds"
    if len(entry["seeds"]) == 1:
        reason = "with one seed"
    elif lacks_interval(entry):
        reason = "because the scores do not vary between seeds"
    if word == "supported":
        text = f"Supported: {to} has a {measured} {name} than {origin}, as published."
    elif word == "contradicted" and measured != "open":
        text = (
            f"Contradicted: {to} has a {measured} {name} than {origin}, contrary to the published "
            "scores."
        )
    elif word == "contradicted":
        text = (
            f"Contradicted: between {origin} and {to} a difference as large as the published one "
            "is ruled out."
        )
    elif word:
        text = f"Not decidable {reason}: whether {to} differs from {origin} in {name} as published."
    elif measured == "open":
        text = f"Not decidable {reason}: whether {to} differs from {origin} in {name}."
    else:
        text = f"{to} has a {measured} {name} than {origin}."
    return {**words, "text": text}


def _word(entry: dict[str, Any], column: str) -> str | None:
    published = (entry["published"] or {}).get(column)
    if published is None:
        return None
    numbers = entry["measures"][column]
    if len(entry["seeds"]) == 1 or published == 0:
        return "not decidable"
    if numbers["p_holm"] <= LEVEL:
        return "supported" if numbers["difference"] * published > 0 else "contradicted"
    falls_short = (published - numbers["difference"]) * published > 0
    if numbers["p_published_holm"] <= LEVEL and falls_short:
        return "contradicted"
    return "not decidable"


def _conclusion(entry: dict[str, Any]) -> str:
    """Return what the measured headline says about the methods."""
    numbers = entry["measures"][entry["headline"]]
    if len(entry["seeds"]) == 1 or numbers["p_holm"] > LEVEL:
        return "open"
    return "higher" if numbers["difference"] > 0 else "lower"


def _flips(
    entry: dict[str, Any], pair: Pair, comparisons: list[dict[str, Any]], compared: list[Pair]
) -> bool | None:
    """Return whether a variant's conclusion differs from that of the same mixtures without it."""
    if pair.second.row.variant == "default":
        return None

    def mixtures(each: Pair) -> list[tuple[str, str, float]]:
        return [(r.row.encoder, r.row.mixture, r.row.weight) for r in (each.first, each.second)]

    for other, reference in zip(compared, comparisons, strict=True):
        is_default = other.first.row.variant == other.second.row.variant == "default"
        if is_default and mixtures(other) == mixtures(pair):
            return bool(entry["conclusion"] != reference["conclusion"])
    return None


def _notes(experiment: Experiment, pair: Pair, group: _Group, seeds: list[int]) -> Iterator[str]:
    if len(seeds) == 1:
        yield (
            "One seed: interval and p are about these two models and do not include the variance "
            "between seeds."
        )
    elif 2 / math.comb(2 * len(seeds), len(seeds)) > LEVEL:
        yield "With so few seeds, the permutation test can hardly reach a small p."
    missing = _reasons(pair, group)
    if missing:
        yield f"Seeds are missing: {missing}."
    split = experiment.published_split(group.slice_name)
    if pair.first.family == "question_answering" and split not in (None, "dev") and not group.tuned:
        yield f"The published scores are for the split {split}; these questions stand in for it."


def _cells(experiment: Experiment, row: RowResult) -> dict[str, Any]:
    """Return a row's means and deviations over seeds on every slice, times 100."""
    cells: dict[str, dict[str, Any]] = {}
    for name in experiment.slices:
        seeds = [r.run.seed for r in row.results if r.values(name)[1] is None]
        cells[name] = {}
        for measure in row.measures:
            score = row.score(name, measure.key)
            numbers = {"mean": score.mean, "deviation": score.deviation, "seeds": seeds}
            cells[name][measure.column] = numbers
    return cells
