"""The phases of a run, with the schedule's settings applied, and what is wrong with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mtdnn.config.settings import Phase, RunSettings, ScheduleSettings, TrainingSettings


@dataclass(frozen=True)
class RunPhase:
    """One phase of a run; a run without `schedule.phases` is a single one.

    Attributes:
        corpora: its corpora, in the order of the mixture.
        target: the run's target, or None if it is not among them.
        schedule: how their batches are drawn.
        epochs: number of epochs.
        restart: whether the optimizer and the learning rate start anew.
        learning_rate: peak learning rate.
        prune: the fraction of its weights that it sets free for later phases; None for none.
    """

    corpora: tuple[str, ...]
    target: str | None
    schedule: ScheduleSettings
    epochs: int
    restart: bool
    learning_rate: float
    prune: float | None = None

    @property
    def end(self) -> Literal["target", "every_corpus", "steps"]:
        """What ends an epoch."""
        if self.schedule.steps:
            return "steps"
        if self.target is None or self.schedule.policy.kind == "shuffled":
            return "every_corpus"
        return self.schedule.until or "target"

    @property
    def refills(self) -> bool:
        """Whether a corpus that runs dry before the epoch ends is reshuffled."""
        fixed = self.end == "steps" or self.schedule.policy.kind == "shuffled"
        return fixed or self.schedule.joint or self.schedule.dry == "refill"

    @property
    def uses_weight(self) -> bool:
        """Whether the target's weight matters to it."""
        weighted = self.schedule.policy.kind == "weighted"
        return weighted and self.target is not None and len(self.corpora) > 1


def phases_of(
    schedule: ScheduleSettings, training: TrainingSettings, corpora: Sequence[str], target: str
) -> list[RunPhase]:
    """Return the phases of a run.

    Args:
        schedule, training: the run's settings.
        corpora: the corpora of its mixture.
        target: the mixture's target.
    """
    phases = []
    for phase in schedule.phases or [Phase()]:
        own = [name for name in corpora if phase.corpora is None or name in phase.corpora]
        phases.append(
            RunPhase(
                corpora=tuple(own),
                target=target if target in own else None,
                schedule=schedule.of_phase(phase) if schedule.phases else schedule,
                epochs=phase.epochs or training.epochs,
                restart=phase.restart,
                learning_rate=phase.learning_rate or training.learning_rate,
                prune=phase.prune,
            )
        )
    return phases


def phases_of_run(run: RunSettings) -> list[RunPhase]:
    """Return the phases of a run from its settings."""
    return phases_of(run.schedule, run.training, list(run.corpora), run.target)


def uses_weight(phases: Sequence[RunPhase]) -> bool:
    """Return whether the target's weight matters to a run with these phases."""
    return any(phase.uses_weight for phase in phases)


def wrong_phases(
    schedule: ScheduleSettings, corpora: Sequence[str], mixture: str, target: str
) -> Iterator[str]:
    """Yield a line, without its place, for each phase that does not fit a mixture.

    Args:
        schedule: the schedule of a row of the mixture.
        corpora: the mixture's corpora.
        mixture: its name.
        target: its target.
    """
    used = set()
    for number, phase in enumerate(schedule.phases):
        place, own = f"schedule.phases.{number}", phase.corpora or list(corpora)
        used |= set(own)
        if strangers := [name for name in own if name not in corpora]:
            yield f"{place}.corpora: {mixture} does not have {', '.join(strangers)}; remove it here"
        elif target not in own:
            if phase.until == "target":
                yield f"{place}.until: the phase has no batches of the target {target}"
            if schedule.of_phase(phase).policy.kind == "weighted" and len(own) > 1:
                yield (
                    f"{place}.policy: weighted needs the target {target} among the phase's "
                    "corpora; use another policy, for instance uniform"
                )
    if schedule.phases and target not in used:
        yield f"schedule.phases: none has the target {target} of {mixture}; add it to one"
    elif unused := [name for name in corpora if schedule.phases and name not in used]:
        yield (
            f"schedule.phases: none has {', '.join(unused)} of {mixture}; "
            "add it to one, or use a mixture without it"
        )


def wrong_pruning(schedule: ScheduleSettings, training: TrainingSettings) -> Iterator[str]:
    """Yield a line, without its place, for each setting of training that does not fit pruning.

    Args:
        schedule, training: the settings of a row.
    """
    if not schedule.prunes or training.average:
        return
    if training.lora:
        yield "training.lora: leaves no matrix to prune; leave it out, or schedule.phases.prune"
    if training.anchor:
        yield (
            "training.anchor: would pull the weights that schedule.phases.prune sets free away "
            "from zero; keep one of them"
        )
    if training.gpus > 1:
        yield f"training.gpus: a run with phases.prune is trained on one, not {training.gpus}"
