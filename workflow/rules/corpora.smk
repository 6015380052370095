# Encoders and corpora: fetched, verified, and tokenised for each other.


rule encoder:
    output:
        expand(
            ROOT / "encoders/{{encoder}}/{file}",
            file=[
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "manifest.json",
            ],
        ),
    log:
        ROOT / "logs/encoder/{encoder}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=lambda wildcards: encoder_settings(experiment, wildcards.encoder),
        code=code_of("encoder"),
    message:
        "Fetching encoder {wildcards.encoder}"
    shell:
        "python -m mtdnn encoder {params.experiment} {wildcards.encoder} > {log} 2>&1"


rule corpus:
    output:
        expand(
            ROOT / "corpora/{{corpus}}/{file}",
            file=["train.parquet", "dev.parquet", "manifest.json"],
        ),
    log:
        ROOT / "logs/corpus/{corpus}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT,
        settings=lambda wildcards: corpus_settings(experiment, wildcards.corpus),
        code=code_of("corpus"),
    message:
        "Fetching corpus {wildcards.corpus}"
    shell:
        "python -m mtdnn corpus {params.experiment} {wildcards.corpus} > {log} 2>&1"


rule features:
    input:
        encoder=ROOT / "encoders/{encoder}/tokenizer.json",
        corpus=ROOT / "corpora/{corpus}/manifest.json",
    output:
        expand(
            ROOT / "features/{{encoder}}/{{variant}}/{{corpus}}/{file}",
            file=["train.arrow", "dev.arrow", "features.json"],
        ),
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
        "python -m mtdnn features {params.experiment} {wildcards.encoder} {wildcards.corpus} "
        "--variant {wildcards.variant} > {log} 2>&1"
