"""One shared encoder with a head for each corpus (the paper's section on the model)."""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from mtdnn.config.phases import phases_of_run
from mtdnn.config.settings import CorpusSettings, RunSettings, San, TrainingSettings
from mtdnn.data.encoder_types import COUNTS_AFTER_PADDING
from mtdnn.model import lora, owners
from mtdnn.model.attention import PACKED
from mtdnn.model.batches import PackedBatch
from mtdnn.model.freezing import freeze
from mtdnn.model.heads import HEADS, Head, Pooler
from mtdnn.model.layers import speed_up
from mtdnn.model.pretrained import load_encoder
from mtdnn.model.san import SanHead
from mtdnn.model.trials import try_out

SHARED = "shared"
"""Name of the adapters that all corpora of a run share."""


class MultiTaskModel(nn.Module):
    """A pretrained encoder shared by every corpus, a pooler, and a head for each corpus.

    Shapes are those of a batch of S sequences and T tokens.

    Args:
        encoder: a Hugging Face encoder, loaded for packed or for padded batches.
        run: the run's settings: corpora, dropout and loss of the heads, pooling.

    Attributes:
        encoder: the encoder, without its pooler.
        pooler: the pretrained pooler, or a new one.
        heads: the head of each corpus, by name.
        pooling: what the pooler reads: the `first` token, or the `mean` of all tokens.
        adapters: the corpora that have adapters of their own in the encoder.
        phases: where phases own weights, the last phase of each corpus, from 1; else empty.
        packed: whether the encoder takes packed batches; else it gets padded ones.
    """

    encoder: PreTrainedModel
    pooler: nn.Module
    heads: nn.ModuleDict

    def __init__(self, encoder: PreTrainedModel, run: RunSettings):
        super().__init__()
        self.encoder = try_out(speed_up(encoder))
        self.pooling = run.encoder.pooling
        hidden = encoder.config.hidden_size
        # Kept separate from the encoder: question answering does not use it.
        self.pooler = getattr(encoder, "pooler", None) or Pooler(hidden)
        encoder.pooler = None  # type: ignore[assignment] # a module may be set to None
        self.heads = nn.ModuleDict(
            {
                name: _new_head(hidden, corpus, run.training, run.training.heads.get(name))
                for name, corpus in run.corpora.items()
            }
        )
        self.adapters: list[str] = []
        self.phases: dict[str, int] = {}
        self.packed = encoder.config._attn_implementation == PACKED
        self._segments = getattr(encoder.config, "type_vocab_size", 0) > 1

    def head(self, corpus: str) -> Head:
        """Return the head of a corpus."""
        head = self.heads[corpus]
        assert isinstance(head, Head)
        return head

    def encode(self, batch: PackedBatch) -> torch.Tensor:
        """Return the last hidden states of all tokens, (T, hidden)."""
        hidden: torch.Tensor
        if self.packed:
            inputs = {
                "input_ids": batch.input_ids[None],
                "position_ids": self._positions(batch)[None],
            }
            if self._segments:
                inputs["token_type_ids"] = batch.token_type_ids[None]
            hidden = self.encoder(**inputs, packing=batch).last_hidden_state.squeeze(0)
            return hidden
        inputs = {
            "input_ids": batch.pad(batch.input_ids, self.encoder.config.pad_token_id or 0),
            "attention_mask": batch.mask.long(),
        }
        if self._segments:
            inputs["token_type_ids"] = batch.pad(batch.token_type_ids, 0)
        hidden = self.encoder(**inputs).last_hidden_state
        return batch.unpad(hidden)

    def _positions(self, batch: PackedBatch) -> torch.Tensor:
        """Return the position of every token as the encoder counts them, (T,)."""
        if self.encoder.config.model_type not in COUNTS_AFTER_PADDING:
            return batch.position_ids
        padding: int = self.encoder.config.pad_token_id
        # Padding tokens that stand in the text itself are not counted either.
        counted = batch.input_ids != padding
        counts = counted.cumsum(0)
        first = torch.arange(batch.tokens, device=counts.device) - batch.position_ids
        return (counts - counts[first] + counted[first]) * counted + padding

    def forward(self, corpus: str, batch: PackedBatch) -> torch.Tensor:
        """Return the logits of a batch of `corpus`, fp32: (S, outputs), or (T, outputs)."""
        head = self.head(corpus)
        if corpus in self.adapters:
            lora.use(self.encoder, corpus)
        if corpus in self.phases:
            owners.use(self, self.phases[corpus])
        hidden = self.encode(batch)
        logits: torch.Tensor = head(self.pool(hidden, batch) if head.pooled else hidden, batch)
        return logits

    def pool(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return the pooled vectors of the sequences, (S, hidden), from (T, hidden)."""
        if self.pooling == "mean":
            sums = batch.pad(hidden.float(), 0.0).sum(dim=1)[: len(batch.lengths)]
            summary = sums / batch.token_counts[:, None]
        else:
            summary = hidden[batch.first_tokens]
        if isinstance(self.pooler, nn.Linear):  # ALBERT keeps dense layer and tanh separate
            return torch.tanh(self.pooler(summary))
        pooled: torch.Tensor = self.pooler(summary[:, None])
        return pooled

    def loss(self, corpus: str, batch: PackedBatch) -> torch.Tensor:
        """Return the mean loss of a batch of `corpus`, a scalar; with a teacher's share if any."""
        head, logits = self.head(corpus), self(corpus, batch)
        loss = head.loss(logits, batch)
        if lesson := batch.lesson:
            taught = head.soft_loss(logits, batch, lesson)
            loss = lesson.share * taught + (1 - lesson.share) * loss
        return loss

    def network(self, corpus: str) -> tuple[PreTrainedModel, nn.Module]:
        """Return encoder and pooler as they compute for a corpus, without adapters and owners.

        Copies, unless they are so already. A pooler that the corpus does not use is that of the
        last phase.
        """
        encoder, pooler = lora.merged(self.encoder, corpus), self.pooler
        if not self.phases:
            return encoder, pooler
        phase, last = self.phases[corpus], max(self.phases.values())
        used = phase if self.head(corpus).pooled else last
        return owners.alone(encoder, phase), owners.alone(pooler, used)

    def idle(self, corpus: str) -> list[nn.Parameter]:
        """Return the trained weights that a batch of `corpus` does not use.

        They are in heads, pooler and adapters.
        """
        others = [head for name, head in self.heads.items() if name != corpus]
        if not self.head(corpus).pooled:
            others.append(self.pooler)
        unused = [parameter for module in others for parameter in module.parameters()]
        for name in self.adapters:
            unused += lora.weights(self.encoder, name) if name != corpus else []
        return unused

    def trained_by(self, corpus: str) -> list[nn.Parameter]:
        """Return the weights that a batch of `corpus` trains."""
        idle = set(self.idle(corpus))
        return [p for p in self.parameters() if p.requires_grad and p not in idle]


def _new_head(
    hidden: int, corpus: CorpusSettings, training: TrainingSettings, san: San | None
) -> Head:
    if san:
        return SanHead(hidden, corpus, training, san)
    return HEADS[corpus.family](hidden, corpus, training)


def restrict(model: MultiTaskModel, run: RunSettings) -> None:
    """Limit what is trained of a new model's encoder, as a run's settings say.

    Raises:
        MtdnnError: the encoder does not have such layers, or peft is missing.
    """
    settings = run.training
    if settings.frozen_layers is not None:
        freeze(model.encoder, settings.frozen_layers)
    if settings.lora:
        add_adapters(model, run)
    if run.prunes:
        add_owners(model, run)


def add_adapters(model: MultiTaskModel, run: RunSettings) -> None:
    """Add the adapters of a run's `training.lora` to its model, whose encoder they freeze."""
    assert run.training.lora is not None
    shared = run.training.lora.per == "run"
    lora.add(model.encoder, run.training.lora, [SHARED] if shared else list(run.corpora))
    model.adapters = [] if shared else list(run.corpora)


def add_owners(model: MultiTaskModel, run: RunSettings) -> None:
    """Let the phases of a run own weights of its model's encoder and pooler."""
    phases = phases_of_run(run)
    owners.add((model.encoder, model.pooler), len(phases))
    for number, phase in enumerate(phases, 1):
        model.phases |= dict.fromkeys(phase.corpora, number)


def build(encoder: Path, run: RunSettings) -> MultiTaskModel:
    """Return a run's model before training: pretrained encoder, new heads from the run's seed.

    Args:
        encoder: the encoder's folder.
        run: the run's settings.

    Raises:
        MtdnnError: the encoder's weights are damaged, or more than a pooler is missing.
    """
    torch.manual_seed(run.seed)
    return MultiTaskModel(load_encoder(encoder, run), run)
