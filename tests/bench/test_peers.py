"""Peers compute what Hugging Face's own classes do, in their best mode."""

import pytest
import torch

from mtdnn.bench import peers, train
from mtdnn.bench.material import Material
from tests.support.packed import Prepared

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    prepared = Prepared(
        tmp_path_factory.mktemp("peers"),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return Material(prepared.run, prepared.encoder, prepared.features, {})


def losses(peer, batches):
    torch.manual_seed(1)
    for name, parameter in peer.model.named_parameters():
        if "qa_outputs" in name or "classifier" in name:  # not among the encoder's weights
            torch.nn.init.normal_(parameter)
    examples = [[peer._example(row) for row in rows] for rows in batches]
    return torch.stack([peer.loss(peer.collate(each)).detach() for each in examples])


BATCHES = [[0, 1, 2], [5, 3, 7]]


def test_unpadded_windows_have_the_losses_that_each_has_by_itself(material):
    unpadded = losses(peers.Unpadded(material, "squad", CPU), BATCHES)
    alone = losses(peers.Peer(material, "squad", CPU), [[row] for rows in BATCHES for row in rows])
    torch.testing.assert_close(unpadded, alone.view(2, -1).mean(1), rtol=1e-4, atol=1e-4)


def test_a_compiled_peer_computes_the_same(material, monkeypatch):
    monkeypatch.setattr(peers, "COMPILER", "eager")
    for options in ({}, {"pad_to": 60}):
        plain = losses(peers.Peer(material, "squad", CPU, **options), BATCHES)
        compiled = losses(peers.Peer(material, "squad", CPU, compiled=True, **options), BATCHES)
        torch.testing.assert_close(plain, compiled)


def test_a_peer_takes_steps_with_any_algorithm(material):
    peer, seen = peers.Peer(material, "cola", CPU), []
    peer.model.register_forward_hook(
        lambda *_: seen.append(torch.are_deterministic_algorithms_enabled())
    )
    before = [parameter.detach().clone() for parameter in peer.model.parameters()]
    torch.use_deterministic_algorithms(True)
    try:
        for step in 2 * list(peer.steps(torch.tensor(BATCHES).numpy())):
            step()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [False] * 4
    assert not all(map(torch.equal, before, peer.model.parameters()))


@pytest.mark.parametrize("side", [0, 1])
def test_each_side_makes_its_own_model_only(material, monkeypatch, side):
    made = []
    for number, name in enumerate(("Ours", "Peer")):
        own = getattr(train, name)
        monkeypatch.setattr(
            train, name, lambda *a, own=own, number=number, **k: made.append(number) or own(*a, **k)
        )
    monkeypatch.setattr(train, "BATCH", 2)
    train.qa_padded(material, CPU)[side]()
    assert made == [side]
