"""Low-rank adapters in an encoder (LoRA, Hu et al. 2022), by the library peft.

An adapted linear layer computes W·x + (alpha/rank)·B·A·dropout(x), and only A and B are trained. An
encoder may hold several adapters of each layer, of which one is in use.
"""

import copy
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeGuard

from torch import nn
from transformers import PreTrainedModel

from mtdnn.config.settings import Lora
from mtdnn.errors import MtdnnError

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

_QUERY_AND_VALUE = {
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["Wqkv"],
    "mpnet": ["q", "v"],
    "deberta-v2": ["query_proj", "value_proj"],
}
"""Names of the layers of query and value, by encoder type; in other types they are called so."""

_BASE = ".base_layer"  # in peft's name of a weight that was there before


def add(encoder: PreTrainedModel, settings: Lora, names: Iterable[str]) -> None:
    """Add adapters to an encoder, one for each name, and freeze its own weights.

    B is zero, so the encoder computes what it did before; A is drawn from torch's generator.

    Raises:
        MtdnnError: peft is missing, or the encoder has no linear layer of a given name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MtdnnError(
            "training.lora: needs the package peft; install it with pip install 'mtdnn[lora]'"
        ) from None
    kind = encoder.config.model_type
    targets = settings.targets or _QUERY_AND_VALUE.get(kind, ["query", "value"])
    _check_targets(encoder, targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    encoder.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are several adapters
        for name in names:
            inject_adapter_in_model(config, encoder, name)
    for name in names:
        for parameter in weights(encoder, name):
            parameter.requires_grad_(True)


def _check_targets(encoder: PreTrainedModel, targets: list[str]) -> None:
    linear = [name for name, part in encoder.named_modules() if type(part) is nn.Linear]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
            raise MtdnnError(
                f"training.lora.targets: the encoder has no linear layer {target!r}; it has {known}"
            )


def use(encoder: PreTrainedModel, name: str) -> None:
    """Compute with the adapters of a name from now on."""
    for layer in _layers(encoder):
        layer.set_adapter(name)
        # peft freezes the others; which weights a step trains is known from their gradients.
        for parameter in _weights_of(layer):
            parameter.requires_grad_(True)


def weights(encoder: PreTrainedModel, name: str) -> list[nn.Parameter]:
    """Return the weights of the adapters of a name."""
    return [parameter for layer in _layers(encoder) for parameter in _weights_of(layer, name)]


def adapted(encoder: PreTrainedModel) -> set[str]:
    """Return the names of an encoder's weights in layers that have adapters, these included."""
    prefixes = tuple(f"{name}." for name, part in encoder.named_modules() if _is_adapted(part))
    return {name for name in encoder.state_dict() if prefixes and name.startswith(prefixes)}


def plain_name(name: str) -> str:
    """Return the name that a weight of an adapted layer has in the encoder without adapters."""
    return name.replace(_BASE, "")


def merged(encoder: PreTrainedModel, name: str) -> PreTrainedModel:
    """Return an encoder in which adapters are added to the weights that they change.

    Args:
        encoder: the encoder; unchanged, and itself the result if it has no adapters.
        name: the adapters to take where it has several of each layer.
    """
    if not _layers(encoder):
        return encoder
    encoder = copy.deepcopy(encoder)
    for place, part in list(encoder.named_modules()):
        if _is_adapted(part):
            held = list(part.lora_A)
            part.merge(adapter_names=[name if len(held) > 1 else held[0]])
            parent, _, own = place.rpartition(".")
            setattr(encoder.get_submodule(parent), own, part.get_base_layer())
    return encoder.requires_grad_(True)


def _layers(encoder: PreTrainedModel) -> "list[LoraLayer]":
    return [part for part in encoder.modules() if _is_adapted(part)]


def _is_adapted(part: nn.Module) -> "TypeGuard[LoraLayer]":
    return hasattr(part, "lora_A")


def _weights_of(layer: "LoraLayer", name: str | None = None) -> list[nn.Parameter]:
    """Return the weights of a layer's adapters, of all of them or those of a name."""
    return [
        parameter
        for matrices in (layer.lora_A, layer.lora_B)
        for adapter, matrix in matrices.items()
        if name in (None, adapter)
        for parameter in matrix.parameters()
    ]
