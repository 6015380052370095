# Every run in MLflow. Files are the truth and MLflow is the mirror: no table reads it.


# A server that is away must not keep trainings waiting: what asks it comes last, and logging is
# tried once. The next call, or `mtdnn sync`, delivers what is missing.


# The first use of an MLflow store is racy, so one rule creates it and all others wait for it.
rule store:
    output:
        ROOT / "store.json",
    log:
        ROOT / "logs/store.log",
    priority: -1
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        uri=experiment.tracking_uri or "",
    message:
        "Creating the MLflow store"
    shell:
        "python -m mtdnn store {params.experiment} > {log} 2>&1"


# One job for all runs: asking MLflow costs little, and importing it takes seconds. Where delivery
# is live, most of them are there already.
rule log:
    input:
        store=ancient(ROOT / "store.json"),
        metrics=products(experiment.runs(), "metrics.json"),
    output:
        touch(ROOT / "logged"),
    log:
        ROOT / "logs/log.log",
    priority: -1
    retries: 0
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        code=code_of("log"),
    message:
        "Logging all runs to MLflow"
    shell:
        "python -m mtdnn sync {params.experiment} > {log} 2>&1"


# Every cell of every table once more from MLflow's scores; a difference is a failure. What
# agrees is logged as a summary of the whole experiment, its tables and figures attached.
rule agreement:
    input:
        logged=rules.log.output,
        tables=tables_of(experiment.tables),
        comparisons=comparisons_of(experiment.tables),
        statistics=ROOT / "statistics.json",
        figures=figures_of([*experiment.figures, *FIGURES]),
    output:
        ROOT / "agreement.json",
    log:
        ROOT / "logs/agreement.log",
    retries: 0
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        code=code_of("agreement"),
    message:
        "Writing what MLflow and the tables agree on"
    shell:
        "python -m mtdnn agreement {params.experiment} > {log} 2>&1"
