"""Tiny models with their batches, packed or padded."""

import numpy as np
import torch
from hypothesis import strategies as st

from mtdnn.config.layout import Layout
from mtdnn.data.encoder_types import is_packable
from mtdnn.data.features import Sequences, training_features
from mtdnn.model.batches import PackedBatch, batch_of
from mtdnn.model.multitask import build
from tests.support.tiny import FAMILIES, OWN_SIZES, make_run_folder

PACKABLE = [kind for kind in OWN_SIZES if is_packable(kind)]
LENGTHS = (5, 1, 9, 3)


def packing(lengths=LENGTHS):
    positions = torch.cat([torch.arange(n) for n in lengths])
    items = torch.arange(len(lengths) + 1).numpy()
    return PackedBatch(positions, positions, positions, tuple(lengths), items, {})


def query_key_value(heads=3, size=4, lengths=LENGTHS):
    torch.manual_seed(1)
    return [torch.randn(heads, sum(lengths), size, requires_grad=True) for _ in range(3)]


WITHOUT_DROPOUT = {"batch_size": 8, "head_dropout": 0, "encoder_dropout": 0, "span_loss": "mean"}


def with_encoder(run, **changes):
    return run.model_copy(update={"encoder": run.encoder.model_copy(update=changes)})


class Prepared:
    """A run whose features are ready, without dropout unless `training` says otherwise."""

    def __init__(self, folder, kind="bert", training=WITHOUT_DROPOUT, features=None, **encoder):
        changes = {"features": features} if features else {}
        self.run_dir, self.run = make_run_folder(
            folder,
            mixture="_".join(FAMILIES),
            rows=12,
            kind=kind,
            encoder=encoder,
            training=training,
            **changes,
        )
        self.layout = Layout.of_run(self.run_dir)
        self.encoder = self.layout.encoder("tiny")
        self.features = training_features(self.layout, self.run)

    def model(self, batching="auto"):
        return build(self.encoder, with_encoder(self.run, batching=batching))

    def batch(self, corpus, items=range(6)):
        return batch_of(self.features[corpus], items)


def changed(prepared):
    """A model whose every weight differs from the encoder's files."""
    model = prepared.model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


@st.composite
def some_sequences(draw):
    """Items of one to three sequences, with a different number for each token."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    lengths = np.array(
        draw(st.lists(st.integers(1, 6), min_size=sum(counts), max_size=sum(counts)))
    )
    tokens = int(lengths.sum())
    return Sequences(
        lengths=lengths,
        items=np.concatenate([[0], np.cumsum(counts)]),
        columns={
            "input_ids": np.arange(100, 100 + tokens, dtype=np.int32),
            "token_type_ids": np.arange(tokens, dtype=np.int8) % 2,
            "label": np.repeat(np.arange(len(counts)), counts).astype(np.int32),
        },
    )


def fields(batch):
    targets = {name: value.tolist() for name, value in batch.targets.items()}
    tensors = (batch.input_ids, batch.token_type_ids, batch.position_ids)
    return [t.tolist() for t in tensors], batch.lengths, batch.items.tolist(), targets


def sequences_of(batch, config=None):
    """Inputs of each sequence by itself, as Hugging Face takes them.

    Without token type ids if the encoder of this configuration has none.
    """
    parts = [x.split(batch.lengths) for x in (batch.input_ids, batch.token_type_ids)]
    inputs = [
        {"input_ids": ids[None], "token_type_ids": types[None]}
        for ids, types in zip(*parts, strict=True)
    ]
    if config is not None and getattr(config, "type_vocab_size", 0) < 2:
        return [{"input_ids": each["input_ids"]} for each in inputs]
    return inputs


def padded_inputs(batch):
    return {
        "input_ids": batch.pad(batch.input_ids, 0),
        "token_type_ids": batch.pad(batch.token_type_ids, 0),
        "attention_mask": batch.mask.long(),
    }
