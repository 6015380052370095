# Tables, figures, and the report that holds them. They are cheap, so any change of the
# experiment's settings makes all of them anew: titles, labels, rows and seeds stand there.


# What captions say of the runs is read when they are rendered, long after this line.
config["facts"] = Captions(experiment)

REPORTED = [
    *(experiment.layout.page(name) for name in [*experiment.tables, *PAGES]),
    *(
        experiment.layout.figure(name, "svg")
        for name in [*experiment.figures, *FIGURES]
    ),
]
REPORT = report_command(EXPERIMENT, workflow.main_snakefile, REPORTED, ROOT)


report: "../report/workflow.rst"


rule comparisons:
    input:
        metrics=lambda wildcards: products(runs_of(wildcards.table), "metrics.json"),
        published=experiment.published or [],
    output:
        ROOT / "statistics/{table}.json",
        expand(ROOT / "comparisons/{{table}}.{end}", end=["md", "csv", "tex"]),
    log:
        ROOT / "logs/comparisons/{table}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=digest(experiment.model_dump(mode="json")),
        code=code_of("comparisons"),
    message:
        "Writing the comparisons of {wildcards.table}"
    shell:
        "python -m mtdnn statistics {params.experiment} {wildcards.table} > {log} 2>&1"


rule statistics:
    input:
        expand(ROOT / "statistics/{table}.json", table=experiment.tables),
    output:
        ROOT / "statistics.json",
    log:
        ROOT / "logs/statistics.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
    message:
        "Writing statistics.json"
    shell:
        "python -m mtdnn statistics {params.experiment} --collect > {log} 2>&1"


rule table:
    input:
        statistics=ROOT / "statistics/{table}.json",
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
        code=code_of("reporting"),
    message:
        "Writing {wildcards.table}"
    shell:
        "python -m mtdnn table {params.experiment} {wildcards.table} > {log} 2>&1"


rule figure:
    input:
        metrics=lambda wildcards: products(runs_drawn(wildcards.figure), "metrics.json"),
        published=experiment.published or [],
    output:
        report(
            ROOT / "figures/{figure}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels=lambda wildcards: shown(
                "figure", wildcards.figure, experiment.figures
            ),
        ),
        expand(ROOT / "figures/{{figure}}.{end}", end=["png", "pdf"]),
    log:
        ROOT / "logs/figure/{figure}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=digest(experiment.model_dump(mode="json")),
        code=code_of("reporting"),
    message:
        "Drawing {wildcards.figure}"
    shell:
        "python -m mtdnn figure {params.experiment} {wildcards.figure} > {log} 2>&1"


# What shows single answers reads every prediction, so all of it is one job.
rule answers:
    input:
        ROOT / "statistics.json",
        products(experiment.runs(), "predictions.parquet"),
    output:
        multiext(str(ROOT / "cases"), ".json", ".md"),
        expand(ROOT / "tables/interference.{end}", end=["md", "csv", "tex"]),
        [reported_figure(name) for name in ANSWER_FIGURES],
        [
            experiment.layout.figure(name, end)
            for name in ANSWER_FIGURES
            for end in ("png", "pdf")
        ],
    log:
        ROOT / "logs/answers.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        figures=ANSWER_FIGURES,
        settings=digest(experiment.model_dump(mode="json")),
        code=code_of("reporting"),
        templates=templates_digest(),
    message:
        "Writing the answers side by side"
    shell:
        "(python -m mtdnn cases {params.experiment} && "
        "python -m mtdnn figure {params.experiment} {params.figures}) > {log} 2>&1"


# Pages name each run's place in MLflow, so they wait for the runs to be logged.
rule pages:
    input:
        ROOT / "cases.json",
        ROOT / "statistics.json",
        ROOT / "logged",
        published=experiment.published or [],
    output:
        [reported_page(name) for name in [*experiment.tables, *PAGES]],
    log:
        ROOT / "logs/pages.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=digest(experiment.model_dump(mode="json")),
        code=code_of("reporting"),
        templates=templates_digest(),
    message:
        "Writing the pages of the report"
    shell:
        "python -m mtdnn page {params.experiment} > {log} 2>&1"


# Snakemake's own report, made by a second Snakemake that only reads: it needs no lock. It is
# asked for the pages and figures, not for this rule's output, which does not exist yet.
rule report:
    input:
        REPORTED,
    output:
        ROOT / "report.html",
    log:
        ROOT / "logs/report.log",
    conda:
        "../../envs/environment.yaml"
    params:
        command=REPORT,
        templates=templates_digest(),
    message:
        "Writing the report"
    shell:
        "({params.command}) > {log} 2>&1"
