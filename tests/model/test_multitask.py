"""The model equals Hugging Face's own classes, packed or padded, before and after saving."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from mtdnn.model import attention
from mtdnn.model.attention import MAX_SHORT_TOKENS
from mtdnn.model.multitask import build
from tests.support.packed import PACKABLE, Prepared, padded_inputs, sequences_of, with_encoder
from tests.support.tiny import FAMILIES


def reference(model, corpus, encoder):
    """Hugging Face's model of a task family with the weights of `model`."""
    kind, key = {
        "question_answering": (BertForQuestionAnswering, "qa_outputs"),
        "multiple_choice": (BertForMultipleChoice, "classifier"),
        "sequence_classification": (BertForSequenceClassification, "classifier"),
        "regression": (BertForSequenceClassification, "classifier"),
        "token_classification": (BertForTokenClassification, "classifier"),
    }[FAMILIES[corpus]]
    outputs = model.heads[corpus].linear.out_features
    options = (
        {}
        if FAMILIES[corpus] in ("question_answering", "multiple_choice")
        else {"num_labels": outputs}
    )
    plain = kind.from_pretrained(
        encoder, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **options
    )
    getattr(plain, key).load_state_dict(model.heads[corpus].linear.state_dict())
    return plain.train(), key


def reference_loss(plain, corpus, batch):
    """The mean loss of the batch's items, with Hugging Face's own arithmetic."""
    if corpus == "squad":  # one by one: in padded rows the softmax would include the padding
        losses = [
            plain(
                **inputs,
                start_positions=batch.targets["start"][i : i + 1],
                end_positions=batch.targets["end"][i : i + 1],
            ).loss
            for i, inputs in enumerate(sequences_of(batch))
        ]
        return torch.stack(losses).mean()
    inputs = padded_inputs(batch)
    if corpus == "ner":
        return plain(**inputs, labels=batch.pad(batch.targets["tags"], -100)).loss
    labels = batch.targets["label"]
    if corpus == "swag":
        inputs = {name: x.view(len(batch.items) - 1, 4, -1) for name, x in inputs.items()}
        labels = labels[batch.items[:-1]]
    return plain(**inputs, labels=labels).loss


@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("corpus", FAMILIES)
def test_loss_and_gradients_equal_hugging_face(bert, corpus, batching):
    model = bert.model(batching).train()
    nn.init.normal_(model.heads[corpus].linear.weight, std=0.3)
    batch = bert.batch(corpus)
    plain, key = reference(model, corpus, bert.encoder)

    loss = model.loss(corpus, batch)
    expected = reference_loss(plain, corpus, batch)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)

    loss.backward()
    expected.backward()
    gradients = {f"bert.{n}": p.grad for n, p in model.encoder.named_parameters()}
    gradients |= {f"bert.pooler.{n}": p.grad for n, p in model.pooler.named_parameters()}
    gradients |= {f"{key}.{n}": p.grad for n, p in model.heads[corpus].linear.named_parameters()}
    gradients = {n: None if g is None else g.to_dense() for n, g in gradients.items()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(
            gradients[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert gradients[name].abs().max() > 0 or name.endswith("key.bias")


@pytest.mark.parametrize("kind", PACKABLE)
@pytest.mark.parametrize(
    ("corpus", "longest"),
    [("squad", 0), ("squad", MAX_SHORT_TOKENS), ("swag", 0), ("mnli", 0), ("ner", 0)],
)
def test_packed_equals_padded(tmp_path, monkeypatch, kind, corpus, longest):
    """Where the CPU attends to each sequence by itself, and where to short ones together."""
    monkeypatch.setattr(attention, "MAX_SHORT_TOKENS", longest)
    prepared = Prepared(tmp_path, kind)
    batch, outcomes = prepared.batch(corpus), []
    for batching in ("packed", "padded"):
        model = prepared.model(batching).train()
        assert model.packed == (batching == "packed")
        loss = model.loss(corpus, batch)
        loss.backward()
        named = model.named_parameters()
        gradients = {n: p.grad.to_dense() for n, p in named if p.grad is not None}
        outcomes.append((model.encode(batch), loss, gradients))
    assert outcomes[0][2].keys() == outcomes[1][2].keys()
    torch.testing.assert_close(*outcomes, atol=1e-5, rtol=1e-4)


def gradients_of(encoder):
    named = encoder.named_parameters()
    return {n: p.grad.to_dense() for n, p in named if p.grad is not None and "pooler" not in n}


def test_every_encoder_equals_its_outputs_for_single_sequences(any_encoder):
    """`auto` packs where that is exact and pads elsewhere; neither changes output or gradient."""
    model = any_encoder.model("auto").eval()
    plain = AutoModel.from_pretrained(any_encoder.encoder).eval()
    kind = plain.config.model_type
    assert model.packed == (kind in PACKABLE)
    for corpus in ("squad", "mnli"):
        batch = any_encoder.batch(corpus)
        hidden = model.encode(batch)
        pooled = model.pool(hidden, batch)
        outputs = [plain(**inputs) for inputs in sequences_of(batch, plain.config)]
        for ours, our_pooled, theirs in zip(
            hidden.split(batch.lengths), pooled, outputs, strict=True
        ):
            torch.testing.assert_close(ours, theirs.last_hidden_state[0], atol=1e-5, rtol=1e-5)
            if getattr(theirs, "pooler_output", None) is not None:
                torch.testing.assert_close(
                    our_pooled, theirs.pooler_output[0], atol=1e-5, rtol=1e-5
                )
        pull = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)) / 10
        model.zero_grad(), plain.zero_grad()
        (hidden * pull).sum().backward()
        (torch.cat([each.last_hidden_state[0] for each in outputs]) * pull).sum().backward()
        torch.testing.assert_close(
            gradients_of(model.encoder), gradients_of(plain), atol=2e-5, rtol=1e-4
        )


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "mpnet"])
def test_padding_tokens_in_the_text_are_counted_as_the_encoder_does(tmp_path, kind):
    """Text that contains "<pad>" becomes the padding token, which gets no position of its own."""
    prepared = Prepared(tmp_path, kind)
    model, batch = prepared.model("auto").eval(), prepared.batch("mnli", range(3))
    plain = AutoModel.from_pretrained(prepared.encoder).eval()
    starts = batch.first_tokens.tolist()
    batch.input_ids[[starts[0] + 2, starts[0] + 3, starts[1] - 2]] = plain.config.pad_token_id
    hidden = model.encode(batch).split(batch.lengths)
    for inputs, ours in zip(sequences_of(batch, plain.config), hidden, strict=True):
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        theirs = plain(**inputs).last_hidden_state[0]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


