"""Fisher information equals its formula, for every task family."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from mtdnn.config.settings import Anchor
from mtdnn.data.features import NO_TAG
from mtdnn.model.batches import batch_of
from mtdnn.training.anchor import trained_weights
from mtdnn.training.fisher import fisher_information, surprise
from mtdnn.training.team import Team
from tests.support.packed import Prepared, changed
from tests.support.tiny import FAMILIES

CPU = torch.device("cpu")
ALL = 12


def settings_of(prepared, **changes):
    anchor = Anchor(to="phase_start", strength=1, corpus="squad", **{"items": ALL, **changes})
    return prepared.run.training.model_copy(update={"anchor": anchor})


def estimate(prepared, model, corpus, seed="1/0", team=None, **changes):
    training, team = settings_of(prepared, **changes), team or Team(CPU)
    return fisher_information(model, corpus, prepared.features[corpus], training, team, seed)


def gradients(model, loss):
    found = torch.autograd.grad(loss, trained_weights(model))
    return [gradient.to_dense().double() for gradient in found]


@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("corpus", FAMILIES)
def test_the_empirical_one_is_the_mean_square_of_gradients_of_single_items(
    undropped, corpus, batching
):
    model = undropped.model(batching).train()
    model.load_state_dict(changed(undropped).state_dict())
    features = undropped.features[corpus]
    found = estimate(undropped, model, corpus, by="empirical_fisher", items=10**6)
    assert model.training and all(weight.grad is None for weight in model.parameters())
    model.eval()
    expected = [torch.zeros_like(weight, dtype=torch.float64) for weight in trained_weights(model)]
    for item in range(len(features)):
        batch = batch_of(features, np.array([item]))
        # Our losses are means of log-likelihoods; here they are sums.
        factor = {"squad": 2.0, "stsb": 0.5, "ner": batch.terms}.get(corpus, 1.0)
        for total, gradient in zip(
            expected, gradients(model, factor * model.loss(corpus, batch)), strict=True
        ):
            total += gradient.square() / len(features)
    for value, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-9)


def test_the_true_one_is_the_mean_over_all_labels(undropped):
    """Sampled often enough; the exact one sums over the labels of each item."""
    model, corpus = changed(undropped), "mnli"
    with torch.no_grad():
        model.head(corpus).linear.weight *= 10  # sure of itself, and wrong
    features = undropped.features[corpus]
    exact = [torch.zeros_like(weight, dtype=torch.float64) for weight in trained_weights(model)]
    for item in range(len(features)):
        batch = batch_of(features, np.array([item]))
        shares = model(corpus, batch).detach().softmax(-1)[0]
        for label, share in enumerate(shares.tolist()):
            loss = -model(corpus, batch).log_softmax(-1)[0, label]
            for total, gradient in zip(exact, gradients(model, loss), strict=True):
                total += share * gradient.square() / len(features)
    draws = [estimate(undropped, model, corpus, f"{n}/0", by="true_fisher") for n in range(60)]
    total = sum(value.sum() for value in exact).item()
    sums = [sum(value.double().sum() for value in each).item() for each in draws]
    error = np.std(sums, ddof=1) / math.sqrt(len(sums))
    assert abs(np.mean(sums) - total) < 4 * error < 0.3 * total
    empirical = sum(v.sum() for v in estimate(undropped, model, corpus, by="empirical_fisher"))
    assert abs(empirical.item() - total) > 4 * error  # which uses other labels


@pytest.mark.parametrize("corpus", FAMILIES)
def test_labels_are_drawn_from_the_predictions(undropped, corpus):
    """The mean of −log p of labels from p is the entropy of p."""
    model = changed(undropped)
    batch = undropped.batch(corpus, [3])
    with torch.no_grad():
        logits = model(corpus, batch)
        draws = torch.Generator().manual_seed(1)
        family = FAMILIES[corpus]
        drawn = [surprise(model.head(corpus), family, logits, batch, draws) for _ in range(3000)]
    error = np.std(drawn, ddof=1) / math.sqrt(len(drawn))
    assert abs(np.mean(drawn) - entropy(corpus, logits.double().numpy(), batch)) < 4 * error


def entropy(corpus, logits, batch):
    """Nats of the predictions of one item; that of a score without the constant of its density."""
    if corpus == "stsb":
        return 0.5
    rows = {"squad": logits.T, "swag": logits.T}.get(corpus, logits)
    if corpus == "ner":
        rows = logits[batch.targets["tags"].numpy() != NO_TAG]
    shares = softmax(rows, axis=-1)
    return -(shares * np.log(shares)).sum()


def test_the_labels_of_the_corpus_are_those_of_its_batches(undropped):
    model = changed(undropped)
    for corpus, family in FAMILIES.items():
        batch = undropped.batch(corpus, range(4))
        with torch.no_grad():
            logits = model(corpus, batch)
            found = surprise(model.head(corpus), family, logits, batch, None)
        factor = {"squad": 2, "stsb": 0.5}.get(corpus, 1) * batch.terms
        torch.testing.assert_close(found, factor * model.loss(corpus, batch).detach())


@pytest.mark.parametrize("by", ["true_fisher", "empirical_fisher"])
def test_processes_share_the_items(undropped, monkeypatch, by):
    """Their mean is what a single process finds, labels included."""
    monkeypatch.setattr(Team, "mean", lambda self, values: values)
    model, parts = changed(undropped), []
    alone = estimate(undropped, model, "cola", by=by, items=7)
    for rank in range(3):
        parts.append(estimate(undropped, model, "cola", by=by, items=7, team=Team(CPU, rank, 3)))
    for value, *others in zip(alone, *parts, strict=True):
        torch.testing.assert_close(sum(others) / 3, value, rtol=1e-5, atol=1e-12)


def test_the_draw_depends_on_the_seed_alone(undropped):
    model = changed(undropped)
    results = []
    for state, seed in ((1, "1/0"), (2, "1/0"), (2, "2/0")):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        results.append(estimate(undropped, model, "cola", seed, by="true_fisher", items=5))
        assert torch.equal(torch.get_rng_state(), before)
    same, again, other = results
    assert all(torch.equal(a, b) for a, b in zip(same, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(same, other, strict=True))


def test_dropout_is_off(tmp_path):
    prepared = Prepared(tmp_path, training={"head_dropout": 0.5, "encoder_dropout": 0.3})
    model = prepared.model().train()
    first, second = (estimate(prepared, model, "cola", by="empirical_fisher") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
