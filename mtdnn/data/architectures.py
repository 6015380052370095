"""Which pretrained models can be encoders: those whose tokens see what follows them.

The first token of a decoder sees only itself, so [CLS] could stand neither for "no answer" nor for
its sequence.
"""

import copy
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mtdnn.errors import MtdnnError, first_line
from mtdnn.machine.files import read_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# As little as a model needs: what its tokens see depends on none of this.
_SMALLEST = {
    "num_hidden_layers": 1,
    "vocab_size": 16,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def read_config(path: Path) -> "PretrainedConfig":
    """Read the `config.json` of an encoder or of a trained model: the file itself, or its folder.

    Raises:
        MtdnnError: it is missing, broken, or of an unknown kind.
    """
    from transformers import AutoConfig, PretrainedConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the configuration classes raise all kinds of exceptions
        raise MtdnnError(f"{path}: no usable config.json: {first_line(error)}") from None
    return config


def check_encoder(path: Path) -> None:
    """Check by its `config.json` that a pretrained model is an encoder.

    Raises:
        MtdnnError: it is a decoder or an encoder-decoder, of an unknown kind, or broken.
    """
    settings = read_json(path)
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise MtdnnError(f"{path}: names no model_type, as the config.json of an encoder does")
    config = read_config(path)
    if getattr(config, "is_encoder_decoder", False):
        kind = "an encoder-decoder"
    elif getattr(config, "is_decoder", False) or not _first_sees_last(config):
        kind = "a decoder, whose first token sees no other"
    else:
        return
    raise MtdnnError(
        f"{path}: {config.model_type} is {kind}; use an encoder, for instance a model of the kinds "
        "bert, electra, roberta or deberta-v2"
    )


def _first_sees_last(config: "PretrainedConfig") -> bool:
    """Return whether the last token changes what one layer of the model makes of the first.

    If such a model cannot be built, transformers' lists decide: an encoder was pretrained to
    predict masked tokens.
    """
    import torch
    from transformers import AutoModel
    from transformers.models.auto import modeling_auto

    small = copy.deepcopy(config)
    for name, value in _SMALLEST.items():
        with suppress(Exception):  # a configuration class may refuse to be changed
            setattr(small, name, value)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model = AutoModel.from_config(small).eval()  # type: ignore[no-untyped-call]
            first, other = (
                model(input_ids=torch.tensor([[5, 6, last]])).last_hidden_state[0, 0]
                for last in (7, 8)
            )
    except Exception:
        masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        return config.model_type in masked or config.model_type not in causal
    return not torch.equal(first, other)
