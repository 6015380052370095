"""Joint steps: each mistake in their settings is one line."""

import importlib.util

import pytest

from mtdnn.config import joint
from mtdnn.config.loading import parse
from mtdnn.errors import MtdnnError
from mtdnn.workflow.snakefile import packages_to_install
from tests.support.factories import small

ROW = "tables.table1.rows.1.variant: joint"


def with_joint(training=None, **schedule):
    """An experiment whose mixture of two corpora has a variant with joint steps."""
    return small(
        variants__joint={"schedule": {"joint": True, **schedule}, "training": training or {}},
        tables__table1__rows__1__variant="joint",
    )


@pytest.mark.parametrize(
    ("training", "schedule", "message"),
    [
        (
            {},
            {"policy": "round_robin"},
            "variants.joint: schedule: joint: a step has a batch of every corpus, so round_robin "
            "orders nothing; use uniform",
        ),
        (
            {},
            {"phases": [{"policy": "shuffled"}]},
            "variants.joint: schedule: phases.0.joint: a step has a batch of every corpus, so "
            "shuffled orders nothing; use uniform",
        ),
        (
            {},
            {"dry": "skip"},
            "variants.joint: schedule: dry: in joint steps it is always refill; leave it out",
        ),
        (
            {"gpus": 2},
            {},
            f"{ROW}: training.gpus: a run with joint steps is trained on one, not 2",
        ),
        (
            {"learning_rates": {"cola": 1e-3}},
            {},
            f"{ROW}: training.learning_rates: a joint step has one learning rate; leave out cola "
            "or set training.loss_weights",
        ),
        (
            {"head_learning_rates": {"squad": 1e-3}},
            {},
            f"{ROW}: training.head_learning_rates: a joint step has one learning rate; leave out "
            "squad or set training.loss_weights",
        ),
        (
            {"gpus": 2, "loss_balancing": "uncertainty"},
            {"joint": False},
            f"{ROW}: training.gpus: uncertainty is learned on one, not 2",
        ),
        (
            {"loss_balancing": {"kind": "dynamic_average", "steps": 0}},
            {},
            "variants.joint: training.loss_balancing.steps: must be at least 1, not 0",
        ),
        (
            {"combine": "pcgrad"},
            {"joint": False},
            f"{ROW}: training.combine: pcgrad needs joint steps; set schedule.joint",
        ),
        (
            {"combine": "pcgard"},
            {},
            "variants.joint: training.combine: kind must be one of 'mean', 'pcgrad', 'gradvac', "
            "'cagrad', 'upgrad', 'nash_mtl'; did you mean 'pcgrad'?",
        ),
        (
            {"combine": {"kind": "cagrad", "c": 1}},
            {},
            "variants.joint: training.combine.c: must be less than 1, not 1",
        ),
    ],
)
def test_a_mistake_is_one_line(training, schedule, message):
    with pytest.raises(MtdnnError) as error:
        parse(with_joint(training, **schedule), where="small.yaml")
    assert str(error.value) == f"small.yaml: {message}"


def test_a_control_of_one_corpus_has_no_joint_steps():
    given = small(
        variants__longer={"schedule": {"joint": True, "steps_of_weight": 0.5}},
        tables__table1__rows__0__variant="longer",
    )
    with pytest.raises(MtdnnError) as error:
        parse(given, where="small.yaml")
    assert str(error.value) == (
        "small.yaml: variants.longer: schedule: steps_of_weight: is not for joint steps; use steps"
    )


def test_joint_steps_of_a_phase_are_enough_and_one_corpus_is_allowed():
    phases = [{"steps": 5}, {"joint": True}]
    given = with_joint({"combine": "upgrad"}, joint=False, phases=phases)
    given["tables"]["table1"]["rows"][0]["variant"] = "joint"
    experiment = parse(given, where="small.yaml")
    assert [experiment.resolve(run).has_joint_steps for run in experiment.runs()] == [True, True]


def test_missing_packages_are_one_line_for_each_variant(monkeypatch):
    experiment = parse(with_joint({"combine": "nash_mtl"}), where="small.yaml")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        joint, "find_spec", lambda name: None if name in ("torchjd", "ecos") else find(name)
    )
    assert list(packages_to_install(experiment)) == [
        "variants.joint.training.combine: nash_mtl needs torchjd, ecos; install with pip install "
        "'mtdnn[interference]'"
    ]
    plain = parse(with_joint(), where="small.yaml")
    assert not list(packages_to_install(plain))
