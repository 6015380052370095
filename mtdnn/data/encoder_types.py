"""The types of encoders that are tested, and what is particular about each."""

from dataclasses import dataclass
from typing import Any

_OWN_ATTENTION = "its attention adds a bias for each distance, outside transformers' interface"


@dataclass(frozen=True)
class EncoderType:
    """A type of encoders.

    Attributes:
        label: its name in the documentation.
        why_padded: why its batches are padded; "" if they are packed. Packed are the types that
            call transformers' interface for every attention, take position ids as they are given,
            and mix tokens nowhere else. The leak test checks each of them.
    """

    label: str
    why_padded: str = ""


ENCODER_TYPES = {
    "bert": EncoderType("BERT"),
    "electra": EncoderType("ELECTRA"),
    "roberta": EncoderType("RoBERTa"),
    "xlm-roberta": EncoderType("XLM-RoBERTa"),
    "camembert": EncoderType("CamemBERT"),
    "distilbert": EncoderType("DistilBERT"),
    "albert": EncoderType("ALBERT"),
    "modernbert": EncoderType("ModernBERT"),
    "mpnet": EncoderType("MPNet", _OWN_ATTENTION),
    "deberta-v2": EncoderType("DeBERTa-v2, DeBERTa-v3", _OWN_ATTENTION),
}
"""By `model_type` of their `config.json`. Encoders of other types are padded, untested."""

COUNTS_AFTER_PADDING = frozenset(
    {
        *("roberta", "xlm-roberta", "camembert", "mpnet"),
        *("data2vec-text", "longformer", "roberta-prelayernorm", "xlm-roberta-xl"),
    }
)
"""Types whose first position is the padding token's id + 1, which leaves fewer positions."""


def is_packable(model_type: str) -> bool:
    """Return whether batches of an encoder type can be packed."""
    known = ENCODER_TYPES.get(model_type)
    return known is not None and not known.why_padded


def positions_of(config: dict[str, Any]) -> int | None:
    """Return the longest sequence, in tokens, that an encoder takes; None without a limit.

    Args:
        config: the content of the encoder's `config.json`.
    """
    positions, padding = config.get("max_position_embeddings"), config.get("pad_token_id")
    if not isinstance(positions, int):
        return None
    if config.get("model_type") in COUNTS_AFTER_PADDING:
        return positions - (padding if isinstance(padding, int) else 1) - 1
    return positions
