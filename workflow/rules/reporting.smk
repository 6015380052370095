# Tables and figures. They are cheap, so any change of the experiment's settings makes all of
# them anew: titles, labels, rows and seeds stand there.


rule table:
    input:
        metrics=lambda wildcards: products(runs_of(wildcards.table), "metrics.json"),
        published=experiment.published or [],
    output:
        expand(ROOT / "tables/{{table}}.{end}", end=["md", "csv", "tex"]),
    log:
        ROOT / "logs/table/{table}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=digest(experiment.model_dump(mode="json")),
        code=code_digest("reporting"),
    message:
        "Writing {wildcards.table}"
    shell:
        "python -m mtdnn table {params.experiment} {wildcards.table} > {log} 2>&1"


rule figure:
    input:
        metrics=lambda wildcards: products(runs_drawn(wildcards.figure), "metrics.json"),
        published=experiment.published or [],
    output:
        expand(ROOT / "figures/{{figure}}.{end}", end=["svg", "png", "pdf"]),
    log:
        ROOT / "logs/figure/{figure}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=digest(experiment.model_dump(mode="json")),
        code=code_digest("reporting"),
    message:
        "Drawing {wildcards.figure}"
    shell:
        "python -m mtdnn figure {params.experiment} {wildcards.figure} > {log} 2>&1"
