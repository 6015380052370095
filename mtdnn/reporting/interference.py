"""How tasks affect each other: each auxiliary corpus's dev scores by mixture and weight."""

import itertools
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunId
from mtdnn.evaluation.measures import F1, Measure, measures_of
from mtdnn.evaluation.results import Result, Score, read_results
from mtdnn.machine.files import replacing, write_text
from mtdnn.reporting import wording
from mtdnn.reporting.blocks import Block, Cell
from mtdnn.reporting.latex_tables import LatexTable, latex_table
from mtdnn.reporting.tables import seeds


@dataclass(frozen=True)
class Target:
    """The target of some runs, and the measure that is shown of it.

    Attributes:
        name: name of its corpus.
        title: how it is called, above a panel.
        called: how it is called in a sentence.
        heading: how its column is titled.
        measure: F1 if it is question answering, else its headline.
    """

    name: str
    title: str
    called: str
    heading: str
    measure: Measure


@dataclass(frozen=True)
class ByMeasure:
    """A table of one measure.

    Attributes:
        measure: what it shows.
        corpora: the auxiliary corpora that have this measure.
        targets: the targets beside which any of them is trained.
        kinds: the runs with these targets.
    """

    measure: Measure
    corpora: tuple[str, ...]
    targets: tuple[Target, ...]
    kinds: tuple["Kind", ...]


@dataclass(frozen=True)
class Kind:
    """Runs that differ only in their seed."""

    label: str
    results: tuple[Result, ...]
    target: str

    @property
    def run(self) -> RunId:
        """The run with the first seed."""
        return self.results[0].run

    def score(self, corpus: str, measure: Measure) -> Score:
        """Return a corpus's own dev score over seeds; it is empty if the runs have none.

        Args:
            corpus: name of an auxiliary corpus.
            measure: one of its measures, in percent or times 100.
        """
        found = [
            result.metrics["auxiliary"].get(corpus, {}).get(measure.key)
            for result in self.results
            if result.metrics
        ]
        return Score(tuple(value for value in found if value is not None), tuple(self.reasons))

    @property
    def reasons(self) -> list[str]:
        """Why seeds have no scores."""
        return list(dict.fromkeys(str(each.missing) for each in self.results if each.missing))

    def own(self, target: Target) -> Score:
        """Return the score of a target on the runs' first slice; empty if it is not theirs."""
        if target.name != self.target:
            return Score(())
        scored = [result.metrics for result in self.results if result.metrics]
        values = [metrics.get(target.measure.column) for metrics in scored]
        return Score(tuple(value for value in values if value is not None))


def kinds(experiment: Experiment) -> list[Kind]:
    """Return the experiment's runs, grouped over seeds, in the order of their first use."""
    groups: dict[str, list[Result]] = {}
    for result in read_results(experiment):
        groups.setdefault(result.run.row_path, []).append(result)
    return [
        Kind(
            experiment.run_label(results[0].run),
            tuple(results),
            experiment.resolve(results[0].run).target,
        )
        for results in groups.values()
    ]


def targets(experiment: Experiment) -> list[Target]:
    """Return the targets of the experiment's runs, in the experiment's order."""
    names = wording.targets(experiment)
    found = []
    for name in names:
        corpus = experiment.corpora[name]
        measures = {measure.key: measure for measure in measures_of(corpus)}
        measure = measures.get("f1") if corpus.family == wording.ANSWERING else None
        measure = measure or next(iter(measures.values()))
        label = corpus.label
        called = (f"{label} (target)", label, f"{label} {measure.label}")
        if len(names) == 1 and corpus.family == wording.ANSWERING:
            called = ("Question answering", "question answering", f"QA {measure.label}")
        found.append(Target(name, *called, measure))
    return found


def auxiliary(experiment: Experiment) -> list[str]:
    """Return the auxiliary corpora that any run is trained on, in the experiment's order."""
    used = {name for run in experiment.runs() for name in _auxiliary_of(experiment, run)}
    return [name for name in experiment.corpora if name in used]


def _auxiliary_of(experiment: Experiment, run: RunId) -> list[str]:
    settings = experiment.resolve(run)
    return [name for name in settings.corpora if name != settings.target]


def measures(experiment: Experiment) -> list[Measure]:
    """Return the measures of all auxiliary corpora, one for each name."""
    own = (measures_of(experiment.corpora[name]) for name in auxiliary(experiment))
    found: dict[str, Measure] = {}
    for measure in itertools.chain.from_iterable(own):
        found.setdefault(measure.name, measure)
    return list(found.values())


def headline(experiment: Experiment, corpus: str) -> Measure:
    """Return the first measure of a corpus."""
    return measures_of(experiment.corpora[corpus])[0]


