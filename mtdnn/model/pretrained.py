"""Encoders as Hugging Face's transformers load them, for packed or padded batches."""

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from safetensors import SafetensorError
from transformers import MODEL_MAPPING, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mtdnn.config.settings import RunSettings
from mtdnn.data.architectures import read_config
from mtdnn.data.encoder_types import ENCODER_TYPES, is_packable
from mtdnn.errors import MtdnnError
from mtdnn.model.attention import PACKED

P = ParamSpec("P")
T = TypeVar("T")

# Names of the dropouts inside an encoder, in the configuration classes.
DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),  # BERT and most others
    *("dropout", "attention_dropout"),  # DistilBERT
    *("embedding_dropout", "mlp_dropout"),  # ModernBERT, besides attention_dropout
)


def load_encoder(folder: Path, run: RunSettings) -> PreTrainedModel:
    """Load a run's pretrained encoder, with the dropout that its settings specify.

    Raises:
        MtdnnError: the encoder's weights are damaged, or more than a pooler is missing.
    """
    settings = run.training
    config = read_config(folder)
    _refuse_relative_positions(folder, config)
    if settings.encoder_dropout is not None:
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, settings.encoder_dropout)
    try:
        encoder: PreTrainedModel
        encoder, report = without_messages(
            AutoModel.from_pretrained,
            folder,
            config=config,
            attn_implementation=_attention(config, run),
            dtype=torch.float32,
            use_safetensors=True,  # never a pickle, whatever is in the folder
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MtdnnError(f"{folder}: no usable encoder weights: {reason}") from None
    # Transformers would draw them at random and only warn.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if report["mismatched_keys"]:
        name, found, expected = min(report["mismatched_keys"])
        raise MtdnnError(
            f"{folder}: no usable encoder weights: {name} has the shape {tuple(found)}, but "
            f"config.json gives it {tuple(expected)}"
        )
    if missing:
        raise MtdnnError(
            f"{folder}: no usable encoder weights: {len(missing)} are missing, the first is "
            f"{missing[0]}; is model.safetensors that of a {config.model_type} encoder?"
        )
    if settings.activation_checkpointing:
        _checkpoint_activations(encoder)
    return encoder


def empty_encoder(folder: Path, run: RunSettings) -> PreTrainedModel:
    """Return the encoder that a folder's `config.json` describes, with random weights."""
    config = read_config(folder)
    encoder: PreTrainedModel = without_messages(
        AutoModel.from_config, config, attn_implementation=_attention(config, run)
    )
    return encoder


def _checkpoint_activations(encoder: PreTrainedModel) -> None:
    """Make an encoder keep only the inputs of its layers and recompute the rest."""
    if not encoder.supports_gradient_checkpointing:
        raise MtdnnError(
            f"training.activation_checkpointing: {encoder.config.model_type} encoders cannot do "
            "it; raise training.accumulation to save memory"
        )
    encoder.config.use_cache = False  # which only decoders do
    # transformers has begun to rename it.
    name = "activation_checkpointing_enable"
    enable = getattr(encoder, name, None) or encoder.gradient_checkpointing_enable
    enable({"use_reentrant": False, "preserve_rng_state": True})


def _refuse_relative_positions(folder: Path, config: PretrainedConfig) -> None:
    """Refuse an encoder with relative positions, which transformers 5 would silently leave out."""
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute" and is_packable(config.model_type):
        raise MtdnnError(
            f"{folder}: has position_embedding_type: {positions}, which transformers no longer "
            f"computes for {config.model_type} encoders; use an encoder with absolute positions"
        )


def _attention(config: PretrainedConfig, run: RunSettings) -> str | None:
    """The attention implementation: ours for packed batches, else the encoder's default."""
    kind = config.model_type
    # Early versions of transformers 5 do not call the attention interface for ModernBERT.
    unable = not getattr(MODEL_MAPPING[type(config)], "_supports_attention_backend", False)
    if run.encoder.batching == "packed" and (unable or not is_packable(kind)):
        known = ENCODER_TYPES.get(kind)
        reason = known.why_padded if known else "nothing keeps its sequences apart"
        raise MtdnnError(
            f"encoders.{run.encoder_name}.batching: {kind} encoders cannot be packed: "
            f"{reason or 'this version of transformers is too old for it'}; use auto or padded"
        )
    packed = run.encoder.batching != "padded" and is_packable(kind) and not unable
    return PACKED if packed else None


def without_messages(load: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a loader of transformers without its progress bars and advice."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call] # transformers'
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # transformers'
    try:
        return load(*arguments, **options)
    finally:
        transformers_logging.set_verbosity(level)
