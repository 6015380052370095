# Log every run to MLflow, which mirrors the files: no table reads it. These jobs come last and
# are tried once, so that a server that is down does not delay training. `mtdnn sync` or the
# next `snakemake` delivers what is missing.


rule store:
    # One rule creates the store and all others wait for it: the first use of a store is racy.
    output:
        LAYOUT.store,
    log:
        ROOT / "logs/store.log",
    # Early where nothing can fail, so that nobody waits for it; a server may be down.
    priority: -1 if experiment.tracking_uri else 1
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        uri=experiment.tracking_uri or "",
    message:
        "Creating the MLflow store"
    shell:
        "python -m mtdnn store {params.experiment:q} > {log:q} 2>&1"


# One job for all runs: importing MLflow takes seconds, and a request takes much less. With live
# delivery, most runs are already logged.
rule log:
    input:
        store=ancient(LAYOUT.store),
        metrics=files_of(experiment.runs(), RunFolder.metrics),
    output:
        touch(LOGGED),
    log:
        ROOT / "logs/log.log",
    priority: -1
    retries: 0
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        code=code_of("log"),
    message:
        "Logging all runs to MLflow"
    shell:
        "python -m mtdnn sync {params.experiment:q} > {log:q} 2>&1"


# Recompute every cell of every table from MLflow's scores; a difference is a failure. If they
# agree, log a summary of the experiment with its tables, figures and report.
rule agreement:
    input:
        logged=rules.log.output,
        tables=tables_of(experiment.tables),
        comparisons=comparisons_of(experiment.tables),
        statistics=LAYOUT.all_statistics,
        figures=figures_of([*experiment.figures, *FIGURES]),
        report=rules.report.output,
    output:
        LAYOUT.agreement,
    log:
        ROOT / "logs/agreement.log",
    retries: 0
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        code=code_of("agreement"),
    message:
        "Checking that MLflow and the tables agree"
    shell:
        "python -m mtdnn agreement {params.experiment:q} > {log:q} 2>&1"


# What `mtdnn verify` compares with later: the digests of everything that is finished by now.
rule checksums:
    input:
        rules.agreement.output,
        rules.answers.output,
        rules.report.output,
        LAYOUT.all_statistics,
        tables_of(experiment.tables),
        comparisons_of(experiment.tables),
        figures_of([*experiment.figures, *FIGURES]),
        files_of(experiment.runs(), RunFolder.metrics),
    output:
        LAYOUT.checksums,
    log:
        ROOT / "logs/checksums.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
    message:
        "Recording the digests of all finished files"
    shell:
        "python -m mtdnn checksums {params.experiment:q} > {log:q} 2>&1"
