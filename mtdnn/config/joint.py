"""Joint steps and balanced losses: what does not fit them, and the packages that they need."""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from mtdnn.config.settings import CombinationKind, ScheduleSettings, TrainingSettings

PACKAGES: dict[CombinationKind, tuple[str, ...]] = {
    "mean": (),
    "pcgrad": ("torchjd",),
    "gradvac": ("torchjd",),
    "cagrad": ("torchjd", "cvxpy", "clarabel"),
    "upgrad": ("torchjd", "scipy"),
    "nash_mtl": ("torchjd", "cvxpy", "ecos"),
}
"""The packages that each combination needs."""


def wrong_joint_steps(
    schedule: ScheduleSettings, training: TrainingSettings, corpora: Iterable[str]
) -> Iterator[str]:
    """Yield a line, without its place, for each setting of training that does not fit them.

    Args:
        schedule, training: the settings of a row.
        corpora: the corpora of its mixture.
    """
    if training.gpus > 1 and training.loss_balancing.kind == "uncertainty":
        yield f"training.gpus: uncertainty is learned on one, not {training.gpus}"
    if not schedule.has_joint_steps:
        if training.combine.kind != "mean":
            yield f"training.combine: {training.combine.kind} needs joint steps; set schedule.joint"
        return
    if training.gpus > 1:
        yield f"training.gpus: a run with joint steps is trained on one, not {training.gpus}"
    for key in ("learning_rates", "head_learning_rates"):
        if own := [name for name in corpora if name in getattr(training, key)]:
            yield (
                f"training.{key}: a joint step has one learning rate; leave out {', '.join(own)} "
                "or set training.loss_weights"
            )


def missing_packages(training: TrainingSettings) -> str | None:
    """Return a line about the packages that combine gradients and are not installed, or None."""
    kind = training.combine.kind
    missing = [name for name in PACKAGES[kind] if find_spec(name) is None]
    if not missing:
        return None
    return (
        f"training.combine: {kind} needs {', '.join(missing)}; "
        "install with pip install 'mtdnn[interference]'"
    )
