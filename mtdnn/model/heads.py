"""Task heads: dropout, one linear layer, a loss (the paper's section on the model)."""

from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from mtdnn.config.settings import CorpusSettings, Family, TrainingSettings
from mtdnn.data.features import NO_TAG
from mtdnn.model.batches import Lesson, PackedBatch
from mtdnn.model.layers import Dropout


class Head(nn.Module):
    """Dropout and a linear layer with N(0, 0.02) weights and zero bias, as in BERT.

    Shapes are those of a batch of S sequences, T tokens and N items.

    Args:
        hidden: size of the encoder's hidden states.
        corpus: the corpus whose task the head learns.
        training: dropout and loss.

    Attributes:
        pooled: whether the head reads one pooled vector of each sequence instead of its tokens.
        is_linear: whether the linear layer is all that it has, as in classes of transformers.
        width: inputs of the linear layer, in multiples of `hidden`.
    """

    pooled: ClassVar[bool] = True
    is_linear: ClassVar[bool] = True
    width: ClassVar[int] = 1
    dropout: Dropout
    linear: nn.Linear

    def __init__(self, hidden: int, corpus: CorpusSettings, training: TrainingSettings):
        super().__init__()
        self.dropout = Dropout(training.head_dropout)
        self.linear = nn.Linear(self.width * hidden, self.outputs(corpus))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    @staticmethod
    def outputs(corpus: CorpusSettings) -> int:
        """Return the number of outputs of the linear layer."""
        raise NotImplementedError

    def forward(self, inputs: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return fp32 logits, (S, outputs) or (T, outputs), of inputs of size `hidden`."""
        # In fp32 whatever the precision of the encoder: logits rounded to bf16 would tie.
        with torch.autocast(inputs.device.type, enabled=False):
            logits: torch.Tensor = self.linear(self.dropout(inputs.float()))
        return logits

    def scores(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the logits, (S, outputs), as one row of scores for each item, (N, …)."""
        raise NotImplementedError

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the batch's mean loss, a scalar."""
        raise NotImplementedError

    def soft_loss(self, logits: torch.Tensor, batch: PackedBatch, lesson: Lesson) -> torch.Tensor:
        """Return the mean loss with a teacher's logits in place of the batch's targets, a scalar.

        It has the terms of `loss`, and equals it if the teacher is sure of the targets and the
        temperature is 1.
        """
        raise NotImplementedError


class SpanHead(Head):
    """Start and end logits of every token; [CLS] stands for "no answer"."""

    pooled = False

    def __init__(self, hidden: int, corpus: CorpusSettings, training: TrainingSettings):
        super().__init__(hidden, corpus, training)
        self.weight = {"sum": 1.0, "mean": 0.5}[training.span_loss]

    @staticmethod
    def outputs(corpus: CorpusSettings) -> int:
        return 2

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the cross-entropy of start plus that of end, the mean over sequences.

        The paper sums the two; `span_loss: mean` averages them, as BERT does.

        Args:
            logits: (T, 2) fp32; the softmax runs over the tokens of each sequence.
        """
        padded = batch.pad(logits, float("-inf"))[: len(batch.lengths)]
        start = cross_entropy(padded[..., 0], batch.targets["start"])
        end = cross_entropy(padded[..., 1], batch.targets["end"])
        return self.weight * (start + end)

    def soft_loss(self, logits: torch.Tensor, batch: PackedBatch, lesson: Lesson) -> torch.Tensor:
        rows, taught = (
            batch.pad(each, float("-inf"))[: len(batch.lengths)].transpose(1, 2)
            for each in (logits, lesson.logits)
        )
        losses = soft_cross_entropy(rows, taught, lesson.temperature)  # (S, 2)
        return self.weight * losses.sum() / len(losses)


class ChoiceHead(Head):
    """One score for each choice; softmax over the choices of an item."""

    @staticmethod
    def outputs(corpus: CorpusSettings) -> int:
        return 1

    def scores(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return logits, (S, 1), as (N, most choices), −inf where an item has fewer choices."""
        choices = torch.arange(batch.largest_item, device=logits.device)
        places = (batch.item_starts[:, None] + choices).clamp(max=len(logits) - 1)
        return logits[places, 0].masked_fill(choices >= batch.item_sizes[:, None], float("-inf"))

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the cross-entropy of the right choice, the mean over items."""
        return cross_entropy(self.scores(logits, batch), batch.targets["label"][batch.item_starts])

    def soft_loss(self, logits: torch.Tensor, batch: PackedBatch, lesson: Lesson) -> torch.Tensor:
        scores, taught = (self.scores(each, batch) for each in (logits, lesson.logits))
        return soft_cross_entropy(scores, taught, lesson.temperature).mean()


class LabelHead(Head):
    """A logit for each label."""

    @staticmethod
    def outputs(corpus: CorpusSettings) -> int:
        return len(corpus.labels)

    def scores(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the logits, (S, labels), unchanged: every sequence is an item."""
        return logits

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the cross-entropy of the label, the mean over sentences or pairs."""
        return cross_entropy(logits, batch.targets["label"])

    def soft_loss(self, logits: torch.Tensor, batch: PackedBatch, lesson: Lesson) -> torch.Tensor:
        return soft_cross_entropy(logits, lesson.logits, lesson.temperature).mean()


class ScoreHead(Head):
    """A score on the scale of the corpus, as it is given."""

    @staticmethod
    def outputs(corpus: CorpusSettings) -> int:
        return 1

    def scores(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the logits, (S, 1), unchanged: every sequence is an item."""
        return logits

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the squared error of the score, the mean over sentences or pairs."""
        return mse_loss(logits[:, 0], batch.targets["label"])

    def soft_loss(self, logits: torch.Tensor, batch: PackedBatch, lesson: Lesson) -> torch.Tensor:
        return mse_loss(logits, lesson.logits)


class TagHead(Head):
    """A logit for each tag, at every token."""

    pooled = False

    @staticmethod
    def outputs(corpus: CorpusSettings) -> int:
        return len(corpus.labels)

    def loss(self, logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the cross-entropy of the tags, the mean over the words of the batch.

        A word counts at its first token, as in BERT's named entity recognition.

        Args:
            logits: (T, tags) fp32.
        """
        tags = batch.targets["tags"]
        total = cross_entropy(logits, tags, ignore_index=NO_TAG, reduction="sum")
        # A part of a batch may have no word that the tokenizer keeps.
        return total / (tags != NO_TAG).sum().clamp(min=1)

    def soft_loss(self, logits: torch.Tensor, batch: PackedBatch, lesson: Lesson) -> torch.Tensor:
        tagged = batch.targets["tags"] != NO_TAG
        losses = soft_cross_entropy(logits, lesson.logits, lesson.temperature)
        return losses.masked_fill(~tagged, 0.0).sum() / tagged.sum().clamp(min=1)


def soft_cross_entropy(
    logits: torch.Tensor, taught: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return T² · −Σ softmax(taught/T) log softmax(logits/T) over the last dimension.

    The factor keeps the size of its gradients, whatever T is (Hinton, Vinyals and Dean 2015,
    "Distilling the Knowledge in a Neural Network").

    Args:
        logits: (…, classes); −inf where a row has fewer of them.
        taught: a teacher's logits, of the same shape, −inf at the same places.
        temperature: T.

    Returns:
        A loss for each row, (…).
    """
    shares = (taught / temperature).softmax(-1)
    logs = (logits / temperature).log_softmax(-1)
    # 0 · −inf would be NaN.
    logs = logs.masked_fill(taught == float("-inf"), 0.0)
    return -(shares * logs).sum(-1) * temperature**2


HEADS: dict[Family, type[Head]] = {
    "question_answering": SpanHead,
    "multiple_choice": ChoiceHead,
    "sequence_classification": LabelHead,
    "regression": ScoreHead,
    "token_classification": TagHead,
}


class Pooler(nn.Module):
    """BERT's pooler, dense and tanh on the first token; for encoders without a pretrained one."""

    dense: nn.Linear

    def __init__(self, hidden: int):
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return pooled vectors, (S, hidden), of hidden states, (S, tokens, hidden)."""
        return torch.tanh(self.dense(hidden_states[:, 0]))
