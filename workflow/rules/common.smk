# What all rules share: the checked experiment, its paths, and the digests that decide what is
# done again.

import gc
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import ResourceValidationError

from mtdnn.config.dependencies import (
    RunSteps,
    code_of,
    corpus_settings,
    encoder_settings,
    features_settings,
)
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError, lines
from mtdnn.machine.files import digest, write_text
from mtdnn.config.layout import Layout
from mtdnn.reporting.products import (
    ANSWER_FIGURES,
    FIGURES,
    PAGES,
    TRAINING_FIGURES,
    templates_digest,
)
from mtdnn.reporting.facts import Captions
from mtdnn.workflow.snakefile import load_experiment, report_command, start_delivery

# Thousands of runs make millions of objects that stay; looking through them for garbage again
# and again takes a fifth of the time of planning.
gc.set_threshold(200_000, 20, 20)

# The rules' `python` is the one that runs Snakemake, also where no environment is activated.
os.environ.update(
    PATH=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
)

try:
    experiment = load_experiment(config, workflow.configfiles)
    RUNS = {run.path: run for run in experiment.runs()}
    RUN_STEPS = RunSteps(experiment)
    IMPORTED = {run: RUN_STEPS.imported(run) for run in RUNS.values()}
except MtdnnError as error:
    sys.exit("\n".join(f"mtdnn: error: {line}" for line in lines(error)))

ROOT = experiment.layout.root
EXPERIMENT = experiment.layout.experiment


# What takes seconds, what fetches from outside and what writes to the tracker is done by the
# machine that Snakemake runs on: a cluster sees only the steps that are worth a job of their
# own, which are `features`, `train` and `evaluate`.
localrules:
    encoder,
    corpus,
    metrics,
    store,
    log,
    agreement,
    comparisons,
    statistics,
    table,
    figure,
    answers,
    pages,
    report,


# Not the names themselves: Snakemake would go through all of them for every file of every run.
wildcard_constraints:
    run=r"[^/]+(/[^/]+){4}",
    encoder="[^/]+",
    corpus="[^/]+",
    variant="[^/]+",
    table="|".join(map(re.escape, experiment.tables)),
    figure="|".join(map(re.escape, [*experiment.figures, *TRAINING_FIGURES])),


def run_of(wildcards):
    """The run that a rule works on."""
    if wildcards.run not in RUNS:
        raise MtdnnError(f"{wildcards.run}: no such run in this experiment")
    return RUNS[wildcards.run]


def folder(wildcards):
    """The folder of the run that a rule works on."""
    return f"{ROOT}/runs/{wildcards.run}"


def unless_imported(step, files):
    """Input function: `files(run)` by name, or none for a run whose `step` was done elsewhere."""

    def inputs(wildcards):
        run = run_of(wildcards)
        return {} if step in IMPORTED[run] else files(run)

    return inputs


def settings_of(step):
    """Parameter function: digest of the settings that matter to a step of a run."""
    return lambda wildcards: RUN_STEPS.settings(run_of(wildcards), step)


def megabytes(files):
    """Size of some files together, by which memory and time are asked for.

    Snakemake takes it as not known yet when one that is a rule's input is missing.
    """
    return sum(os.path.getsize(file) for file in files) // 10**6


def with_weights(description):
    """A model's run.json and the weights beside it; where they were deleted, nothing starts."""
    names = ("model.safetensors", "heads.safetensors")
    weights = [Path(description).with_name(name) for name in names]
    gone = [str(file) for file in weights if not file.exists()]
    if gone and os.path.exists(description):
        # The one error of a resource that Snakemake shows without a traceback.
        raise ResourceValidationError(
            f"{gone[0]}: was deleted, and the run is to be evaluated again; "
            f"put it back, or delete {description} to train the run again"
        )
    return [description, *weights]


def gpus_of(wildcards):
    """How many GPUs train a run together."""
    return RUN_STEPS.gpus(run_of(wildcards))


def products(runs, *names):
    """Files of these runs."""
    return [f"{ROOT}/runs/{run.path}/{name}" for run in runs for name in names]


def scores_of(runs):
    """Input function: these runs' scores, which are listed only where they are asked for."""
    return lambda wildcards: products(runs, "metrics.json")


def training_inputs(run):
    """What a run is trained on and from, by name."""
    return {
        "features": features_of(run, "train.arrow"),
        "encoder": [experiment.layout.encoder(run.encoder) / "model.safetensors"],
    }


def evaluation_inputs(run):
    """What a run is evaluated on, by name."""
    return {"features": features_of(run, "dev.arrow"), "corpora": dev_sets_of(run)}


def features_of(run, name):
    """A file of the features of each corpus that a run is trained on."""
    variant = experiment.features_variant(run.variant)
    return [
        experiment.layout.features(run.encoder, variant, corpus) / name
        for corpus in experiment.mixtures[run.mixture].corpora
    ]


def dev_sets_of(run):
    """The dev set of each corpus that a run is trained on."""
    return [
        experiment.layout.corpus(corpus) / "dev.parquet"
        for corpus in experiment.mixtures[run.mixture].corpora
    ]


def runs_of(table):
    return [
        run for row in experiment.tables[table].rows for run in experiment.runs_of(row)
    ]


def runs_drawn(figure):
    """The runs that a figure shows: those of its table, or every run."""
    if figure in FIGURES:
        return experiment.runs()
    return runs_of(experiment.figures[figure].table)


def reported_figure(figure):
    """A figure as an entry of the report."""
    return report(
        experiment.layout.figure(figure, "svg"),
        caption=f"../report/{figure}.rst",
        category="Figures",
        labels=shown("figure", figure, experiment.figures),
    )


def reported_page(page):
    """A page as an entry of the report."""
    places = {"cases": "Answers", "runs": "Provenance", "settings": "Provenance"}
    return report(
        experiment.layout.page(page),
        caption=f"../report/{page if page in PAGES else 'table'}.rst",
        category=places.get(page, "Tables"),
        labels=shown("page", page, experiment.tables),
    )


def shown(kind, name, entries):
    """How an entry is called in the report's menu, which is a script that </ would end."""
    title = f"{name}: {entries[name].title}" if name in entries else name
    return {kind: title.replace("_", " ").replace("<", "‹")}


def tables_of(names):
    return [
        experiment.layout.table(name, end)
        for name in names
        for end in ("md", "csv", "tex")
    ]


def comparisons_of(names):
    return [
        experiment.layout.comparison(name, end)
        for name in names
        for end in ("md", "csv", "tex")
    ]


def figures_of(names):
    return [
        experiment.layout.figure(name, end)
        for name in names
        for end in ("svg", "png", "pdf")
    ]
