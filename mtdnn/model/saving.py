"""Models on disk: ours, and each task as a plain Hugging Face model."""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from mtdnn.config.layout import DESCRIPTION, WEIGHTS
from mtdnn.config.settings import RunSettings
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import replacing, save_tensors
from mtdnn.model.multitask import MultiTaskModel, attention_of, quietly, read_config

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def save(model: MultiTaskModel, run: RunSettings, encoder: Path, folder: Path) -> None:
    """Write a trained model.

    The folder is a plain Hugging Face question-answering model; pooler and other heads lie
    beside it in `heads.safetensors`.
    """
    prefix = model.encoder.base_model_prefix
    weights = {f"{prefix}.{k}": v for k, v in model.encoder.state_dict().items()}
    spans = model.heads[run.primary].linear
    weights |= {"qa_outputs.weight": spans.weight, "qa_outputs.bias": spans.bias}
    heads = {f"pooler.{k}": v for k, v in model.pooler.state_dict().items()}
    for name, head in model.heads.items():
        if name != run.primary:
            heads |= {f"heads.{name}.{k}": v for k, v in head.state_dict().items()}
    config = read_config(encoder)
    config.architectures = [
        quietly(AutoModelForQuestionAnswering.from_config, config).__class__.__name__
    ]
    config.dtype = "float32"
    config.save_pretrained(folder)
    save_tensors(weights, folder / WEIGHTS[0], {"format": "pt"})
    save_tensors(heads, folder / WEIGHTS[1], {"format": "pt"})
    for name in TOKENIZER_FILES:
        if (encoder / name).exists():
            shutil.copy(encoder / name, folder / name)


def load(folder: Path, run: RunSettings) -> MultiTaskModel:
    """Read back a model that `save` wrote; every weight must be there, and no other."""
    check_weights(folder)
    config = read_config(folder)
    encoder = quietly(
        AutoModel.from_config,
        config,
        attn_implementation=attention_of(config, run),
    )
    model = MultiTaskModel.of_run(encoder, run)
    prefix = model.encoder.base_model_prefix + "."
    state = {}
    for key, value in _weights(folder / WEIGHTS[0]).items():
        if key.startswith(prefix):
            state["encoder." + key.removeprefix(prefix)] = value
        else:
            state[key.replace("qa_outputs.", f"heads.{run.primary}.linear.")] = value
    state |= _weights(folder / WEIGHTS[1])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise MtdnnError(f"{folder}: the weights do not fit the run's settings: {reason}") from None
    return model


def check_weights(folder: Path) -> None:
    """Raise where a model's weights were deleted, which may be done to save space."""
    for name in WEIGHTS:
        if not (folder / name).exists():
            raise MtdnnError(
                f"{folder / name}: no such file; put it back, or delete {DESCRIPTION} beside it "
                "and train again"
            )


def export(run_dir: Path, run: RunSettings, corpus: str, output: Path) -> None:
    """Write one task of a trained run as a plain Hugging Face model.

    Works where the encoder's own class has the same head as ours (BERT has).
    """
    if corpus not in run.corpora:
        raise MtdnnError(f"{run_dir}: was not trained on {corpus!r}, but {', '.join(run.corpora)}")
    settings = run.corpora[corpus]
    if settings.family != "question_answering" and run.encoder.pooling != "first":
        raise MtdnnError(
            f"{run_dir}: {corpus} was trained with pooling: {run.encoder.pooling}, which the plain "
            "classes of transformers do not know; only question answering can be exported"
        )
    source = run_dir / "model"
    model = load(source, run)
    config = read_config(source)
    if settings.family == "sequence_classification":
        config.id2label = dict(enumerate(settings.labels))
        config.label2id = {label: number for number, label in enumerate(settings.labels)}
    auto, key = {
        "question_answering": (AutoModelForQuestionAnswering, "qa_outputs"),
        "multiple_choice": (AutoModelForMultipleChoice, "classifier"),
        "sequence_classification": (AutoModelForSequenceClassification, "classifier"),
    }[settings.family]
    plain = quietly(auto.from_config, config)
    prefix = plain.base_model_prefix
    state = {f"{prefix}.{k}": v for k, v in model.encoder.state_dict().items()}
    if settings.family != "question_answering":
        state |= {f"{prefix}.pooler.{k}": v for k, v in model.pooler.state_dict().items()}
    state |= {f"{key}.{k}": v for k, v in model.heads[corpus].linear.state_dict().items()}
    try:
        plain.load_state_dict(state)
    except RuntimeError:
        raise MtdnnError(
            f"{run_dir}: {type(plain).__name__} has another head than ours; "
            f"a {settings.family} head cannot be exported for {config.model_type} encoders"
        ) from None
    with replacing(output) as draft:
        plain.save_pretrained(draft)
        for name in TOKENIZER_FILES:
            if (source / name).exists():
                shutil.copy(source / name, draft / name)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MtdnnError(f"{path}: not readable as safetensors: {error}") from None
