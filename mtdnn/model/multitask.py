"""One shared encoder with a head for each corpus (the paper's section on the model)."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from mtdnn.config.settings import CorpusSettings, Family, RunSettings
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import replacing, save_tensors
from mtdnn.model.attention import PACKABLE, PACKED
from mtdnn.model.batches import PackedBatch
from mtdnn.model.layers import Dropout, speed_up

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


# --- heads: dropout, one linear layer, a loss --------------------------------------------------


class Head(nn.Module):
    """Dropout and a linear layer, N(0, 0.02) weights and zero bias."""

    def __init__(self, hidden: int, outputs: int, dropout: float):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(hidden, outputs)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # In fp32 whatever the precision of the encoder: logits rounded to bf16 would tie.
        with torch.autocast(inputs.device.type, enabled=False):
            return self.linear(self.dropout(inputs.float()))


class SpanHead(Head):
    """Start and end logits of every token; [CLS] stands for "no answer"."""

    pooled = False

    def __init__(self, hidden: int, corpus: CorpusSettings, dropout: float, span_loss: str):
        super().__init__(hidden, 2, dropout)
        self.weight = {"sum": 1.0, "mean": 0.5}[span_loss]

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Cross-entropy of start and of end over the sequence's tokens; mean over sequences.

        `logits` are (T, 2).
        """
        padded = batch.pad(logits, float("-inf"))[: len(batch.lengths)]
        start = cross_entropy(padded[..., 0], batch.targets["start"])
        end = cross_entropy(padded[..., 1], batch.targets["end"])
        return self.weight * (start + end)


class ChoiceHead(Head):
    """One score for each choice; softmax over the choices of an item."""

    pooled = True

    def __init__(self, hidden: int, corpus: CorpusSettings, dropout: float, span_loss: str):
        super().__init__(hidden, 1, dropout)

    def scores(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Logits (S, 1) as (items, most choices), -inf where an item has fewer choices."""
        choices = torch.arange(batch.most, device=logits.device)
        places = (batch.item_starts[:, None] + choices).clamp(max=len(logits) - 1)
        return logits[places, 0].masked_fill(choices >= batch.item_sizes[:, None], float("-inf"))

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Cross-entropy of the right choice; mean over items."""
        return cross_entropy(self.scores(logits, batch), batch.targets["label"][batch.item_starts])


class LabelHead(Head):
    """A logit for each label."""

    pooled = True

    def __init__(self, hidden: int, corpus: CorpusSettings, dropout: float, span_loss: str):
        super().__init__(hidden, len(corpus.labels), dropout)

    def scores(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Logits (S, labels) as they are: every sequence is an item."""
        return logits

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Cross-entropy of the label; mean over sentences or pairs."""
        return cross_entropy(logits, batch.targets["label"])


HEADS: dict[Family, type[Head]] = {
    "question_answering": SpanHead,
    "multiple_choice": ChoiceHead,
    "sequence_classification": LabelHead,
}


class Pooler(nn.Module):
    """Dense and tanh on the first token; for encoders that bring no pretrained one."""

    def __init__(self, hidden: int):
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(hidden_states[:, 0]))


# --- the model -------------------------------------------------------------------------------


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
    config = _config(encoder)
    if settings.encoder_dropout is not None:
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout")
        for name in (*names, "attention_dropout"):
            if hasattr(config, name):
                setattr(config, name, settings.encoder_dropout)
    torch.manual_seed(run.seed)
    try:
        pretrained, report = _quietly(
            AutoModel.from_pretrained,
            encoder,
            config=config,
            attn_implementation=_attention(config, run),
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
    return _multi_task(pretrained, run)


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


def _multi_task(encoder: nn.Module, run: RunSettings) -> MultiTaskModel:
    settings = run.training
    return MultiTaskModel(
        encoder, run.corpora, settings.head_dropout, settings.span_loss, run.encoder.pooling
    )


def _attention(config: Any, run: RunSettings) -> str | None:
    """The implementation to ask for: ours where batches are packed, else the encoder's best."""
    packable = config.model_type in PACKABLE
    if run.encoder.batching == "packed" and not packable:
        raise MtdnnError(
            f"encoders.{run.encoder_name}.batching: {config.model_type} encoders cannot be packed "
            f"(sequences would see each other; known to be exact: {', '.join(PACKABLE)}); "
            "use auto or padded"
        )
    return PACKED if packable and run.encoder.batching != "padded" else None


# --- files -----------------------------------------------------------------------------------


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
    config = _config(encoder)
    config.architectures = [
        _quietly(AutoModelForQuestionAnswering.from_config, config).__class__.__name__
    ]
    config.dtype = "float32"
    config.save_pretrained(folder)
    save_tensors(weights, folder / "model.safetensors", {"format": "pt"})
    save_tensors(heads, folder / "heads.safetensors", {"format": "pt"})
    for name in TOKENIZER_FILES:
        if (encoder / name).exists():
            shutil.copy(encoder / name, folder / name)


def load(folder: Path, run: RunSettings) -> MultiTaskModel:
    """Read back a model that `save` wrote; every weight must be there, and no other."""
    check_weights(folder)
    config = _config(folder)
    encoder = _quietly(
        AutoModel.from_config,
        config,
        attn_implementation=_attention(config, run),
    )
    model = _multi_task(encoder, run)
    prefix = model.encoder.base_model_prefix + "."
    state = {}
    for key, value in _weights(folder / "model.safetensors").items():
        if key.startswith(prefix):
            state["encoder." + key.removeprefix(prefix)] = value
        else:
            state[key.replace("qa_outputs.", f"heads.{run.primary}.linear.")] = value
    state |= _weights(folder / "heads.safetensors")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise MtdnnError(f"{folder}: the weights do not fit the run's settings: {reason}") from None
    return model


def check_weights(folder: Path) -> None:
    """Raise where a model's weights were deleted, which may be done to save space."""
    for name in ("model.safetensors", "heads.safetensors"):
        if not (folder / name).exists():
            raise MtdnnError(
                f"{folder / name}: no such file; put it back, or delete run.json beside it and "
                "train again"
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
    config = _config(source)
    if settings.family == "sequence_classification":
        config.id2label = dict(enumerate(settings.labels))
        config.label2id = {label: number for number, label in enumerate(settings.labels)}
    auto, key = {
        "question_answering": (AutoModelForQuestionAnswering, "qa_outputs"),
        "multiple_choice": (AutoModelForMultipleChoice, "classifier"),
        "sequence_classification": (AutoModelForSequenceClassification, "classifier"),
    }[settings.family]
    plain = _quietly(auto.from_config, config)
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


def _config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the classes of configurations raise whatever they like
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MtdnnError(f"{folder}: no usable config.json: {reason}") from None


def _weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MtdnnError(f"{path}: not readable as safetensors: {error}") from None


def _quietly(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a loader of transformers without its own progress bars and advice."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        return function(*arguments, **options)
    finally:
        transformers_logging.set_verbosity(level)
