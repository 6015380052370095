"""Diagonal Fisher information of an encoder's weights on a corpus, one item at a time.

    F_i = 1/N Σ_n (∂ log p(y_n | x_n) / ∂θ_i)²

over N training items x_n of the corpus, at the present weights, without dropout. The labels y_n are
drawn from the model's own p (the Fisher information, one sample per item), or are those of the
corpus (the empirical one, which is zero where the model fits them; Kunstner et al. 2019). Gradients
are squared one by one, before they are summed, so each item is a batch of its own.

An item is what a batch counts: a window of a question, a question with its choices, a sentence or a
pair. Its log p is the sum over start and end of a span, or over the words of a sentence; a score is
normal around the prediction with variance 1.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from mtdnn.config.settings import Family, TrainingSettings
from mtdnn.data.features import NO_TAG, Features
from mtdnn.model.batches import PackedBatch, batch_of
from mtdnn.model.heads import Head
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.training.anchor import trained_weights
from mtdnn.training.stepper import precision
from mtdnn.training.team import Team

Draws = torch.Generator | None
"""What draws labels from the model's predictions; None for the labels of the batch."""


def fisher_information(
    model: MultiTaskModel,
    corpus: str,
    features: Features,
    training: TrainingSettings,
    team: Team,
    seed: str,
) -> list[torch.Tensor]:
    """Return F of each of the `trained_weights`, of their shapes, fp32 on the model's device.

    Args:
        model: the model, with a trained head for the corpus; unchanged.
        corpus: the corpus.
        features: its training features.
        training: what the anchor asks for, and the precision.
        team: the processes that hold the same model; each takes a part of the items.
        seed: determines the items and the labels that are drawn, and nothing else does.
    """
    anchor = training.anchor
    assert anchor is not None
    key = hashlib.sha256(f"{seed}/fisher".encode()).digest()
    random = np.random.default_rng(int.from_bytes(key, "little"))
    count = min(anchor.items, len(features))
    items = random.choice(len(features), count, replace=False)
    # A stream for each item, so that any number of processes draws the same labels.
    streams = random.integers(2**63, size=count)
    weights, in_training = trained_weights(model), model.training
    sums = [torch.zeros_like(weight) for weight in weights]
    model.eval()
    for number in range(team.rank, count, team.size):
        draws = None
        if anchor.by == "true_fisher":
            draws = torch.Generator().manual_seed(int(streams[number]))
        batch = batch_of(features, items[number : number + 1]).to(weights[0].device)
        with precision(training, weights[0].device):
            logits = model(corpus, batch)
        loss = surprise(model.head(corpus), features.family, logits, batch, draws)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total += gradient.to_dense().square() if gradient.is_sparse else gradient.square()
    model.train(in_training)
    return [team.mean(total) * (team.size / count) for total in sums]


def surprise(
    head: Head, family: Family, logits: torch.Tensor, batch: PackedBatch, draws: Draws
) -> torch.Tensor:
    """Return −log p of the labels of a batch without a tail, summed over all, a scalar.

    Args:
        head: the head that gave the logits.
        family: its task family.
        logits: fp32, (S, outputs) or (T, outputs).
        batch: the batch.
        draws: draws the labels, or None for those of the batch.
    """
    return SURPRISE[family](head, logits, batch, draws)


def _span(_: Head, logits: torch.Tensor, batch: PackedBatch, draws: Draws) -> torch.Tensor:
    rows = batch.pad(logits, float("-inf"))
    start = _class(rows[..., 0], batch.targets["start"], draws)
    return start + _class(rows[..., 1], batch.targets["end"], draws)


def _label(head: Head, logits: torch.Tensor, batch: PackedBatch, draws: Draws) -> torch.Tensor:
    return _class(head.scores(logits, batch), batch.targets["label"][batch.item_starts], draws)


def _tags(_: Head, logits: torch.Tensor, batch: PackedBatch, draws: Draws) -> torch.Tensor:
    tags = batch.targets["tags"]
    return _class(logits[tags != NO_TAG], tags[tags != NO_TAG], draws)


def _score(head: Head, logits: torch.Tensor, batch: PackedBatch, draws: Draws) -> torch.Tensor:
    predicted = head.scores(logits, batch)[:, 0]
    scores = batch.targets["label"]
    if draws:
        noise = torch.randn(predicted.shape, generator=draws)
        scores = predicted.detach() + noise.to(predicted.device)
    return (scores - predicted).square().sum() / 2


def _class(scores: torch.Tensor, gold: torch.Tensor, draws: Draws) -> torch.Tensor:
    """−log p of one class in each row of scores, (M, classes)."""
    if draws and len(scores):
        shares = scores.detach().softmax(-1).cpu()
        gold = torch.multinomial(shares, 1, generator=draws)[:, 0].to(scores.device)
    return cross_entropy(scores, gold, reduction="sum")


SURPRISE: dict[Family, Callable[[Head, torch.Tensor, PackedBatch, Draws], torch.Tensor]] = {
    "question_answering": _span,
    "multiple_choice": _label,
    "sequence_classification": _label,
    "regression": _score,
    "token_classification": _tags,
}
"""−log p of the labels of a batch, by family."""
