# Fetch and verify encoders and corpora, and tokenise each corpus for each encoder.


rule encoder:
    output:
        [
            LAYOUT.encoder("{encoder}") / name
            for name in (
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                MANIFEST,
            )
        ],
    log:
        ROOT / "logs/encoder/{encoder}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=lambda wildcards: encoder_settings(experiment, wildcards.encoder),
        code=code_of("encoder"),
    message:
        "Fetching encoder {wildcards.encoder}"
    shell:
        "python -m mtdnn encoder {params.experiment:q} {wildcards.encoder:q} > {log:q} 2>&1"


rule corpus:
    input:
        read_again_if_changed,
    output:
        [
            LAYOUT.corpus("{corpus}") / name
            for name in ("train.parquet", "dev.parquet", MANIFEST)
        ],
    log:
        ROOT / "logs/corpus/{corpus}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=lambda wildcards: corpus_settings(experiment, wildcards.corpus),
        code=code_of("corpus"),
    message:
        "Fetching corpus {wildcards.corpus}"
    shell:
        "python -m mtdnn corpus {params.experiment:q} {wildcards.corpus:q} > {log:q} 2>&1"


rule features:
    input:
        encoder=LAYOUT.encoder("{encoder}") / "tokenizer.json",
        corpus=LAYOUT.corpus("{corpus}") / MANIFEST,
    output:
        [
            LAYOUT.features("{encoder}", "{variant}", "{corpus}") / name
            for name in ("train.arrow", "dev.arrow", FEATURES)
        ],
    log:
        ROOT / "logs/features/{encoder}/{variant}/{corpus}.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        experiment=EXPERIMENT,
        settings=lambda wildcards: features_settings(experiment, wildcards.variant),
        code=code_of("features"),
    message:
        "Tokenising {wildcards.corpus} for {wildcards.encoder}"
    shell:
        "python -m mtdnn features {params.experiment:q} {wildcards.encoder:q} "
        "{wildcards.corpus:q} --variant {wildcards.variant:q} > {log:q} 2>&1"
