"""The training time of the paper's nine runs with one seed, from measured steps of every kind.

Steps are measured on the encoders' shapes with random weights, and on real windows if they are
available. The numbers of steps follow from the sizes of the full corpora.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mtdnn.bench.harness import Options
from mtdnn.bench.material import gather
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunId
from mtdnn.config.loading import load
from mtdnn.model.device import use_device
from mtdnn.model.multitask import build
from mtdnn.training.stepper import chosen_precision
from mtdnn.workflow import shared
from mtdnn.workflow.planning import expected_steps
from mtdnn.workflow.rates import step_seconds

CONFIG = shared.folder() / "config" / "paper.yaml"
TABLES = ("table1", "table2", "table3")
SHAPES = {"bert-base-cased": "base", "bert-large-cased": "large"}
# Hours of a run as the paper reports them: on a Tesla P40 (base) and a Titan X (large).
HOURS = {"base": (6, 12), "large": (12, 15)}
# In the reduced corpus, 8,570 questions have 8,686 windows.
WINDOWS_PER_QUESTION = 8_686 / 8_570


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """Yield one case: all nine runs, with the seconds and the number of each kind of step."""
    experiment = load(CONFIG)
    steps = steps_of_kinds(experiment)
    precision = options.precision or experiment.training.precision
    seconds: dict[tuple[str, str], float] = {}
    facts: dict[str, str] = {}
    encoders: list[str] = []
    for shape in sorted({shape for shape, _ in steps}):
        encoder = options.encoder if options.encoder == "tiny" else shape
        material = gather(replace(options, encoder=encoder, precision=precision))
        device = use_device(options.threads)
        model = build(material.encoder, material.run).to(device)
        for corpus, features in material.features.items():
            seconds[shape, corpus] = step_seconds(model, material.run, corpus, features, device)
        chosen = chosen_precision(material.run.training, device)
        facts |= {"windows": material.facts["windows"], "precision": chosen}
        encoders.append(material.facts["encoder"])
    total = sum(steps[kind] * seconds[kind] for kind in steps)
    runs = Counter(SHAPES[run.encoder] for run in _runs(experiment))
    low, high = (3600 * sum(HOURS[s][end] * n for s, n in runs.items()) for end in (0, 1))
    yield {
        "case": "nine_runs",
        "peer": "paper_as_told",
        "ours_s": total,
        "peer_s": (low + high) / 2,
        "ratio": (low + high) / 2 / total,
        "ratio_spread": [low / total, high / total],
        **facts,
        "encoder": "; ".join(encoders),
        "cost": f"{total / 60:.0f} min of training",
        "kinds": [
            {"encoder": s, "corpus": c, "steps": round(steps[s, c]), "step_s": seconds[s, c]}
            for s, c in steps
        ],
    }


def steps_of_kinds(experiment: Experiment) -> dict[tuple[str, str], float]:
    """Return the expected steps of all nine runs together, by encoder shape and corpus."""
    steps: dict[tuple[str, str], float] = {}
    for run in _runs(experiment):
        for corpus, count in steps_of(experiment, run).items():
            kind = SHAPES[run.encoder], corpus
            steps[kind] = steps.get(kind, 0.0) + count
    return steps


def steps_of(experiment: Experiment, run: RunId) -> dict[str, float]:
    """Return the expected steps of a run on the full corpora, by corpus."""
    settings = experiment.resolve(run)
    sizes = {name: float(experiment.corpora[name].rows["train"]) for name in settings.corpora}
    sizes[settings.target] *= WINDOWS_PER_QUESTION
    return expected_steps(settings, sizes)


def _runs(experiment: Experiment) -> list[RunId]:
    """Return the runs of tables 1 to 3 with the first seed."""
    tables = {name: experiment.tables[name] for name in TABLES}
    alone = experiment.model_copy(update={"tables": tables, "seeds": experiment.seeds[:1]})
    return alone.runs()
