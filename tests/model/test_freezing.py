"""Frozen layers: which weights they are, and that nothing below them is differentiated."""

import copy

import pytest
import torch

from mtdnn.errors import MtdnnError
from mtdnn.model.freezing import freeze
from mtdnn.model.multitask import restrict
from mtdnn.model.optimizer import optimizer_for
from tests.support.adapted import with_training
from tests.support.packed import Prepared


def trained_names(encoder):
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("count", [None, 0, 1, 2])
def test_embeddings_and_lower_layers_are_frozen(any_encoder, count):
    prepared = copy.copy(any_encoder)
    prepared.run = with_training(prepared.run, frozen_layers=count)
    model = prepared.model()
    kind = model.encoder.config.model_type
    if kind == "albert" and count is not None:
        with pytest.raises(MtdnnError, match=r"frozen_layers: the layers of albert .* share"):
            restrict(model, prepared.run)
        return
    restrict(model, prepared.run)
    every = {name for name, _ in model.encoder.named_parameters()}
    assert trained_names(model.pooler) and trained_names(model.heads)
    if count is None:
        assert trained_names(model.encoder) == every
        return
    layers = {f"layer.{n}." if kind != "modernbert" else f"layers.{n}." for n in range(count, 4)}
    expected = {name for name in every if any(place in name for place in layers)}
    if kind == "modernbert":
        expected |= {"final_norm.weight", "final_norm.bias"}
    assert trained_names(model.encoder) == expected
    model.loss("squad", prepared.batch("squad")).backward()
    given = {name for name, p in model.encoder.named_parameters() if p.grad is not None}
    assert given == expected


def test_a_fully_frozen_encoder_is_no_part_of_the_gradient(bert):
    model = bert.model().train()
    freeze(model.encoder, 2)
    assert not model.encode(bert.batch("mnli")).requires_grad
    model.loss("mnli", bert.batch("mnli")).backward()
    optimizer = optimizer_for(model, bert.run.training)
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == {*model.pooler.parameters(), *model.heads.parameters()}


def test_the_last_normalisation_belongs_to_the_last_layer(tmp_path):
    model = Prepared(tmp_path, "modernbert").model()
    freeze(model.encoder, 4)
    assert trained_names(model.encoder) == set()


def test_more_layers_than_there_are_are_refused(bert):
    with pytest.raises(MtdnnError, match=r"frozen_layers: 3 is more than the 2 layers") as error:
        freeze(bert.model().encoder, 3)
    assert "\n" not in str(error.value)


def test_frozen_weights_keep_the_gradients_of_the_others(bert):
    whole, part = bert.model().train(), bert.model().train()
    freeze(part.encoder, 1)
    for model in (whole, part):
        model.loss("squad", bert.batch("squad")).backward()
    gradients = dict(whole.named_parameters())
    for name, parameter in part.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, gradients[name].grad), name
