"""Anchors that fit no run are refused in one line."""

import pytest

from mtdnn.config.anchors import anchored_phases
from mtdnn.config.layout import RunId
from mtdnn.config.phases import phases_of_run
from mtdnn.config.settings import Anchor
from mtdnn.errors import MtdnnError
from tests.support.tiny import make_tiny_experiment

PHASES = [{"corpora": ["cola"], "steps": 3}, {"corpora": ["squad"]}, {"policy": "uniform"}]
HELD = {"to": "phase_start", "strength": 1}
FISHER = {**HELD, "by": "true_fisher", "corpus": "cola"}
START = {"start_from": {"mixture": "squad_mnli", "weight": 0.5}}


def experiment(tmp_path, anchor, phases=(), **training):
    return make_tiny_experiment(
        tmp_path,
        variants={
            "held": {
                "schedule": {"phases": list(phases)} if phases else {"policy": "uniform"},
                "training": {"anchor": anchor, **training},
            }
        },
        tables={
            "t": {
                "title": "t",
                "rows": [{"encoder": "tiny", "mixture": "squad_cola", "variant": "held"}],
            }
        },
    )


@pytest.mark.parametrize(
    ("anchor", "options", "message"),
    [
        (HELD, {}, "anchor.to: phase_start needs a second phase in schedule.phases"),
        (HELD, {"phases": [{"policy": "uniform"}]}, "phase_start needs a second phase"),
        ({"to": "starting_run", "strength": 1}, {}, "starting_run needs training.start_from"),
        ({"to": "pretrained", "strength": 1}, START, "use starting_run, or leave out"),
        (
            {**FISHER, "to": "pretrained"},
            {},
            "training.anchor: by: true_fisher needs a trained head, and at pretrained every head",
        ),
        (
            {**HELD, "by": "empirical_fisher"},
            {"phases": PHASES},
            "training.anchor: corpus: empirical_fisher needs the corpus on which it is estimated",
        ),
        (
            {**FISHER, "corpus": "colla"},
            {"phases": PHASES},
            "variants.held.training.anchor.corpus: unknown name 'colla'; did you mean 'cola'?",
        ),
        (
            {**FISHER, "corpus": "mnli"},
            {"phases": PHASES},
            "anchor.corpus: no phase before the last trains mnli, so its head would be new",
        ),
        (
            {**FISHER, "to": "starting_run"},
            START,
            "squad_mnli, from which the run starts, is not trained on cola; name one of squad, m",
        ),
        ({**HELD, "corpus": "cola"}, {"phases": PHASES}, "corpus: is for Fisher information"),
        ({**HELD, "items": 9}, {"phases": PHASES}, "items: is for Fisher information"),
        ({**HELD, "strength": -1}, {"phases": PHASES}, "training.anchor.strength: must be at lea"),
        ({**HELD, "to": "zero"}, {"phases": PHASES}, "training.anchor.to: must be 'pretrained', "),
        ({"to": "pretrained"}, {}, "training.anchor.strength: "),
        ({**HELD, "strenght": 1}, {"phases": PHASES}, "training.anchor.strenght: unknown key"),
        (3, {}, "training.anchor: must be"),
    ],
)
def test_a_wrong_anchor_is_one_line(tmp_path, anchor, options, message):
    with pytest.raises(MtdnnError) as error:
        experiment(tmp_path, anchor, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("anchor", "options"),
    [
        ({"to": "pretrained", "strength": 0.1}, {}),
        (HELD, {"phases": PHASES}),
        (FISHER, {"phases": PHASES}),
        ({**FISHER, "to": "starting_run", "corpus": "mnli"}, START),
        ({"to": "starting_run", "strength": 1}, START),
    ],
)
def test_an_anchor_that_fits_is_part_of_what_determines_a_run(tmp_path, anchor, options):
    run_id = RunId("tiny", "squad_cola", 1.0, "held", 1)
    run = experiment(tmp_path, anchor, **options).resolve(run_id)
    assert run.training.anchor == Anchor.model_validate(anchor)
    stronger = run.training.anchor.model_copy(update={"strength": 7})
    training = run.training.model_copy(update={"anchor": stronger})
    assert run.determining() != run.model_copy(update={"training": training}).determining()


@pytest.mark.parametrize(
    ("anchor", "expected"),
    [
        ({"to": "pretrained", "strength": 1}, [0]),
        (HELD, [1, 2]),
        (FISHER, [1, 2]),
        ({**FISHER, "corpus": "squad"}, [2]),
    ],
)
def test_phases_are_anchored_once_there_is_something_to_keep(tmp_path, anchor, expected):
    run_id = RunId("tiny", "squad_cola", 1.0, "held", 1)
    run = experiment(tmp_path, anchor, PHASES).resolve(run_id)
    assert anchored_phases(run.training.anchor, phases_of_run(run)) == expected
