# From one YAML file to every table: `snakemake --configfile config/demo.yaml [TARGET …]`.
#
# Targets are `all` (the default), each table and figure of the config by its name (table1,
# figure3, …), the training figures `loss` and `draws`, and any file of results/.

# Snakemake merges a configfile with what the command line names: load the demo only when
# nothing else is asked for, so that its mixtures never leak into another experiment.
if not workflow.configfiles:

    configfile: "config/demo.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/settings.smk"
include: "workflow/rules/corpora.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/tracking.smk"
include: "workflow/rules/reporting.smk"


rule all:
    default_target: True
    input:
        tables_of(experiment.tables),
        figures_of(experiment.figures),
        figures_of(TRAINING_FIGURES),
        products(experiment.runs(), "mlflow.json"),


for name in experiment.tables:

    rule:
        name:
            name
        input:
            tables_of([name]),


for name in [*experiment.figures, *TRAINING_FIGURES]:

    rule:
        name:
            name
        input:
            figures_of([name]),


# A failed run stops no other, and what exists is shown: cells without a run say why.
onerror:
    shell("test ! -f {EXPERIMENT} || python -m mtdnn table {EXPERIMENT}")
    shell("test ! -f {EXPERIMENT} || python -m mtdnn figure {EXPERIMENT}")
