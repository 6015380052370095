"""Compare the rows of a table and judge the published effects.

Differences are in points: EM and F1 are in percent. A verdict follows from two hypotheses, "no
difference" and "the published difference". Their p-values are corrected by Holm (1979) over the
comparisons of the table on the same questions, at the same threshold and for the same score; a
hypothesis is rejected if its corrected p is at most 1 - confidence. A published effect is

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

from mtdnn.config.experiment import Experiment, Row
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.results import Result, RowResult, read_rows
from mtdnn.statistics.inference import Arm, Estimate, compare, flips, labelings, permutation_test
from mtdnn.statistics.level import CONFIDENCE, LEVEL, RESAMPLES
from mtdnn.statistics.scores import METRICS, Answered, Members, Split

_KEYS = {"em": "exact", "f1": "f1"}


@dataclass(frozen=True)
class Pair:
    """Two rows of a table to compare.

    Attributes:
        kind: `baseline` or `neighbour`, as in `mtdnn.statistics.records`.
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
        families = [(each, "zero") for each in slices]
        families += [(each, "tuned") for each in slices if experiment.tuned_on(each)]
        comparisons, left_out = [], []
        for slice_name, threshold in families:
            compared, impossible = _family(experiment, reader, rows, slice_name, threshold)
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


def pairs(experiment: Experiment, rows: list[RowResult]) -> list[Pair]:
    """Return the pairs of a table's rows to compare: each row with its baseline and the row above.

    The baseline is question answering alone with the same encoder: of the same variant if the
    table has such a row, else of the default variant. If the table has neither, it is the
    encoder's first row. Adjacent rows are compared if they share the encoder and differ either in
    the variant or in mixture and weight, but not in both.
    """

    def baseline(row: RowResult) -> RowResult:
        same = [each for each in rows if each.row.encoder == row.row.encoder]
        for variant in dict.fromkeys((row.row.variant, "default")):
            for each in same:
                alone = _is_alone(experiment, each)
                if alone and each.row.variant == variant and each is not row:
                    return each
        return same[0]

    found = [
        Pair("baseline", baseline(row), row)
        for row in rows
        if not (_is_alone(experiment, row) and row.row.variant == "default")
    ]
    found += [
        Pair("neighbour", above, row)
        for above, row in itertools.pairwise(rows)
        if above.row.encoder == row.row.encoder and _differ_in_one(above.row, row.row)
    ]
    unique: dict[frozenset[str], Pair] = {}
    for pair in found:
        unique.setdefault(frozenset((pair.first.path, pair.second.path)), pair)
    return [pair for paths, pair in unique.items() if len(paths) == 2]


def _is_alone(experiment: Experiment, row: RowResult) -> bool:
    """Return whether a row's runs train on the question-answering corpus alone."""
    return experiment.mixtures[row.row.mixture].is_alone


def _differ_in_one(above: Row, below: Row) -> bool:
    same_mixture = (above.mixture, above.weight) == (below.mixture, below.weight)
    return same_mixture or above.variant == below.variant


class _Reader:
    """Reads the scores of runs, each only once."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self.split = cache(self._split)
        self.members = cache(self._members)
        self.answered = cache(self._answered)
        self.signs = cache(self._signs)

    def target(self, row: RowResult) -> str:
        return self._experiment.resolve(row.results[0].run).target

    def _split(self, corpus: str, split: str) -> Split:
        return Split(self._experiment.layout.corpus(corpus), split)

    def _members(self, corpus: str, slice_name: str) -> Members:
        entry = self._experiment.slices[slice_name]
        return self.split(corpus, entry.split).members(entry)

    def _answered(self, corpus: str, split: str, run_dir: Path) -> Answered:
        return self.split(corpus, split).answered(run_dir)

    def _signs(self, paragraphs: int) -> NDArray[np.float32]:
        return flips(paragraphs, RESAMPLES, np.random.default_rng(paragraphs))

    def sums(
        self, corpus: str, slice_name: str, result: Result, threshold: str
    ) -> NDArray[np.float64]:
        """Return (2, paragraphs) sums of a run's EM and F1, each question counting 0 to 100."""
        entry = self._experiment.slices[slice_name]
        scores, _ = result.values(slice_name, threshold == "tuned")
        answered = self.answered(corpus, entry.split, result.folder)
        split, members = self.split(corpus, entry.split), self.members(corpus, slice_name)
        sums: NDArray[np.float64] = 100 * split.sums(answered, members, scores["threshold"])
        return sums


