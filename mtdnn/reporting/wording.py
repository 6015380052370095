"""The words for scores: their units, and what is scored, questions in paragraphs or other items."""

from collections.abc import Iterable, Sequence

from mtdnn.config.experiment import Experiment
from mtdnn.evaluation.measures import Measure
from mtdnn.evaluation.results import RowResult

ANSWERING = "question_answering"
"""The family whose items are questions in paragraphs, unanswered above a null threshold."""


def is_answering(row: RowResult) -> bool:
    """Return whether a row's target is question answering."""
    return row.family == ANSWERING


def targets(experiment: Experiment) -> list[str]:
    """Return the targets of all runs, in the experiment's order."""
    mixtures = {run.mixture for run in experiment.runs()}
    used = {experiment.mixtures[name].target_among(experiment.corpora) for name in mixtures}
    return [name for name in experiment.corpora if name in used]


def has_answers(experiment: Experiment) -> bool:
    """Return whether a run's target is question answering."""
    return any(experiment.corpora[name].family == ANSWERING for name in targets(experiment))


def union(measures: Iterable[Sequence[Measure]]) -> list[Measure]:
    """Return the measures of several corpora in their order, one for each key."""
    found: dict[str, Measure] = {}
    for several in measures:
        for measure in several:
            found.setdefault(measure.key, measure)
    return list(found.values())


def sentence(text: str) -> str:
    """Return a text with a full stop, unless it ends like a sentence, as a question does."""
    return text if text.rstrip("\"'”’»").endswith((".", "?", "!", "…")) else f"{text}."


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return words as a sentence lists them: `EM`, `EM and F1`, `Acc., F1 and Matthews`."""
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else final


def unit(measure: Measure) -> str:
    """Return the unit in which a measure is shown: a correlation is no share, so not percent."""
    return "× 100" if measure.lowest < 0 else "%"


def axis(measure: Measure) -> str:
    """Return the label of an axis, for instance `EM (%)` or `accuracy (%)`."""
    return f"{measure.name} ({unit(measure)})"


def title(measure: Measure) -> str:
    """Return the title of a table of one measure, for instance `Accuracy (%)`."""
    text = axis(measure)
    return text[0].upper() + text[1:]


def in_unit(measures: Iterable[Measure]) -> str:
    """Return measures with their units, for a sentence: `EM and F1 in percent`."""
    measures = list(measures)
    parts = [
        f"{listed(measure.label for measure in each)} {words}"
        for sign, words in (("%", "in percent"), ("× 100", "times 100"))
        if (each := [measure for measure in measures if unit(measure) == sign])
    ]
    return listed(parts)


THRESHOLDS = {"zero": "configured", "tuned": "tuned"}
"""What tables call the null threshold of a comparison in `statistics.json`."""


def items(families: Iterable[str]) -> str:
    """Return what is scored: `questions` if only questions are, else `items`."""
    return "questions" if set(families) == {ANSWERING} else "items"


def clusters(families: Iterable[str]) -> str:
    """Return what holds related items: `paragraphs` if only questions are scored."""
    return "paragraphs" if set(families) == {ANSWERING} else "clusters"


def clustered(families: Iterable[str]) -> str:
    """Return `clusters` for a sentence that does not name the items."""
    word = clusters(families)
    return word if word == "paragraphs" else f"{word} of items"
