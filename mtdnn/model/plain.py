"""Tasks of a trained model as plain classes of transformers: which class, and its weights.

Our heads are a linear layer on the tokens, or on BERT's pooler: dense and tanh on the first token.
A class of transformers can take one where it computes the same, for some encoders with settings of
its own head that make it do so.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
)

from mtdnn.config.settings import RunSettings
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.pretrained import without_messages

AUTO_CLASSES = {
    "question_answering": AutoModelForQuestionAnswering,
    "multiple_choice": AutoModelForMultipleChoice,
    "sequence_classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
}
"""The class of transformers that opens a model for a task family."""

ON_TOKENS = ("question_answering", "token_classification")
"""Families whose heads read every token; the others read the pooled first token."""

# Settings of transformers' heads on tokens and on the pooled first token, by encoder type, with
# which they compute what ours do. Encoders ignore them.
_ON_TOKENS_SETTINGS: dict[str, dict[str, Any]] = {
    "modernbert": {"classifier_activation": "linear", "classifier_bias": True},
}
_POOLED_SETTINGS: dict[str, dict[str, Any]] = {
    "electra": {
        **{"summary_type": "first", "summary_use_proj": True},
        **{"summary_proj_to_labels": False, "summary_activation": "tanh"},
    },
    "deberta-v2": {"pooler_hidden_act": "tanh"},
}
UNUSED = "head."
"""Prefix of weights that a plain class has and we do not: a head that returns its input."""

# Smaller factors of a normalisation are not undone: what they keep would be lost in fp32.
_SMALLEST_FACTOR = 1e-4


@dataclass(frozen=True)
class PlainModel:
    """A model as a class of transformers reads it.

    Attributes:
        config: the class's configuration.
        weights: its weights by name.
    """

    config: PretrainedConfig
    weights: dict[str, torch.Tensor]


def places(model_type: str, family: str, prefix: str) -> dict[str, str]:
    """Return where a plain class has the modules of our heads.

    Args:
        model_type: type of the encoder.
        family: task family of the head.
        prefix: the name under which the class has the encoder.

    Returns:
        Names in the class of `linear`, the head's linear layer, and of `pooler` or `pooler.dense`
        where the family's heads read it.
    """
    if family in ON_TOKENS:
        spans = family == "question_answering" and model_type != "modernbert"
        return {"linear": "qa_outputs" if spans else "classifier"}
    if model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        if family != "multiple_choice":
            return {"pooler.dense": "classifier.dense", "linear": "classifier.out_proj"}
    elif model_type == "electra" and family == "multiple_choice":
        return {"pooler.dense": "sequence_summary.summary", "linear": "classifier"}
    elif model_type == "deberta-v2":
        return {"pooler": "pooler", "linear": "classifier"}
    return {"pooler": f"{prefix}.pooler", "linear": "classifier"}


def as_plain(
    model: MultiTaskModel, run: RunSettings, corpus: str, config: PretrainedConfig
) -> PlainModel | None:
    """Return one task of a model as a plain class of transformers takes it.

    Args:
        model: the model.
        run: its settings.
        corpus: the corpus whose head is taken, with its own adapters or its phase's weights.
        config: the configuration of the encoder; changed in place.

    Returns:
        The plain model, or None if the class for this encoder and task computes something else.
    """
    settings, head = run.corpora[corpus], model.head(corpus)
    if not head.is_linear or (head.pooled and run.encoder.pooling != "first"):
        return None
    if settings.labels:
        config.id2label = dict(enumerate(settings.labels))
        config.label2id = {label: number for number, label in enumerate(settings.labels)}
    encoder, pooler = model.network(corpus)
    return plain_model(settings.family, config, encoder, pooler, head.linear)


def plain_model(
    family: str,
    config: PretrainedConfig,
    encoder: nn.Module,
    pooler: nn.Module,
    linear: nn.Linear,
) -> PlainModel | None:
    """Return the parts of a model as the plain class of a task family takes them, if it does."""
    kind, auto = config.model_type, AUTO_CLASSES[family]
    # That of an encoder that was fine-tuned for something else would be another.
    if family != "multiple_choice" and config.num_labels != linear.out_features:
        config.num_labels = linear.out_features
    if family == "regression":
        config.problem_type = "regression"
    config.update((_ON_TOKENS_SETTINGS if family in ON_TOKENS else _POOLED_SETTINGS).get(kind, {}))
    try:
        with torch.device("meta"):
            plain = without_messages(auto.from_config, config)
    except ValueError:  # there is no class for this encoder
        return None
    prefix = plain.base_model_prefix
    ours = {
        **{f"encoder.{name}": value for name, value in encoder.state_dict().items()},
        **{f"pooler.{name}": value for name, value in pooler.state_dict().items()},
        **{f"linear.{name}": value for name, value in linear.state_dict().items()},
    }
    moved = {"encoder": prefix, **places(kind, family, prefix)}
    weights = {
        f"{place}.{name.removeprefix(part + '.')}": value
        for part, place in moved.items()
        for name, value in ours.items()
        if name.startswith(part + ".")
    }
    if kind == "modernbert" and family in ON_TOKENS:
        weights |= _unchanging_head(encoder.get_submodule("final_norm")) or {}
    expected = {name: value.shape for name, value in plain.state_dict().items()}
    same = {name: value.shape for name, value in weights.items()} == expected
    config.architectures = [type(plain).__name__]
    return PlainModel(config, weights) if same else None


def _unchanging_head(norm: nn.Module) -> dict[str, torch.Tensor] | None:
    """Return the weights with which ModernBERT's prediction head returns its input.

    The head is a linear layer, an activation (here none) and a normalisation. Its input comes from
    a normalisation too: factor·normalised + bias. The linear layer undoes factor and bias, and
    the head's normalisation applies them again. That it normalises what is normalised changes
    nothing but a relative epsilon / (2·variance), 5e-6 for states of variance 1.

    Args:
        norm: the encoder's last normalisation.

    Returns:
        The weights, or None if a factor is too small to be undone.
    """
    assert isinstance(norm, nn.LayerNorm)
    factor = norm.weight.detach()
    if factor.abs().min() < _SMALLEST_FACTOR:
        return None
    bias = torch.zeros_like(factor) if norm.bias is None else norm.bias.detach().clone()
    head = {
        "dense.weight": torch.diag(1 / factor),
        "dense.bias": -bias / factor,
        "norm.weight": factor * (1 + norm.eps) ** 0.5,
    }
    if norm.bias is not None:
        head["norm.bias"] = bias
    return {f"{UNUSED}{name}": value for name, value in head.items()}
