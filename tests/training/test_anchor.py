"""The pull towards an anchor: its formula, when it is set, and that nothing else changes."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from mtdnn.config.layout import Layout, RunFolder
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data.features import Features, training_features
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import write_text
from mtdnn.model import attention
from mtdnn.model.batches import batch_of
from mtdnn.model.freezing import freeze
from mtdnn.model.multitask import build
from mtdnn.model.optimizer import optimizer_for
from mtdnn.model.saving import load
from mtdnn.training.anchor import Pull, anchor_record, pull_for, trained_weights
from mtdnn.training.anchoring import due
from mtdnn.training.fisher import fisher_information
from mtdnn.training.loop import random_state, train
from mtdnn.training.stepper import RecordedSteps, Stepper
from mtdnn.training.team import Team
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.recorder import StandIn, state_of
from tests.support.tiny import make_run_folder, make_tiny_experiment
from tests.support.trained import lines_of, schedule_of

CPU = torch.device("cpu")
STRENGTH = 0.7
ONE_LAYER = {"num_hidden_layers": 1}
WITH_DROPOUT = {"batch_size": 8, "head_dropout": 0.3, "encoder_dropout": 0.1}
FAST = {"learning_rate": 3e-3}
PHASES = [
    {"corpora": ["cola"], "policy": "uniform", "steps": 4},
    {"policy": "uniform", "steps": 5},
    {"corpora": ["squad"], "epochs": 1, "restart": True},
]
BOUNDARIES = (4, 9)
UNIFORM = {"to": "phase_start", "strength": 0.5}
FISHER = {"to": "phase_start", "strength": 50, "by": "true_fisher", "corpus": "cola", "items": 12}


def make(folder, anchor=None, phases=PHASES, rows=20, encoder=ONE_LAYER, **training):
    row = {"encoder": "tiny", "mixture": "squad_cola"}
    return make_run_folder(
        folder,
        "squad_cola",
        1.0,
        rows=rows,
        encoder=encoder,
        tables={"t": {"title": "t", "rows": [row]}},
        schedule={"phases": phases},
        training={**WITH_DROPOUT, **FAST, **({"anchor": anchor} if anchor else {}), **training},
    )


def drawn_like(weights, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(weight.shape, generator=generator) for weight in weights]


def moved(model, seed=2):
    """Move every weight of a model away from where it is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)


# --- the formula -----------------------------------------------------------------------------


@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("by", ["uniform", "fisher"])
def test_penalty_and_gradient_equal_autograd_of_the_formula(undropped, by, batching):
    model = undropped.model(batching).train()
    pull = Pull(model, optimizer_for(model, undropped.run.training), STRENGTH)
    weights = trained_weights(model)
    anchors = [weight.detach().double() for weight in weights]
    fisher = drawn_like(weights) if by == "fisher" else None
    pull.hold(fisher)
    moved(model)
    model.loss("mnli", undropped.batch("mnli")).backward()
    words = model.encoder.get_input_embeddings().weight
    assert words.grad.is_sparse  # which the pull is not
    before = {
        n: p.grad.to_dense().clone() for n, p in model.named_parameters() if p.grad is not None
    }
    pull.apply()

    copies = [weight.detach().double().requires_grad_() for weight in weights]
    terms = [(copy - anchor).square() for copy, anchor in zip(copies, anchors, strict=True)]
    terms = [f * t for f, t in zip(fisher, terms, strict=True)] if fisher else terms
    penalty = STRENGTH / 2 * sum(term.sum() for term in terms)
    penalty.backward()
    torch.testing.assert_close(
        pull.measured()["penalty"].double(), penalty.detach(), rtol=1e-6, atol=0
    )
    expected = dict(zip(map(id, weights), copies, strict=True))
    for name, weight in model.named_parameters():
        if id(weight) in expected:
            added = expected[id(weight)].grad
            assert added.abs().max() > 0
            exact = before[name].double() + added
            torch.testing.assert_close(weight.grad.double(), exact, rtol=1e-6, atol=1e-7)
        elif name in before:  # pooler and head
            assert torch.equal(weight.grad, before[name])
        else:
            assert weight.grad is None


