"""Adapted encoders compute W + alpha/rank·B·A, train A and B alone, and are saved as plain ones."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForQuestionAnswering

from mtdnn.errors import MtdnnError
from mtdnn.machine.files import write_json
from mtdnn.model import lora
from mtdnn.model.multitask import build, restrict
from mtdnn.model.optimizer import optimizer_for
from mtdnn.model.plain import AUTO_CLASSES
from mtdnn.model.saving import export, load, save, start_from
from tests.support.adapted import adapted_model, with_training
from tests.support.packed import padded_inputs, sequences_of
from tests.support.tiny import FAMILIES


def matrices(model, corpus):
    """Name of each changed matrix, with its A and B."""
    found = {}
    for name, part in model.encoder.named_modules():
        if hasattr(part, "lora_A"):
            key = corpus if corpus in part.lora_A else "shared"
            found[f"{name}.weight"] = part.lora_A[key].weight, part.lora_B[key].weight
    return found


@pytest.mark.parametrize("per", ["run", "corpus"])
def test_outputs_and_gradients_are_those_of_the_changed_matrices(any_encoder, per):
    prepared = copy.copy(any_encoder)
    plain = prepared.model().train()
    model = adapted_model(prepared, rank=3, alpha=6, per=per).train()
    plain.heads.load_state_dict(model.heads.state_dict())
    plain.pooler.load_state_dict(model.pooler.state_dict())
    changed = matrices(model, "mnli")
    assert changed
    weights = dict(plain.encoder.named_parameters())
    with torch.no_grad():
        for name, (a, b) in changed.items():
            weights[name].add_(2 * b @ a)
    batch = prepared.batch("mnli")
    loss, expected = model.loss("mnli", batch), plain.loss("mnli", batch)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward(), expected.backward()
    for name, (a, b) in changed.items():
        whole = weights[name].grad
        torch.testing.assert_close(b.grad, 2 * whole @ a.T, atol=2e-5, rtol=1e-3)
        torch.testing.assert_close(a.grad, 2 * b.T @ whole, atol=2e-5, rtol=1e-3)
    named = dict(model.encoder.named_parameters())
    assert all(p.grad is None for n, p in named.items() if "lora_" not in n)
    assert all(p.grad is None for n, p in named.items() if per == "corpus" and ".squad." in n)


@pytest.mark.parametrize("per", ["run", "corpus"])
def test_new_adapters_change_nothing(bert, per):
    prepared = copy.copy(bert)
    before = prepared.model().eval()
    prepared.run = with_training(prepared.run, lora={"per": per})
    model = prepared.model()
    restrict(model, prepared.run)
    for corpus in ("squad", "mnli"):
        batch = prepared.batch(corpus)
        assert torch.equal(model.eval()(corpus, batch), before(corpus, batch))


def test_a_step_trains_the_weights_that_its_corpus_uses(bert):
    model = adapted_model(copy.copy(bert), per="corpus").train()
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimized = {
        names[p] for g in optimizer_for(model, bert.run.training).param_groups for p in g["params"]
    }
    assert optimized == {n for n in names.values() if "lora_" in n or not n.startswith("encoder.")}
    for corpus in FAMILIES:
        model.zero_grad()
        model.loss(corpus, bert.batch(corpus)).backward()
        with_gradient = {name for parameter, name in names.items() if parameter.grad is not None}
        assert with_gradient == {names[parameter] for parameter in model.trained_by(corpus)}
        assert {n for n in with_gradient if "lora_" in n and f".{corpus}." not in n} == set()


# --- files -----------------------------------------------------------------------------------


def logits_of(plain, batch):
    outputs = [plain.eval()(**inputs) for inputs in sequences_of(batch, plain.config)]
    return torch.cat([torch.stack([o.start_logits[0], o.end_logits[0]], dim=1) for o in outputs])


@pytest.mark.parametrize("per", ["run", "corpus"])
def test_a_saved_model_opens_in_plain_classes_and_predicts_every_corpus(any_encoder, tmp_path, per):
    prepared = copy.copy(any_encoder)
    model = adapted_model(prepared, rank=2, per=per).eval()
    (tmp_path / "model").mkdir()
    save(model, prepared.run, prepared.encoder, tmp_path / "model")
    plain, loading = AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = prepared.batch("squad")
    torch.testing.assert_close(model("squad", batch), logits_of(plain, batch), atol=1e-5, rtol=1e-5)
    again = load(tmp_path / "model", prepared.run).eval()
    for corpus in FAMILIES:
        batch = prepared.batch(corpus)
        if per == "corpus":
            assert torch.equal(model(corpus, batch), again(corpus, batch))
        else:
            torch.testing.assert_close(
                model(corpus, batch), again(corpus, batch), atol=1e-5, rtol=1e-5
            )
    if per == "corpus":
        different = model.encode(batch)
        lora.use(model.encoder, "cola")
        assert not torch.allclose(model.encode(batch), different, atol=1e-3)


def test_a_corpus_is_exported_with_its_own_adapters(bert, tmp_path):
    prepared = copy.copy(bert)
    model = adapted_model(prepared, per="corpus").eval()
    (tmp_path / "model").mkdir()
    save(model, prepared.run, prepared.encoder, tmp_path / "model")
    export(tmp_path, prepared.run, "mnli", tmp_path / "plain")
    plain = AUTO_CLASSES["sequence_classification"].from_pretrained(tmp_path / "plain").eval()
    batch = prepared.batch("mnli")
    found = plain(**padded_inputs(batch)).logits
    torch.testing.assert_close(model("mnli", batch), found, atol=1e-5, rtol=1e-5)


def test_another_run_starts_from_the_encoder_with_the_targets_adapters(bert, tmp_path):
    prepared = copy.copy(bert)
    model = adapted_model(prepared, per="corpus").eval()
    save(model, prepared.run, prepared.encoder, tmp_path)
    write_json(tmp_path / "run.json", {"settings": prepared.run.model_dump(mode="json")})
    fresh = build(bert.encoder, bert.run)
    start_from(fresh, tmp_path)
    batch = prepared.batch("squad")
    model("squad", batch)  # its adapters are in use now
    torch.testing.assert_close(
        fresh.eval().encode(batch), model.encode(batch), atol=1e-5, rtol=1e-5
    )


# --- settings --------------------------------------------------------------------------------


def test_all_linear_layers_of_a_name_can_be_targets(bert):
    prepared = copy.copy(bert)
    model = adapted_model(prepared, targets=["attention.output.dense", "intermediate.dense"])
    assert {name.rpartition("layer.")[2][2:] for name in matrices(model, "squad")} == {
        "attention.output.dense.weight",
        "intermediate.dense.weight",
    }


def test_unknown_layers_are_refused_in_one_line(bert):
    with pytest.raises(MtdnnError, match=r"no linear layer 'querry'; it has query, key, ") as error:
        adapted_model(copy.copy(bert), targets=["querry"])
    assert "\n" not in str(error.value)


def test_a_missing_library_is_named_in_one_line(bert, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MtdnnError, match=r"training\.lora: needs the package peft; install it"):
        adapted_model(copy.copy(bert))


def test_dropout_acts_on_the_adapters_alone(bert):
    prepared = copy.copy(bert)
    model = adapted_model(prepared, dropout=0.5).train()
    batch = prepared.batch("mnli")
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(model("mnli", batch))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    for layer in model.encoder.modules():
        if hasattr(layer, "lora_B"):
            nn.init.zeros_(layer.lora_B["shared"].weight)
    assert torch.equal(model("mnli", batch), model("mnli", batch))
