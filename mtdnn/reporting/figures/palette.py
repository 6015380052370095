"""How corpora, mixtures and verdicts look: colours, markers and lines, the same in all figures.

The colours of a palette differ in lightness, so that they stay apart in greyscale, and are apart
for readers who lack one kind of cone. Corpora and mixtures have palettes of their own: no colour
means a corpus in one figure and a mixture in another. Markers and dashes say the same once more.
"""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

from mtdnn.config.experiment import Experiment

GREY = "#767676"
"""The baseline, and what is not known."""

INK = "#222222"

CORPUS_COLOURS = ("#1c407e", "#14cd7a", "#963648", "#c787b6", "#67730c", "#5481e1")
MIXTURE_COLOURS = ("#1d41c4", "#fa7d3c", "#5a2670", "#f79dce", "#8c5633", "#1c90e7")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (9, 2)))

Dash = str | tuple[int, tuple[float, ...]]


class Look(NamedTuple):
    """How something is drawn: its colour, its marker, and the dashes of its line."""

    colour: str
    marker: str
    dash: Dash


BASELINE = Look(GREY, "o", "-")

VERDICTS = {
    "supported": Look("#12a37c", "^", "-"),
    "contradicted": Look("#b34700", "v", "-"),
    None: Look(INK, "o", "-"),
}
"""The look of a verdict; None: not decidable, or no verdict."""


def looks(colours: tuple[str, ...] = MIXTURE_COLOURS) -> Iterator[Look]:
    """Yield looks without end; the first two hundred all differ."""
    for number in count():
        yield Look(
            colours[number % len(colours)],
            _MARKERS[number % len(_MARKERS)],
            _DASHES[number % len(_DASHES)],
        )


def corpus_looks(experiment: Experiment) -> dict[str, Look]:
    """Return the look of each corpus."""
    return dict(zip(experiment.corpora, looks(CORPUS_COLOURS), strict=False))


def mixture_looks(experiment: Experiment) -> dict[str, Look]:
    """Return the look of each mixture; those of a target alone are grey."""
    several = looks()
    alone = looks((GREY,))
    return {
        name: next(alone if mixture.is_alone else several)
        for name, mixture in experiment.mixtures.items()
    }


def row_looks(experiment: Experiment, mixtures: Iterable[str]) -> list[Look]:
    """Return the looks of rows by their mixtures; a second row of a mixture has a look of its own.

    Args:
        experiment: the experiment.
        mixtures: the name of each row's mixture.
    """
    own = mixture_looks(experiment)
    spare = (look for look in looks() if look not in own.values())
    found: dict[Look, None] = {}
    for name in mixtures:
        found.setdefault(own[name] if own[name] not in found else next(spare))
    return list(found)


def ink_on(colour: str) -> str:
    """Return black or white, whichever is easier to read on a colour."""
    light = luminance(colour)
    return "black" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "white"


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, 0 to 1, as WCAG 2 defines it.

    Args:
        colour: `#rrggbb`.
    """
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
