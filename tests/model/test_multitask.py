"""The model equals Hugging Face's own classes, packed or padded, before and after saving."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)

from mtdnn.errors import MtdnnError
from mtdnn.model.attention import PACKABLE
from mtdnn.model.multitask import build
from mtdnn.model.saving import export, load, save
from tests.support.packed import Prepared, changed, with_encoder
from tests.support.tiny import FAMILIES, OWN_SIZES, make_encoder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module", params=OWN_SIZES)
def any_encoder(request, tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp(request.param), request.param)


def sequences_of(batch):
    """Inputs of each sequence by itself, as Hugging Face takes them."""
    parts = (x.split(batch.lengths) for x in (batch.input_ids, batch.token_type_ids))
    return [
        {"input_ids": ids[None], "token_type_ids": types[None]}
        for ids, types in zip(*parts, strict=True)
    ]


def padded_inputs(batch):
    return {
        "input_ids": batch.pad(batch.input_ids, 0),
        "token_type_ids": batch.pad(batch.token_type_ids, 0),
        "attention_mask": batch.mask.long(),
    }


def reference(model, corpus, encoder):
    """Hugging Face's model of a family with the weights of `model`."""
    kind, key = {
        "question_answering": (BertForQuestionAnswering, "qa_outputs"),
        "multiple_choice": (BertForMultipleChoice, "classifier"),
        "sequence_classification": (BertForSequenceClassification, "classifier"),
    }[FAMILIES[corpus]]
    outputs = model.heads[corpus].linear.out_features
    options = {"num_labels": outputs} if kind is BertForSequenceClassification else {}
    plain = kind.from_pretrained(
        encoder, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **options
    )
    getattr(plain, key).load_state_dict(model.heads[corpus].linear.state_dict())
    return plain.train(), key


def reference_loss(plain, corpus, batch):
    """The mean loss of the batch's items, by Hugging Face's own arithmetic."""
    if corpus == "squad":  # one by one: padded rows would let padding into the softmax
        losses = [
            plain(
                **inputs,
                start_positions=batch.targets["start"][i : i + 1],
                end_positions=batch.targets["end"][i : i + 1],
            ).loss
            for i, inputs in enumerate(sequences_of(batch))
        ]
        return torch.stack(losses).mean()
    inputs, labels = padded_inputs(batch), batch.targets["label"]
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


def test_sum_of_span_losses_is_twice_their_mean(bert):
    summed = bert.run.training.model_copy(update={"span_loss": "sum"})
    double = build(bert.encoder, bert.run.model_copy(update={"training": summed}))
    batch = bert.batch("squad")
    assert double.loss("squad", batch).item() == pytest.approx(
        2 * bert.model().loss("squad", batch).item()
    )


def test_choices_may_differ_in_number(bert):
    model, batch = bert.model().eval(), bert.batch("swag", [0, 1])
    whole = model.heads["swag"].scores(model("swag", batch), batch)
    fewer = replace(batch, lengths=batch.lengths[:7], items=np.array([0, 4, 7]))
    scores = model.heads["swag"].scores(model("swag", batch)[:7], fewer)
    assert torch.equal(scores[0], whole[0])
    assert torch.equal(scores[1, :3], whole[1, :3]) and scores[1, 3] == -math.inf


@pytest.mark.parametrize("kind", PACKABLE)
@pytest.mark.parametrize("corpus", ["squad", "swag", "mnli"])
def test_packed_equals_padded(tmp_path, kind, corpus):
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


def test_every_encoder_gives_what_it_gives_to_each_sequence_alone(any_encoder):
    """`auto` packs where that is exact, and pads elsewhere; both change nothing."""
    model = any_encoder.model("auto").eval()
    plain = AutoModel.from_pretrained(any_encoder.encoder).eval()
    kind = plain.config.model_type
    assert model.packed == (kind in PACKABLE)
    for corpus in ("squad", "mnli"):
        batch = any_encoder.batch(corpus)
        hidden = model.encode(batch)
        pooled = model.pool(hidden, batch)
        each = zip(sequences_of(batch), hidden.split(batch.lengths), pooled, strict=True)
        for inputs, ours, our_pooled in each:
            if kind not in ("bert", "electra", "albert"):
                del inputs["token_type_ids"]
            theirs = plain(**inputs)
            torch.testing.assert_close(ours, theirs.last_hidden_state[0], atol=1e-5, rtol=1e-4)
            if getattr(theirs, "pooler_output", None) is not None:
                torch.testing.assert_close(
                    our_pooled, theirs.pooler_output[0], atol=1e-5, rtol=1e-4
                )


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


