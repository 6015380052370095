"""Task heads: dropout, one linear layer, a loss."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mtdnn.config.settings import CorpusSettings, Family
from mtdnn.model.batches import PackedBatch
from mtdnn.model.layers import Dropout


class Head(nn.Module):
    """Dropout and a linear layer, N(0, 0.02) weights and zero bias."""

    def __init__(self, hidden: int, outputs: int, dropout: float):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(hidden, outputs)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # In fp32 whatever the precision of the encoder: logits rounded to bf16 would tie.
        with torch.autocast(inputs.device.type, enabled=False):
            return self.linear(self.dropout(inputs.float()))


class SpanHead(Head):
    """Start and end logits of every token; [CLS] stands for "no answer"."""

    pooled = False

    def __init__(self, hidden: int, corpus: CorpusSettings, dropout: float, span_loss: str):
        super().__init__(hidden, 2, dropout)
        self.weight = {"sum": 1.0, "mean": 0.5}[span_loss]

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Cross-entropy of start and of end over the sequence's tokens; mean over sequences.

        `logits` are (T, 2).
        """
        padded = batch.pad(logits, float("-inf"))[: len(batch.lengths)]
        start = cross_entropy(padded[..., 0], batch.targets["start"])
        end = cross_entropy(padded[..., 1], batch.targets["end"])
        return self.weight * (start + end)


class ChoiceHead(Head):
    """One score for each choice; softmax over the choices of an item."""

    pooled = True

    def __init__(self, hidden: int, corpus: CorpusSettings, dropout: float, span_loss: str):
        super().__init__(hidden, 1, dropout)

    def scores(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Logits (S, 1) as (items, most choices), -inf where an item has fewer choices."""
        choices = torch.arange(batch.most, device=logits.device)
        places = (batch.item_starts[:, None] + choices).clamp(max=len(logits) - 1)
        return logits[places, 0].masked_fill(choices >= batch.item_sizes[:, None], float("-inf"))

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Cross-entropy of the right choice; mean over items."""
        return cross_entropy(self.scores(logits, batch), batch.targets["label"][batch.item_starts])


class LabelHead(Head):
    """A logit for each label."""

    pooled = True

    def __init__(self, hidden: int, corpus: CorpusSettings, dropout: float, span_loss: str):
        super().__init__(hidden, len(corpus.labels), dropout)

    def scores(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Logits (S, labels) as they are: every sequence is an item."""
        return logits

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Cross-entropy of the label; mean over sentences or pairs."""
        return cross_entropy(logits, batch.targets["label"])


HEADS: dict[Family, type[Head]] = {
    "question_answering": SpanHead,
    "multiple_choice": ChoiceHead,
    "sequence_classification": LabelHead,
}


class Pooler(nn.Module):
    """Dense and tanh on the first token; for encoders that bring no pretrained one."""

    def __init__(self, hidden: int):
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(hidden_states[:, 0]))