def test_parts_of_a_batch_do_not_multiply_the_pull(undropped):
    norms = []
    for parts in (1, 3):
        settings = undropped.run.training.model_copy(update={"accumulation": parts})
        model = undropped.model().train()
        stepper = Stepper(model, optimizer_for(model, settings), settings, CPU)
        stepper.pull = Pull(model, stepper.optimizer, 100.0)
        stepper.pull.hold()
        moved(model)
        norms.append(stepper.take("cola", undropped.batch("cola"), 1e-3)[1])
    torch.testing.assert_close(*norms, rtol=1e-5, atol=0)


def test_a_new_anchor_takes_the_memory_of_the_old_one(undropped):
    model = undropped.model().train()
    optimizer = optimizer_for(model, undropped.run.training)
    pull = Pull(model, optimizer, STRENGTH)
    assert not pull.active and pull.measured() == {} and anchor_record(model, optimizer) == {}
    pull.hold(drawn_like(trained_weights(model)))
    assert pull.active
    states = [optimizer.state[weight] for weight in trained_weights(model)]
    places = [state[kind].data_ptr() for state in states for kind in ("anchor", "fisher")]
    first = anchor_record(model, optimizer)
    moved(model)
    fisher = drawn_like(trained_weights(model), seed=3)
    pull.hold(fisher)
    assert places == [state[kind].data_ptr() for state in states for kind in ("anchor", "fisher")]
    second = anchor_record(model, optimizer)
    assert first["anchor"] != second["anchor"] and first["fisher"] != second["fisher"]
    every = torch.cat([value.flatten() for value in fisher])
    assert second["fisher"]["mean"] == pytest.approx(every.mean().item())
    assert second["fisher"]["largest"] == every.max().item()


# --- recorded steps --------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "path"), [("uniform", ""), ("fisher", ""), ("fisher", "shadows")])
def test_recorded_steps_with_a_changing_anchor_equal_unrecorded_ones(
    undropped, monkeypatch, by, path
):
    """In every bit; the anchor is set for the first time and again after steps were recorded."""
    monkeypatch.setenv("MTDNN_TRIAL", path)
    monkeypatch.setenv("MTDNN_PLAIN", "attention, dropout, embedding, optimizer")
    monkeypatch.setattr(attention, "one_by_one", attention.side_by_side)
    outcomes = []
    for recorded in (True, False):
        model, settings = undropped.model("packed").train(), undropped.run.training
        settings = settings.model_copy(update={"precision": "bf16" if path else "fp32"})
        optimizer, recorder = optimizer_for(model, settings), StandIn()
        stepper = recorder.stepper = RecordedSteps(model, optimizer, settings, CPU, recorder)
        if not recorded:
            stepper._recorder = None
        stepper.pull = Pull(model, optimizer, 3.0)
        measured = []
        for step in range(24):
            if step in (8, 16):
                weights = trained_weights(model)
                stepper.pull.hold(drawn_like(weights, step) if by == "fisher" else None)
            corpus = ("squad", "cola")[step % 2]
            batch = stepper.prepare(undropped.batch(corpus, (np.arange(6) + step) % 12))
            random_state(1, step)
            loss, norm = stepper.take(corpus, batch, 1e-2)
            penalty = stepper.pull.measured().get("penalty", torch.zeros(()))
            measured.append((loss.item(), norm.item(), penalty.item()))
        assert bool(recorder.recordings) == recorded
        outcomes.append((measured, state_of(stepper)))
    (measured, state), (expected, plain) = outcomes
    assert measured == expected
    assert all(torch.equal(value, plain[name]) for name, value in state.items())
    penalties = [penalty for _, _, penalty in measured]
    assert penalties[:9] == [0] * 9 and min(penalties[9:16]) > 0 and penalties[16] == 0


# --- whole runs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    run_dir, run = make(tmp_path_factory.mktemp("plain"))
    train(run_dir, run, threads=1)
    return run_dir, run


@pytest.fixture(scope="module", params=["uniform", "fisher"])
def anchored(tmp_path_factory, request):
    anchor = {"uniform": UNIFORM, "fisher": FISHER}[request.param]
    run_dir, run = make(tmp_path_factory.mktemp(request.param), anchor)
    train(run_dir, run, threads=1)
    return anchor, run_dir


