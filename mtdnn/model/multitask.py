"""One shared encoder with a head for each corpus (the paper's section on the model)."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from mtdnn.config.settings import CorpusSettings, RunSettings
from mtdnn.errors import MtdnnError
from mtdnn.model.attention import PACKABLE, PACKED
from mtdnn.model.batches import PackedBatch
from mtdnn.model.heads import HEADS, Pooler
from mtdnn.model.layers import speed_up


class MultiTaskModel(nn.Module):
    """A pretrained encoder shared by every corpus, a pooler, and a head for each corpus.

    Args:
        encoder: a Hugging Face encoder, loaded for packed batches or for padded ones.
        corpora: the mixture.
        head_dropout: dropout before every head.
        span_loss: `sum` or `mean` of the start and end losses.
        pooling: what the pooler is given: the `first` token, or the `mean` of all tokens.
    """

    def __init__(
        self,
        encoder: nn.Module,
        corpora: dict[str, CorpusSettings],
        head_dropout: float,
        span_loss: str,
        pooling: str,
    ):
        super().__init__()
        self.encoder = speed_up(encoder)
        self.pooling = pooling
        hidden = encoder.config.hidden_size
        # Held apart from the encoder: question answering does not use it.
        self.pooler = getattr(encoder, "pooler", None) or Pooler(hidden)
        encoder.pooler = None
        self.heads = nn.ModuleDict(
            {
                name: HEADS[corpus.family](hidden, corpus, head_dropout, span_loss)
                for name, corpus in corpora.items()
            }
        )
        self.packed = encoder.config._attn_implementation == PACKED
        self._segments = getattr(encoder.config, "type_vocab_size", 0) > 1

    @classmethod
    def of_run(cls, encoder: nn.Module, run: RunSettings) -> "MultiTaskModel":
        """The model that a run's settings describe, around an encoder."""
        training = run.training
        return cls(
            encoder, run.corpora, training.head_dropout, training.span_loss, run.encoder.pooling
        )

    def encode(self, batch: PackedBatch) -> torch.Tensor:
        """Last hidden states of all tokens, (T, hidden)."""
        if self.packed:
            inputs = {
                "input_ids": batch.input_ids[None],
                "position_ids": batch.position_ids[None],
                "packing": batch,
            }
            if self._segments:
                inputs["token_type_ids"] = batch.token_type_ids[None]
            return self.encoder(**inputs).last_hidden_state[0]
        inputs = {
            "input_ids": batch.pad(batch.input_ids, self.encoder.config.pad_token_id or 0),
            "attention_mask": batch.mask.long(),
        }
        if self._segments:
            inputs["token_type_ids"] = batch.pad(batch.token_type_ids, 0)
        return batch.unpad(self.encoder(**inputs).last_hidden_state)

    def forward(self, corpus: str, batch: PackedBatch) -> torch.Tensor:
        """Logits of a batch of `corpus`, fp32: (T, 2) for spans, else (S, outputs)."""
        head = self.heads[corpus]
        hidden = self.encode(batch)
        return head(self.pool(hidden, batch) if head.pooled else hidden)

    def pool(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Pooled vectors of the sequences, (S, hidden), from hidden states (T, hidden)."""
        if self.pooling == "mean":
            sums = batch.pad(hidden.float(), 0.0).sum(dim=1)[: len(batch.lengths)]
            summary = sums / batch.token_counts[:, None]
        else:
            summary = hidden[batch.first_tokens]
        if isinstance(self.pooler, nn.Linear):  # ALBERT keeps dense layer and tanh apart
            return torch.tanh(self.pooler(summary))
        return self.pooler(summary[:, None])

    def loss(self, corpus: str, batch: PackedBatch) -> torch.Tensor:
        """Mean loss of a batch of `corpus`, a scalar."""
        return self.heads[corpus].loss(self(corpus, batch), batch)

    def idle(self, corpus: str) -> list[nn.Parameter]:
        """Weights beside the encoder that a batch of `corpus` does not use."""
        others = [head for name, head in self.heads.items() if name != corpus]
        if not self.heads[corpus].pooled:
            others.append(self.pooler)
        return [parameter for module in others for parameter in module.parameters()]

    def trained_by(self, corpus: str) -> list[nn.Parameter]:
        """Weights that a batch of `corpus` trains."""
        idle = set(self.idle(corpus))
        return [parameter for parameter in self.parameters() if parameter not in idle]


def build(encoder: Path, run: RunSettings) -> MultiTaskModel:
    """The model of a run before training: pretrained encoder, fresh heads (from the run's seed).

    Raises:
        MtdnnError: the encoder's weights are damaged, or lack more than a pooler.
    """
    settings = run.training
    config = read_config(encoder)
    if settings.encoder_dropout is not None:
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout")
        for name in (*names, "attention_dropout"):
            if hasattr(config, name):
                setattr(config, name, settings.encoder_dropout)
    torch.manual_seed(run.seed)
    try:
        pretrained, report = quietly(
            AutoModel.from_pretrained,
            encoder,
            config=config,
            attn_implementation=attention_of(config, run),
            dtype=torch.float32,
            use_safetensors=True,  # never a pickle, whatever lies there
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MtdnnError(f"{encoder}: no usable encoder weights: {reason}") from None
    # Transformers would draw them at random without a word.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise MtdnnError(
            f"{encoder}: no usable encoder weights: {len(missing)} are missing, the first is "
            f"{missing[0]}; is model.safetensors that of a {config.model_type} encoder?"
        )
    if settings.activation_checkpointing:
        _checkpoint_activations(pretrained)
    return MultiTaskModel.of_run(pretrained, run)


def _checkpoint_activations(encoder: PreTrainedModel) -> None:
    """Let an encoder keep the inputs of its layers alone, and compute the rest again."""
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


def attention_of(config: Any, run: RunSettings) -> str | None:
    """The implementation to ask for: ours where batches are packed, else the encoder's best."""
    packable = config.model_type in PACKABLE
    if run.encoder.batching == "packed" and not packable:
        raise MtdnnError(
            f"encoders.{run.encoder_name}.batching: {config.model_type} encoders cannot be packed "
            f"(sequences would see each other; known to be exact: {', '.join(PACKABLE)}); "
            "use auto or padded"
        )
    return PACKED if packable and run.encoder.batching != "padded" else None


def read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the classes of configurations raise whatever they like
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MtdnnError(f"{folder}: no usable config.json: {reason}") from None


def quietly(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a loader of transformers without its own progress bars and advice."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        return function(*arguments, **options)
    finally:
        transformers_logging.set_verbosity(level)
