"""Heads: losses, scores and initial weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtdnn.data.features import NO_TAG
from mtdnn.model.multitask import build
from tests.support.packed import Prepared


def test_sum_of_span_losses_is_twice_their_mean(bert):
    summed = bert.run.training.model_copy(update={"span_loss": "sum"})
    double = build(bert.encoder, bert.run.model_copy(update={"training": summed}))
    batch = bert.batch("squad")
    assert double.loss("squad", batch).item() == pytest.approx(
        2 * bert.model().loss("squad", batch).item()
    )


def test_items_may_differ_in_their_number_of_choices(bert):
    model, batch = bert.model().eval(), bert.batch("swag", [0, 1])
    whole = model.heads["swag"].scores(model("swag", batch), batch)
    fewer = replace(batch, lengths=batch.lengths[:7], items=np.array([0, 4, 7]))
    scores = model.heads["swag"].scores(model("swag", batch)[:7], fewer)
    assert torch.equal(scores[0], whole[0])
    assert torch.equal(scores[1, :3], whole[1, :3]) and scores[1, 3] == -math.inf


def test_the_loss_of_ranking_is_the_mean_over_items_of_any_number_of_choices(bert):
    """As MT-DNN ranks: the softmax of an item runs over as many candidates as it has."""
    model, batch = bert.model().eval(), bert.batch("swag", [0, 1, 2])
    fewer = replace(batch, lengths=batch.lengths[:9], items=np.array([0, 4, 7, 9]))
    fewer.targets["label"] = torch.tensor([2, 2, 2, 2, 0, 0, 0, 1, 1])
    logits = model("swag", batch)[:9]
    items = zip(logits[:, 0].split([4, 3, 2]), (2, 0, 1), strict=True)
    expected = torch.stack([-item.log_softmax(0)[label] for item, label in items]).mean()
    torch.testing.assert_close(model.heads["swag"].loss(logits, fewer), expected)


def test_new_heads_are_small_and_depend_on_the_seed(tmp_path):
    prepared = Prepared(tmp_path, hidden_size=400, intermediate_size=8, num_hidden_layers=1)
    model, again = prepared.model(), prepared.model()
    other = build(prepared.encoder, prepared.run.model_copy(update={"seed": 2}))
    for name, head in model.heads.items():
        assert head.linear.bias.abs().max() == 0
        assert head.linear.weight.std().item() == pytest.approx(0.02, rel=0.15)
        assert torch.equal(head.linear.weight, again.heads[name].linear.weight)
        assert not torch.equal(head.linear.weight, other.heads[name].linear.weight)
    outputs = {name: head.linear.out_features for name, head in model.heads.items()}
    assert outputs == {"squad": 2, "swag": 1, "cola": 2, "mnli": 3, "stsb": 1, "ner": 3}


def test_a_batch_without_a_tagged_word_has_no_loss(bert):
    model, batch = bert.model(), bert.batch("ner")
    batch.targets["tags"].fill_(NO_TAG)
    loss = model.loss("ner", batch)
    loss.backward()
    assert loss.item() == 0
    assert model.heads["ner"].linear.weight.grad.abs().max() == 0
