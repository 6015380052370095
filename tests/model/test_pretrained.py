"""Pretrained encoders: their dropout, and which are refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mtdnn.errors import MtdnnError
from mtdnn.model.multitask import build
from tests.support.packed import PACKABLE, with_encoder
from tests.support.tiny import OWN_SIZES, make_encoder


@pytest.mark.parametrize("kind", [kind for kind in OWN_SIZES if kind not in PACKABLE])
def test_packed_batches_are_refused_for_encoders_that_would_mix_sequences(tmp_path, bert, kind):
    make_encoder(tmp_path / "encoder", kind)
    with pytest.raises(MtdnnError, match=rf"tiny\.batching: {kind} .*use auto or padded") as error:
        build(tmp_path / "encoder", with_encoder(bert.run, batching="packed"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", OWN_SIZES)
def test_encoder_dropout_is_that_of_the_checkpoint_unless_set(tmp_path, bert, kind):
    encoder = make_encoder(tmp_path / "encoder", kind)
    pretrained = 0.0 if kind in ("albert", "modernbert") else 0.1
    for wanted, expected in ((None, pretrained), (0.25, 0.25)):
        training = bert.run.training.model_copy(
            update={"encoder_dropout": wanted, "head_dropout": 0.3}
        )
        model = build(encoder, bert.run.model_copy(update={"training": training}))
        inside = [m.p for m in model.encoder.modules() if isinstance(m, nn.Dropout)]
        assert len(inside) >= 3 and set(inside) == {expected}
        assert {head.dropout.p for head in model.heads.values()} == {0.3}


@pytest.mark.parametrize("damage", ["{", '{"model_type": "no_such_model"}', None])
def test_an_unusable_encoder_is_refused_in_one_line(bert, tmp_path, damage):
    encoder = make_encoder(tmp_path / "encoder")
    (encoder / "config.json").unlink()
    if damage:
        (encoder / "config.json").write_text(damage)
    with pytest.raises(MtdnnError, match=r"no usable config\.json") as error:
        build(encoder, bert.run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_relative_positions_are_refused(tmp_path, bert, kind):
    """transformers 5 no longer has them, and would compute something else without a word."""
    encoder = make_encoder(tmp_path / "encoder", kind, position_embedding_type="relative_key")
    with pytest.raises(MtdnnError, match="position_embedding_type: relative_key") as error:
        build(encoder, bert.run)
    assert "\n" not in str(error.value)


def without_a_weight(weights):
    tensors = load_file(weights)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})


def of_another_size(weights):
    make_encoder(weights.parent.parent / "other", intermediate_size=44)
    weights.write_bytes((weights.parent.parent / "other" / weights.name).read_bytes())


def cut_short(weights):
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [without_a_weight, of_another_size, cut_short])
def test_unusable_encoder_weights_are_refused_in_one_line(bert, tmp_path, damage):
    encoder = make_encoder(tmp_path / "encoder")
    damage(encoder / "model.safetensors")
    with pytest.raises(MtdnnError, match=r"encoder: no usable encoder weights: ") as error:
        build(encoder, bert.run)
    assert "\n" not in str(error.value)


def test_an_encoder_may_lack_a_pooler(bert, tmp_path):
    encoder = make_encoder(tmp_path / "encoder")
    tensors = load_file(encoder / "model.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    save_file(rest, encoder / "model.safetensors", metadata={"format": "pt"})
    first, again = build(encoder, bert.run), build(encoder, bert.run)
    assert torch.equal(first.pooler.dense.weight, again.pooler.dense.weight)
