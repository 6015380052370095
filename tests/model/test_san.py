"""The stochastic answer network equals its formulas, written out pair by pair."""

import math

import pytest
import torch
from torch import nn

from mtdnn.config.settings import San
from mtdnn.errors import MtdnnError
from mtdnn.model import attention
from mtdnn.model.heads import LabelHead
from mtdnn.model.san import SanHead, sentences
from mtdnn.model.saving import export, load, save
from tests.support.packed import WITHOUT_DROPOUT, Prepared, changed

HEADS = {"heads": {"mnli": {"kind": "san", "turns": 5, "prediction_dropout": 0.0}}}


def prepared_with(folder, kind="bert", **training):
    return Prepared(folder, kind, training={**WITHOUT_DROPOUT, **HEADS, **training})


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    return prepared_with(tmp_path_factory.mktemp("san"))


def first_sentence(prepared, item, kind):
    """How many tokens [CLS] and the first sentence with its separator have, by the tokenizer."""
    features = prepared.features["mnli"].pick([item])
    ids = features.columns["input_ids"].tolist()
    if kind == "bert":
        return features.columns["token_type_ids"].tolist().index(1)
    return ids.index(ids[-1]) + 1


def log_probabilities(head, states, border):
    """The prediction for one pair, from the states of its tokens, (tokens, hidden)."""
    weights = dict(head.named_parameters())
    premise, hypothesis = states[:border], states[border:]
    scores = [weights["summary.weight"][0] @ h + weights["summary.bias"][0] for h in hypothesis]
    shares = torch.stack(scores).exp()
    state = sum(share * h for share, h in zip(shares / shares.sum(), hypothesis, strict=True))
    total = torch.zeros(3)
    for _ in range(5):
        query = weights["attention.weight"] @ state + weights["attention.bias"]
        shares = torch.stack([p @ query for p in premise]).softmax(0)
        read = sum(share * p for share, p in zip(shares, premise, strict=True))
        both = torch.cat([state, read, (state - read).abs(), state * read])
        logits = weights["linear.weight"] @ both + weights["linear.bias"]
        total = total + logits.exp() / logits.exp().sum() / 5
        gates = weights["cell.weight_ih"] @ read + weights["cell.bias_ih"]
        own = weights["cell.weight_hh"] @ state + weights["cell.bias_hh"]
        (reset, update, new), (own_r, own_u, own_n) = gates.chunk(3), own.chunk(3)
        update = torch.sigmoid(update + own_u)
        new = torch.tanh(new + torch.sigmoid(reset + own_r) * own_n)
        state = (1 - update) * new + update * state
    return total.log()


@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert"])
def test_logits_loss_and_gradients_equal_the_formulas(tmp_path, kind, batching):
    prepared = prepared_with(tmp_path, kind)
    model = prepared.model(batching).train()
    head = model.heads["mnli"]
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.1)
    batch = prepared.batch("mnli")
    logits, loss = model("mnli", batch), model.loss("mnli", batch)
    loss.backward()
    ours = {n: p.grad.to_dense() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    states = model.encode(batch).split(batch.lengths)
    borders = [first_sentence(prepared, item, kind) for item in range(6)]
    expected = torch.stack(
        [log_probabilities(head, s, b) for s, b in zip(states, borders, strict=True)]
    )
    expected_loss = -expected[range(6), batch.targets["label"]].mean()
    expected_loss.backward()
    theirs = {n: p.grad.to_dense() for n, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    assert ours.keys() == theirs.keys() and not any(n.startswith("pooler") for n in ours)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    shifts = ("summary.bias", "attention.bias")  # which softmax ignores, wholly or in part
    for name, _ in head.named_parameters():
        assert name in shifts or ours[f"heads.mnli.{name}"].abs().max() > 0, name


def test_a_tail_changes_neither_loss_nor_gradients(answering, monkeypatch):
    monkeypatch.setenv("MTDNN_PLAIN", "attention, embedding")
    monkeypatch.setattr(attention, "one_by_one", attention.side_by_side)  # as on a GPU
    results = []
    for tail in (False, True):
        model, batch = answering.model("packed").train(), answering.batch("mnli")
        loss = model.loss("mnli", batch.with_tail() if tail else batch)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients))
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)


def test_every_token_is_in_one_sentence_also_if_a_separator_is_in_the_text(answering):
    batch = answering.batch("mnli")
    batch.input_ids[2] = batch.input_ids[batch.lengths[0] - 1]  # a separator in the first text
    premise, hypothesis = sentences(batch)
    assert torch.equal(premise ^ hypothesis, batch.mask) and not (premise & hypothesis).any()
    assert torch.equal(batch.unpad(hypothesis.long()), batch.token_type_ids)
    assert torch.equal(premise[0].nonzero()[:, 0], torch.arange(int(premise[0].sum())))


# --- dropout ---------------------------------------------------------------------------------


def average_in_training(san, predictions, training=True):
    class Corpus:
        labels = ("a", "b")

    class Training:
        head_dropout = 0.0

    return SanHead(4, Corpus(), Training(), san).train(training)._average(predictions)


def test_prediction_dropout_averages_those_that_stay_and_is_unbiased():
    torch.manual_seed(1)
    turns = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    many = turns.log().expand(40_000, 3, 2)
    drawn = average_in_training(San(turns=3, prediction_dropout=0.4), many).exp()
    torch.testing.assert_close(drawn.sum(dim=1), torch.ones(40_000))
    torch.testing.assert_close(drawn.mean(dim=0), turns.mean(dim=0), atol=5e-3, rtol=0)
    subsets = {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)}
    expected = {round(turns[list(each), 0].mean().item(), 4) for each in subsets}
    assert {round(each, 4) for each in drawn[:, 0].unique().tolist()} == expected


@pytest.mark.parametrize("probability", [0.0, 0.9])
def test_nothing_is_left_out_of_predictions(probability):
    turns = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]]).log()
    san = San(turns=3, prediction_dropout=probability)
    found = average_in_training(san, turns, training=False)
    torch.testing.assert_close(found, turns.exp().mean(dim=1).log())


def test_unlikely_labels_have_a_finite_loss():
    found = average_in_training(San(turns=2), torch.tensor([[[0.0, -300.0]] * 2]), training=False)
    assert found[0, 1].item() == pytest.approx(-300) and math.isfinite(found[0, 0].item())


# --- files -----------------------------------------------------------------------------------


def test_it_is_saved_among_the_heads_and_loaded(answering, tmp_path):
    model = changed(answering)
    (tmp_path / "model").mkdir()
    save(model, answering.run, answering.encoder, tmp_path / "model")
    again = load(tmp_path / "model", answering.run).eval()
    assert isinstance(again.heads["mnli"], SanHead) and type(again.heads["cola"]) is LabelHead
    batch = answering.batch("mnli")
    assert torch.equal(model("mnli", batch), again("mnli", batch))
    with pytest.raises(MtdnnError, match="mnli was trained with the head san, which no class"):
        export(tmp_path, answering.run, "mnli", tmp_path / "plain")


def test_as_the_target_it_is_saved_beside_the_encoder_alone(answering, tmp_path, capsys):
    run = answering.run.model_copy(update={"target": "mnli"})
    model = changed(answering)
    (tmp_path / "model").mkdir()
    save(model, run, answering.encoder, tmp_path / "model")
    assert "no class of transformers has the head of mnli" in "".join(capsys.readouterr())
    again = load(tmp_path / "model", run)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
