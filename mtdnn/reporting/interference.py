"""Which task hurts which: the auxiliary corpora's own dev scores by mixture and weight."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.results import Result, Score, read_results, variant_label
from mtdnn.machine.files import replacing, write_text
from mtdnn.reporting.figures.drawing import COLOURS, GREY, canvas, corpus_colours

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


def draw(experiment: Experiment) -> Figure:
    """A panel for question answering and each auxiliary corpus; a line for each kind of run."""
    known, corpora = kinds(experiment), auxiliary(experiment)
    notes = [
        "Each corpus's own dev score. Small points: single seeds; large: their mean. "
        "Dashed: always the most frequent label."
    ]
    for kind in known:
        if kind.reasons:
            notes.append(f"Not complete: {kind.label}: {'; '.join(kind.reasons)}.")
    size = (1.6 + 1.75 * (len(corpora) + 1), 1.3 + 0.3 * max(len(known), 2))
    figure, body = canvas(experiment, size, "Scores of every task by mixture and weight", notes)
    panels = body.subplots(1, len(corpora) + 1, sharey=True, squeeze=False)[0]
    colours, levels = corpus_colours(experiment), majority(known)
    _panel(panels[0], [kind.f1 for kind in known], COLOURS[-1], "Question answering", "F1 (%)")
    for axes, corpus in zip(panels[1:], corpora, strict=True):
        scores = [kind.score(corpus, "accuracy") for kind in known]
        _panel(axes, scores, colours[corpus], experiment.corpora[corpus].label, "accuracy (%)")
        if corpus in levels:
            axes.axvline(levels[corpus], color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    panels[0].set_yticks(range(len(known)), [kind.label for kind in known])
    panels[0].set_ylim(len(known) - 0.5, -0.5)
    return figure


def _panel(axes: Axes, scores: list[Score], colour: str, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=8)
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", length=0)
    if not any(score.values for score in scores):
        axes.set_xticks([])
        return
    for place, score in enumerate(scores):
        if len(score.values) > 1:
            places = [place] * len(score.values)
            axes.plot(score.values, places, "o", color=colour, markersize=3, alpha=0.45)
        if score.values:
            axes.plot(np.mean(score.values), place, "o", color=colour, markersize=6)


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
