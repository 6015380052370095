"""Which rows of a table are compared, what is found, and what it says about the published effect.

A verdict follows from two families of p-values, each corrected by Holm over the comparisons of
the table on the same questions, at the same threshold and by the same score:

- supported: no difference is rejected (p_holm at most 1 - confidence), and the measured
  difference has the sign of the published one;
- contradicted: no difference is rejected and the sign is the other one; or the published
  difference is rejected (p_published_holm) and the measured one is smaller, or of the other sign;
- not decidable: anything else, and always with one seed, since the claim is about a method.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from statsmodels.stats.multitest import multipletests

from mtdnn.config.experiment import Experiment, Row
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.results import Result, RowResult, read_rows
from mtdnn.statistics.inference import Arm, Estimate, compare, flips, labelings, permutation_test
from mtdnn.statistics.records import CONFIDENCE, RESAMPLES
from mtdnn.statistics.scores import METRICS, Members, Split

LEVEL = 1 - CONFIDENCE
_KEYS = {"em": "exact", "f1": "f1"}


@dataclass(frozen=True)
class Pair:
    """Two rows of a table to compare."""

    kind: str
    first: RowResult
    second: RowResult

    @property
    def names(self) -> dict[str, str]:
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
    """The entry of each of these tables; see the package's explanation."""
    reader = _Reader(experiment)
    for name in names:
        rows = read_rows(experiment, name)
        first = experiment.slice_of(name)
        slices = [first, *(other for other in experiment.slices if other != first)]
        questions = [(each, "zero") for each in slices]
        questions += [(each, "tuned") for each in slices if experiment.tuned_on(each)]
        made, left_out = [], []
        for slice_name, threshold in questions:
            family, absent = _family(experiment, reader, rows, slice_name, threshold)
            made += family
            left_out += absent
        yield (
            name,
            {
                "title": experiment.tables[name].title,
                "slice": first,
                "comparisons": made,
                "left_out": left_out,
                "cells": {row.path: _cells(experiment, row) for row in rows},
            },
        )


def pairs(experiment: Experiment, rows: list[RowResult]) -> list[Pair]:
    """What is compared in a table: every row with its baseline, and with the row above.

    The baseline is question answering alone with the same encoder: of the same variant where the
    table has it, else of none. Where the table lacks both it is the encoder's first row. Rows
    one above the other are compared when they have the encoder in common, and either the variant
    or mixture and weight: else more than one thing would differ.
    """

    def alone(row: RowResult) -> bool:
        return experiment.mixtures[row.row.mixture].is_qa_alone

    def baseline(row: RowResult) -> RowResult:
        same = [each for each in rows if each.row.encoder == row.row.encoder]
        for variant in dict.fromkeys((row.row.variant, "default")):
            for each in same:
                if alone(each) and each.row.variant == variant and each is not row:
                    return each
        return same[0]

    found = [Pair("baseline", baseline(row), row) for row in rows if not _is_base(row, alone)]
    found += [
        Pair("neighbour", above, row)
        for above, row in itertools.pairwise(rows)
        if above.row.encoder == row.row.encoder and _differ_in_one(above.row, row.row)
    ]
    unique: dict[frozenset, Pair] = {}
    for pair in found:
        unique.setdefault(frozenset((pair.first.path, pair.second.path)), pair)
    return [pair for rows_of, pair in unique.items() if len(rows_of) == 2]


def _is_base(row: RowResult, alone: Any) -> bool:
    return alone(row) and row.row.variant == "default"


def _differ_in_one(above: Row, below: Row) -> bool:
    same_mixture = (above.mixture, above.qa_weight) == (below.mixture, below.qa_weight)
    return same_mixture or above.variant == below.variant


class _Reader:
    """Scores of runs, each read once."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self.split = cache(self._split)
        self.members = cache(self._members)
        self.answered = cache(self._answered)
        self.signs = cache(self._signs)

    def primary(self, row: RowResult) -> str:
        return self._experiment.resolve(row.results[0].run).primary

    def _split(self, corpus: str, split: str) -> Split:
        return Split(self._experiment.layout.corpus(corpus), split)

    def _members(self, corpus: str, slice_name: str) -> Members:
        entry = self._experiment.slices[slice_name]
        return self.split(corpus, entry.split).members(entry)

    def _answered(self, corpus: str, split: str, result_folder: Any) -> Any:
        return self.split(corpus, split).answered(result_folder)

    def _signs(self, paragraphs: int) -> np.ndarray:
        return flips(paragraphs, RESAMPLES, np.random.default_rng(paragraphs))

    def sums(self, corpus: str, slice_name: str, result: Result, threshold: str) -> np.ndarray:
        """(2, paragraphs) sums of EM and F1 of a run, in percent of a question."""
        entry = self._experiment.slices[slice_name]
        scores, _ = result.values(slice_name, threshold == "tuned")
        answered = self.answered(corpus, entry.split, result.folder)
        split, members = self.split(corpus, entry.split), self.members(corpus, slice_name)
        return 100 * split.sums(answered, members, scores["threshold"])


def _family(
    experiment: Experiment, reader: _Reader, rows: list[RowResult], slice_name: str, threshold: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The comparisons of a table on one slice at one threshold, and those that cannot be made."""
    made, left_out, kept = [], [], []
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
        entry = {**pair.names, **place, "seeds": seeds}
        entry |= {"questions": len(members.questions), "paragraphs": len(members.sizes)}
        for metric, estimate, p in zip(METRICS, estimates, permuted, strict=True):
            entry[metric] = _numbers(estimate, p, published and published[metric])
        entry["published"] = published
        entry["notes"] = list(_notes(experiment, pair, slice_name, threshold, seeds))
        if not estimates[0].error:
            entry["notes"].append("Nothing varies here, so no uncertainty of EM can be measured.")
        made.append(entry)
        kept.append(pair)
    _correct(made)
    for entry in made:
        entry["verdict"], entry["conclusion"] = _verdict(entry), _conclusion(entry)
    for entry, pair in zip(made, kept, strict=True):
        entry["flips"] = _flips(entry, pair, made, kept)
    return made, left_out


