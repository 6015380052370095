"""Methods that other modules test one by one also work together, and resume to the bit."""

import pytest

from mtdnn.config.loading import parse
from mtdnn.errors import MtdnnError
from mtdnn.training.loop import train
from tests.support.factories import SMALL
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.tiny import make_run_folder

MIXTURE = "squad_cola_mnli"
MEASURED = {"interference": {"measurements": 3, "dev_items": 8, "max_share": 10}}
JOINT = {"joint": True, "policy": "uniform", "steps": 6}
IN_TURN = {
    "phases": [
        {"corpora": ["squad"], "steps": 3},
        {"corpora": ["mnli", "cola"], "policy": "uniform", "joint": True, "steps": 4},
    ]
}
EWC = {"to": "phase_start", "strength": 10, "by": "true_fisher", "corpus": "squad", "items": 4}
TOGETHER = {
    "own adapters, gradients combined": (
        JOINT,
        {"lora": {"rank": 2, "per": "corpus"}, "combine": "pcgrad", "optimizer": "adamw"},
    ),
    "shared adapters, answer network": (JOINT, {"lora": {"rank": 2}, "heads": {"mnli": "san"}}),
    "anchored joint steps": (IN_TURN, {"anchor": EWC, "combine": "cagrad", "optimizer": "adam"}),
    "anchored, lower layers frozen": (IN_TURN, {"anchor": EWC, "frozen_layers": 1}),
    "nothing of the encoder trained": (
        {"policy": "shuffled"},
        {"frozen_layers": 2, "anchor": {"to": "pretrained", "strength": 0.1}},
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_methods_work_together_and_resume(tmp_path, name):
    schedule, training = TOGETHER[name]

    def start(folder: str):
        return make_run_folder(
            tmp_path / folder,
            mixture=MIXTURE,
            rows=12,
            weight=1.0,
            tables={"t": {"title": "t", "rows": [{"encoder": "tiny", "mixture": MIXTURE}]}},
            schedule=schedule,
            training={"batch_size": 4, "epochs": 1, **MEASURED, **training},
        )

    run_dir, run = start("whole")
    train(run_dir, run, threads=1)
    expected = outcome(run_dir)
    assert any("dev_loss" in line for line in expected[1])

    run_dir, run = start("stopped")
    train_with_stops(run_dir, run, (2, 4))
    assert_same(outcome(run_dir), expected)


def test_an_anchor_is_not_for_adapters():
    training = {"lora": {}, "anchor": {"to": "pretrained", "strength": 1}}
    with pytest.raises(MtdnnError, match="anchor: with lora the encoder's own weights stay"):
        parse({**SMALL, "training": training}, "small.yaml")