def blocks(experiment: Experiment, known: list[Kind]) -> list[ByMeasure]:
    """Return the tables of runs' auxiliary scores, one for each measure."""
    trained = [(kind.target, _auxiliary_of(experiment, kind.run)) for kind in known]
    found = []
    for measure in measures(experiment):
        corpora = tuple(
            name
            for name in auxiliary(experiment)
            if measure.name in {each.name for each in measures_of(experiment.corpora[name])}
        )
        beside = {target for target, names in trained if set(names) & set(corpora)}
        own = tuple(target for target in targets(experiment) if target.name in beside)
        runs = tuple(kind for kind in known if kind.target in beside)
        found.append(ByMeasure(measure, corpora, own, runs))
    return found


def shown(experiment: Experiment) -> dict[str, Any]:
    """Return the values that the templates of the table and of the page use."""
    known, corpora = kinds(experiment), auxiliary(experiment)
    return {
        "kinds": known,
        "corpora": corpora,
        "blocks": blocks(experiment, known),
        "has_f1_of_labels": any(F1 in measures_of(experiment.corpora[name]) for name in corpora),
        "headlines": {name: headline(experiment, name) for name in corpora},
        "targets": targets(experiment),
        "majority": majority(known),
        "axis": wording.axis,
        "title": wording.title,
    }


def write(experiment: Experiment) -> None:
    """Write `tables/interference.md`, `.csv` and `.tex`."""
    from mtdnn.reporting.escaping import csv_text
    from mtdnn.reporting.templating import render

    layout, values = experiment.layout, shown(experiment)
    text = render("interference.md", experiment, **values)
    write_text(layout.table("interference", "md"), text)
    write_text(layout.table("interference", "tex"), _latex(experiment, values["kinds"]))
    with replacing(layout.table("interference", "csv")) as draft:
        draft.write_text(csv_text(frame(experiment, values["kinds"])), encoding="utf-8")


def _latex(experiment: Experiment, known: list[Kind]) -> str:
    """The first measure of every auxiliary corpus, and the score of each target, as LaTeX."""
    own, corpora = targets(experiment), auxiliary(experiment)
    firsts = {corpus: headline(experiment, corpus) for corpus in corpora}
    kinds_of_measures = set(firsts.values())
    of = wording.axis(*kinds_of_measures) if len(kinds_of_measures) == 1 else "the first measure"
    named = {
        corpus: experiment.corpora[corpus].label
        + (f" {measure.label}" if len(kinds_of_measures) > 1 else "")
        for corpus, measure in firsts.items()
    }
    body = [
        [
            Cell(kind.label),
            *(Cell(seeds(kind.score(corpus, firsts[corpus]))) for corpus in corpora),
            *(Cell(seeds(kind.own(target))) for target in own),
        ]
        for kind in known
    ]
    block = Block(["", *named.values(), *(target.heading for target in own)], body, 1)
    below = [
        f"{each.heading} is the {each.measure.name} of {each.called} on the first slice."
        for each in own
    ]
    if len(experiment.seeds) > 1:
        below.append("Several seeds: mean ± sample standard deviation.")
    title = f"Interference: {of} of every auxiliary corpus on its own dev set"
    return latex_table(experiment, LatexTable(title, "interference", [block], below=below))


def frame(experiment: Experiment, known: list[Kind]) -> pd.DataFrame:
    """Return one record for each kind of run and auxiliary corpus, with all digits."""
    records = []
    for kind in known:
        run = kind.run
        for corpus in _auxiliary_of(experiment, run):
            record: dict[str, Any] = {
                "label": kind.label,
                "encoder": run.encoder,
                "mixture": run.mixture,
                "weight": run.weight,
                "variant": run.variant,
                "corpus": corpus,
            }
            for measure in measures(experiment):
                score = kind.score(corpus, measure)
                record |= {measure.column: score.mean, f"{measure.column}_sd": score.deviation}
            first = kind.score(corpus, headline(experiment, corpus))
            record |= {"seeds": len(first.values), "reasons": "; ".join(first.reasons)}
            record["notice"] = experiment.notice or ""
            records.append(record)
    keys = ["label", "encoder", "mixture", "weight", "variant", "corpus"]
    return pd.DataFrame(records, columns=None if records else keys)


def majority(known: list[Kind]) -> dict[str, float]:
    """Return each auxiliary corpus's accuracy (percent) of always predicting its largest class."""
    return {
        corpus: values["majority"]
        for kind in known
        for result in kind.results
        if result.metrics
        for corpus, values in result.metrics["auxiliary"].items()
        if "majority" in values
    }