def _arms(
    reader: _Reader, pair: Pair, slice_name: str, threshold: str
) -> tuple[list[int], list[tuple[Arm, Arm]], Members]:
    """Common seeds, and for EM and F1 the arms of a pair.

    Raises:
        MtdnnError: why they cannot be compared.
    """
    corpus = reader.primary(pair.first)
    if corpus != reader.primary(pair.second):
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
    """Why seeds of a pair are missing, by row."""
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


def _correct(made: list[dict[str, Any]]) -> None:
    """Fill in Holm's correction inside a family."""
    for metric in METRICS:
        for key in ("p", "p_published"):
            numbers = [each[metric] for each in made if each[metric][key] is not None]
            if numbers:
                corrected = multipletests([each[key] for each in numbers], method="holm")[1]
                for each, p in zip(numbers, corrected, strict=True):
                    each[f"{key}_holm"] = float(p)


def _published(pair: Pair) -> dict[str, float] | None:
    """The published difference; rounded, as its terms have three decimals."""
    before, after = pair.first.published, pair.second.published
    if not before or not after:
        return None
    return {metric: round(after[metric] - before[metric], 6) for metric in METRICS}


def _verdict(entry: dict[str, Any]) -> dict[str, str | None]:
    """A word for each score, and a sentence on EM."""
    words = {metric: _word(entry, metric) for metric in METRICS}
    to, origin = entry["to_label"], entry["from_label"]
    measured, word = _conclusion(entry), words["em"]
    many = "with one seed" if len(entry["seeds"]) == 1 else "with this many seeds"
    if word == "supported":
        text = f"Supported: {to} has a {measured} EM than {origin}, as published."
    elif word == "contradicted" and measured != "open":
        text = f"Contradicted: {to} has a {measured} EM than {origin}, unlike published."
    elif word == "contradicted":
        text = (
            f"Contradicted: between {origin} and {to} a difference as large as the published one "
            "is ruled out."
        )
    elif word:
        text = f"Not decidable {many}: whether {to} differs from {origin} in EM as published."
    elif measured == "open":
        text = f"Not decidable {many}: whether {to} differs from {origin} in EM."
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
    """What the measured EM says of the methods."""
    if len(entry["seeds"]) == 1 or entry["em"]["p_holm"] > LEVEL:
        return "open"
    return "higher" if entry["em"]["difference"] > 0 else "lower"


def _flips(
    entry: dict[str, Any], pair: Pair, made: list[dict[str, Any]], others: list[Pair]
) -> bool | None:
    """Is a variant's conclusion another than that of the same mixtures without it?"""
    if pair.second.row.variant == "default":
        return None

    def mixtures(each: Pair) -> list[tuple]:
        return [(r.row.encoder, r.row.mixture, r.row.qa_weight) for r in (each.first, each.second)]

    for other, reference in zip(others, made, strict=True):
        plain = other.first.row.variant == other.second.row.variant == "default"
        if plain and mixtures(other) == mixtures(pair):
            return entry["conclusion"] != reference["conclusion"]
    return None


def _notes(
    experiment: Experiment, pair: Pair, slice_name: str, threshold: str, seeds: list[int]
) -> Iterator[str]:
    if len(seeds) == 1:
        yield (
            "One seed: interval and p are about these two models and know nothing of how much "
            "seeds differ."
        )
    elif 2 / math.comb(2 * len(seeds), len(seeds)) > LEVEL:
        yield "So few seeds can hardly be permuted to a small p."
    missing = _reasons(pair, slice_name, threshold == "tuned")
    if missing:
        yield f"Seeds are missing: {missing}."
    split = experiment.published_split(slice_name)
    if split not in (None, "dev") and threshold == "zero":
        yield f"Published scores are of the split {split}, for which these questions stand in."


def _cells(experiment: Experiment, row: RowResult) -> dict[str, Any]:
    """Means over seeds of every slice."""
    cells = {}
    for name in experiment.slices:
        scores = {metric: row.score(name, key) for metric, key in _KEYS.items()}
        seeds = [r.run.seed for r in row.results if r.values(name)[1] is None]
        cells[name] = {
            metric: {"mean": score.mean, "deviation": score.deviation, "seeds": seeds}
            for metric, score in scores.items()
        }
    return cells
