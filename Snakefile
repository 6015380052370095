# From one YAML file to every table: `snakemake [TARGET …] --configfile config/demo.yaml`.
#
# Targets are `all` (the default), each table and figure of the config by its name (table1,
# figure3, …), the figures that every experiment has (loss, draws, effects, interference,
# groups, precision_recall, thresholds), `cases`, `report`, `fetched`, and any file of results/.

# Snakemake merges a configfile with what the command line names: load the demo only when
# nothing else is asked for, so that its mixtures never leak into another experiment.
if not workflow.configfiles:

    configfile: "config/demo.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/corpora.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/reporting.smk"
include: "workflow/rules/tracking.smk"


rule all:
    default_target: True
    input:
        tables_of(experiment.tables),
        comparisons_of(experiment.tables),
        ROOT / "statistics.json",
        figures_of(experiment.figures),
        figures_of(FIGURES),
        rules.answers.output,
        rules.report.output,
        products(experiment.runs(), "metrics.json"),
        rules.agreement.output,


# The runs' scores are targets as well: after a failure the tables exist, and yet a run is due.
for name in experiment.tables:

    rule:
        name:
            name
        input:
            tables_of([name]),
            comparisons_of([name]),
            scores_of(runs_of(name)),


for name in [*experiment.figures, *FIGURES]:

    rule:
        name:
            name
        input:
            figures_of([name]),
            scores_of(runs_drawn(name)),


# All that comes from outside. On a login node, before jobs run where there is no network.
rule fetched:
    input:
        [file for run in RUNS.values() for file in training_inputs(run)["encoder"]],
        [file for run in RUNS.values() for file in dev_sets_of(run)],
    localrule: True


rule cases:
    input:
        ROOT / "cases.md",


# Every step reads the experiment from this file, overrides of the command line included. It
# is no input of any rule: each holds a digest of the settings that matter to it in `params`.
onstart:
    write_text(EXPERIMENT, dump_yaml(experiment))
    if experiment.tracking_live:
        start_delivery(EXPERIMENT, ROOT / "logs/sync.log")


# A failed run stops no other, and what exists is shown: cells without a run say why. What is
# written here is unknown to Snakemake, so it is dated back: the next call makes it anew.
onerror:
    shell("python -m mtdnn statistics {EXPERIMENT} || true")
    shell("python -m mtdnn table {EXPERIMENT} || true")
    for step in ("figure", "cases", "page"):
        shell(f"python -m mtdnn {step} {EXPERIMENT} || true")
    shell(f"({REPORT}) > /dev/null 2>&1 || true")
    # Failed runs have failed in MLflow, too.
    shell("python -m mtdnn sync {EXPERIMENT} || true")
    for file in [
        *map(experiment.layout.statistics, experiment.tables),
        *comparisons_of(experiment.tables),
        *tables_of([*experiment.tables, "interference"]),
        *figures_of([*experiment.figures, *FIGURES]),
        *(
            ROOT / name
            for name in ("statistics.json", "cases.json", "cases.md", "report.html")
        ),
        *REPORTED,
    ]:
        if file.exists():
            os.utime(file, (1, 1))
