"""The learning rates of every step of a run, and where its optimizer restarts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtdnn.config.phases import phases_of_run
from mtdnn.config.settings import RunSettings
from mtdnn.model.optimizer import learning_rate
from mtdnn.training.schedule import Step


@dataclass(frozen=True)
class Pace:
    """How one step moves the weights.

    Attributes:
        rate: learning rate of the weights that corpora share.
        head_rate: learning rate of the corpus's head.
        restarts: whether the optimizer forgets its moments before the step.
    """

    rate: float
    head_rate: float
    restarts: bool


def paces(run: RunSettings, steps: Sequence[Step]) -> Iterator[Pace]:
    """Yield the pace of every step.

    The learning rate warms up and decays once over the whole run, or from each phase that restarts
    to the next one.

    Args:
        run: the run's settings.
        steps: its whole schedule.
    """
    training, phases = run.training, phases_of_run(run)
    stretches, stretch = [], 0
    for number, phase in enumerate(phases):
        stretch += phase.restart and number > 0
        stretches.append(stretch)
    numbers = {step.step: stretches[step.phase] for step in steps}
    lengths = Counter(numbers.values())
    current = first = 0
    for step in steps:
        place, peak = stretches[step.phase], phases[step.phase].learning_rate
        restarts = place != current
        if restarts:
            current, first = place, step.step
        peak = training.learning_rates.get(step.corpus, peak)
        head_peak = training.head_learning_rates.get(step.corpus, peak)
        done, total = step.step - first, lengths[place]
        yield Pace(
            rate=learning_rate(done, total, training, peak),
            head_rate=learning_rate(done, total, training, head_peak),
            restarts=restarts,
        )
