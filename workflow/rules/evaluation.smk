# Predictions of each run on its dev sets, and their scores.


rule evaluate:
    input:
        unpack(unless_imported("evaluate", evaluation_inputs)),
        model=ROOT / "runs/{run}/model/run.json",
    output:
        ROOT / "runs/{run}/predictions.parquet",
        ROOT / "runs/{run}/auxiliary.parquet",
    log:
        ROOT / "logs/evaluate/{run}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=lambda wildcards, input, attempt: attempt
        * (3000 + 4 * megabytes(with_weights(input.model))),
        runtime=lambda wildcards, input, attempt: attempt
        * (30 + megabytes(with_weights(input.model)) // 4),
    params:
        experiment=EXPERIMENT,
        folder=folder,
        settings=settings_of("evaluate"),
        code=code_of("evaluate"),
    message:
        "Evaluating {wildcards.run}"
    shell:
        "(python -m mtdnn resolve {params.experiment} {wildcards.run} && "
        "python -m mtdnn evaluate {params.folder} --threads {threads}) > {log} 2>&1"


rule metrics:
    input:
        model=ROOT / "runs/{run}/model/run.json",
        predictions=ROOT / "runs/{run}/predictions.parquet",
        auxiliary=ROOT / "runs/{run}/auxiliary.parquet",
        corpora=lambda wildcards: dev_sets_of(run_of(wildcards)),
    output:
        ROOT / "runs/{run}/metrics.json",
    log:
        ROOT / "logs/metrics/{run}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        folder=folder,
        settings=settings_of("metrics"),
        code=code_of("metrics"),
    message:
        "Scoring {wildcards.run}"
    shell:
        "(python -m mtdnn resolve {params.experiment} {wildcards.run} && "
        "python -m mtdnn metrics {params.experiment} {params.folder}) > {log} 2>&1"