def test_without_strength_a_run_is_a_plain_one_in_every_bit(tmp_path, plain):
    run_dir, run = make(tmp_path, {**FISHER, "strength": 0})
    assert pull_for(None, None, run.training) is None
    train(run_dir, run, threads=1)
    assert_same(outcome(run_dir), outcome(plain[0]))


def test_the_log_has_loss_and_penalty_apart_and_the_record_has_digests(anchored, plain):
    anchor, run_dir = anchored
    lines, others = lines_of(run_dir), lines_of(plain[0])
    assert [line["loss"] for line in lines[:5]] == [line["loss"] for line in others[:5]]
    assert lines[-1]["loss"] != others[-1]["loss"]
    assert all("penalty" not in line for line in lines[:4])
    assert lines[4]["penalty"] == lines[9]["penalty"] == 0  # at the anchor
    assert all(line["penalty"] > 0 for line in lines[5:9] + lines[10:])
    record = json.loads(RunFolder(run_dir).description.read_text())["provenance"]
    assert len(record["anchor"]["sha256"]) == 64
    assert ("fisher" in record) == ("corpus" in anchor)
    if "corpus" in anchor:
        assert 0 < record["fisher"]["mean"] < record["fisher"]["largest"]
    assert "anchor" not in json.loads(RunFolder(plain[0]).description.read_text())["provenance"]


@pytest.mark.parametrize("moments", [(2, 6), BOUNDARIES, (3, 4, 5, 9, 10)], ids=str)
def test_a_run_stopped_anywhere_ends_like_an_undisturbed_one(tmp_path, anchored, moments):
    anchor, undisturbed = anchored
    run_dir, run = make(tmp_path, anchor)
    train_with_stops(run_dir, run, moments)
    assert_same(outcome(run_dir), outcome(undisturbed))


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_it_resumes_with_the_other_optimizers_too(tmp_path, optimizer):
    results = []
    for moments in ([], [6]):
        run_dir, run = make(tmp_path / str(len(moments)), FISHER, optimizer=optimizer)
        train_with_stops(run_dir, run, moments)
        results.append(outcome(run_dir))
    assert_same(*results)


def test_a_strong_pull_keeps_weights_near_the_pretrained_ones(tmp_path):
    distances, phases = [], [{"policy": "uniform", "steps": 40}]
    for strength in (0, 1e4):
        anchor = {"to": "pretrained", "strength": strength}
        run_dir, run = make(tmp_path / str(strength), anchor, phases, weight_decay=0)
        train(run_dir, run, threads=1)
        start = build(Layout.of_run(run_dir).encoder("tiny"), run).encoder.state_dict()
        ends = load(RunFolder(run_dir).model, run).encoder.state_dict()
        squares = [(ends[name] - value).square().sum() for name, value in start.items()]
        distances.append(float(sum(squares)) ** 0.5)
    assert 0 < distances[1] < 0.2 * distances[0]


@pytest.mark.slow
def test_elastic_weights_forget_less_of_the_first_phase(tmp_path):
    """Sentences first, then questions, with the same encoder; over seeds, with intervals."""
    phases = [{"corpora": ["cola"], "epochs": 6}, {"corpora": ["squad"], "epochs": 4}]
    phases[1]["restart"] = True
    arms = {"none": 0.0, "true_fisher": 1e3, "empirical_fisher": 1e3}
    losses = {name: [] for name in arms}
    for seed in range(1, 6):
        for name, strength in arms.items():
            by = "true_fisher" if name == "none" else name
            anchor = {**FISHER, "by": by, "strength": strength, "items": 40}
            training = {"head_dropout": 0, "encoder_dropout": 0}
            run_dir, run = make(
                tmp_path / f"{seed}-{name}", anchor, phases, rows=60, encoder={}, **training
            )
            run = run.model_copy(update={"seed": seed})
            train(run_dir, run, threads=1)
            losses[name].append(dev_loss(run_dir, run, "cola"))
    for name in ("true_fisher", "empirical_fisher"):
        saved = np.subtract(losses["none"], losses[name])
        assert stats.ttest_1samp(saved, 0).confidence_interval(0.95).low > 0, losses


