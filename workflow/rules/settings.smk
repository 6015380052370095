# The experiment and its runs, with everything that the command line overrides filled in.
#
# What is written here is read by every step but decides nothing: each rule's `params` hold a
# digest of the settings that matter to it, and it takes these files as `ancient`.


localrules:
    experiment,
    resolve,


rule experiment:
    output:
        EXPERIMENT,
    log:
        ROOT / "logs/experiment.log",
    conda:
        "../../envs/environment.yaml"
    params:
        yaml=dump_yaml(experiment),
    message:
        "Writing the experiment's settings: {output}"
    shell:
        "printf '%s' {params.yaml:q} > {output} 2> {log}"


rule resolve:
    input:
        experiment=ancient(EXPERIMENT),
    output:
        ROOT / "runs/{run}/config.yaml",
    log:
        ROOT / "logs/resolve/{run}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        settings=settings_of("resolve"),
    message:
        "Settings of {wildcards.run}"
    shell:
        "python -m mtdnn resolve {input.experiment} {wildcards.run} > {log} 2>&1"
