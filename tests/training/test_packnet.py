"""PackNet by phases: against a plain reference, and what must never change again."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from mtdnn.config.layout import Layout
from mtdnn.data.features import training_features
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import predictions as evaluation
from mtdnn.model import attention
from mtdnn.model.batches import batch_of
from mtdnn.model.multitask import build, restrict
from mtdnn.model.optimizer import optimizer_for
from mtdnn.model.owners import layers
from mtdnn.model.saving import export, load, load_trained, save, start_from
from mtdnn.training.loop import random_state, train
from mtdnn.training.pace import paces
from mtdnn.training.packnet import packing_for
from mtdnn.training.schedule import Step, of_run
from mtdnn.training.stepper import RecordedSteps, Stepper
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.packed import Prepared, padded_inputs
from tests.support.recorder import StandIn, state_of
from tests.support.tiny import OWN_SIZES, make_run_folder
from tests.support.trained import lines_of

CPU = torch.device("cpu")
MIXTURE = "squad_cola_mnli"
FAST = {"batch_size": 8, "learning_rate": 3e-3, "weight_decay": 0.1}
# Dev losses are measured at the end of each phase.
WITH_DROPOUT = {"encoder_dropout": 0.1, "interference": {"measurements": 0, "max_share": 100}}
WITHOUT_DROPOUT = {"head_dropout": 0, "encoder_dropout": 0}
PHASES = [
    {"corpora": ["squad"], "steps": 6, "prune": 0.5},
    {"corpora": ["cola", "mnli"], "policy": "round_robin", "steps": 6, "prune": 0.25},
    {"corpora": ["mnli"], "steps": 4, "restart": True},
]
# Steps after which weights are pruned, and those after which a phase ends.
CUTS, BOUNDARIES = (4, 10), (6, 12)


def make(folder, phases=PHASES, mixture=MIXTURE, kind="bert", encoder=None, **training):
    row = {"encoder": "tiny", "mixture": mixture}
    return make_run_folder(
        folder,
        mixture,
        1.0,
        rows=20,
        kind=kind,
        encoder={"num_hidden_layers": 1} if encoder is None else encoder,
        tables={"t": {"title": "t", "rows": [row]}},
        schedule={"phases": phases},
        training={**FAST, **training},
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir, run = make(tmp_path_factory.mktemp("undisturbed"), **WITH_DROPOUT)
    train(run_dir, run, threads=1)
    return run_dir, run


class InSteps:
    """A run in training whose weights can be looked at between its steps."""

    def __init__(self, run_dir, run):
        self.layout, self.run = Layout.of_run(run_dir), run
        self.features = training_features(self.layout, run)
        sizes = {name: len(each) for name, each in self.features.items()}
        self.steps = list(of_run(run, sizes))
        self.rates = [pace.rate for pace in paces(run, self.steps)]
        self.model = build(self.layout.encoder("tiny"), run).train()

    def batch(self, step: Step):
        return batch_of(self.features[step.corpus], step.rows)

    def logits(self, corpus):
        with torch.no_grad():
            return self.model(corpus, batch_of(self.features[corpus], np.arange(6)))

    def train(self, after=lambda step: None):
        """Train as `train` does; `after` is called after each step."""
        restrict(self.model, self.run)
        optimizer = optimizer_for(self.model, self.run.training)
        stepper = Stepper(self.model, optimizer, self.run.training, CPU)
        stepper.packing = packing_for(self.model, self.run, self.steps)
        for step, rate in zip(self.steps, self.rates, strict=True):
            stepper.packing.before(step)
            random_state(1, step.step)
            stepper.take(step.corpus, self.batch(step), rate)
            after(step)


# --- the reference ---------------------------------------------------------------------------


def reference(training: InSteps) -> dict[str, torch.Tensor]:
    """The weights that PackNet learns, written down plainly.

    A mask for each matrix as in Mallya and Lazebnik's code: the number of the phase to which a
    weight belongs, 0 if to none; AdamW by torch. The last phase is not pruned.
    """
    model, phases = training.model, training.run.schedule.phases
    named = dict(model.named_parameters())
    matrices = {
        name: parameter
        for name, parameter in named.items()
        if not name.startswith("heads.") and parameter.ndim == 2 and "embeddings" not in name
    }
    masks = {name: torch.zeros(matrix.shape, dtype=torch.long) for name, matrix in matrices.items()}
    plain = [p for n, p in named.items() if "bias" in n or "norm" in n.lower()]
    decayed = [p for p in named.values() if all(p is not other for other in plain)]
    decay = training.run.training.weight_decay
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0}]
    )
    touched: dict[str, int] = {}  # the first phase that trains a weight
    starts = [0, *np.cumsum([phase.steps for phase in phases]).tolist()]
    for step, rate in zip(training.steps, training.rates, strict=True):
        number, phase = step.phase + 1, phases[step.phase]
        uses_pooler = {"squad": False}.get(step.corpus, True)
        used = {n: matrix for n, matrix in matrices.items() if uses_pooler or "pooler" not in n}
        if step.step == starts[step.phase]:
            for name in used:
                masks[name][masks[name] == 0] = number
        if phase.prune and step.step == starts[step.phase] + round(phase.steps * 2 / 3):
            for name, matrix in used.items():
                mine = matrix.data[masks[name] == number].abs()
                limit = mine.kthvalue(round(phase.prune * mine.numel())).values
                gone = (masks[name] == number) & (matrix.data.abs() <= limit)
                masks[name][gone] = 0
                matrix.data[gone] = 0.0
        optimizer.zero_grad()
        model.loss(step.corpus, training.batch(step)).backward()
        for name, parameter in named.items():
            if parameter.grad is None:
                continue
            parameter.grad = parameter.grad.to_dense()
            if name in matrices:
                parameter.grad[masks[name] != number] = 0.0
            elif not name.startswith("heads.") and touched.setdefault(name, number) < number:
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.run.training.clip_norm)
        before = {name: matrix.data.clone() for name, matrix in matrices.items()}
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for name, matrix in matrices.items():
            fixed = masks[name] != number
            matrix.data[fixed] = before[name][fixed]
    return {name: value.detach() for name, value in named.items()}


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_it_learns_what_a_plain_reference_learns(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("MTDNN_PLAIN", "embedding")
    phases = [{**phase, "restart": False} for phase in PHASES]
    options = {**WITHOUT_DROPOUT, "optimizer": "adamw"}
    run_dir, run = make(tmp_path, phases, kind=kind, encoder={"hidden_dropout_prob": 0}, **options)
    expected = reference(InSteps(run_dir, run))
    ours = InSteps(run_dir, run)
    ours.train()
    found = dict(ours.model.named_parameters())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value, rtol=1e-6, atol=1e-7, msg=name)


# --- what never changes again ----------------------------------------------------------------

CORPORA = st.lists(st.sampled_from(["squad", "cola", "mnli"]), min_size=1, max_size=2, unique=True)


@st.composite
def some_phases(draw):
    """Two to four phases in which every corpus of the mixture occurs."""
    names = draw(st.lists(CORPORA, min_size=1, max_size=3))
    missing = [name for name in MIXTURE.split("_") if not any(name in each for each in names)]
    names.append(missing or draw(CORPORA))
    if len(names) == 1:
        names.append(draw(CORPORA))
    phases = [
        {
            "corpora": each,
            "policy": "round_robin",
            "steps": draw(st.integers(1, 5)),
            "prune": draw(st.sampled_from([0.1, 0.5, 0.75, 0.99])),
        }
        for each in names
    ]
    del phases[-1]["prune"]
    return phases


@settings(max_examples=15, deadline=None)
@given(phases=some_phases(), optimizer=st.sampled_from(["adamax", "adamax_legacy", "adam"]))
def test_later_phases_leave_the_networks_of_earlier_ones_alone(tmp_path_factory, phases, optimizer):
    folder = tmp_path_factory.mktemp("phases")
    run_dir, run = make(folder, phases, optimizer=optimizer, **WITHOUT_DROPOUT)
    training = InSteps(run_dir, run)
    ends = {one.step for one, other in pairwise(training.steps) if one.phase != other.phase}
    kept: dict[str, torch.Tensor] = {}
    owned: list[tuple[dict, dict]] = []

    def after(step):
        if step.step not in ends:
            return
        found = layers(training.model)
        matrices = {name: layer.weight.detach().clone() for name, layer in found.items()}
        owners = {name: layer.owner == step.phase + 1 for name, layer in found.items()}
        owned.append((matrices, owners))
        for corpus in run.schedule.phases[step.phase].corpora:
            kept[corpus] = training.logits(corpus)  # those of its last phase stay

    training.train(after)
    found = layers(training.model)
    for number, (matrices, owners) in enumerate(owned, 1):
        for name, layer in found.items():
            assert torch.equal(layer.owner == number, owners[name])
            assert torch.equal(layer.weight[owners[name]], matrices[name][owners[name]])
    for corpus in set(kept) - set(phases[-1]["corpora"]):
        assert torch.equal(training.logits(corpus), kept[corpus]), corpus
        encoder, pooler = training.model.network(corpus)
        assert not layers(encoder) and not layers(pooler)


def test_each_phase_has_its_share_of_each_matrix(undisturbed):
    model, _ = load_trained(undisturbed[0] / "model")
    for name, layer in layers(model).items():
        counts = torch.bincount(layer.owner.flatten().long(), minlength=4).tolist()
        size = layer.weight.numel()
        if "pooler" in name:  # which the first phase does not train
            assert counts == [0, 0, 3 * size // 4, size // 4]
        else:
            assert counts == [0, size // 2, 3 * size // 8, size // 8]


def test_before_it_is_pruned_a_run_is_a_plain_one(tmp_path, undisturbed):
    phases = [{k: v for k, v in phase.items() if k != "prune"} for phase in PHASES]
    run_dir, run = make(tmp_path, phases, **WITH_DROPOUT)
    train(run_dir, run, threads=1)
    ours, plain = ([line["loss"] for line in lines_of(d)] for d in (undisturbed[0], run_dir))
    first = CUTS[0]
    assert ours[:first] == plain[:first] and ours[first] != plain[first]


def test_nothing_is_forgotten(undisturbed):
    lines = lines_of(undisturbed[0])
    losses = [lines[end - 1]["dev_loss"] for end in (*BOUNDARIES, len(lines))]
    assert losses[0]["squad"] == losses[1]["squad"] == losses[2]["squad"]
    assert losses[1]["cola"] == losses[2]["cola"] and losses[1]["mnli"] != losses[2]["mnli"]


def test_frozen_layers_are_not_pruned(tmp_path):
    run_dir, run = make(tmp_path, encoder={"num_hidden_layers": 2}, frozen_layers=1)
    train(run_dir, run, threads=1)
    model, _ = load_trained(run_dir / "model")
    start = build(Layout.of_run(run_dir).encoder("tiny"), run)
    before = dict(start.named_parameters())
    for name, layer in layers(model.encoder).items():
        frozen = "layer.0" in name
        assert bool((layer.owner == 0).all()) == frozen
        assert torch.equal(layer.weight, before[f"encoder.{name}.weight"]) == frozen


# --- interruptions and recordings ------------------------------------------------------------


@pytest.mark.parametrize(
    "moments", [(2, 8), CUTS, BOUNDARIES, (5, 11, 13), (4, 6, 10, 12)], ids=str
)
def test_a_run_stopped_anywhere_ends_like_an_undisturbed_one(tmp_path, undisturbed, moments):
    run_dir, run = make(tmp_path, **WITH_DROPOUT)
    train_with_stops(run_dir, run, moments)
    assert_same(outcome(run_dir), outcome(undisturbed[0]))


@pytest.mark.parametrize("paths", [("", ""), ("shadows", "shadows", "")], ids=str)
def test_recorded_steps_equal_unrecorded_ones(tmp_path, monkeypatch, paths):
    """The first are recorded. With shadows, whose norms are added up in another order, bf16."""
    monkeypatch.setenv("MTDNN_PLAIN", "attention, dropout, embedding, optimizer")
    monkeypatch.setattr(attention, "one_by_one", attention.side_by_side)  # as on a GPU
    phases = [
        {"corpora": ["squad", "mnli"], "policy": "round_robin", "steps": 18, "prune": 0.5},
        {"corpora": ["cola", "mnli"], "policy": "round_robin", "steps": 12},
    ]
    run_dir, run = make(tmp_path, phases, **WITH_DROPOUT)
    changes = {"precision": "bf16", "clip_norm": 1e9} if any(paths) else {}
    run = run.model_copy(update={"training": run.training.model_copy(update=changes)})
    outcomes = []
    for number, path in enumerate(paths):
        monkeypatch.setenv("MTDNN_TRIAL", path)
        records = number == 0
        training, recorder = InSteps(run_dir, run), StandIn()
        restrict(training.model, run)
        optimizer = optimizer_for(training.model, run.training)
        stepper = RecordedSteps(training.model, optimizer, run.training, CPU, recorder)
        recorder.stepper = stepper
        if not records:
            stepper._recorder = None
        stepper.packing = packing_for(training.model, run, training.steps)
        losses, recorded = [], set()
        for step in training.steps:
            stepper.packing.before(step)
            random_state(1, step.step)
            rows = np.arange(8)  # batches of the same shape
            batch = stepper.prepare(batch_of(training.features[step.corpus], rows))
            before = len(recorder.recordings)
            losses.append(stepper.take(step.corpus, batch, 1e-2)[0].item())
            if len(recorder.recordings) > before:
                recorded.add((step.phase, step.corpus))
        expected = {(0, "squad"), (0, "mnli"), (1, "cola"), (1, "mnli")}
        assert recorded == (expected if records else set())
        assert len(recorder.recordings) == len(recorded)  # pruning needs no other
        owners = {name: layer.owner for name, layer in layers(training.model).items()}
        outcomes.append((losses, {**state_of(stepper), **owners}))
    losses, state = outcomes[0]
    for others, found in outcomes[1:]:
        assert others == losses
        assert all(torch.equal(found[name], value) for name, value in state.items())


# --- saved models ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OWN_SIZES)
def test_a_saved_model_computes_for_each_corpus_what_the_trained_one_did(tmp_path, kind):
    run_dir, run = make(tmp_path, kind=kind, encoder={}, **WITHOUT_DROPOUT)
    training = InSteps(run_dir, run)
    training.train()
    folder = tmp_path / "saved"
    folder.mkdir()
    save(training.model, run, training.layout.encoder("tiny"), folder)
    found = load(folder, run).eval()
    for corpus in run.corpora:
        with torch.no_grad():
            logits = found(corpus, batch_of(training.features[corpus], np.arange(6)))
        assert torch.equal(logits, training.logits(corpus)), corpus


def test_the_plain_model_is_the_network_of_the_targets_phase(undisturbed):
    run_dir, run = undisturbed
    plain = AutoModelForQuestionAnswering.from_pretrained(run_dir / "model").eval()
    model = load(run_dir / "model", run).eval()
    batch = batch_of(training_features(Layout.of_run(run_dir), run)["squad"], np.arange(6))
    with torch.no_grad():
        logits = model("squad", batch)
        found = plain(**padded_inputs(batch))
    starts = batch.unpad(found.start_logits)
    torch.testing.assert_close(starts, logits[:, 0], rtol=1e-4, atol=1e-5)
    weight = "encoder.layer.0.intermediate.dense.weight"
    zeros = (plain.bert.get_parameter(weight) == 0).float().mean().item()
    assert zeros == 0.5


@pytest.mark.parametrize("corpus", ["cola", "mnli"])
def test_an_exported_corpus_has_the_network_of_its_phase(undisturbed, tmp_path, corpus):
    run_dir, run = undisturbed
    export(run_dir, run, corpus, tmp_path / "plain")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    model = load(run_dir / "model", run).eval()
    batch = batch_of(training_features(Layout.of_run(run_dir), run)[corpus], np.arange(6))
    with torch.no_grad():
        found = plain(**padded_inputs(batch)).logits
        torch.testing.assert_close(found, model(corpus, batch), rtol=1e-4, atol=1e-5)


def test_every_corpus_is_predicted(undisturbed):
    run_dir, run = undisturbed
    evaluation.evaluate(run_dir, run, threads=1)
    assert evaluation.is_evaluated(run_dir, run)


def test_a_run_that_starts_from_it_has_the_targets_network(undisturbed):
    run_dir, run = undisturbed
    plain = run.model_copy(update={"schedule": run.schedule.model_copy(update={"phases": []})})
    fresh = build(Layout.of_run(run_dir).encoder("tiny"), plain).eval()
    start_from(fresh, run_dir / "model")
    trained = load(run_dir / "model", run).eval()
    batch = batch_of(training_features(Layout.of_run(run_dir), run)["squad"], np.arange(6))
    with torch.no_grad():
        fresh.heads["squad"].load_state_dict(trained.heads["squad"].state_dict())
        assert torch.equal(fresh("squad", batch), trained("squad", batch))
    assert fresh.pooler.dense.weight.any()  # of the last phase, since questions use none


# --- settings --------------------------------------------------------------------------------

FIRST, LAST = {"corpora": ["squad"], "prune": 0.5}, {"corpora": ["cola", "mnli"]}
UNIFORM = {**LAST, "policy": "uniform"}


@pytest.mark.parametrize(
    ("phases", "training", "message"),
    [
        ([{**FIRST, "prune": 1}, UNIFORM], {}, "phases.0.prune: must be less than 1"),
        ([{**FIRST, "prune": 0}, UNIFORM], {}, "phases.0.prune: must be greater than 0"),
        (
            [FIRST, {**UNIFORM, "prune": 0.5}],
            {},
            "phases.1.prune: no phase follows that could train the weights set free; leave it out",
        ),
        (
            [FIRST, UNIFORM, {"corpora": ["squad"]}],
            {},
            "phases.1.prune: is missing, so that later phases would have no weight to train",
        ),
        (
            [FIRST, {**UNIFORM, "joint": True}],
            {},
            "joint: is not for phases with prune; leave out one of them",
        ),
        ([FIRST] * 127 + [UNIFORM], {}, "phases: at most 127 can have prune, not 128"),
        ([FIRST, UNIFORM], {"lora": {"rank": 2}}, "training.lora: leaves no matrix to prune"),
        (
            [FIRST, UNIFORM],
            {"anchor": {"to": "phase_start", "strength": 1}},
            "training.anchor: would pull the weights that schedule.phases.prune sets free away",
        ),
        (
            [FIRST, UNIFORM],
            {"gpus": 2},
            "training.gpus: a run with phases.prune is trained on one, not 2",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, phases, training, message):
    with pytest.raises(MtdnnError) as error:
        make(tmp_path, phases, **training)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_run_that_prunes_nothing_is_identified_as_before(tmp_path):
    phases = [{"corpora": ["squad"], "steps": 2}, {**UNIFORM, "steps": 2}]
    _, plain = make(tmp_path / "plain", phases)
    assert "prune" not in json.dumps(plain.determining())
    _, pruned = make(tmp_path / "pruned", [{**phases[0], "prune": 0.5}, phases[1]])
    assert pruned.determining()["schedule"]["phases"][0]["prune"] == 0.5


def test_adapted_models_of_a_prepared_run_have_no_owners(tmp_path):
    prepared = Prepared(tmp_path)
    model = prepared.model()
    restrict(model, prepared.run)
    assert not layers(model) and not model.phases
