"""Heads: losses, scores and initial weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtdnn.data.features import NO_TAG
from mtdnn.data.logits import ROWS
from mtdnn.model.batches import Lesson
from mtdnn.model.multitask import build
from tests.support.packed import Prepared
from tests.support.tiny import FAMILIES


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


# --- what teachers say -----------------------------------------------------------------------


def lesson_of(corpus, logits, temperature=1.0, share=1.0):
    by_token = ROWS[FAMILIES[corpus]] == "token"
    return Lesson(logits, torch.tensor(share), temperature, by_token)


def guesses(corpus, batch, logits):
    """Each group of logits among which a head of this family chooses."""
    if corpus == "squad":
        return [column for rows in logits.split(batch.lengths) for column in rows.T]
    if corpus == "swag":
        return list(logits[:, 0].split(np.diff(batch.items).tolist()))
    return list(logits[batch.targets["tags"] != NO_TAG] if corpus == "ner" else logits)


def logits_of(corpus, batch, outputs, seed=0):
    rows = batch.tokens if ROWS[FAMILIES[corpus]] == "token" else len(batch.lengths)
    random = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, outputs, generator=random, dtype=torch.float64)


@pytest.fixture(params=FAMILIES)
def taught(request, bert):
    """A corpus, its head, a batch in which items differ in size, and logits for it in fp64."""
    corpus = request.param
    head, batch = bert.model().head(corpus), bert.batch(corpus)
    if corpus == "swag":
        batch = bert.batch(corpus, [0, 1, 2])
        batch = replace(batch, lengths=batch.lengths[:9], items=np.array([0, 4, 7, 9]))
        batch.targets["label"] = torch.tensor([2, 2, 2, 2, 0, 0, 0, 1, 1])
    return corpus, head, batch, logits_of(corpus, batch, head.linear.out_features)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_loss_with_a_teacher_is_the_cross_entropy_of_its_guesses(taught, temperature):
    corpus, head, batch, logits = taught
    teacher = logits_of(corpus, batch, logits.shape[1], seed=1)
    found = head.soft_loss(logits, batch, lesson_of(corpus, teacher, temperature))
    if corpus == "stsb":
        expected = (logits - teacher).square().mean()
    else:
        pairs = zip(*(guesses(corpus, batch, each) for each in (logits, teacher)), strict=True)
        shares = [((t / temperature).softmax(0), (s / temperature).softmax(0)) for s, t in pairs]
        losses = torch.stack([-(t * s.log()).sum() for t, s in shares])
        expected = temperature**2 * losses.mean()  # span_loss is the mean
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_teacher_that_is_sure_of_the_labels_gives_the_ordinary_loss(taught):
    corpus, head, batch, logits = taught
    teacher = torch.zeros_like(logits)
    if corpus == "squad":
        firsts = batch.first_tokens
        for column, name in enumerate(("start", "end")):
            teacher[firsts + batch.targets[name], column] = 1e4
    elif corpus == "swag":
        teacher[batch.item_starts + batch.targets["label"][batch.item_starts]] = 1e4
    elif corpus == "stsb":
        teacher[:, 0] = batch.targets["label"]
    elif corpus == "ner":
        words = batch.targets["tags"] != NO_TAG
        teacher[words, batch.targets["tags"][words]] = 1e4
    else:
        teacher[range(len(teacher)), batch.targets["label"]] = 1e4
    found = head.soft_loss(logits, batch, lesson_of(corpus, teacher))
    torch.testing.assert_close(found, head.loss(logits, batch).double(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_who_agrees_with_the_teacher_has_nothing_to_learn(taught, temperature):
    corpus, head, batch, logits = taught
    for shift, learns in ((0.0, False), (0.1, True)):
        own = logits.clone().requires_grad_()
        teacher = logits + shift * logits_of(corpus, batch, logits.shape[1], seed=1)
        head.soft_loss(own, batch, lesson_of(corpus, teacher, temperature)).backward()
        assert own.grad.isfinite().all() and (own.grad.abs().max().item() > 1e-4) == learns
        assert learns or own.grad.abs().max() < 1e-14
