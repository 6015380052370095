# Predict each run's dev sets, and score the predictions.


rule evaluate:
    input:
        unpack(unless_imported("evaluate", evaluation_inputs)),
        model=RUN_FILES.description,
    output:
        made_by("evaluate"),
    log:
        ROOT / "logs/evaluate/{run}.log",
    benchmark:
        LAYOUT.benchmark("evaluate", "{run}")
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
        "(python -m mtdnn resolve {params.experiment:q} {wildcards.run:q} && "
        "python -m mtdnn evaluate {params.folder:q} --threads {threads}) > {log:q} 2>&1"


rule metrics:
    input:
        RUN_FILES.description,
        made_by("evaluate"),
        corpora=lambda wildcards: dev_sets_of(run_of(wildcards)),
    output:
        made_by("metrics"),
    log:
        ROOT / "logs/metrics/{run}.log",
    localrule: True
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
        "(python -m mtdnn resolve {params.experiment:q} {wildcards.run:q} && "
        "python -m mtdnn metrics {params.experiment:q} {params.folder:q}) > {log:q} 2>&1"
