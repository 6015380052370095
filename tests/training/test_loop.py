"""Training of tiny models, from files to files."""

import itertools
import json
import math
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mtdnn.config.layout import Layout
from mtdnn.data.features import training_features
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import predictions as evaluation
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.optimizer import learning_rate, optimizer_for
from mtdnn.training import schedule
from mtdnn.training.fingerprint import Fingerprint
from mtdnn.training.loop import random_state, train
from mtdnn.training.stepper import Stepper, parts_of, precision
from tests.support.packed import Prepared
from tests.support.tiny import FAMILIES, make_run_folder

CPU = torch.device("cpu")
LEARNABLE = {"batch_size": 8, "epochs": 4, "learning_rate": 0.02, "head_dropout": 0.1}


def schedule_of(run_dir, run):
    features = training_features(Layout.of_run(run_dir), run)
    return schedule.read(run_dir, {name: len(some) for name, some in features.items()})


def lines_of(run_dir):
    return [json.loads(line) for line in (run_dir / "training.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of all four corpora, trained to the end."""
    run_dir, run = make_run_folder(
        tmp_path_factory.mktemp("trained"),
        qa_weight=0.25,
        rows=120,
        encoder={"num_hidden_layers": 1},
        training=LEARNABLE,
    )
    train(run_dir, run, threads=1)
    return run_dir, run


def test_every_corpus_is_learnt(trained):
    lines = lines_of(trained[0])
    for corpus in FAMILIES:
        losses = [line["loss"] for line in lines if line["corpus"] == corpus]
        assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:3]), corpus


def test_answers_and_labels_are_learnt(trained):
    run_dir, run = trained
    evaluation.evaluate(run_dir, run, threads=1)
    predictions = pq.read_table(run_dir / "predictions.parquet").to_pylist()
    questions = pq.read_table(Layout.of_run(run_dir).corpus("squad") / "dev.parquet").to_pylist()
    assert [p["id"] for p in predictions] == [q["id"] for q in questions]
    right = [
        (p["answer"] if p["null_odds"] <= 0 else "") == "".join(q["answer_texts"][:1])
        for p, q in zip(predictions, questions, strict=True)
    ]
    assert np.mean(right) > 0.8
    labels = pq.read_table(run_dir / "auxiliary.parquet").to_pandas()
    for corpus, rows in labels.groupby("corpus"):
        assert (rows["label"] == rows["prediction"]).mean() > 0.8, corpus
    assert set(labels["corpus"]) == {"swag", "cola", "mnli"}


def test_the_log_has_a_line_for_each_step_of_the_schedule(trained):
    run_dir, run = trained
    steps, lines = schedule_of(run_dir, run), lines_of(run_dir)
    keys = ["step", "epoch", "corpus", "loss", "lr", "grad_norm", "tokens", "seconds"]
    assert all(list(line) == keys for line in lines)
    assert [(s.step, s.epoch, s.corpus) for s in steps] == [
        (line["step"], line["epoch"], line["corpus"]) for line in lines
    ]
    rates = [learning_rate(step, len(steps), run.training) for step in range(len(steps))]
    assert [line["lr"] for line in lines] == rates
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)


def test_the_model_says_what_made_it(trained):
    run_dir, _ = trained
    about = json.loads((run_dir / "model" / "run.json").read_text())
    lines = lines_of(run_dir)
    provenance = about["provenance"]
    assert provenance["steps"] == len(lines)
    assert provenance["tokens"] == sum(line["tokens"] for line in lines)
    assert (provenance["threads"], provenance["precision"]) == (1, "fp32")
    assert re.fullmatch("[0-9a-f]{32}", about["fingerprint"])
    assert set(about["corpora"]) == set(FAMILIES)
    names = {"config.json", "model.safetensors", "heads.safetensors", "tokenizer.json", "run.json"}
    assert names <= {path.name for path in (run_dir / "model").iterdir()}


def test_the_fingerprint_moves_with_what_determines_the_model(trained):
    run_dir, run = trained
    layout = Layout.of_run(run_dir)
    first = Fingerprint.of(layout, run).digest

    def changed(**parts):
        return Fingerprint.of(layout, run.model_copy(update=parts)).digest

    assert changed(notice="shown", mixture_label="other") == first
    assert changed(decoding=run.decoding.model_copy(update={"n_best": 3})) == first
    assert changed(seed=2) != first
    assert changed(training=run.training.model_copy(update={"warmup": 0.2})) != first


