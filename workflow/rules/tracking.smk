# Every run in MLflow. Files are the truth and MLflow is the mirror: no table reads it.


# The first use of an MLflow store is racy, so one rule creates it and all others wait for it.
rule store:
    output:
        ROOT / "store.json",
    log:
        ROOT / "logs/store.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        uri=experiment.tracking_uri or "",
    message:
        "Creating the MLflow store"
    shell:
        "python -m mtdnn store {params.experiment} > {log} 2>&1"


rule log:
    input:
        store=ancient(ROOT / "store.json"),
        metrics=ROOT / "runs/{run}/metrics.json",
    output:
        ROOT / "runs/{run}/mlflow.json",
    log:
        ROOT / "logs/log/{run}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        folder=folder,
        code=code_digest("tracking"),
    message:
        "Logging {wildcards.run} to MLflow"
    shell:
        "python -m mtdnn log {params.experiment} {params.folder} > {log} 2>&1"
