"""Gradient conflict: how far the gradients of a mixture's corpora agree, and what it foretells.

Everything comes from the training logs (see `mtdnn.training.conflict`); the scores beside it are
those of the table of interference, which shows the conflict of scores instead.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunId
from mtdnn.evaluation.results import Result, Score, read_results
from mtdnn.machine.files import replacing, write_text
from mtdnn.reporting.blocks import Block, Cell, Notes
from mtdnn.reporting.interference import Kind, kinds, targets
from mtdnn.reporting.latex_tables import LatexTable, latex_table
from mtdnn.reporting.tables import seeds, signed
from mtdnn.statistics.level import CONFIDENCE
from mtdnn.training.log import WHOLE, cosines, cosines_with_target, dev_losses, read_training

QUARTER = 1 / 4
"""The share of a run that counts as early, and at its end as late."""

MIN_PAIRS = 5
"""Below this number of pairs of target and auxiliary corpus, nothing is said about prediction."""


@dataclass(frozen=True)
class Measured:
    """What was measured while one run was trained.

    Attributes:
        result: the run.
        corpora: the corpora of its mixture.
        target: its target.
        steps: number of its steps.
        lines: the lines of its training log with measurements, in order.
    """

    result: Result
    corpora: tuple[str, ...]
    target: str
    steps: int
    lines: tuple[dict[str, Any], ...]

    def place(self, line: dict[str, Any]) -> float:
        """Return the share of the training at which a line was measured, from 0 to 1."""
        return float(line["step"] + 1) / self.steps

    def course(self, corpus: str, part: str = WHOLE) -> list[tuple[float, float]]:
        """Return the cosines of an auxiliary corpus with the target, each after its place."""
        found = ((self.place(each), cosines_with_target(each, part)) for each in self.lines)
        return [(place, values[corpus]) for place, values in found if corpus in values]

    def mean(self, corpus: str, counts: Callable[[float], bool]) -> float | None:
        """Return the mean cosine of an auxiliary corpus with the target over some places."""
        values = [value for place, value in self.course(corpus) if counts(place)]
        return statistics.fmean(values) if values else None

    def pairs(self) -> Iterator[tuple[frozenset[str], float]]:
        """Yield the cosine of each pair of corpora in each measurement."""
        for line in self.lines:
            for pair, value in cosines(line).items():
                yield frozenset(pair), value

    def losses(self, corpus: str) -> list[tuple[float, float]]:
        """Return the dev losses of a corpus, each after its place."""
        found = ((self.place(each), dev_losses(each)) for each in self.lines)
        return [(place, values[corpus]) for place, values in found if corpus in values]


def read(experiment: Experiment) -> list[Measured]:
    """Return what was measured in each trained run, in the experiment's order."""
    found = []
    for result in read_results(experiment):
        lines = read_training(result.folder)
        if not lines:
            continue
        settings = experiment.resolve(result.run)
        kept = tuple(line for line in lines if "gradients" in line or "dev_loss" in line)
        found.append(Measured(result, tuple(settings.corpora), settings.target, len(lines), kept))
    return found


@dataclass(frozen=True)
class Row:
    """An auxiliary corpus in runs that differ only in their seed.

    Attributes:
        label: the runs' label.
        run: the run with the first seed.
        target: their target.
        corpus: the auxiliary corpus.
        early: its mean cosine with the target in the first quarter of training, for each seed.
        late: the same in the last quarter.
        difference: the target's score minus that of the target alone, in points; None if one of
            them has no score.
        is_pair: whether it is the only auxiliary corpus, so that the difference is its own doing.
    """

    label: str
    run: RunId
    target: str
    corpus: str
    early: Score
    late: Score
    difference: float | None
    is_pair: bool


def rows(experiment: Experiment) -> list[Row]:
    """Return a row for each kind of run and auxiliary corpus whose gradients were compared."""
    known = kinds(experiment)
    measured = {each.result.run: each for each in read(experiment)}
    found = []
    for kind in known:
        runs = [measured[each.run] for each in kind.results if each.run in measured]
        others = [name for name in (runs[0].corpora if runs else ()) if name != kind.target]
        for corpus in others:
            early = _means(runs, corpus, lambda place: place <= QUARTER)
            late = _means(runs, corpus, lambda place: place > 1 - QUARTER)
            if not early.values and not late.values:
                continue
            found.append(
                Row(
                    label=kind.label,
                    run=kind.run,
                    target=kind.target,
                    corpus=corpus,
                    early=early,
                    late=late,
                    difference=_difference(experiment, kind, known),
                    is_pair=len(others) == 1,
                )
            )
    return found


def _means(runs: list[Measured], corpus: str, counts: Callable[[float], bool]) -> Score:
    values = [each.mean(corpus, counts) for each in runs]
    return Score(tuple(value for value in values if value is not None))