def _family(
    experiment: Experiment, reader: _Reader, rows: list[RowResult], slice_name: str, threshold: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare the rows of a table on one slice at one threshold.

    Returns:
        The comparisons, and those that were not possible, with the reason.
    """
    comparisons: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    compared: list[Pair] = []
    for pair in pairs(experiment, rows):
        place = {"slice": slice_name, "slice_label": experiment.slices[slice_name].label}
        place["threshold"] = threshold
        try:
            seeds, arms, members = _arms(reader, pair, slice_name, threshold)
            estimates = [compare(*both, CONFIDENCE) for both in arms]
        except (MtdnnError, ValueError) as error:
            left_out.append({**pair.names, **place, "reason": str(error)})
            continue
        is_published = slice_name == pair.first.slice_name and threshold == "zero"
        published = _published(pair) if is_published else None
        permuted = _permuted(reader, arms, len(seeds))
        entry: dict[str, Any] = {**pair.names, **place, "seeds": seeds}
        entry |= {"questions": len(members.questions), "paragraphs": len(members.sizes)}
        for metric, estimate, p in zip(METRICS, estimates, permuted, strict=True):
            entry[metric] = _numbers(estimate, p, published[metric] if published else None)
        entry["published"] = published
        entry["notes"] = list(_notes(experiment, pair, slice_name, threshold, seeds))
        if not estimates[0].error:
            entry["notes"].append("Nothing varies here, so the uncertainty of EM is unknown.")
        comparisons.append(entry)
        compared.append(pair)
    _correct(comparisons)
    for entry in comparisons:
        entry["verdict"], entry["conclusion"] = _verdict(entry), _conclusion(entry)
    for entry, pair in zip(comparisons, compared, strict=True):
        entry["flips"] = _flips(entry, pair, comparisons, compared)
    return comparisons, left_out


def _arms(
    reader: _Reader, pair: Pair, slice_name: str, threshold: str
) -> tuple[list[int], list[tuple[Arm, Arm]], Members]:
    """Read the scores of a pair of rows.

    Returns:
        The seeds that both rows have, the arms for EM and for F1, and the slice's questions.

    Raises:
        MtdnnError: the rows cannot be compared; the message is the reason.
    """
    corpus = reader.target(pair.first)
    if corpus != reader.target(pair.second):
        raise MtdnnError("they answer different questions")
    tuned = threshold == "tuned"
    usable = [
        {
            result.run.seed: result
            for result in row.results
            if result.values(slice_name, tuned)[1] is None
        }
        for row in (pair.first, pair.second)
    ]
    seeds = [seed for seed in usable[0] if seed in usable[1]]
    if not seeds:
        raise MtdnnError(_reasons(pair, slice_name, tuned) or "they have no seed in common")
    sums = np.array(
        [
            [reader.sums(corpus, slice_name, results[seed], threshold) for seed in seeds]
            for results in usable
        ]
    )
    members = reader.members(corpus, slice_name)
    arms = [
        (Arm(sums[0, :, number], members.sizes), Arm(sums[1, :, number], members.sizes))
        for number in range(len(METRICS))
    ]
    return seeds, arms, members


def _reasons(pair: Pair, slice_name: str, tuned: bool) -> str:
    """Return why seeds of a pair are missing, by row."""
    parts = []
    for row in (pair.first, pair.second):
        reasons = row.score(slice_name, "exact", tuned).reasons
        parts += [f"{row.long_label}: {', '.join(reasons)}"] if reasons else []
    return "; ".join(parts)


def _permuted(reader: _Reader, arms: list[tuple[Arm, Arm]], seeds: int) -> list[float]:
    random = np.random.default_rng(seeds)
    labels = labelings(seeds, RESAMPLES, random) if seeds > 1 else None
    return permutation_test(arms, labels, reader.signs(len(arms[0][0].sizes)))


def _numbers(estimate: Estimate, permuted: float, published: float | None) -> dict[str, Any]:
    return {
        "difference": estimate.difference,
        "low": estimate.low,
        "high": estimate.high,
        "error": estimate.error,
        "degrees": estimate.degrees,
        "p": estimate.p(),
        "p_holm": None,
        "p_permutation": permuted,
        "p_published": None if published is None else estimate.p(published),
        "p_published_holm": None,
        "detectable": estimate.detectable(),
    }


def _correct(family: list[dict[str, Any]]) -> None:
    """Fill in the p-values corrected by Holm over a family of comparisons."""
    for metric in METRICS:
        for key in ("p", "p_published"):
            numbers = [each[metric] for each in family if each[metric][key] is not None]
            if numbers:
                corrected = multipletests([each[key] for each in numbers], method="holm")[1]
                for each, p in zip(numbers, corrected, strict=True):
                    each[f"{key}_holm"] = float(p)


def _published(pair: Pair) -> dict[str, float] | None:
    """Return the published difference in points, rounded because its terms have three decimals."""
    before, after = pair.first.published, pair.second.published
    if not before or not after:
        return None
    return {metric: round(after[metric] - before[metric], 6) for metric in METRICS}


def _verdict(entry: dict[str, Any]) -> dict[str, str | None]:
    """Return a word for each score, and a sentence on EM."""
    words = {metric: _word(entry, metric) for metric in METRICS}
    to, origin = entry["to_label"], entry["from_label"]
    measured, word = _conclusion(entry), words["em"]
    seeds = "with one seed" if len(entry["seeds"]) == 1 else "with this many seeds"
    if word == "supported":
        text = f"Supported: {to} has a {measured} EM than {origin}, as published."
    elif word == "contradicted" and measured != "open":
        text = (
            f"Contradicted: {to} has a {measured} EM than {origin}, contrary to the published "
            "scores."
        )
    elif word == "contradicted":
        text = (
            f"Contradicted: between {origin} and {to} a difference as large as the published one "
            "is ruled out."
        )
    elif word:
        text = f"Not decidable {seeds}: whether {to} differs from {origin} in EM as published."
    elif measured == "open":
        text = f"Not decidable {seeds}: whether {to} differs from {origin} in EM."
    else:
        text = f"{to} has a {measured} EM than {origin}."
    return {**words, "text": text}


def _word(entry: dict[str, Any], metric: str) -> str | None:
    if entry["published"] is None:
        return None
    numbers, published = entry[metric], entry["published"][metric]
    if len(entry["seeds"]) == 1 or published == 0:
        return "not decidable"
    if numbers["p_holm"] <= LEVEL:
        return "supported" if numbers["difference"] * published > 0 else "contradicted"
    falls_short = (published - numbers["difference"]) * published > 0
    if numbers["p_published_holm"] <= LEVEL and falls_short:
        return "contradicted"
    return "not decidable"


def _conclusion(entry: dict[str, Any]) -> str:
    """Return what the measured EM says about the methods."""
    if len(entry["seeds"]) == 1 or entry["em"]["p_holm"] > LEVEL:
        return "open"
    return "higher" if entry["em"]["difference"] > 0 else "lower"


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


def _notes(
    experiment: Experiment, pair: Pair, slice_name: str, threshold: str, seeds: list[int]
) -> Iterator[str]:
    if len(seeds) == 1:
        yield (
            "One seed: interval and p are about these two models and do not include the variance "
            "between seeds."
        )
    elif 2 / math.comb(2 * len(seeds), len(seeds)) > LEVEL:
        yield "With so few seeds, the permutation test can hardly reach a small p."
    missing = _reasons(pair, slice_name, threshold == "tuned")
    if missing:
        yield f"Seeds are missing: {missing}."
    split = experiment.published_split(slice_name)
    if split not in (None, "dev") and threshold == "zero":
        yield f"The published scores are for the split {split}; these questions stand in for it."


def _cells(experiment: Experiment, row: RowResult) -> dict[str, Any]:
    """Return a row's means and deviations over seeds on every slice, in percent."""
    cells = {}
    for name in experiment.slices:
        scores = {metric: row.score(name, key) for metric, key in _KEYS.items()}
        seeds = [r.run.seed for r in row.results if r.values(name)[1] is None]
        cells[name] = {
            metric: {"mean": score.mean, "deviation": score.deviation, "seeds": seeds}
            for metric, score in scores.items()
        }
    return cells