def tiny_run(folder, **settings):
    return make_run_folder(folder, rows=24, training={"batch_size": 8, **settings})


def weights_of(run_dir):
    files = ("model.safetensors", "heads.safetensors")
    return {k: v for f in files for k, v in load_file(run_dir / "model" / f).items()}


def test_the_same_run_twice_gives_the_same_weights_to_the_bit(tmp_path):
    results = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        run_dir, run = tiny_run(folder)
        torch.manual_seed(len(results))  # whatever happened before
        train(run_dir, run, threads=1)
        lines = [{**line, "seconds": 0} for line in lines_of(run_dir)]
        results.append((lines, weights_of(run_dir)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][name], value) for name, value in results[1][1].items())


@pytest.mark.parametrize(
    "kind", ["electra", "distilbert", "roberta", "mpnet", "deberta-v2", "albert"]
)
def test_other_encoders_train_and_answer(tmp_path, kind):
    run_dir, run = make_run_folder(
        tmp_path, rows=12, kind=kind, training={"epochs": 1, "batch_size": 8}
    )
    train(run_dir, run, threads=1)
    evaluation.evaluate(run_dir, run, threads=1)
    assert len(pq.read_table(run_dir / "predictions.parquet")) == 12
    assert len(pq.read_table(run_dir / "auxiliary.parquet")) == 36


def test_bf16_is_near_fp32_and_keeps_weights_in_fp32(tmp_path):
    prepared = Prepared(tmp_path)
    half = prepared.run.training.model_copy(update={"precision": "bf16"})
    model = prepared.model().train()
    for corpus in FAMILIES:
        nn.init.normal_(model.heads[corpus].linear.weight, std=0.2)
        batch = prepared.batch(corpus)
        full = model.loss(corpus, batch)
        with precision(half, CPU):
            loss, logits = model.loss(corpus, batch), model(corpus, batch)
        loss.backward()
        assert not torch.equal(logits, logits.bfloat16().float())  # rounded ones would tie
        assert loss.dtype == torch.float32 and loss.item() != full.item()
        assert loss.item() == pytest.approx(full.item(), rel=0.05)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


# --- a step ----------------------------------------------------------------------------------


class Recorded:
    """An optimiser that only notes the gradients that it is given, scaled as it is told."""

    def __init__(self, model):
        self.model, self.param_groups, self.gradients = model, [{"lr": None}], {}

    def zero_grad(self, set_to_none):
        self.model.zero_grad(set_to_none=set_to_none)

    def step(self, scale):
        named = self.model.named_parameters()
        self.gradients = {n: p.grad.to_dense() * scale for n, p in named if p.grad is not None}


@pytest.mark.parametrize("corpus", FAMILIES)
@pytest.mark.parametrize("accumulation", [2, 3, 7, 50])
def test_accumulation_gives_the_gradients_of_one_batch(tmp_path, corpus, accumulation):
    prepared = Prepared(tmp_path)
    model, batch = prepared.model().train(), prepared.batch(corpus, range(7))
    recorded, results = Recorded(model), []
    for parts in (1, accumulation):
        settings = prepared.run.training.model_copy(
            update={"accumulation": parts, "clip_norm": 1e9}
        )
        loss, norm = Stepper(model, recorded, settings, CPU).take(corpus, batch, 0.5)
        results.append((loss, norm, recorded.gradients))
    torch.testing.assert_close(results[1], results[0], atol=1e-6, rtol=1e-4)
    assert recorded.param_groups[0]["lr"] == 0.5
    shares = [share for _, share in parts_of(batch, accumulation)]
    assert len(shares) == min(accumulation, 7) and sum(shares) == pytest.approx(1)
    assert sum(part.tokens for part, _ in parts_of(batch, accumulation)) == batch.tokens


def test_clipping_is_global(tmp_path):
    prepared = Prepared(tmp_path)
    model, batch = prepared.model().train(), prepared.batch("swag")
    recorded, results = Recorded(model), []
    for largest in (1e9, 0.01):
        settings = prepared.run.training.model_copy(update={"clip_norm": largest})
        _, norm = Stepper(model, recorded, settings, CPU).take("swag", batch, 0.1)
        results.append((norm.item(), recorded.gradients))
    (norm, whole), (same_norm, clipped) = results
    squares = sum(gradient.double().square().sum() for gradient in whole.values())
    assert norm == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert same_norm == pytest.approx(norm)  # the norm before clipping is what is logged
    for name, gradient in clipped.items():
        torch.testing.assert_close(gradient, whole[name] * 0.01 / norm, rtol=1e-3, atol=1e-9)


