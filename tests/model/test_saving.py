"""A saved model is a plain Hugging Face model, and loads unchanged."""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
)

from mtdnn.config.settings import EncoderSettings
from mtdnn.data.encoders import fetch
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256, write_json
from mtdnn.model.plain import AUTO_CLASSES
from mtdnn.model.pretrained import load_encoder
from mtdnn.model.saving import export, load, save
from tests.support.packed import Prepared, changed, padded_inputs, sequences_of, with_encoder
from tests.support.tiny import FAMILIES, LABELS


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
    for inputs, logits in zip(sequences_of(batch, plain.config), ours, strict=True):
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


def test_a_saved_model_serves_as_an_encoder_without_its_heads(bert, tmp_path):
    """A recipe for intermediate training: the encoder's weights are those that were trained."""
    model = saved(bert, tmp_path)
    source = {"kind": "files", "path": str(tmp_path / "model")}
    settings = EncoderSettings.model_validate({"label": "after", "source": source})
    fetch("after", settings, lock=tmp_path / "lock.json", output=tmp_path / "encoder")
    encoder = load_encoder(tmp_path / "encoder", bert.run)
    trained = {k: v for k, v in model.encoder.state_dict().items() if not k.startswith("pooler.")}
    assert trained.keys() == {k for k in encoder.state_dict() if not k.startswith("pooler.")}
    for name, value in trained.items():
        assert torch.equal(encoder.state_dict()[name], value), name


@pytest.mark.parametrize("corpus", FAMILIES)
def test_every_task_of_bert_can_be_exported(bert, tmp_path, corpus):
    model = saved(bert, tmp_path)
    export(tmp_path, bert.run, corpus, tmp_path / "plain")
    plain, loading = AUTO_CLASSES[FAMILIES[corpus]].from_pretrained(
        tmp_path / "plain", output_loading_info=True
    )
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
        logits = batch.unpad(outputs.logits) if corpus == "ner" else outputs.logits
    torch.testing.assert_close(expected, logits, atol=1e-5, rtol=1e-5)
    if corpus in ("mnli", "ner"):
        assert plain.config.id2label == dict(enumerate(LABELS[corpus]))
    assert (plain.config.problem_type == "regression") == (corpus == "stsb")
    assert (tmp_path / "plain" / "tokenizer.json").exists()


@pytest.mark.parametrize("corpus", ["swag", "cola"])
def test_every_head_of_roberta_can_be_exported(tmp_path, corpus):
    """Its class for sequences has a pooler of its own in the head."""
    prepared = Prepared(tmp_path / "run", "roberta")
    model = saved(prepared, tmp_path / "trained")
    export(tmp_path / "trained", prepared.run, corpus, tmp_path / "plain")
    plain, loading = AUTO_CLASSES[FAMILIES[corpus]].from_pretrained(
        tmp_path / "plain", output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = prepared.batch(corpus)
    inputs = [each["input_ids"] for each in sequences_of(batch, plain.config)]
    shape = (1, 1, -1) if corpus == "swag" else (1, -1)
    logits = torch.cat([plain.eval()(ids.view(*shape)).logits for ids in inputs])
    torch.testing.assert_close(model(corpus, batch), logits, atol=1e-5, rtol=1e-5)


def test_a_head_of_another_kind_is_not_exported(tmp_path):
    prepared = Prepared(tmp_path / "run", "distilbert")
    saved(prepared, tmp_path / "trained")
    with pytest.raises(MtdnnError, match="DistilBertForSequenceClassification has another head"):
        export(tmp_path / "trained", prepared.run, "cola", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    with pytest.raises(MtdnnError, match="was not trained on 'mrpc'"):
        export(tmp_path / "trained", prepared.run, "mrpc", tmp_path / "plain")


@pytest.mark.parametrize("target", ["swag", "mnli"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "distilbert", "electra"])
def test_the_plain_model_has_the_head_of_the_target_or_says_that_it_has_none(
    tmp_path, capsys, kind, target
):
    prepared = Prepared(tmp_path / "run", kind)
    prepared.run = prepared.run.model_copy(update={"target": target})
    model = saved(prepared, tmp_path)
    again = load(tmp_path / "model", prepared.run)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    lacking = {"distilbert": ["swag", "mnli"], "electra": ["mnli"]}
    opened = target not in lacking.get(kind, [])
    auto = AUTO_CLASSES[FAMILIES[target]] if opened else AutoModel
    plain, loading = auto.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert plain.config.architectures == [type(plain).__name__]
    said = capsys.readouterr()
    message = f"no class of transformers has the head of {target}"
    assert (message in said.out + said.err) == (not opened)


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


def test_weights_that_are_not_those_that_were_trained_are_refused(bert, tmp_path):
    saved(bert, tmp_path)
    path = tmp_path / "model" / "model.safetensors"
    write_json(path.with_name("run.json"), {"files": {path.name: sha256(path)}})
    load(tmp_path / "model", bert.run)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(MtdnnError, match=r"safetensors: was .* delete run.json next to it and tr"):
        load(tmp_path / "model", bert.run)


def test_weights_of_another_mixture_are_refused(bert, tmp_path):
    saved(bert, tmp_path)
    fewer = {name: bert.run.corpora[name] for name in ("squad", "cola")}
    with pytest.raises(MtdnnError, match=r"do not fit the run's settings: .*mnli") as error:
        load(tmp_path / "model", bert.run.model_copy(update={"corpora": fewer}))
    assert "\n" not in str(error.value)
