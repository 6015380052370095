"""How tasks affect each other: each auxiliary corpus's dev scores by mixture and weight."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunId
from mtdnn.evaluation.results import Result, Score, read_results
from mtdnn.machine.files import replacing, write_text

METRICS = ("accuracy", "matthews", "f1")


@dataclass(frozen=True)
class Kind:
    """Runs that differ only in their seed."""

    label: str
    results: tuple[Result, ...]

    @property
    def run(self) -> RunId:
        """The run with the first seed."""
        return self.results[0].run

    def score(self, corpus: str, metric: str) -> Score:
        """Return a corpus's own dev score over seeds; it is empty if the mixture lacks the corpus.

        Args:
            corpus: name of an auxiliary corpus.
            metric: one of `METRICS`: `accuracy` and `f1` in percent, `matthews` from -1 to 1.
        """
        values = [
            result.metrics["auxiliary"][corpus][metric]
            for result in self.results
            if result.metrics and corpus in result.metrics["auxiliary"]
        ]
        return Score(tuple(values), tuple(self.reasons))

    @property
    def reasons(self) -> list[str]:
        """Why seeds have no scores."""
        return list(dict.fromkeys(str(each.missing) for each in self.results if each.missing))

    @property
    def f1(self) -> Score:
        """F1 of question answering on the run's first slice."""
        values = [result.metrics["f1"] for result in self.results if result.metrics]
        return Score(tuple(value for value in values if value is not None))


def kinds(experiment: Experiment) -> list[Kind]:
    """Return the experiment's runs, grouped over seeds, in the order of their first use."""
    groups: dict[str, list[Result]] = {}
    for result in read_results(experiment):
        groups.setdefault(result.run.row_path, []).append(result)
    return [
        Kind(experiment.run_label(results[0].run), tuple(results)) for results in groups.values()
    ]


def auxiliary(experiment: Experiment) -> list[str]:
    """Return the auxiliary corpora that any run is trained on, in the experiment's order."""
    used = {name for run in experiment.runs() for name in experiment.mixtures[run.mixture].corpora}
    return [
        name
        for name, corpus in experiment.corpora.items()
        if name in used and corpus.family != "question_answering"
    ]


def write(experiment: Experiment) -> None:
    """Write `tables/interference.md`, `.csv` and `.tex`."""
    from mtdnn.reporting.escaping import csv_text
    from mtdnn.reporting.templating import render

    layout, known = experiment.layout, kinds(experiment)
    values = {"kinds": known, "corpora": auxiliary(experiment), "majority": majority(known)}
    for suffix in ("md", "tex"):
        text = render(f"interference.{suffix}", experiment, **values)
        write_text(layout.table("interference", suffix), text)
    with replacing(layout.table("interference", "csv")) as draft:
        draft.write_text(csv_text(frame(experiment, known)), encoding="utf-8")


def frame(experiment: Experiment, known: list[Kind]) -> pd.DataFrame:
    """Return one record for each kind of run and auxiliary corpus, with all digits."""
    records = []
    for kind in known:
        run = kind.run
        for corpus in experiment.mixtures[run.mixture].corpora:
            if experiment.corpora[corpus].family == "question_answering":
                continue
            record: dict[str, Any] = {
                "label": kind.label,
                "encoder": run.encoder,
                "mixture": run.mixture,
                "qa_weight": run.qa_weight,
                "variant": run.variant,
                "corpus": corpus,
            }
            for metric in METRICS:
                score = kind.score(corpus, metric)
                record |= {metric: score.mean, f"{metric}_sd": score.deviation}
            record["seeds"] = len(kind.score(corpus, "accuracy").values)
            record["reasons"] = "; ".join(kind.score(corpus, "accuracy").reasons)
            records.append(record)
    keys = ["label", "encoder", "mixture", "qa_weight", "variant", "corpus"]
    return pd.DataFrame(records, columns=None if records else keys)


def majority(known: list[Kind]) -> dict[str, float]:
    """Return each auxiliary corpus's accuracy (percent) of always predicting its largest class."""
    return {
        corpus: values["majority"]
        for kind in known
        for result in kind.results
        if result.metrics
        for corpus, values in result.metrics["auxiliary"].items()
    }
