"""Settings of a run: which of them determine the trained model."""

from typing import get_args

import pytest
from pydantic import ValidationError

from mtdnn.config.joint import PACKAGES
from mtdnn.config.loading import parse
from mtdnn.config.settings import (
    AnyBalancing,
    AnyCombination,
    AnyPolicy,
    BalancingKind,
    CombinationKind,
    CorpusSettings,
    PolicyKind,
    RunSettings,
)
from tests.support.factories import small


def qa_sc(**changes: object) -> RunSettings:
    """The settings of the run of question answering with CoLA."""
    experiment = parse(small(**changes), where="small.yaml")
    return experiment.resolve(experiment.runs()[1])


RTE = {**small()["corpora"]["cola"], "label": "RTE"}


def test_the_names_of_policies_are_their_kinds():
    kinds = [get_args(model.model_fields["kind"].annotation)[0] for model in get_args(AnyPolicy)]
    assert kinds == list(get_args(PolicyKind))


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"experiment": "other"}, False),
        ({"notice": "other"}, False),
        ({"encoders__tiny__label": "other"}, False),
        ({"encoders__tiny__source__repo": "some/other"}, False),
        ({"corpora__cola__source__seed": 2}, False),
        ({"decoding__n_best": 5}, False),
        ({"training__activation_checkpointing": True}, False),
        ({"training__gpus": 1}, False),
        ({"training__gpus": 2}, True),
        ({"training__learning_rate": 1e-4}, True),
        ({"encoders__tiny__pooling": "mean"}, True),
        ({"corpora__cola__labels": ["good", "bad"]}, True),
        ({"features__max_length": 128}, True),
        ({"schedule__dry": "skip"}, True),
        ({"schedule__until": "every_corpus"}, True),
        ({"schedule__phases": [{}, {"steps": 3}]}, True),
        ({"training__loss_weights": {"cola": 2}}, True),
        ({"corpora__rte": RTE, "training__loss_weights": {"rte": 2}}, False),
        ({"training__head_learning_rates": {"squad": 1e-3}}, True),
        ({"training__batch_sizes": {"cola": 4}}, True),
        ({"schedule__joint": False, "training__combine": "mean"}, False),
        ({"schedule__joint": True}, True),
        ({"schedule__phases": [{"joint": False}]}, True),
        ({"training__loss_balancing": "none"}, False),
        ({"training__loss_balancing": "uncertainty"}, True),
        ({"seeds": [2]}, True),
        ({"tables__table1__rows__1__weight": 0.5}, True),
    ],
)
def test_only_some_settings_determine_the_model(changes, differs):
    assert (qa_sc(**changes).determining() != qa_sc().determining()) is differs


def test_the_target_is_the_question_answering_corpus():
    settings = qa_sc()
    assert settings.target == "squad"
    mapping = settings.model_dump()
    del mapping["corpora"]["squad"]
    with pytest.raises(ValidationError, match="target: 'squad' is not one of cola"):
        RunSettings.model_validate(mapping)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["a"]}, "needs at least two"),
        ({"labels": ["a", "a"]}, "each may occur only once"),
        ({"family": "question_answering"}, "labels: question_answering has none"),
        ({"family": "regression"}, "labels: regression has none"),
        ({"family": "token_classification", "labels": []}, "needs at least two"),
        ({"held_out_titles": ["A"]}, "held_out_titles: only for question_answering"),
        ({"no_answer": "-"}, "no_answer: only for question_answering"),
        ({"drop_mismatches": True}, "drop_mismatches: only for question_answering"),
        ({"fractions": {"dev": 0.5, "test": 0.5}}, "fractions: leave no row for train"),
    ],
)
def test_settings_of_a_corpus_fit_its_family(changes, message):
    mapping = small()["corpora"]["cola"]
    with pytest.raises(ValidationError, match=message):
        CorpusSettings.model_validate({**mapping, **changes})


def test_what_only_joint_steps_use_is_no_part_of_other_runs():
    # So that runs keep the digests that they had before there were joint steps.
    usual, phased = qa_sc().determining(), qa_sc(schedule__phases=[{}]).determining()
    assert "joint" not in {*usual["schedule"], *phased["schedule"]["phases"][0]}
    assert not {"combine", "loss_balancing"} & usual["training"].keys()
    joint = qa_sc(schedule__joint=True, training__combine="pcgrad").determining()
    assert joint["schedule"]["joint"] and joint["training"]["combine"] == {"kind": "pcgrad"}


def test_the_names_of_combinations_and_of_balancing_are_their_kinds():
    kinds = [
        get_args(model.model_fields["kind"].annotation)[0] for model in get_args(AnyCombination)
    ]
    assert kinds == list(get_args(CombinationKind)) == list(PACKAGES)
    kinds = [get_args(model.model_fields["kind"].annotation)[0] for model in get_args(AnyBalancing)]
    assert kinds == list(get_args(BalancingKind))
