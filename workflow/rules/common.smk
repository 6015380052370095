# Shared by all rules: the checked experiment, its paths, and helpers for inputs and resources.

import gc
import os
import re
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import ResourceValidationError

from mtdnn.config.dependencies import (
    RunSteps,
    changed_sources,
    code_of,
    corpus_settings,
    encoder_settings,
    features_settings,
)
from mtdnn.config.layout import FEATURES, MANIFEST, STEPS, WEIGHTS, RunFolder
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError, lines
from mtdnn.machine.files import digest, write_text
from mtdnn.machine.progress import say
from mtdnn.reporting.escaping import menu
from mtdnn.reporting.facts import Captions
from mtdnn.reporting.products import (
    ANSWER_FIGURES,
    FIGURES,
    PAGES,
    TRAINING_FIGURES,
    figure_files,
    templates_digest,
)
from mtdnn.workflow.snakefile import (
    date_back,
    keep_experiment,
    load_experiment,
    report_command,
    start_delivery,
)
from mtdnn.workflow.terminal import is_dry_run, print_short_lines

# Another workflow that imports this one prints what it likes.
if workflow.modifier.is_main_snakefile():
    print_short_lines()

# Planning thousands of runs makes millions of objects that are all kept; with Python's default
# thresholds, garbage collection takes a fifth of the planning time.
gc.set_threshold(200_000, 20, 20)

# `python` in the rules is the interpreter that runs Snakemake, even if no environment is active.
os.environ.update(
    PATH=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
)

try:
    is_module = not workflow.modifier.is_main_snakefile()
    experiment = load_experiment(config, [] if is_module else workflow.configfiles)
    if is_module and workflow.is_main_process:
        keep_experiment(experiment)
    RUNS = {run.path: run for run in experiment.runs()}
    RUN_STEPS = RunSteps(experiment)
    IMPORTED = {run: RUN_STEPS.imported(run) for run in RUNS.values()}
except MtdnnError as error:
    sys.exit("\n".join(f"mtdnn: error: {line}" for line in lines(error)))

LAYOUT = experiment.layout
ROOT = LAYOUT.root
EXPERIMENT = LAYOUT.experiment
# The files of the run that a rule's wildcard names.
RUN_FILES = RunFolder(ROOT / "runs/{run}")
# Written once all runs are logged to MLflow.
LOGGED = ROOT / "logged"


wildcard_constraints:
    # A pattern, not a list of names: Snakemake would try every name for every file of every run.
    run=r"[^/]+(/[^/]+){4}",
    encoder="[^/]+",
    corpus="[^/]+",
    variant="[^/]+",
    table="|".join(map(re.escape, experiment.tables)),
    figure="|".join(map(re.escape, [*experiment.figures, *TRAINING_FIGURES])),


def run_of(wildcards):
    """Return the run that a rule works on."""
    if wildcards.run not in RUNS:
        raise MtdnnError(f"{wildcards.run}: no such run in this experiment")
    return RUNS[wildcards.run]


def folder(wildcards):
    """Return the folder of the run that a rule works on."""
    return f"{ROOT}/runs/{wildcards.run}"


def made_by(*steps):
    """Return the files that these steps of a run write."""
    return [RUN_FILES.path / name for step in steps for name in STEPS[step]]


def unless_imported(step, files):
    """Return an input function: `files(run)`, or nothing if the run's `step` was imported."""

    def inputs(wildcards):
        run = run_of(wildcards)
        return {} if step in IMPORTED[run] else files(run)

    return inputs


def settings_of(step):
    """Return a parameter function: digest of the settings that affect a step of a run."""
    return lambda wildcards: RUN_STEPS.settings(run_of(wildcards), step)


def megabytes(files):
    """Return the total size of some files in MB, from which memory and time are estimated.

    If a file is missing and is an input of the rule, Snakemake catches the error and asks again
    once the file exists.
    """
    return sum(os.path.getsize(file) for file in files) // 10**6


def with_weights(description):
    """Return a model's run.json and its weights; fail before any job starts if they are deleted."""
    weights = [Path(description).with_name(name) for name in WEIGHTS]
    gone = [str(file) for file in weights if not file.exists()]
    if gone and os.path.exists(description):
        # The only exception in a resource function that Snakemake shows without a traceback.
        raise ResourceValidationError(
            f"{gone[0]}: was deleted, but the run must be evaluated again; "
            f"restore the file, or delete {description} to train the run again"
        )
    return [description, *weights]


def gpus_of(wildcards):
    """Return how many GPUs train a run together."""
    return RUN_STEPS.gpus(run_of(wildcards))


