"""Which task hurts which: the auxiliary corpora's own dev scores by mixture and weight."""

from dataclasses import dataclass

import pandas as pd

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.results import Result, Score, read_results, variant_label
from mtdnn.machine.files import replacing, write_text

METRICS = ("accuracy", "matthews", "f1")


@dataclass(frozen=True)
class Kind:
    """Runs that differ in their seed only."""

    label: str
    encoder: str
    mixture: str
    qa_weight: float
    variant: str
    results: tuple[Result, ...]

    def score(self, corpus: str, metric: str) -> Score:
        """A corpus's own dev score over seeds; nothing where the mixture lacks it."""
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
    """The experiment's runs by encoder, mixture, weight and variant, in the order of first use."""
    groups: dict[tuple, list[Result]] = {}
    for result in read_results(experiment):
        run = result.run
        key = (run.encoder, run.mixture, run.qa_weight, run.variant)
        groups.setdefault(key, []).append(result)
    return [Kind(_label(experiment, *key), *key, tuple(results)) for key, results in groups.items()]


def auxiliary(experiment: Experiment) -> list[str]:
    """The corpora that some run has beside question answering, in the experiment's order."""
    used = {name for run in experiment.runs() for name in experiment.mixtures[run.mixture].corpora}
    return [
        name
        for name, corpus in experiment.corpora.items()
        if name in used and corpus.family != "question_answering"
    ]


def write(experiment: Experiment) -> None:
    """Write `tables/interference.md`, `.csv` and `.tex`."""
    from mtdnn.reporting.templating import render

    layout, known = experiment.layout, kinds(experiment)
    values = {"kinds": known, "corpora": auxiliary(experiment), "majority": majority(known)}
    for suffix in ("md", "tex"):
        text = render(f"interference.{suffix}", experiment, **values)
        write_text(layout.table("interference", suffix), text)
    with replacing(layout.table("interference", "csv")) as draft:
        frame(experiment, known).to_csv(draft, index=False)


def frame(experiment: Experiment, known: list[Kind]) -> pd.DataFrame:
    """One record for each kind of run and auxiliary corpus, with all digits."""
    records = []
    for kind in known:
        for corpus in experiment.mixtures[kind.mixture].corpora[1:]:
            record = {
                "label": kind.label,
                "encoder": kind.encoder,
                "mixture": kind.mixture,
                "qa_weight": kind.qa_weight,
                "variant": kind.variant,
                "corpus": corpus,
            }
            for metric in METRICS:
                score = kind.score(corpus, metric)
                record |= {metric: score.mean, f"{metric}_sd": score.deviation}
            record["seeds"] = len(kind.score(corpus, "accuracy").values)
            record["reasons"] = "; ".join(kind.score(corpus, "accuracy").reasons)
            records.append(record)
    return pd.DataFrame(records)


def majority(known: list[Kind]) -> dict[str, float]:
    """Accuracy (percent) of always giving the most frequent label, for each auxiliary corpus."""
    scored = [result for kind in known for result in kind.results if result.metrics]
    return {
        corpus: values["majority"]
        for result in scored
        for corpus, values in result.metrics["auxiliary"].items()
    }


def _label(
    experiment: Experiment, encoder: str, mixture: str, qa_weight: float, variant: str
) -> str:
    """Mixture and weight, and whatever else the experiment's runs differ in."""
    parts = [experiment.mixtures[mixture].label]
    parts += [f"w {qa_weight:g}"] if len(experiment.mixtures[mixture].corpora) > 1 else []
    if len({run.encoder for run in experiment.runs()}) > 1:
        parts.append(experiment.encoders[encoder].label)
    if variant != "default":
        parts.append(variant_label(experiment, variant))
    return ", ".join(parts)
