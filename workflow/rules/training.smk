# The training of each run, which first draws its schedule.
#
# A run's config.yaml is written by each step and is an input of none: it holds every setting,
# while a step is done again only for those that matter to it.


# A run takes as many GPUs as its settings say, and a few cores to feed each. What there is, is the
# profile's affair: a limit of no GPU makes it a wish for none, and without GPUs a run gets one core.
# A training that outlived a killed Snakemake is waited for, and its result taken. Weights,
# gradients and the optimiser's state are four encoders, and as many again while they are written;
# time is a guess that costs nothing where it is too short, since the next attempt has more and
# goes on from the last checkpoint.
#
# Its product is run.json, which stands in the model's folder and is written with it: who deletes the
# weights of runs that are scored, to save space, does not have them trained again.
#
# The training takes the place of its shell: a signal for all processes of a job would end the
# shell at once, Snakemake after it, and with them the job, before the checkpoint is written.
rule train:
    input:
        unpack(unless_imported("train", training_inputs)),
    output:
        ROOT / "runs/{run}/model/run.json",
        ROOT / "runs/{run}/schedule.parquet",
        ROOT / "runs/{run}/training.jsonl",
    log:
        ROOT / "logs/train/{run}.log",
    conda:
        "../../envs/environment.yaml"
    threads: lambda wildcards: 4 * gpus_of(wildcards)
    resources:
        gpu=gpus_of,
        mem_mb=lambda wildcards, input, attempt: attempt
        * gpus_of(wildcards)
        * (3000 + 10 * megabytes(input.get("encoder", []))),
        runtime=lambda wildcards, input, attempt: attempt
        * (60 + megabytes(input.get("encoder", []))),
    params:
        experiment=EXPERIMENT,
        folder=folder,
        settings=settings_of("train"),
        code=code_of("train"),
    message:
        "Training {wildcards.run}"
    shell:
        "exec > {log} 2>&1; python -m mtdnn resolve {params.experiment} {wildcards.run}; "
        "exec python -m mtdnn train {params.folder} --threads {threads} --wait"