def files_of(runs, name):
    """Return the file `name` of each run; strings, because there may be thousands."""
    return [f"{ROOT}/runs/{run.path}/{name}" for run in runs]


def scores_of(runs):
    """Return an input function, so that the runs' scores are listed only if they are needed."""
    return lambda wildcards: files_of(runs, RunFolder.metrics)


def training_inputs(run):
    """Return the inputs of a run's training by name."""
    sources = experiment.sources_of(run)
    corpora = experiment.mixtures[run.mixture].corpora
    return {
        "sources": [RunFolder(LAYOUT.run(source)).description for source in sources],
        "teachers": [
            LAYOUT.logits(teacher.path, corpus)
            for corpus, teacher in experiment.teachers_of(run).items()
        ],
        "features": features_of(run, corpora, "train.arrow"),
        # What identifies a run holds the digests of whole corpora and of the whole encoder, which
        # stand in these files: if only a dev set changes, `train.arrow` remains the same.
        "described": [
            *features_of(run, corpora, FEATURES),
            LAYOUT.encoder(run.encoder) / MANIFEST,
        ],
        "encoder": [LAYOUT.encoder(run.encoder) / "model.safetensors"],
    }


def evaluation_inputs(run):
    """Return the inputs of a run's evaluation by name."""
    return {
        "features": features_of(run, corpora_of(run.mixture), "dev.arrow"),
        "corpora": dev_sets_of(run),
    }


@cache
def corpora_of(mixture):
    """Return the corpora that a mixture's runs are trained or scored on."""
    return experiment.corpora_of(mixture)


def features_of(run, corpora, name):
    """Return one file of the features of each of a run's corpora."""
    variant = experiment.features_variant(run.variant)
    return [LAYOUT.features(run.encoder, variant, corpus) / name for corpus in corpora]


def dev_sets_of(run):
    """Return the dev set of each corpus that a run is trained or scored on."""
    return [LAYOUT.corpus(corpus) / "dev.parquet" for corpus in corpora_of(run.mixture)]


def runs_of(table):
    """Return the runs of a table's own rows; those of other experiments are never made."""
    return [
        run
        for row in experiment.tables[table].own_rows
        for run in experiment.runs_of(row)
    ]


def scores_shown(table):
    """Return the scores in a table: those of its own runs, and of other experiments' as found."""
    others = [
        file
        for row in experiment.tables[table].rows
        if row.origin
        for file in Path(row.origin, "runs", row.path).glob(f"*/{RunFolder.metrics}")
    ]
    return [*files_of(runs_of(table), RunFolder.metrics), *map(str, sorted(others))]


def runs_drawn(figure):
    """Return the runs that a figure shows: those of its table, or all."""
    if figure in FIGURES:
        return experiment.runs()
    return runs_of(experiment.figures[figure].table)


def reported_figure(figure):
    """Return a figure as an entry of the report."""
    return report(
        LAYOUT.figure(figure, "svg"),
        caption=f"../report/{figure}.rst",
        category="Figures",
        labels=shown("figure", figure, experiment.figures),
    )


def reported_page(page):
    """Return a page as an entry of the report."""
    places = {"cases": "Answers", "runs": "Provenance", "settings": "Provenance"}
    return report(
        LAYOUT.page(page),
        caption=f"../report/{page if page in PAGES else 'table'}.rst",
        category=places.get(page, "Tables"),
        labels=shown("page", page, experiment.tables),
    )


def shown(kind, name, entries):
    """Return the label of an entry in the report's menu."""
    title = (
        f"{name}: {entries[name].title}" if name in entries else name.replace("_", " ")
    )
    return {kind: menu(title)}


def tables_of(names):
    return [LAYOUT.table(name, end) for name in names for end in ("md", "csv", "tex")]


def comparisons_of(names):
    return [
        LAYOUT.comparison(name, end) for name in names for end in ("md", "csv", "tex")
    ]


def figures_of(names):
    return [file for name in names for file in figure_files(experiment, name)]


def compared_in(figure):
    """Return the comparisons that a figure of the config shows."""
    if figure in FIGURES:
        return []
    return LAYOUT.statistics(experiment.figures[figure].table)


def read_again_if_changed(wildcards):
    """Force a corpus to be read again if its local files have changed; return no inputs.

    `params` hold the digests of the files, but Snakemake compares `params` with its own record,
    which is missing if `mtdnn corpus` was called by hand. As inputs, files would count by date.
    """
    if changed_sources(experiment, wildcards.corpus):
        workflow.dag.forcefiles.add(str(LAYOUT.corpus(wildcards.corpus) / MANIFEST))
    return []
