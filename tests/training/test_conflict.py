"""Gradients and dev losses measured during training: right, and without any effect on it."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForQuestionAnswering, BertForSequenceClassification

from mtdnn.config.layout import Layout
from mtdnn.config.settings import InterferenceSettings
from mtdnn.data.features import Features
from mtdnn.errors import MtdnnError
from mtdnn.model import attention
from mtdnn.model.batches import batch_of
from mtdnn.model.optimizer import optimizer_for
from mtdnn.training import conflict
from mtdnn.training.conflict import Diagnostics, compare, gradients, part_of, parts
from mtdnn.training.loop import random_state, train
from mtdnn.training.schedule import Step
from mtdnn.training.stepper import RecordedSteps
from mtdnn.training.team import Team
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.packed import padded_inputs
from tests.support.recorder import StandIn, state_of
from tests.support.tiny import make_run_folder
from tests.support.trained import lines_of

CPU = torch.device("cpu")
OFTEN = {"measurements": 4, "dev_items": 10, "max_share": 10}
OFF = {"measurements": 0, "dev_items": 0}
DROPOUT = {"head_dropout": 0.3, "encoder_dropout": 0.1}
MEASURED = ("gradients", "dev_loss")


def apart(lines):
    """Lines of a log without what was measured, and what was measured, by step."""
    plain = [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]
    return plain, {
        line["step"]: {k: line[k] for k in MEASURED if k in line}
        for line in lines
        if any(k in line for k in MEASURED)
    }


# --- no effect on training -------------------------------------------------------------------


def trained(folder, interference, batching="auto", stops=(), **settings):
    encoders = {
        "tiny": {
            "label": "Tiny",
            "source": {"kind": "hub", "repo": "no/where"},
            "batching": batching,
        }
    }
    training = {"batch_size": 8, "epochs": 2, **DROPOUT, **settings, "interference": interference}
    run_dir, run = make_run_folder(folder, rows=24, training=training, encoders=encoders)
    train_with_stops(run_dir, run, stops)
    weights, lines = outcome(run_dir)
    return weights, lines, run


@pytest.mark.parametrize(
    ("batching", "settings"),
    [
        ("packed", {}),
        ("padded", {}),
        ("packed", {"accumulation": 3, "precision": "bf16"}),
        ("packed", {"activation_checkpointing": True, "loss_weights": {"cola": 0.2}}),
    ],
    ids=["packed", "padded", "accumulated in bf16", "activations recomputed"],
)
def test_measuring_does_not_change_a_bit(tmp_path, batching, settings):
    weights, lines, run = trained(tmp_path / "on", OFTEN, batching, **settings)
    expected, others, _ = trained(tmp_path / "off", OFF, batching, **settings)
    lines, measured = apart(lines)
    assert_same((weights, lines), (expected, others))
    compared = [step for step, each in measured.items() if "gradients" in each]
    assert len(compared) == 4 and len(measured) >= 5
    for each in measured.values():
        assert set(each.get("gradients", {"norm": run.corpora})["norm"]) == set(run.corpora)
        for value in each.get("dev_loss", {}).values():
            assert math.isfinite(value)


def test_the_last_line_of_each_epoch_has_dev_losses(tmp_path):
    _, lines, run = trained(tmp_path, OFTEN)
    ends = [a["step"] for a, b in itertools.pairwise(lines) if a["epoch"] != b["epoch"]]
    ends.append(lines[-1]["step"])
    assert len(ends) == 2
    assert [line["step"] for line in lines if "dev_loss" in line] == ends
    assert all(list(lines[end]["dev_loss"]) == list(run.corpora) for end in ends)


def test_a_stopped_run_has_the_measurements_of_an_undisturbed_one(tmp_path):
    weights, lines, _ = trained(tmp_path / "whole", OFTEN)
    middle = sorted(apart(lines)[1])[1]
    for stop in (middle, middle + 1):  # before and after the line with the measurement
        again, others, _ = trained(tmp_path / str(stop), OFTEN, stops=[stop])
        assert_same((again, others), (weights, lines))


def test_a_recorded_run_has_the_same_weights_moments_and_losses(undropped, monkeypatch):
    monkeypatch.setenv("MTDNN_PLAIN", "attention, dropout, embedding, optimizer")
    monkeypatch.setattr(attention, "one_by_one", attention.side_by_side)  # as on a GPU
    results, found = [], []
    for interference in (OFF, OFTEN):
        settings = undropped.run.training.model_copy(
            update={"interference": InterferenceSettings(**interference), "learning_rate": 3e-3}
        )
        run = undropped.run.model_copy(update={"training": settings})
        model, recorder = undropped.model("packed").train(), StandIn()
        optimizer = optimizer_for(model, settings)
        stepper = recorder.stepper = RecordedSteps(model, optimizer, settings, CPU, recorder)
        corpora = [("squad", "cola", "mnli")[number % 3] for number in range(24)]
        steps = [
            Step(number, number // 12, corpus, np.arange(6))
            for number, corpus in enumerate(corpora)
        ]
        diagnostics = Diagnostics(
            undropped.layout, run, undropped.features, steps, model, Team(CPU)
        )
        losses = []
        for step in steps:
            batch = stepper.prepare(batch_of(undropped.features[step.corpus], step.rows))
            random_state(1, step.step)
            losses.append([each.item() for each in stepper.take(step.corpus, batch, 1e-3)])
            found.append(diagnostics.after(step))
        assert recorder.recordings
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(module.training for module in model.modules())
        results.append((losses, {name: value.clone() for name, value in state_of(stepper).items()}))
    (expected, before), (losses, after) = results
    assert losses == expected
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert sum("gradients" in each for each in found) == 4


def test_only_the_process_that_leads_measures(undropped):
    steps = [Step(number, 0, "squad", np.arange(6)) for number in range(40)]
    run = undropped.run
    for rank, expected in ((0, True), (1, False)):
        team = Team(CPU, rank, 2)
        settings = run.training.model_copy(update={"interference": InterferenceSettings(**OFTEN)})
        diagnostics = Diagnostics(
            undropped.layout,
            run.model_copy(update={"training": settings}),
            undropped.features,
            steps,
            undropped.model(),
            team,
        )
        assert any(diagnostics.after(step) for step in steps) is expected


def test_too_small_a_memory_ends_measuring_and_not_training(undropped, monkeypatch, capsys):
    steps = [Step(number, 0, "squad", np.arange(6)) for number in range(40)]
    settings = undropped.run.training.model_copy(
        update={"interference": InterferenceSettings(**OFTEN)}
    )
    run = undropped.run.model_copy(update={"training": settings})
    model = undropped.model().train()
    diagnostics = Diagnostics(undropped.layout, run, undropped.features, steps, model, Team(CPU))

    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(conflict, "gradients", full)
    assert not any(diagnostics.after(step) for step in steps)
    assert capsys.readouterr().out.count("memory is too small") == 1
    assert all(module.training for module in model.modules())


# --- right cosines ---------------------------------------------------------------------------


def reference(prepared, batches):
    """Gradients by plain Hugging Face models in double precision, by name of the weight."""
    found = {}
    state = {n: v.double() for n, v in prepared.model().state_dict().items()}
    for corpus, batch in batches.items():
        head = prepared.run.corpora[corpus]
        model_class, outputs = BertForQuestionAnswering, "qa_outputs"
        if head.family == "sequence_classification":
            model_class, outputs = BertForSequenceClassification, "classifier"
        labels = {"num_labels": max(2, len(head.labels))}
        model = model_class.from_pretrained(prepared.encoder, **labels).double().eval()
        own = {f"bert.{n[8:]}": v for n, v in state.items() if n.startswith("encoder.")}
        own |= {f"bert.{n}": v for n, v in state.items() if n.startswith("pooler.")}
        own |= {f"{outputs}.{k}": state[f"heads.{corpus}.linear.{k}"] for k in ("weight", "bias")}
        model.load_state_dict({n: v for n, v in own.items() if n in model.state_dict()})
        inputs = padded_inputs(batch)
        if outputs == "qa_outputs":
            result = model(**inputs)
            hidden = ~inputs["attention_mask"].bool()
            pair = zip((result.start_logits, result.end_logits), ("start", "end"), strict=True)
            losses = [
                nn.functional.cross_entropy(
                    logits.masked_fill(hidden, -math.inf), batch.targets[name]
                )
                for logits, name in pair
            ]
            loss = (losses[0] + losses[1]) / 2
        else:
            loss = model(**inputs, labels=batch.targets["label"]).loss
        named = {n: p for n, p in model.bert.named_parameters() if not n.startswith("pooler.")}
        each = torch.autograd.grad(loss, list(named.values()))
        found[corpus] = dict(zip(named, each, strict=True))
    return found


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_cosines_equal_those_of_plain_models_in_double_precision(undropped, batching):
    names = ("squad", "cola", "mnli")
    batches = {name: undropped.batch(name) for name in names}
    expected = reference(undropped, batches)
    model, settings = undropped.model(batching).eval(), undropped.run.training
    found = {name: gradients(model, name, [batch], settings) for name, batch in batches.items()}
    measured = compare(found, parts(model))
    groups = {"encoder": lambda _: True, "embeddings": lambda n: n.startswith("embeddings.")}
    for layer in range(2):
        groups[f"layer {layer + 1}"] = lambda n, at=f"encoder.layer.{layer}.": n.startswith(at)
    assert set(measured["cosine"]) == set(groups)
    for part, belongs in groups.items():
        flat = {
            name: torch.cat([g.flatten() for n, g in each.items() if belongs(n)])
            for name, each in expected.items()
        }
        for a, b in itertools.combinations(names, 2):
            cosine = nn.functional.cosine_similarity(flat[a], flat[b], dim=0).item()
            assert measured["cosine"][part][f"{a}/{b}"] == pytest.approx(cosine, abs=1e-6)
        if part == "encoder":
            norms = {name: value.norm().item() for name, value in flat.items()}
            assert measured["norm"] == pytest.approx(norms, rel=1e-5)


def test_parts_of_batches_and_several_batches_give_the_gradient_of_all_items(undropped):
    model, settings = undropped.model().eval(), undropped.run.training
    for corpus in undropped.features:
        whole = gradients(model, corpus, [undropped.batch(corpus, range(12))], settings)
        cut = gradients(model, corpus, [undropped.batch(corpus, range(12))], settings, 5)
        torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-4)
    halves = [undropped.batch("cola", range(6)), undropped.batch("cola", range(6, 12))]
    two = gradients(model, "cola", halves, settings)
    torch.testing.assert_close(
        two,
        gradients(model, "cola", [undropped.batch("cola", range(12))], settings),
        atol=1e-5,
        rtol=1e-4,
    )


def test_the_same_batch_agrees_and_contradicting_labels_conflict(undropped):
    model, settings = undropped.model().eval(), undropped.run.training
    batch = undropped.batch("cola")
    same = gradients(model, "cola", [batch], settings)
    assert compare({"a": same, "b": same}, parts(model))["cosine"]["encoder"]["a/b"] == 1
    opposite = undropped.batch("cola")
    opposite.targets["label"].copy_(1 - opposite.targets["label"])
    other = gradients(model, "cola", [opposite], settings)
    measured = compare({"a": same, "b": other}, parts(model))
    assert measured["cosine"]["encoder"]["a/b"] < -0.5
    scaled = compare({"a": same, "b": [7 * each for each in other]}, parts(model))
    assert scaled["cosine"]["encoder"] == pytest.approx(measured["cosine"]["encoder"])


def test_frozen_weights_are_left_out_and_a_zero_gradient_has_no_cosine(undropped):
    model, settings = undropped.model().eval(), undropped.run.training
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_("layer.1." in name)
    found = gradients(model, "cola", [undropped.batch("cola")], settings)
    measured = compare({"a": found, "b": [0 * each for each in found]}, parts(model))
    assert measured["cosine"] == {"encoder": {"a/b": None}, "layer 2": {"a/b": None}}
    assert measured["norm"]["b"] == 0 < measured["norm"]["a"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("embeddings.word_embeddings.weight", "embeddings"),
        ("encoder.layer.11.output.dense.weight", "layer 12"),
        ("transformer.layer.0.ffn.lin1.weight", "layer 1"),
        ("layers.3.attn.Wqkv.weight", "layer 4"),
        ("encoder.albert_layer_groups.0.albert_layers.0.ffn.weight", "layer 1"),
        ("encoder.embedding_hidden_mapping_in.weight", "embeddings"),
        ("base_model.model.encoder.layer.2.attention.self.query.lora_A.default.weight", "layer 3"),
        ("final_norm.weight", "other"),
    ],
)
def test_weights_belong_to_parts_of_the_encoder(name, part):
    assert part_of(name) == part


def test_dev_losses_are_those_of_the_items(undropped):
    model, settings = undropped.model().eval(), undropped.run.training
    for corpus, family in ((n, c.family) for n, c in undropped.run.corpora.items()):
        layout = Layout.of_run(undropped.run_dir)
        features = Features(layout.features("tiny", "default", corpus) / "dev.arrow", family)
        items = np.arange(len(features))
        with torch.no_grad():
            expected = model.loss(corpus, batch_of(features, items)).item()
        found = conflict.mean_loss(model, corpus, features, items, settings)
        assert found == pytest.approx(expected, rel=1e-5)


# --- what it costs ---------------------------------------------------------------------------


def test_the_cost_is_said_before_training(tmp_path, capsys):
    trained(tmp_path, OFTEN)
    said = capsys.readouterr().out
    found = re.search(
        r"compares the gradients of 4 corpora 4 times and measures the loss of 10 dev items per "
        r"corpus after each epoch: about ([\d.]+) % of the training time",
        said,
    )
    assert float(found[1]) > 0


def test_joint_steps_are_measured_once_each(undropped, capsys):
    names = ("squad", "cola", "mnli")
    steps = [Step(number, 0, name, np.arange(6)) for number in range(3) for name in names]
    often = InterferenceSettings(measurements=8, dev_items=0, max_share=100)
    settings = undropped.run.training.model_copy(update={"interference": often})
    run = undropped.run.model_copy(update={"training": settings})
    given = (undropped.layout, run, undropped.features, steps, undropped.model(), Team(CPU))
    diagnostics = Diagnostics(*given)
    measured = [bool(diagnostics.after(step)) for step in steps[:: len(names)]]
    assert measured == [True] * 3
    assert "corpora 3 times: " in capsys.readouterr().out


def test_settings_of_measuring_do_not_identify_a_model(tmp_path):
    run_dir, run = make_run_folder(tmp_path, rows=12, training={"epochs": 1, "batch_size": 8})
    train(run_dir, run, threads=1)
    settings = run.training.model_copy(update={"interference": InterferenceSettings(**OFTEN)})
    changed = run.model_copy(update={"training": settings})
    assert changed.determining() == run.determining()
    before = json.dumps(lines_of(run_dir))
    train(run_dir, changed, threads=1)  # up to date
    assert json.dumps(lines_of(run_dir)) == before


def test_damaged_dev_features_are_refused_only_if_they_are_measured(tmp_path):
    training = {"epochs": 1, "batch_size": 8}
    run_dir, run = make_run_folder(tmp_path, rows=12, training=training)
    features = Layout.of_run(run_dir).features("tiny", "default", run.target) / "dev.arrow"
    content = bytearray(features.read_bytes())
    content[len(content) // 2] ^= 1
    features.write_bytes(content)
    with pytest.raises(MtdnnError, match=r"dev\.arrow: was cut off or changed"):
        train(run_dir, run, threads=1)
    off = InterferenceSettings(measurements=0, dev_items=0)
    training = run.training.model_copy(update={"interference": off})
    train(run_dir, run.model_copy(update={"training": training}), threads=1)
