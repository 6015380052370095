# Write tables, figures and the report. They are cheap, so any change to the experiment's settings
# (titles, labels, rows, seeds, …) redoes all of them.


# Captions read the runs' facts when they are rendered, after the runs have finished.
config["facts"] = Captions(experiment)

REPORTED = [
    *(LAYOUT.page(name) for name in [*experiment.tables, *PAGES]),
    *(LAYOUT.figure(name, "svg") for name in [*experiment.figures, *FIGURES]),
]
# Not the file that Snakemake was called with: a call with the other one must not redo the report.
SNAKEFILE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).with_name(
    "Snakefile"
)
REPORT = report_command(EXPERIMENT, str(SNAKEFILE), REPORTED, ROOT)


report: "../report/workflow.rst"


rule comparisons:
    input:
        metrics=lambda wildcards: scores_shown(wildcards.table),
        published=experiment.published or [],
    output:
        LAYOUT.statistics("{table}"),
        comparisons_of(["{table}"]),
    log:
        ROOT / "logs/comparisons/{table}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=digest(experiment.model_dump(mode="json")),
        code=code_of("comparisons"),
    message:
        "Writing the comparisons of {wildcards.table}"
    shell:
        "python -m mtdnn statistics {params.experiment:q} {wildcards.table:q} > {log:q} 2>&1"


rule statistics:
    input:
        list(map(LAYOUT.statistics, experiment.tables)),
    output:
        LAYOUT.all_statistics,
    log:
        ROOT / "logs/statistics.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
    message:
        "Writing statistics.json"
    shell:
        "python -m mtdnn statistics {params.experiment:q} --collect > {log:q} 2>&1"


rule table:
    input:
        statistics=LAYOUT.statistics("{table}"),
        published=experiment.published or [],
    output:
        tables_of(["{table}"]),
    log:
        ROOT / "logs/table/{table}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=digest(experiment.model_dump(mode="json")),
        code=code_of("reporting"),
    message:
        "Writing {wildcards.table}"
    shell:
        "python -m mtdnn table {params.experiment:q} {wildcards.table:q} > {log:q} 2>&1"


rule figure:
    input:
        metrics=lambda wildcards: files_of(
            runs_drawn(wildcards.figure), RunFolder.metrics
        ),
        statistics=lambda wildcards: compared_in(wildcards.figure),
        published=experiment.published or [],
    output:
        report(
            LAYOUT.figure("{figure}", "svg"),
            caption="../report/figure.rst",
            category="Figures",
            labels=lambda wildcards: shown(
                "figure", wildcards.figure, experiment.figures
            ),
        ),
        # The first file is the SVG above.
        figure_files(experiment, "{figure}")[1:],
    log:
        ROOT / "logs/figure/{figure}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=digest(experiment.model_dump(mode="json")),
        code=code_of("reporting"),
    message:
        "Drawing {wildcards.figure}"
    shell:
        "python -m mtdnn figure {params.experiment:q} {wildcards.figure:q} > {log:q} 2>&1"


# One job, because each of these reads every prediction.
rule answers:
    input:
        LAYOUT.all_statistics,
        files_of(experiment.runs(), RunFolder.predictions),
        # The table of interference is about every run, also those that no other table shows.
        files_of(experiment.runs(), RunFolder.metrics),
    output:
        [LAYOUT.cases(end) for end in ("json", "md")],
        tables_of(["interference", "gradients"]),
        [reported_figure(name) for name in ANSWER_FIGURES],
        [file for name in ANSWER_FIGURES for file in figure_files(experiment, name)[1:]],
    log:
        ROOT / "logs/answers.log",
    localrule: True
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
        "(python -m mtdnn cases {params.experiment:q} && "
        "python -m mtdnn figure {params.experiment:q} {params.figures:q}) > {log:q} 2>&1"


rule pages:
    input:
        LAYOUT.cases("json"),
        LAYOUT.all_statistics,
        LOGGED,  # pages link to each run in MLflow
        published=experiment.published or [],
    output:
        [reported_page(name) for name in [*experiment.tables, *PAGES]],
    log:
        ROOT / "logs/pages.log",
    localrule: True
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
        "python -m mtdnn page {params.experiment:q} > {log:q} 2>&1"


rule report:
    input:
        REPORTED,
    output:
        LAYOUT.report,
    log:
        ROOT / "logs/report.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        # A second Snakemake, which only reads and so needs no lock.
        command=REPORT,
        templates=templates_digest(),
    message:
        "Writing the report"
    shell:
        "({params.command}) > {log:q} 2>&1"