def dev_loss(run_dir, run, corpus):
    model = load(RunFolder(run_dir).model, run).eval()
    path = Layout.of_run(run_dir).features("tiny", "default", corpus) / "dev.arrow"
    features = Features(path, run.corpora[corpus].family)
    with torch.no_grad():
        return model.loss(corpus, batch_of(features, np.arange(len(features)))).item()


# --- when the anchor is set ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anchor", "expected"),
    [
        ({"to": "pretrained", "strength": 1}, {0}),
        (UNIFORM, {4, 9}),
        (FISHER, {4, 9}),
        ({**FISHER, "corpus": "squad"}, {9}),
        (None, set()),
    ],
    ids=str,
)
def test_the_anchor_is_set_at_starts_of_phases(tmp_path, anchor, expected):
    run_dir, run = make(tmp_path, anchor)
    assert due(run, schedule_of(run_dir)) == expected


def start_and_hold(folder, first=None, **held):
    """Train a run on sentences, and one that is held at its encoder; return folders and settings.

    Args:
        folder: an empty folder.
        first: settings of training of the first run.
        held: further settings of training of the second run.
    """
    make_run_folder(folder, "squad_mnli", 0.5, rows=20, encoder=ONE_LAYER, training=WITH_DROPOUT)
    anchor = {"to": "starting_run", "strength": 10, "by": "true_fisher", "corpus": "mnli"}
    start = {"mixture": "mnli", "variant": "first"}
    held |= {"start_from": start, "anchor": {**anchor, "items": 8}}
    row = {"encoder": "tiny", "mixture": "squad", "variant": "held"}
    variants = {"first": {"training": first or {"epochs": 1}}, "held": {"training": held}}
    experiment = make_tiny_experiment(
        folder,
        mixtures={name: {"label": name, "corpora": [name]} for name in ("squad", "mnli")},
        training=WITH_DROPOUT,
        variants=variants,
        tables={"t": {"title": "t", "rows": [row]}},
    )
    runs = [(experiment.layout.run(each), experiment.resolve(each)) for each in experiment.runs()]
    for run_dir, run in runs:
        write_text(run_dir / "config.yaml", dump_yaml(run))
        train(run_dir, run, threads=1)
    return runs


@pytest.mark.parametrize(
    ("first", "held"),
    [
        ({}, {}),
        ({}, {"frozen_layers": 0}),
        ({"lora": {"rank": 2, "per": "run"}}, {}),
        ({"lora": {"rank": 2, "per": "corpus"}}, {}),
    ],
    ids=str,
)
def test_a_run_is_pulled_to_the_encoder_it_starts_with(tmp_path, first, held):
    """By the Fisher information, on what that encoder was trained on, of the weights it trains."""
    (started, settings), (run_dir, run) = start_and_hold(tmp_path, first, **held)
    start = load(RunFolder(started).model, settings)
    start.encoder, start.pooler = start.network("mnli")
    start.adapters = []
    if "frozen_layers" in held:
        freeze(start.encoder, held["frozen_layers"])
    features = training_features(Layout.of_run(started), settings)["mnli"]
    name = f"{run.seed}/0"
    fisher = fisher_information(start, "mnli", features, run.training, Team(CPU), name)
    optimizer = optimizer_for(start, run.training)
    Pull(start, optimizer, 1.0).hold(fisher)
    record = json.loads(RunFolder(run_dir).description.read_text())["provenance"]
    expected = anchor_record(start, optimizer)
    assert {key: record[key] for key in expected} == expected
    assert record["fisher"]["mean"] > 0
    lines = lines_of(run_dir)
    assert lines[0]["penalty"] == 0 < lines[1]["penalty"]


def test_fisher_information_needs_what_the_starting_run_was_trained_on(tmp_path):
    (started, _), (run_dir, run) = start_and_hold(tmp_path)
    description = RunFolder(started).description
    content = json.loads(description.read_text())
    write_text(description, json.dumps({**content, "corpora": {"mnli": "0" * 64}}))
    with pytest.raises(MtdnnError, match="another version of mnli than tiny/mnli") as error:
        train(run_dir, run, threads=1, force=True)
    assert "\n" not in str(error.value)
