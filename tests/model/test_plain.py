"""Which heads a plain class of transformers opens, as the table in the documentation says."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel

from mtdnn.data.encoder_types import ENCODER_TYPES
from mtdnn.machine.files import save_tensors
from mtdnn.model.plain import AUTO_CLASSES, ON_TOKENS, plain_model
from mtdnn.model.pretrained import read_config
from tests.support.packed import changed, sequences_of
from tests.support.tiny import OWN_SIZES, make_encoder

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "guides" / "encoders.md"
WITHOUT_POOLER = {"add_pooling_layer": False}
OUTPUTS = {
    **{"question_answering": 2, "multiple_choice": 1, "sequence_classification": 3},
    **{"regression": 1, "token_classification": 5},
}


def documented():
    """The table of encoder types: model type to its cells by heading."""
    table = re.search(r"^\| encoder .*?\n\n", DOCUMENTATION.read_text(), re.M | re.S)
    headings, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table[0].strip().splitlines()
    ]
    cells = [dict(zip(headings, row, strict=True)) for row in rows]
    return {row["`model_type`"].strip("`"): row for row in cells}


def test_the_table_names_every_type_and_how_it_is_batched():
    table = documented()
    assert list(table) == list(ENCODER_TYPES) == list(OWN_SIZES)
    for kind, about in ENCODER_TYPES.items():
        batches = f"padded: {about.why_padded}" if about.why_padded else "packed"
        assert (table[kind]["encoder"], table[kind]["batches"]) == (about.label, batches)


def logits_of(plain, family, batch):
    """A plain model's logits as our heads give them: (T, outputs) or (S, outputs)."""
    inputs = sequences_of(batch, plain.config)
    if family == "multiple_choice":
        inputs = [{name: x[None] for name, x in each.items()} for each in inputs]
    outputs = [plain(**each) for each in inputs]
    if family == "question_answering":
        return torch.cat([torch.stack([o.start_logits, o.end_logits], 2)[0] for o in outputs])
    logits = [output.logits for output in outputs]
    return torch.cat([each[0] for each in logits] if family in ON_TOKENS else logits)


@pytest.mark.parametrize("family", AUTO_CLASSES)
def test_a_plain_class_opens_a_head_where_the_table_says_so(any_encoder, tmp_path, family):
    model = changed(any_encoder)
    config = read_config(any_encoder.encoder)
    kind = config.model_type
    linear = nn.Linear(config.hidden_size, OUTPUTS[family])
    with torch.no_grad():
        result = plain_model(family, config, model.encoder, model.pooler, linear)
        heading = "sequence_classification" if family == "regression" else family
        assert (result is not None) == (documented()[kind][f"`{heading}`"] == "yes")
        if result is None:
            return
        result.config.save_pretrained(tmp_path)
        save_tensors(result.weights, tmp_path / "model.safetensors", {"format": "pt"})
        plain, loading = AUTO_CLASSES[family].from_pretrained(tmp_path, output_loading_info=True)
        assert not any(
            loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        )
        assert config.architectures == [type(plain).__name__]
        batch = any_encoder.batch("mnli")
        hidden = model.encode(batch)
        ours = linear(hidden if family in ON_TOKENS else model.pool(hidden, batch))
        torch.testing.assert_close(
            ours, logits_of(plain.eval(), family, batch), atol=1e-5, rtol=1e-5
        )


def test_a_normalisation_that_cannot_be_undone_is_not_opened(tmp_path):
    encoder = AutoModel.from_pretrained(make_encoder(tmp_path, "modernbert"))
    linear, family = nn.Linear(32, 2), "question_answering"
    assert plain_model(family, encoder.config, encoder, nn.Identity(), linear)
    with torch.no_grad():
        encoder.final_norm.weight[7] = 0
    assert plain_model(family, encoder.config, encoder, nn.Identity(), linear) is None


def test_labels_of_an_earlier_task_of_the_encoder_do_not_count(tmp_path):
    encoder = AutoModel.from_pretrained(make_encoder(tmp_path, num_labels=3), **WITHOUT_POOLER)
    linear = nn.Linear(32, 2)
    result = plain_model("question_answering", encoder.config, encoder, nn.Identity(), linear)
    assert result.config.num_labels == 2
