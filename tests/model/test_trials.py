"""Trial paths compute what the usual ones do: losses, gradients, and names of parameters."""

import pytest
import torch
from torch import nn

from mtdnn.config.settings import Lora
from mtdnn.model import lora, owners, trials
from mtdnn.model.fast import TRIALS
from mtdnn.model.trials import LIKE_BERT, JoinedLayers, JointProjections, Table
from tests.support.packed import Prepared
from tests.support.tiny import FAMILIES

# Those that change a model; aot_eager traces the arithmetic as a compiler would, and repeats it.
PATHS = ["layers", "products", "tables", "all"]


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch):
    monkeypatch.setattr(trials, "COMPILER", "aot_eager")


def outcome(model, corpus, batch):
    """The loss of a batch and all gradients."""
    loss = model.loss(corpus, batch)
    loss.backward()
    named = model.named_parameters()
    gradients = {n: p.grad.to_dense() for n, p in named if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def both(prepared, monkeypatch, path):
    """The same model with the usual paths and with a trial path."""
    models = [prepared.model().train()]
    monkeypatch.setenv("MTDNN_TRIAL", path)
    return *models, prepared.model().train()


@pytest.mark.parametrize("path", PATHS)
def test_losses_and_gradients_are_the_same(any_encoder, monkeypatch, path):
    usual, other = both(any_encoder, monkeypatch, path)
    assert other.state_dict().keys() == usual.state_dict().keys()
    for corpus in FAMILIES:
        batch = any_encoder.batch(corpus)
        expected, found = (outcome(model, corpus, batch) for model in (usual, other))
        assert found.keys() == expected.keys()
        largest = max(value.abs().max() for value in expected.values()).item()
        for name in expected:
            torch.testing.assert_close(
                found[name], expected[name], rtol=1e-5, atol=1e-6 * largest, msg=name
            )


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "albert"])
def test_what_they_change(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("MTDNN_TRIAL", "products, tables")
    encoder = Prepared(tmp_path, kind).model().encoder
    joint = [part for part in encoder.modules() if isinstance(part, JointProjections)]
    assert len(joint) == (2 if kind in LIKE_BERT else 0)
    assert any(isinstance(part, Table) for part in encoder.modules())
    assert not isinstance(encoder.get_input_embeddings(), Table)
    monkeypatch.setenv("MTDNN_TRIAL", "all")
    encoder = Prepared(tmp_path / "all", kind).model().encoder
    assert any(isinstance(part, JoinedLayers) for part in encoder.modules()) == (kind in LIKE_BERT)


def test_query_key_and_value_are_one_product(bert, monkeypatch):
    monkeypatch.setenv("MTDNN_TRIAL", "products")
    model, shapes = bert.model(), []
    linear = nn.functional.linear

    def counted(inputs, weight, bias=None):
        shapes.append(tuple(weight.shape))
        return linear(inputs, weight, bias)

    monkeypatch.setattr(nn.functional, "linear", counted)
    model.encode(bert.batch("cola"))
    assert shapes.count((96, 32)) == 2
    assert shapes.count((32, 32)) == 2  # of the attention's output alone


def test_layers_are_compiled_once_for_all_lengths(bert, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(trials, "COMPILER", backend)
    monkeypatch.setenv("MTDNN_TRIAL", "layers")
    trials._compiled.cache_clear()
    model, lengths = bert.model(), set()
    for corpus in FAMILIES:
        batch = bert.batch(corpus)
        model.encode(batch)
        lengths.add(batch.tokens)
    trials._compiled.cache_clear()
    assert len(lengths) > 1
    assert len(graphs) == 3


@pytest.mark.parametrize("path", ["layers", "products"])
def test_padded_batches_take_the_usual_way(bert, monkeypatch, path):
    monkeypatch.setenv("MTDNN_TRIAL", path)
    batch = bert.batch("squad")
    torch.testing.assert_close(
        *(outcome(bert.model(how), "squad", batch) for how in ("packed", "padded")),
        rtol=1e-4,
        atol=1e-4,
    )


def with_adapters(model):
    lora.add(model.encoder, Lora(rank=2, dropout=0), ["shared"])


def with_owners(model):
    owners.add((model.encoder, model.pooler), 2)


@pytest.mark.parametrize("change", [with_adapters, with_owners])
def test_adapters_and_owners_are_left_as_they_are(bert, monkeypatch, change):
    models = both(bert, monkeypatch, "all")
    for model in models:
        torch.manual_seed(1)
        change(model)
    expected, found = (outcome(model, "squad", bert.batch("squad")) for model in models)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [None, 1])
def test_a_table_has_the_gradient_of_an_embedding(padding):
    torch.manual_seed(1)
    usual = nn.Embedding(5, 3, padding_idx=padding)
    table = nn.Embedding(5, 3, padding_idx=padding)
    table.load_state_dict(usual.state_dict())
    table.__class__ = Table
    numbers = torch.tensor([[0, 1, 1, 4], [4, 4, 1, 2]])
    weights = torch.randn(2, 4, 3)
    for each in (usual, table):
        (each(numbers) * weights).sum().backward()
    assert torch.equal(usual(numbers), table(numbers))
    torch.testing.assert_close(table.weight.grad, usual.weight.grad, rtol=1e-6, atol=1e-6)
    assert not table.weight.grad[3].any()


def test_every_path_is_known():
    assert set(PATHS) - {"all"} <= set(TRIALS)
