"""Lower layers of an encoder that keep their weights."""

from torch import nn
from transformers import PreTrainedModel

from mtdnn.errors import MtdnnError


def freeze(encoder: PreTrainedModel, count: int) -> None:
    """Freeze the embeddings of an encoder and its first `count` layers.

    Embeddings are all that the layers share, so their projection and tables of distances are among
    them. A normalisation after the last layer belongs to that layer. Dropout stays.

    Raises:
        MtdnnError: the encoder has fewer layers, or they have the same weights.
    """
    layers = _layers(encoder)
    if layers is None:
        raise MtdnnError(
            f"training.frozen_layers: the layers of {encoder.config.model_type} encoders share "
            "their weights; leave it out"
        )
    if count > len(layers):
        raise MtdnnError(
            f"training.frozen_layers: {count} is more than the {len(layers)} layers of the encoder"
        )
    trained = [*layers[count:]]
    if count < len(layers) and hasattr(encoder, "final_norm"):
        trained.append(encoder.final_norm)
    encoder.requires_grad_(False)
    for part in trained:
        part.requires_grad_(True)


def _layers(encoder: PreTrainedModel) -> nn.ModuleList | None:
    """Return the list of an encoder's layers; None if it has no module for each of them."""
    count = encoder.config.num_hidden_layers
    lists = (part for part in encoder.modules() if isinstance(part, nn.ModuleList))
    return next((part for part in lists if len(part) == count), None)