def test_a_step_touches_the_encoder_and_its_own_head_only(tmp_path):
    prepared = Prepared(tmp_path)
    model = prepared.model().train()
    optimizer = optimizer_for(model, prepared.run.training)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = prepared.batch("squad")
    Stepper(model, optimizer, prepared.run.training, CPU).take("squad", batch, 1e-3)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {name.split(".")[0] for name in moved} == {"encoder", "heads"}
    assert {name for name in moved if name.startswith("heads")} == {
        "heads.squad.linear.weight",
        "heads.squad.linear.bias",
    }


def test_random_states_differ_by_seed_step_and_process():
    def drawn(seed, step, rank=0):
        random_state(seed, step, rank)
        return torch.rand(1).item()

    seeds, steps, ranks = (0, 1, 11, 2**32 - 1), (0, 1, 11, 10**6), (0, 1, 11)
    states = list(itertools.product(seeds, steps, ranks))
    assert len({drawn(*state) for state in states}) == len(states)
    assert drawn(1, 11) == drawn(1, 11)


def test_each_step_of_training_has_its_own_random_state(tmp_path, monkeypatch):
    run_dir, run = tiny_run(tmp_path, epochs=1)
    calls = []
    monkeypatch.setattr("mtdnn.training.loop.random_state", lambda *state: calls.append(state))
    train(run_dir, run, threads=1)
    assert calls == [(run.seed, line["step"], 0) for line in lines_of(run_dir)]


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("corpus", ["cola", "squad"])
def test_a_loss_that_is_not_finite_ends_training_in_one_line(tmp_path, monkeypatch, corpus):
    run_dir, run = tiny_run(tmp_path)
    first = next(step.step for step in schedule_of(run_dir, run) if step.corpus == corpus)
    whole = MultiTaskModel.loss

    def broken(self, name, batch):
        return whole(self, name, batch) * (math.nan if name == corpus else 1)

    monkeypatch.setattr(MultiTaskModel, "loss", broken)
    with pytest.raises(MtdnnError, match=rf"step {first} \({corpus}\): loss nan") as error:
        train(run_dir, run, threads=1)
    assert "\n" not in str(error.value)
    assert not (run_dir / "model").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("features/tiny/default/cola/train.arrow", "train.arrow: no such file; `mtdnn features`"),
        ("encoders/tiny/config.json", "no usable config.json"),
        ("encoders/tiny/manifest.json", "manifest.json: no such file"),
    ],
)
def test_missing_inputs_are_named_in_one_line(tmp_path, missing, message):
    run_dir, run = tiny_run(tmp_path)
    (Layout.of_run(run_dir).root / missing).unlink()
    with pytest.raises(MtdnnError, match=message) as error:
        train(run_dir, run, threads=1)
    assert "\n" not in str(error.value)


def test_a_schedule_that_is_not_there_is_drawn(tmp_path):
    run_dir, run = tiny_run(tmp_path)
    drawn = (run_dir / "schedule.parquet").read_bytes()
    (run_dir / "schedule.parquet").unlink()
    train(run_dir, run, threads=1)
    assert (run_dir / "schedule.parquet").read_bytes() == drawn


def test_a_schedule_of_other_features_is_refused(tmp_path):
    run_dir, run = tiny_run(tmp_path / "small")
    large, _ = make_run_folder(tmp_path / "large", rows=60, training={"batch_size": 8})
    shutil.copy(large / "schedule.parquet", run_dir / "schedule.parquet")
    with pytest.raises(MtdnnError, match=r"schedule\.parquet: .*draw it again") as error:
        train(run_dir, run, threads=1)
    assert "\n" not in str(error.value)


def test_sequences_longer_than_the_encoder_knows_are_refused(tmp_path):
    with pytest.raises(MtdnnError, match=r"max_length: 40 is more than the 32 positions") as error:
        make_run_folder(tmp_path, encoder={"max_position_embeddings": 32})
    assert "\n" not in str(error.value)
