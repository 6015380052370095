"""Whether the anchor of a run fits its phases and the run from which it starts."""

from collections.abc import Iterator, Sequence

from mtdnn.config.phases import RunPhase
from mtdnn.config.settings import Anchor


def wrong_anchor(
    anchor: Anchor, phases: Sequence[RunPhase], start: tuple[str, Sequence[str]] | None
) -> Iterator[str]:
    """Yield a line, without its place, if an anchor does not fit a run.

    Args:
        anchor: the settings of the anchor.
        phases: the run's phases.
        start: the mixture of the run from whose encoder it starts, and the corpora of that
            mixture; None if it starts from the pretrained encoder.
    """
    if anchor.to == "pretrained" and start:
        yield (
            "training.anchor.to: the run does not start from the pretrained encoder; use "
            "starting_run, or leave out training.start_from"
        )
    elif anchor.to == "starting_run" and not start:
        yield "training.anchor.to: starting_run needs training.start_from"
    elif anchor.to == "phase_start" and len(phases) < 2:
        yield "training.anchor.to: phase_start needs a second phase in schedule.phases"
    elif anchor.to == "phase_start" and anchor.corpus:
        if not anchored_phases(anchor, phases):
            yield (
                f"training.anchor.corpus: no phase before the last trains {anchor.corpus}, so its "
                "head would be new; name a corpus of an earlier phase"
            )
    elif start and anchor.corpus and anchor.corpus not in start[1]:
        yield (
            f"training.anchor.corpus: {start[0]}, from which the run starts, is not trained on "
            f"{anchor.corpus}; name one of {', '.join(start[1])}"
        )


def anchored_phases(anchor: Anchor, phases: Sequence[RunPhase]) -> list[int]:
    """Return the numbers of the phases at whose start the weights become the anchor.

    The first phase of `phase_start` is free, and so are those until the corpus whose Fisher
    information is estimated has been trained.
    """
    if anchor.to != "phase_start":
        return [0]
    return [
        number
        for number in range(1, len(phases))
        if anchor.corpus is None or any(anchor.corpus in phase.corpora for phase in phases[:number])
    ]
