# Every run in MLflow. Files are the truth and MLflow is the mirror: no table reads it.


localrules:
    store,


# The first use of an MLflow store is racy, so one rule creates it and all others wait for it.
rule store:
    input:
        experiment=ancient(EXPERIMENT),
    output:
        touch(ROOT / "mlflow.created"),
    log:
        ROOT / "logs/store.log",
    conda:
        "../../envs/environment.yaml"
    params:
        uri=experiment.store_uri,
    message:
        "Creating the MLflow store"
    shell:
        "python -m mtdnn store {input.experiment} > {log} 2>&1"


rule log:
    input:
        experiment=ancient(EXPERIMENT),
        store=ROOT / "mlflow.created",
        config=ROOT / "runs/{run}/config.yaml",
        metrics=ROOT / "runs/{run}/metrics.json",
    output:
        ROOT / "runs/{run}/mlflow.json",
    log:
        ROOT / "logs/log/{run}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        folder=folder,
        code=code_digest("tracking"),
    message:
        "Logging {wildcards.run} to MLflow"
    shell:
        "python -m mtdnn log {input.experiment} {params.folder} > {log} 2>&1"