def test_segments_matter_where_the_encoder_has_them(bert):
    model, batch = bert.model().eval(), bert.batch("mnli")
    before = model("mnli", batch)
    batch.token_type_ids.zero_()
    assert not torch.allclose(before, model("mnli", batch), atol=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in OWN_SIZES if kind not in PACKABLE])
def test_packed_is_refused_where_sequences_would_see_each_other(tmp_path, bert, kind):
    make_encoder(tmp_path / "encoder", kind)
    with pytest.raises(MtdnnError, match=rf"tiny\.batching: {kind} .*use auto or padded") as error:
        build(tmp_path / "encoder", with_encoder(bert.run, batching="packed"))
    assert "\n" not in str(error.value)


def test_fresh_heads_are_small_and_depend_on_the_seed(tmp_path):
    prepared = Prepared(tmp_path, hidden_size=400, intermediate_size=8, num_hidden_layers=1)
    model, again = prepared.model(), prepared.model()
    other = build(prepared.encoder, prepared.run.model_copy(update={"seed": 2}))
    for name, head in model.heads.items():
        assert head.linear.bias.abs().max() == 0
        assert head.linear.weight.std().item() == pytest.approx(0.02, rel=0.15)
        assert torch.equal(head.linear.weight, again.heads[name].linear.weight)
        assert not torch.equal(head.linear.weight, other.heads[name].linear.weight)
    outputs = {name: head.linear.out_features for name, head in model.heads.items()}
    assert outputs == {"squad": 2, "swag": 1, "cola": 2, "mnli": 3}


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_encoder_dropout_is_the_checkpoints_own_unless_set(tmp_path, bert, kind):
    encoder = make_encoder(tmp_path / "encoder", kind)
    for wanted, expected in ((None, 0.1), (0.25, 0.25)):
        training = bert.run.training.model_copy(
            update={"encoder_dropout": wanted, "head_dropout": 0.3}
        )
        model = build(encoder, bert.run.model_copy(update={"training": training}))
        inside = [m.p for m in model.encoder.modules() if isinstance(m, nn.Dropout)]
        assert len(inside) >= 3 and set(inside) == {expected}
        assert {head.dropout.p for head in model.heads.values()} == {0.3}


# --- files -----------------------------------------------------------------------------------


def saved(prepared, run_dir):
    model = changed(prepared)
    (run_dir / "model").mkdir(parents=True)
    save(model, prepared.run, prepared.encoder, run_dir / "model")
    return model


def test_a_saved_model_is_a_plain_question_answering_model(any_encoder, tmp_path):
    model = saved(any_encoder, tmp_path)
    plain, loading = AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = any_encoder.batch("squad")
    ours = model("squad", batch).split(batch.lengths)
    for inputs, logits in zip(sequences_of(batch), ours, strict=True):
        if plain.config.model_type not in ("bert", "electra", "albert"):
            del inputs["token_type_ids"]
        theirs = plain.eval()(**inputs)
        both = torch.stack([theirs.start_logits[0], theirs.end_logits[0]], dim=1)
        torch.testing.assert_close(logits, both, atol=1e-5, rtol=1e-5)


def test_a_loaded_model_is_the_saved_one(any_encoder, tmp_path):
    model = saved(any_encoder, tmp_path)
    again = load(tmp_path / "model", any_encoder.run)
    assert again.packed == model.packed
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for corpus in FAMILIES:
        batch = any_encoder.batch(corpus)
        assert torch.equal(model(corpus, batch), again.eval()(corpus, batch))


