"""Runs in phases, with settings for single corpora, or from another run's encoder."""

import math

import pytest
import torch

from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import write_text
from mtdnn.model.saving import load
from mtdnn.training import loop
from mtdnn.training.fingerprint import Fingerprint, starts_elsewhere
from mtdnn.training.loop import train
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.tiny import make_run_folder, make_tiny_experiment
from tests.support.trained import lines_of, schedule_of

SMALL = {"rows": 20, "encoder": {"num_hidden_layers": 1}}
WITH_DROPOUT = {"batch_size": 8, "head_dropout": 0.3, "encoder_dropout": 0.1}
# Intermediate tasks, then all together, then the target alone.
PHASES = [
    {"corpora": ["cola", "mnli"], "policy": "round_robin", "steps": 4},
    {"policy": {"kind": "proportional", "alpha": 0.5}, "steps": 5, "learning_rate": 1e-3},
    {"corpora": ["squad"], "epochs": 1, "restart": True},
]
BOUNDARIES = (4, 9)


def make(folder, phases=PHASES, **training):
    row = {"encoder": "tiny", "mixture": "squad_cola_mnli"}
    return make_run_folder(
        folder,
        "squad_cola_mnli",
        1.0,
        **SMALL,
        tables={"t": {"title": "t", "rows": [row]}},
        schedule={"phases": phases},
        training={**WITH_DROPOUT, **training},
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir, run = make(tmp_path_factory.mktemp("undisturbed"))
    train(run_dir, run, threads=1)
    return run_dir, run


def test_phases_follow_each_other(undisturbed):
    run_dir, run = undisturbed
    steps = schedule_of(run_dir)
    assert [step.corpus for step in steps[:4]] == ["cola", "mnli"] * 2
    assert [step.phase for step in steps] == [0] * 4 + [1] * 5 + [2] * (len(steps) - 9)
    assert {step.corpus for step in steps[9:]} == {"squad"}
    rows = [row for step in steps[9:] for row in step.rows.tolist()]
    assert sorted(rows) == list(range(len(rows))) and len(rows) >= 20
    rates = [line["lr"] for line in lines_of(run_dir)]
    assert rates[4:9] == pytest.approx([1e-3 * (9 - step) / 9 for step in range(4, 9)])
    assert rates[9] == run.training.learning_rate  # starts anew; too short for a warm-up


@pytest.mark.parametrize("moments", [(2, 6), BOUNDARIES, (3, 4, 5, 9, 10)], ids=str)
def test_a_run_stopped_in_a_phase_or_between_two_ends_like_an_undisturbed_one(
    tmp_path, undisturbed, moments
):
    run_dir, run = make(tmp_path)
    train_with_stops(run_dir, run, moments)
    assert_same(outcome(run_dir), outcome(undisturbed[0]))


def test_a_restart_makes_a_difference(tmp_path, undisturbed):
    run_dir, run = make(tmp_path, [*PHASES[:2], {**PHASES[2], "restart": False}])
    train(run_dir, run, threads=1)
    (weights, lines), (others, other_lines) = outcome(run_dir), outcome(undisturbed[0])
    assert lines[:9] != other_lines[:9]  # the learning rate falls over all steps
    assert not torch.equal(weights["qa_outputs.weight"], others["qa_outputs.weight"])


def test_a_single_phase_is_a_run_without_phases(tmp_path):
    results = []
    for name, schedule in (("phase", {"phases": [{}]}), ("none", {})):
        run_dir, run = make_run_folder(
            tmp_path / name, "squad_cola", 0.5, **SMALL, schedule=schedule, training=WITH_DROPOUT
        )
        train(run_dir, run, threads=1)
        results.append(outcome(run_dir))
    assert_same(*results)


# --- single corpora --------------------------------------------------------------------------


def test_batches_losses_and_rates_of_single_corpora(tmp_path):
    own = {"batch_sizes": {"mnli": 5}, "loss_weights": {"cola": "log_labels", "mnli": 0.25}}
    rates = {"learning_rates": {"cola": 1e-3}, "head_learning_rates": {"squad": 1e-2}}
    results = {}
    for name, training in (("own", {**own, **rates}), ("batches", {"batch_sizes": {"mnli": 5}})):
        run_dir, run = make(tmp_path / name, [{"policy": "round_robin"}], **training)
        sizes = {
            (step.corpus, len(step.rows))
            for step in schedule_of(run_dir)
            if step.epoch == 0 and step.step < 6
        }
        assert {("squad", 8), ("cola", 8), ("mnli", 5)} <= sizes
        train(run_dir, run, threads=1)
        results[name] = outcome(run_dir)[1]
    assert run.loss_weight("cola") == 1.0
    first, other = results["own"][0], results["batches"][0]
    assert first == {**other, "lr": first["lr"]}  # the log has losses without their factors
    for line, usual in zip(results["own"], results["batches"], strict=True):
        factor = 100 / 3 if line["corpus"] == "cola" else 1
        assert line["lr"] == pytest.approx(factor * usual["lr"])


def test_log_labels_makes_guessing_cost_the_same_everywhere(tmp_path):
    weights = {"cola": "log_labels", "mnli": "log_labels", "squad": 0.5}
    experiment = make_tiny_experiment(tmp_path, training={"loss_weights": weights})
    run = experiment.resolve(RunId("tiny", "squad_cola_mnli", 0.5, "default", 1))
    for corpus, labels in (("cola", 2), ("mnli", 3)):
        assert run.loss_weight(corpus) * math.log(labels) == pytest.approx(1)
    assert run.loss_weight("squad") == 0.5


# --- from another run's encoder --------------------------------------------------------------


def two_stages(folder, **changes):
    """An experiment with SQuAD trained from the encoder of an MNLI run, and its two runs."""
    make_run_folder(folder, "squad_mnli", 0.5, **SMALL, training=WITH_DROPOUT)
    row = {"encoder": "tiny", "mixture": "squad", "variant": "stilts"}
    settings = {
        "mixtures": {name: {"label": name, "corpora": [name]} for name in ("squad", "mnli")},
        "training": WITH_DROPOUT,
        "variants": {"stilts": {"training": {"start_from": {"mixture": "mnli"}}}},
        "tables": {"t": {"title": "t", "rows": [row]}},
    }
    experiment = make_tiny_experiment(folder, **{**settings, **changes})
    return experiment, *experiment.runs()


def trained(experiment, run_id):
    run_dir, run = experiment.layout.run(run_id), experiment.resolve(run_id)
    write_text(run_dir / "config.yaml", dump_yaml(run))
    train(run_dir, run, threads=1)
    return run_dir


def test_a_run_starts_from_the_encoder_of_another(tmp_path, monkeypatch):
    experiment, first, second = two_stages(tmp_path)
    assert first == RunId("tiny", "mnli", 1.0, "default", 1)
    run, layout = experiment.resolve(second), experiment.layout
    with pytest.raises(MtdnnError, match=r"run.json: no such file; train tiny/mnli/w1.0") as error:
        trained(experiment, second)
    assert "\n" not in str(error.value)
    earlier = trained(experiment, first)

    built = []
    start = loop.start_from
    monkeypatch.setattr(loop, "start_from", lambda *given: built.append(given[0]) or start(*given))
    monkeypatch.setattr(loop, "_learn", lambda training: None)
    later = trained(experiment, second)
    (model,) = built
    before = load(earlier / "model", experiment.resolve(first))
    for ours, theirs in ((model.encoder, before.encoder), (model.pooler, before.pooler)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name

    fingerprint = Fingerprint.of(layout, run)
    assert fingerprint.start and fingerprint.is_made_in(later)
    assert not starts_elsewhere(layout, run, fingerprint.record())
    assert starts_elsewhere(layout, run, {})
    plain = run.training.model_copy(update={"start_from": None})
    without = Fingerprint.of(layout, run.model_copy(update={"training": plain}))
    assert without.start is None and "start" not in without.record()
    assert without.digest != fingerprint.digest

    weights = RunFolder(earlier).weights()[0]
    weights.write_bytes(weights.read_bytes() + b"0")
    with pytest.raises(
        MtdnnError, match=r"model.safetensors: was cut off or changed since it was trained"
    ):
        train(later, run, threads=1, force=True)


def test_each_seed_starts_from_the_same_seed_unless_one_is_named(tmp_path):
    experiment, *runs = two_stages(tmp_path / "same", seeds=[1, 2])
    assert [(run.mixture, run.seed) for run in runs] == [
        ("mnli", 1), ("squad", 1), ("mnli", 2), ("squad", 2)
    ]  # fmt: skip
    named = {"stilts": {"training": {"start_from": {"mixture": "mnli", "seed": 7}}}}
    experiment, *runs = two_stages(tmp_path / "one", seeds=[1, 2], variants=named)
    assert [(run.mixture, run.seed) for run in runs] == [("mnli", 7), ("squad", 1), ("squad", 2)]
    assert experiment.start_of(runs[0]) is None


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"mixture": "mnil"}, "start_from.mixture: unknown name 'mnil'; did you mean 'mnli'?"),
        ({"mixture": "mnli", "variant": "x"}, "start_from.variant: unknown name 'x'; known are"),
        ({"mixture": "mnli", "weight": 0.5}, "start_from.weight: mnli has no auxiliary corpus"),
        ({"mixture": "squad", "variant": "stilts"}, "the run would need itself first"),
        ({"mixture": "mnli", "variant": "stilts"}, "the run would need itself first"),
        ({"mixture": 3}, "training.start_from.mixture: must be text"),
    ],
)
def test_a_wrong_start_is_one_line(tmp_path, start, message):
    variants = {"stilts": {"training": {"start_from": start}}}
    with pytest.raises(MtdnnError) as error:
        two_stages(tmp_path, variants=variants)
    assert message in str(error.value) and "\n" not in str(error.value)
