"""Only encoders are accepted: models whose first token sees the last one."""

import pytest
from transformers import AutoConfig

from mtdnn.data.architectures import check_encoder
from mtdnn.errors import MtdnnError

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
}


def write(folder, kind, values):
    sizes = {} if values is None else {**SMALL, **values}
    AutoConfig.for_model(kind, **sizes).save_pretrained(folder)
    return folder / "config.json"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        *(("bert", {}), ("electra", {}), ("roberta", {}), ("albert", {"embedding_size": 8})),
        *(("deberta-v2", {}), ("modernbert", {}), ("mpnet", {})),
        # Built from GPT's parts, but its tokens see each other.
        ("xlnet", {"d_model": 16, "n_head": 2, "d_inner": 16, "n_layer": 2}),
        # The small model cannot be built, so transformers' lists decide.
        ("funnel", None),
    ],
)
def test_encoders_are_accepted(tmp_path, kind, values):
    check_encoder(write(tmp_path, kind, values))


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        *((kind, {}, "a decoder") for kind in ("gpt2", "gpt_neox", "opt", "llama", "qwen3")),
        ("mistral", {"num_key_value_heads": 2}, "a decoder"),
        ("bert", {"is_decoder": True}, "a decoder"),
        ("mamba", {}, "a decoder"),
        *((kind, {}, "an encoder-decoder") for kind in ("t5", "bart")),
    ],
)
def test_decoders_are_refused_in_one_line_that_names_alternatives(tmp_path, kind, values, reason):
    config = write(tmp_path, kind, values)
    with pytest.raises(MtdnnError) as error:
        check_encoder(config)
    text = str(error.value)
    assert text.startswith(f"{config}: {kind} is {reason}") and "use an encoder" in text
    assert "\n" not in text


def test_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(MtdnnError, match=r"no usable config\.json"):
        check_encoder(tmp_path / "config.json")
