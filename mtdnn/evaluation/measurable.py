"""Which slices will be measurable, found before a run is trained."""

from collections.abc import Iterator
from itertools import compress
from pathlib import Path

from mtdnn.config.experiment import Experiment, Slice
from mtdnn.config.layout import RunId
from mtdnn.config.settings import Family
from mtdnn.data.corpora.overlap import Training, refusal
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.slices import belongs
from mtdnn.machine.files import read_columns
from mtdnn.machine.progress import say


def check(experiment: Experiment, run: RunId) -> None:
    """Refuse to train a run of a table that no slice could score, for what it is trained on.

    Where other slices can, those that cannot are only named. A slice of a split that is not there
    yet may score it: a further set is needed only when the run is evaluated.

    Raises:
        MtdnnError: no slice could score the run, with a line for each; or a corpus is not readable.
    """
    refusals = dict(_refusals(experiment, run))
    wrong = [
        f"slices.{name}: no score for {run.path}: {why}" for name, why in refusals.items() if why
    ]
    if wrong and len(wrong) == len(refusals) and _is_in_a_table(experiment, run):
        raise MtdnnError("\n".join(wrong))
    for line in wrong:
        say(line)


def _refusals(experiment: Experiment, run: RunId) -> Iterator[tuple[str, str | None]]:
    """Yield the slices for a run, each with the reason why it will not score it, or None."""
    layout, names = experiment.layout, experiment.mixtures[run.mixture].corpora
    if not all((layout.corpus(name) / "train.parquet").exists() for name in names):
        return
    training = Training({name: experiment.corpora[name] for name in names}, layout)
    for name, entry in experiment.slices.items():
        if corpus := experiment.scored_corpus(run.mixture, name):
            path = layout.corpus(corpus) / f"{entry.split}.parquet"
            family = experiment.corpora[corpus].family
            yield name, _refusal(entry, family, path, training) if path.exists() else None


def _refusal(entry: Slice, family: Family, path: Path, training: Training) -> str | None:
    seen = training.seen(family, path)
    if family != "question_answering":
        return refusal(sum(seen), len(seen))
    chosen = list(compress(seen, _chosen(entry, path)))
    return refusal(sum(chosen), len(chosen), questions=True)


def _chosen(entry: Slice, path: Path) -> Iterator[bool]:
    """Yield for each question of a corpus's file whether it belongs to a slice."""
    table = read_columns(path, ["title", "context", "question", "answer_texts"])
    columns = (table[name].to_pylist() for name in table.column_names)
    for row in zip(*columns, strict=True):
        yield belongs(entry, *row)


def _is_in_a_table(experiment: Experiment, run: RunId) -> bool:
    """Whether a table shows a run's scores; if none does, other runs start from it or learn it."""
    rows = (row for table in experiment.tables.values() for row in table.own_rows)
    return any(run in experiment.runs_of(row) for row in rows)