def _difference(experiment: Experiment, kind: Kind, known: list[Kind]) -> float | None:
    """The score of some runs minus that of their target alone, of the same variant if it exists."""
    alone = [
        each
        for each in known
        if experiment.mixtures[each.run.mixture].is_alone
        and (each.target, each.run.encoder) == (kind.target, kind.run.encoder)
    ]
    for variant in (kind.run.variant, "default"):
        for each in alone:
            if each.run.variant == variant:
                target = next(t for t in targets(experiment) if t.name == kind.target)
                ours, theirs = kind.own(target).mean, each.own(target).mean
                return None if ours is None or theirs is None else ours - theirs
    return None


def verdict(found: list[Row]) -> str:
    """Return, in words, whether the early cosine tells who helps whom in the end.

    A pair is a target and its only auxiliary corpus, with one encoder; its rows are averaged.
    """
    # Not at the top: the figures need no scipy.
    from mtdnn.statistics.ranks import rank_correlation

    pairs: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in found:
        if row.is_pair and row.early.mean is not None and row.difference is not None:
            key = (row.run.encoder, row.target, row.corpus)
            pairs.setdefault(key, []).append((row.early.mean, row.difference))
    asked = "Does the cosine early in training tell who helps whom in the end?"
    count = len(pairs)
    points = [
        [statistics.fmean(side) for side in zip(*each, strict=True)] for each in pairs.values()
    ]
    correlation = rank_correlation(*zip(*points, strict=True)) if count >= MIN_PAIRS else None
    if correlation is None:
        have = f"{count} pair{'' if count == 1 else 's'} of a target and one auxiliary corpus"
        return (
            f"{asked} Too few to say: {have} {'has' if count == 1 else 'have'} both a cosine and a "
            f"score next to the target alone, and an answer needs at least {MIN_PAIRS} that differ."
        )
    low, high = correlation.low, correlation.high
    answer = "these pairs do not show that it does, nor that it does not"
    if low > 0:
        answer = "in these pairs it does: the better the gradients agree, the higher the score"
    if high < 0:
        answer = "in these pairs it misleads: the better the gradients agree, the lower the score"
    return (
        f"{asked} Over {count} pairs of a target and one auxiliary corpus, Spearman's rank "
        f"correlation of the early cosine with the difference is {signed(correlation.value)} "
        f"({CONFIDENCE:.0%} interval {signed(low)} to {signed(high)}): {answer}. The interval "
        "takes the pairs as independent, although pairs of the same target are not."
    )


def shown(experiment: Experiment) -> dict[str, Any]:
    """Return the values that the templates of the table and of the page use."""
    found = rows(experiment)
    return {
        "gradients": found,
        "verdict": verdict(found),
        "targets": {target.name: target for target in targets(experiment)},
    }


def write(experiment: Experiment) -> None:
    """Write `tables/gradients.md`, `.csv` and `.tex`."""
    from mtdnn.reporting.escaping import csv_text
    from mtdnn.reporting.templating import render

    layout, values = experiment.layout, shown(experiment)
    text = render("gradients.md", experiment, **values)
    write_text(layout.table("gradients", "md"), text)
    latex = _latex(experiment, values["gradients"], values["verdict"])
    write_text(layout.table("gradients", "tex"), latex)
    with replacing(layout.table("gradients", "csv")) as draft:
        draft.write_text(csv_text(frame(experiment, values["gradients"])), encoding="utf-8")


def _latex(experiment: Experiment, found: list[Row], said: str) -> str:
    notes = Notes()
    several = ("Of a mixture with several auxiliary corpora.",)
    body = [
        [
            Cell(row.label),
            Cell(experiment.corpora[row.corpus].label),
            Cell(seeds(row.early, 3)),
            Cell(seeds(row.late, 3)),
            notes.cell(signed(row.difference), () if row.is_pair else several),
        ]
        for row in found
    ]
    heading = ["", "Auxiliary corpus", "Early", "Late", "Score minus target alone"]
    title = (
        "Gradient conflict: cosines of each auxiliary corpus's gradient with the target's, in the "
        "first and the last quarter of training"
    )
    nothing = "No run of this experiment has compared the gradients of several corpora."
    below = [said if found else nothing]
    table = LatexTable(title, "gradients", [Block(heading, body, 2)], notes.reasons, below)
    return latex_table(experiment, table)


def frame(experiment: Experiment, found: list[Row]) -> pd.DataFrame:
    """Return one record for each row, with all digits."""
    records = [
        {
            "label": row.label,
            "encoder": row.run.encoder,
            "mixture": row.run.mixture,
            "weight": row.run.weight,
            "variant": row.run.variant,
            "target": row.target,
            "corpus": row.corpus,
            "early_cosine": row.early.mean,
            "early_cosine_sd": row.early.deviation,
            "late_cosine": row.late.mean,
            "late_cosine_sd": row.late.deviation,
            "difference": row.difference,
            "is_pair": row.is_pair,
            "seeds": max(len(row.early.values), len(row.late.values)),
            "notice": experiment.notice or "",
        }
        for row in found
    ]
    keys = ["label", "encoder", "mixture", "weight", "variant", "target", "corpus"]
    return pd.DataFrame(records, columns=None if records else keys)
