# Write what teachers say about the items of a run, then train it; its schedule is drawn first.


rule train:
    input:
        # Not config.yaml, which each step writes: it holds all settings, but a step is redone only
        # for those in its `params`.
        unpack(unless_imported("train", training_inputs)),
    output:
        # Not the weights: deleting those of scored runs to save space must not cause the runs to be
        # trained again.
        made_by("schedule", "train"),
    log:
        ROOT / "logs/train/{run}.log",
    benchmark:
        LAYOUT.benchmark("train", "{run}")
    conda:
        "../../envs/environment.yaml"
    # Enough cores to feed each GPU. Without a GPU, the profile gives each run one core.
    threads: lambda wildcards: 4 * gpus_of(wildcards)
    resources:
        # The profile's limit caps this, down to 0 where there is no GPU.
        gpu=gpus_of,
        # Weights, gradients and optimizer state are four times the encoder, and twice that while a
        # checkpoint is written.
        mem_mb=lambda wildcards, input, attempt: attempt
        * gpus_of(wildcards)
        * (3000 + 10 * megabytes(input.get("encoder", []))),
        # A guess: if it is too short, the next attempt resumes from the checkpoint with more time.
        runtime=lambda wildcards, input, attempt: attempt
        * (60 + megabytes(input.get("encoder", []))),
    params:
        experiment=EXPERIMENT,
        folder=folder,
        settings=settings_of("train"),
        code=code_of("train"),
    message:
        "Training {wildcards.run}"
    # `exec`: the process that trains replaces its shell. A signal to all processes of the job would
    # end the shell at once, then Snakemake and the job, before the checkpoint is written.
    # `--wait`: a process that outlived a killed Snakemake is waited for, and its result used.
    shell:
        "exec > {log:q} 2>&1; "
        "python -m mtdnn resolve {params.experiment:q} {wildcards.run:q}; "
        "exec python -m mtdnn train {params.folder:q} --threads {threads} --wait"


rule logits:
    input:
        features=lambda wildcards: features_of(
            run_of(wildcards), [wildcards.corpus], "train.arrow"
        ),
        model=RUN_FILES.description,
    output:
        LAYOUT.logits("{run}", "{corpus}"),
    log:
        ROOT / "logs/logits/{run}/{corpus}.log",
    benchmark:
        LAYOUT.benchmark("logits", "{run}/{corpus}")
    conda:
        "../../envs/environment.yaml"
    threads: 4
    resources:
        gpu=1,
        # All logits are in memory; even those of tokens are not much larger than their features.
        mem_mb=lambda wildcards, input, attempt: attempt
        * (3000 + 4 * megabytes([*input.features, *with_weights(input.model)])),
        runtime=lambda wildcards, input, attempt: attempt
        * (60 + megabytes(with_weights(input.model))),
    params:
        experiment=EXPERIMENT,
        folder=folder,
        code=code_of("logits"),
    message:
        "Predicting the training items of {wildcards.corpus} with {wildcards.run}"
    shell:
        "(python -m mtdnn resolve {params.experiment:q} {wildcards.run:q} && "
        "python -m mtdnn logits {params.folder:q} {wildcards.corpus:q} --threads {threads}) "
        "> {log:q} 2>&1"