VARIANTS = {
    "no bias, windows of 5 tokens": ("modernbert", {"norm_bias": False, "local_attention": 4}),
    "windows longer than sequences": ("modernbert", {"local_attention": 400}),
    "DeBERTa-v2": (
        "deberta-v2",
        {"share_att_key": False, "conv_kernel_size": 3, "type_vocab_size": 2},
    ),
    "two groups of layers": ("albert", {"num_hidden_groups": 2, "inner_group_num": 2}),
    "sinusoids": ("distilbert", {"sinusoidal_pos_embds": True}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_a_type_equal_their_outputs_for_single_sequences(tmp_path, variant):
    kind, changes = VARIANTS[variant]
    prepared = Prepared(tmp_path, kind, **changes)
    model, batch = prepared.model("auto").eval(), prepared.batch("squad")
    plain = AutoModel.from_pretrained(prepared.encoder).eval()
    hidden = model.encode(batch).split(batch.lengths)
    for inputs, ours in zip(sequences_of(batch, plain.config), hidden, strict=True):
        theirs = plain(**inputs).last_hidden_state[0]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("corpus", ["swag", "mnli"])
def test_mean_pooling_averages_the_tokens_of_each_sequence_alone(bert, corpus):
    model = build(bert.encoder, with_encoder(bert.run, pooling="mean")).eval()
    plain = AutoModel.from_pretrained(bert.encoder).eval()
    batch = bert.batch(corpus)
    states = [plain(**inputs).last_hidden_state[0] for inputs in sequences_of(batch)]
    means = torch.stack([state.mean(dim=0) for state in states])
    expected = torch.tanh(plain.pooler.dense(means))
    torch.testing.assert_close(
        model.pool(model.encode(batch), batch), expected, atol=1e-5, rtol=1e-4
    )
    assert not torch.allclose(bert.model().eval()(corpus, batch), model(corpus, batch), atol=1e-4)


def test_token_types_matter_where_the_encoder_has_them(bert):
    model, batch = bert.model().eval(), bert.batch("mnli")
    before = model("mnli", batch)
    batch.token_type_ids.zero_()
    assert not torch.allclose(before, model("mnli", batch), atol=1e-3)
