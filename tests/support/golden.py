"""What a few runs with settings of old draw and learn, as `tests/training/golden.json` holds it.

    python -m tests.support.golden

writes that file again. Do so only when a change is meant to train other weights, such as another
default or a corrected loss; the changelog then says that old results are not reproduced. A
change that is not meant to must leave the file as it is.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from mtdnn.config.phases import phases_of
from mtdnn.config.settings import ScheduleSettings, TrainingSettings
from mtdnn.machine.files import digest, write_json
from mtdnn.training.loop import train
from mtdnn.training.schedule import Step, draw
from tests.support.policies import supplies
from tests.support.tiny import make_run_folder
from tests.support.trained import lines_of, schedule_of

FILE = Path(__file__).parents[1] / "training" / "golden.json"

RUNS = {
    "the paper's": {
        "mixture": "squad_swag_cola_mnli",
        "weight": 0.5,
        "training": {"epochs": 2, "learning_rate": 3e-3, "batch_size": 8},
    },
    "other readings": {
        "mixture": "squad_swag_cola_mnli",
        "weight": 0.4,
        "training": {
            **{"epochs": 2, "learning_rate": 3e-3, "batch_size": 6, "optimizer": "adamax_legacy"},
            **{"encoder_dropout": 0.2, "span_loss": "mean", "accumulation": 2, "clip_norm": 0.5},
        },
        "schedule": {"spread": "families", "dry": "renormalise", "recut": "once"},
        "seeds": [7],
    },
    "draws of dry corpora dropped": {
        "mixture": "squad_cola",
        "weight": 0.3,
        "training": {
            **{"epochs": 3, "learning_rate": 3e-3, "batch_size": 8},
            **{"weight_decay": 0, "warmup": 0.5},
        },
        "schedule": {"dry": "skip"},
    },
}
"""Runs of settings that existed before policies and phases did, with a dozen or two steps each."""


def control() -> str:
    """The digest of the schedule of QA alone with as many steps as a mixture."""
    training = TrainingSettings(epochs=2)
    phases = phases_of(ScheduleSettings(steps_of_weight=0.8), training, ["squad"], "squad")
    return _digest(draw(phases, supplies({"squad": 1003}, training.batch_size), 1.0, 1))


def measure(folder: Path, name: str) -> dict:
    """Train one of `RUNS` in a folder.

    Returns:
        `schedule`: a digest of all steps; `steps`: the loss and the gradient norm of each.
    """
    run_dir, run = make_run_folder(folder, rows=30, encoder={"num_hidden_layers": 1}, **RUNS[name])
    train(run_dir, run, threads=1)
    losses = [[line["loss"], line["grad_norm"]] for line in lines_of(run_dir)]
    return {"schedule": _digest(schedule_of(run_dir)), "steps": losses}


def _digest(steps: Iterable[Step]) -> str:
    return digest([(s.step, s.epoch, s.corpus, s.rows.tolist()) for s in steps])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        runs = {name: measure(Path(place) / str(n), name) for n, name in enumerate(RUNS)}
    write_json(FILE, {"runs": runs, "control": control()})
