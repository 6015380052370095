"""Settings of a run: which of them determine the trained model."""

from typing import get_args

import pytest
from pydantic import ValidationError

from mtdnn.config.loading import parse
from mtdnn.config.settings import AnyPolicy, CorpusSettings, PolicyKind, RunSettings
from tests.support.factories import small


def qa_sc(**changes: object) -> RunSettings:
    """The settings of the run of question answering with CoLA."""
    experiment = parse(small(**changes), where="small.yaml")
    return experiment.resolve(experiment.runs()[1])


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
        ({"corpora__rte": small()["corpora"]["cola"], "training__loss_weights": {"rte": 2}}, False),
        ({"training__head_learning_rates": {"squad": 1e-3}}, True),
        ({"training__batch_sizes": {"cola": 4}}, True),
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
        ({"family": "multiple_choice"}, "only for sequence_classification"),
        ({"held_out_titles": ["A"]}, "only for question_answering"),
    ],
)
def test_labels_and_held_out_titles_fit_the_family(changes, message):
    mapping = small()["corpora"]["cola"]
    with pytest.raises(ValidationError, match=message):
        CorpusSettings.model_validate({**mapping, **changes})