@pytest.mark.parametrize("corpus", FAMILIES)
def test_every_task_of_bert_can_be_exported(bert, tmp_path, corpus):
    model = saved(bert, tmp_path)
    export(tmp_path, bert.run, corpus, tmp_path / "plain")
    auto = {
        "question_answering": AutoModelForQuestionAnswering,
        "multiple_choice": AutoModelForMultipleChoice,
        "sequence_classification": AutoModelForSequenceClassification,
    }[FAMILIES[corpus]]
    plain, loading = auto.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = bert.batch(corpus)
    inputs, expected = padded_inputs(batch), model(corpus, batch)
    if corpus == "swag":
        inputs = {name: x.view(-1, 4, x.shape[1]) for name, x in inputs.items()}
        expected = model.heads[corpus].scores(expected, batch)
    outputs = plain.eval()(**inputs)
    if corpus == "squad":
        logits = batch.unpad(torch.stack([outputs.start_logits, outputs.end_logits], dim=2))
    else:
        logits = outputs.logits
    torch.testing.assert_close(expected, logits, atol=1e-5, rtol=1e-5)
    if corpus == "mnli":
        assert plain.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert (tmp_path / "plain" / "tokenizer.json").exists()


def test_a_head_of_another_shape_is_not_exported(tmp_path):
    prepared = Prepared(tmp_path / "run", "distilbert")
    saved(prepared, tmp_path / "trained")
    with pytest.raises(MtdnnError, match="DistilBertForSequenceClassification has another head"):
        export(tmp_path / "trained", prepared.run, "cola", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    with pytest.raises(MtdnnError, match="was not trained on 'mrpc'"):
        export(tmp_path / "trained", prepared.run, "mrpc", tmp_path / "plain")


def test_mean_pooled_heads_are_not_exported(bert, tmp_path):
    saved(bert, tmp_path)
    averaged = with_encoder(bert.run, pooling="mean")
    with pytest.raises(MtdnnError, match=r"cola was trained with pooling: mean.*only question"):
        export(tmp_path, averaged, "cola", tmp_path / "plain")
    export(tmp_path, averaged, "squad", tmp_path / "plain")


@pytest.mark.parametrize("file", ["model.safetensors", "heads.safetensors"])
def test_broken_weights_are_refused_in_one_line(bert, tmp_path, file):
    saved(bert, tmp_path)
    path = tmp_path / "model" / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MtdnnError, match=rf"{file}: not readable as safetensors") as error:
        load(tmp_path / "model", bert.run)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(MtdnnError, match=rf"{file}: no such file; put it back, or .* train again"):
        load(tmp_path / "model", bert.run)


def test_weights_of_another_mixture_are_refused(bert, tmp_path):
    saved(bert, tmp_path)
    fewer = {name: bert.run.corpora[name] for name in ("squad", "cola")}
    with pytest.raises(MtdnnError, match=r"do not fit the run's settings: .*mnli") as error:
        load(tmp_path / "model", bert.run.model_copy(update={"corpora": fewer}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["{", '{"model_type": "no_such_model"}', None])
def test_an_unusable_encoder_is_refused_in_one_line(bert, tmp_path, damage):
    encoder = make_encoder(tmp_path / "encoder")
    (encoder / "config.json").unlink()
    if damage:
        (encoder / "config.json").write_text(damage)
    with pytest.raises(MtdnnError, match=r"no usable config\.json") as error:
        build(encoder, bert.run)
    assert "\n" not in str(error.value)


def without_a_weight(weights):
    tensors = load_file(weights)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})


def of_another_size(weights):
    make_encoder(weights.parent.parent / "other", intermediate_size=44)
    weights.write_bytes((weights.parent.parent / "other" / weights.name).read_bytes())


def cut_short(weights):
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [without_a_weight, of_another_size, cut_short])
def test_unusable_encoder_weights_are_refused_in_one_line(bert, tmp_path, damage):
    encoder = make_encoder(tmp_path / "encoder")
    damage(encoder / "model.safetensors")
    with pytest.raises(MtdnnError, match=r"encoder: no usable encoder weights: ") as error:
        build(encoder, bert.run)
    assert "\n" not in str(error.value)


def test_an_encoder_may_lack_a_pooler(bert, tmp_path):
    encoder = make_encoder(tmp_path / "encoder")
    tensors = load_file(encoder / "model.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    save_file(rest, encoder / "model.safetensors", metadata={"format": "pt"})
    first, again = build(encoder, bert.run), build(encoder, bert.run)
    assert torch.equal(first.pooler.dense.weight, again.pooler.dense.weight)
