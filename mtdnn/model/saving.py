"""Trained models on disk: all tasks together, or one task as a plain Hugging Face model."""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from mtdnn.config.layout import DESCRIPTION, WEIGHTS, RunFolder
from mtdnn.config.settings import RunSettings
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_product, replacing, save_tensors, sha256
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.pretrained import empty_encoder, read_config, without_messages

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def save(model: MultiTaskModel, run: RunSettings, encoder: Path, folder: Path) -> None:
    """Write a trained model as a plain Hugging Face question-answering model.

    The pooler and the other heads are stored next to it in `heads.safetensors`.

    Args:
        model: the trained model.
        run: its settings.
        encoder: folder of the pretrained encoder, whose tokenizer files are copied.
        folder: an existing, empty folder.
    """
    prefix = model.encoder.base_model_prefix
    weights = {f"{prefix}.{k}": v for k, v in model.encoder.state_dict().items()}
    spans = model.head(run.primary).linear
    weights |= {"qa_outputs.weight": spans.weight, "qa_outputs.bias": spans.bias}
    heads = {f"pooler.{k}": v for k, v in model.pooler.state_dict().items()}
    for name, head in model.heads.items():
        if name != run.primary:
            heads |= {f"heads.{name}.{k}": v for k, v in head.state_dict().items()}
    config = read_config(encoder)
    config.architectures = [
        type(without_messages(AutoModelForQuestionAnswering.from_config, config)).__name__
    ]
    config.dtype = "float32"
    config.save_pretrained(folder)
    save_tensors(weights, folder / WEIGHTS[0], {"format": "pt"})
    save_tensors(heads, folder / WEIGHTS[1], {"format": "pt"})
    _copy_tokenizer(encoder, folder)


def load(folder: Path, run: RunSettings) -> MultiTaskModel:
    """Read a model that `save` wrote, on the CPU.

    Raises:
        MtdnnError: a file is missing, damaged or not the one that was trained, or the weights are
            not exactly those that the run's settings require.
    """
    check_weights(folder)
    _check_unchanged(folder)
    model = MultiTaskModel(empty_encoder(folder, run), run)
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
    """Check that a model's weights were not deleted to save space.

    Raises:
        MtdnnError: a file of weights is missing.
    """
    for name in WEIGHTS:
        if not (folder / name).exists():
            raise MtdnnError(
                f"{folder / name}: no such file; put it back, or delete {DESCRIPTION} next to it "
                "and train again"
            )


def _check_unchanged(folder: Path) -> None:
    description = folder / DESCRIPTION
    if not description.exists():
        return
    for name, expected in (read_product(description).get("files") or {}).items():
        if (folder / name).exists() and sha256(folder / name) != expected:
            raise MtdnnError(
                f"{folder / name}: was cut off or changed since it was trained; put it back, or "
                f"delete {DESCRIPTION} next to it and train again"
            )


def export(run_dir: Path, run: RunSettings, corpus: str, output: Path) -> None:
    """Write one task of a trained run as a plain Hugging Face model.

    This works where transformers' class of the encoder has the same head as ours, as BERT's has.

    Args:
        run_dir: the run's folder.
        run: its settings.
        corpus: the corpus whose head is exported.
        output: the folder to write; replaced if it exists.

    Raises:
        MtdnnError: the run was not trained on the corpus, or the head is a different one.
    """
    if corpus not in run.corpora:
        raise MtdnnError(
            f"{run_dir}: was not trained on {corpus!r} but on {', '.join(run.corpora)}"
        )
    settings = run.corpora[corpus]
    if settings.family != "question_answering" and run.encoder.pooling != "first":
        raise MtdnnError(
            f"{run_dir}: {corpus} was trained with pooling: {run.encoder.pooling}, which the "
            "classes of transformers do not have; only question answering can be exported"
        )
    source = RunFolder(run_dir).model
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
    plain = without_messages(auto.from_config, config)
    prefix = plain.base_model_prefix
    state = {f"{prefix}.{k}": v for k, v in model.encoder.state_dict().items()}
    if settings.family != "question_answering":
        state |= {f"{prefix}.pooler.{k}": v for k, v in model.pooler.state_dict().items()}
    state |= {f"{key}.{k}": v for k, v in model.head(corpus).linear.state_dict().items()}
    try:
        plain.load_state_dict(state)
    except RuntimeError:
        raise MtdnnError(
            f"{run_dir}: {type(plain).__name__} has another head than ours; "
            f"a {settings.family} head cannot be exported for {config.model_type} encoders"
        ) from None
    with replacing(output) as draft:
        plain.save_pretrained(draft)
        _copy_tokenizer(source, draft)


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copy(source / name, target / name)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MtdnnError(f"{path}: not readable as safetensors: {error}") from None
