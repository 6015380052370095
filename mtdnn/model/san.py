"""MT-DNN's stochastic answer network (SAN), a head for pairs of sentences.

Liu, Duh, Gao: "Stochastic Answer Networks for Natural Language Inference" (2018), on top of an
encoder's states as in Liu, He, Chen, Gao: "Multi-Task Deep Neural Networks for Natural Language
Understanding" (2019), section 3. What these leave open (what is dropped out, what belongs to a
sentence) is as in MT-DNN's release.
"""

from typing import ClassVar

import torch
from torch import nn

from mtdnn.config.settings import CorpusSettings, San, TrainingSettings
from mtdnn.model.batches import PackedBatch
from mtdnn.model.heads import LabelHead


class SanHead(LabelHead):
    """Several turns of reading the first sentence, with a prediction after each; their mean.

    With the states P of the first sentence (the premise) and H of the second (the hypothesis),

        s_0 = Σ_j softmax_j(w₁·H_j) H_j
        x_k = Σ_j softmax_j(P_j·W₂ s_k) P_j
        p_k = softmax(W₃ [s_k; x_k; |s_k − x_k|; s_k ∘ x_k])
        s_{k+1} = GRU(x_k, s_k)

    the prediction is the mean of p_0, …, p_{K−1}. In training each p_k is left out with some
    probability, though never all of them (stochastic prediction dropout); those that stay are
    averaged, so each has the weight 1/K on average. The release divides by K(1 − probability)
    instead, which adds a constant to the loss that has no gradient.

    Args:
        hidden: size of the encoder's hidden states.
        corpus: the corpus, one of sequence classification with pairs of sentences.
        training: dropout.
        san: number of turns, and the probability that one is left out.
    """

    pooled: ClassVar[bool] = False
    is_linear: ClassVar[bool] = False
    width: ClassVar[int] = 4

    def __init__(self, hidden: int, corpus: CorpusSettings, training: TrainingSettings, san: San):
        super().__init__(hidden, corpus, training)
        self.turns, self.prediction_dropout = san.turns, san.prediction_dropout
        self.summary = nn.Linear(hidden, 1)
        self.attention = nn.Linear(hidden, hidden)
        self.cell = nn.GRUCell(hidden, hidden)
        for layer in (self.summary, self.attention):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return logarithms of the mean probabilities, (S, labels), of token states, (T, hidden).

        They are logits whose softmax is the prediction, so the cross-entropy is its negative log
        likelihood.
        """
        with torch.autocast(inputs.device.type, enabled=False):
            tokens = batch.pad(inputs.float(), 0.0)[: len(batch.lengths)]
            premise, hypothesis = sentences(batch)
            dropped = self.dropout(tokens)
            state = _mean(dropped, self.summary(dropped)[..., 0], hypothesis)
            read = self._read(tokens, premise, state)
            predictions = [self._predict(state, read)]
            while len(predictions) < self.turns:
                state = self.cell(read, self.dropout(state))
                read = self._read(tokens, premise, state)
                predictions.append(self._predict(state, read))
            return self._average(torch.stack(predictions, dim=1))

    def _read(
        self, tokens: torch.Tensor, premise: torch.Tensor, state: torch.Tensor
    ) -> torch.Tensor:
        """Return what a turn reads of the first sentence, (S, hidden), in a state, (S, hidden)."""
        query = self.attention(self.dropout(state))
        return _mean(tokens, (self.dropout(tokens) @ query[..., None])[..., 0], premise)

    def _predict(self, state: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Return the logarithms of a turn's probabilities, (S, labels)."""
        both = torch.cat([state, read, (state - read).abs(), state * read], dim=1)
        logits: torch.Tensor = self.linear(self.dropout(both))
        return logits.log_softmax(dim=1)

    def _average(self, predictions: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the mean of the turns' probabilities, (S, turns, labels)."""
        shape, device = predictions.shape[:2], predictions.device
        kept = torch.ones(shape, dtype=torch.bool, device=device)
        if self.training and self.prediction_dropout:
            always = torch.randint(self.turns, (shape[0], 1), device=device)
            kept = torch.rand(shape, device=device) >= self.prediction_dropout
            kept = kept | (torch.arange(self.turns, device=device) == always)
        kept = kept[..., None]
        total = predictions.masked_fill(~kept, float("-inf")).logsumexp(dim=1)
        return total - kept.sum(dim=1).log()


def _mean(tokens: torch.Tensor, scores: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the mean of the chosen tokens, weighted by the softmax of their scores, (S, hidden).

    Args:
        tokens: (S, longest, hidden).
        scores: (S, longest).
        chosen: (S, longest) bool, at least one in each row.
    """
    weights = scores.masked_fill(~chosen, float("-inf")).softmax(dim=1)
    return (weights[:, None] @ tokens)[:, 0]


def sentences(batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which tokens of padded rows are in the first and the second sentence of each pair.

    [CLS] and the separator after the first sentence belong to the first, all else to the second.
    Where the features have no segments (RoBERTa and others), the sentence ends with the first
    token that equals the last of the row: every row ends with a separator.

    Returns:
        Two (S, longest) bool; neither is true for padding.
    """
    rows = len(batch.lengths)
    ids, types = (batch.pad(each, 0)[:rows] for each in (batch.input_ids, batch.token_type_ids))
    real = batch.mask[:rows]
    separators = (ids == ids.gather(1, batch.token_counts[:, None] - 1)) & real
    later = separators.cumsum(dim=1) > separators.long()
    second = torch.where(types.any(dim=1, keepdim=True), types > 0, later) & real
    return real & ~second, second
