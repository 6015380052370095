"""What other splits share with training splits, and how much of it a score can bear."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq

from mtdnn.config.layout import Layout
from mtdnn.config.settings import CorpusSettings, Family
from mtdnn.data.corpora.rows import NOT_TEXT
from mtdnn.machine.files import read_columns, reading_parquet

MAX_SEEN_SHARE = 0.05
"""Largest share of items with the texts of a training item: publishers' own splits share a few
(CoLA and STS-B up to 2 %), and those change no score by more than that."""


def texts(path: Path) -> list[str]:
    """Return all texts of each item of a corpus's file, as one value to compare."""
    with reading_parquet(path):
        names = [name for name in pq.read_schema(path).names if name not in NOT_TEXT]
    table = read_columns(path, names)
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    return [repr(row) for row in rows]


def refusal(seen: int, total: int, *, questions: bool = False) -> str | None:
    """Return why items get no score because a run was trained on some of them; None if they do.

    Args:
        seen: the number of items with the texts of a training item, of which there may be a few;
            or of questions with the id or the context of a training question, which all count.
        total: the number of items.
        questions: whether they are questions.
    """
    if not seen or (not questions and seen <= MAX_SEEN_SHARE * total):
        return None
    if questions:
        found = f"{seen} of its {total} questions have the context or the id of a question"
        remedy = ", or their articles from the slice"
    else:
        found, remedy = f"{seen} of its {total} items have the texts of items", ""
    return f"{found} that the run was trained on; remove these from the training split{remedy}"


class Training:
    """The training splits of some corpora, to which other items are compared.

    Args:
        corpora: the settings of the corpora.
        layout: where they are.
    """

    def __init__(self, corpora: Mapping[str, CorpusSettings], layout: Layout):
        self._files: dict[Family, list[Path]] = {}
        for name, corpus in corpora.items():
            file = layout.corpus(name) / "train.parquet"
            self._files.setdefault(corpus.family, []).append(file)
        self._texts: dict[Family, set[str]] = {}

    def seen(self, family: Family, path: Path) -> list[bool]:
        """Return for each row of a corpus's file of a split whether it is a training item."""
        if family != "question_answering":
            return [text in self._texts_of(family) for text in texts(path)]
        table = read_columns(path, ["id", "context"])
        ids, contexts = self.questions(path.parent.name)
        rows = zip(table["id"].to_pylist(), table["context"].to_pylist(), strict=True)
        return [identifier in ids or context in contexts for identifier, context in rows]

    def questions(self, corpus: str) -> tuple[set[str], set[str]]:
        """Return the ids of the corpus's own training split, and the contexts of all."""
        return self._questions[0].get(corpus, set()), self._questions[1]

    def _texts_of(self, family: Family) -> set[str]:
        if family not in self._texts:
            files = self._files.get(family, [])
            self._texts[family] = {text for file in files for text in texts(file)}
        return self._texts[family]

    @cached_property
    def _questions(self) -> tuple[dict[str, set[str]], set[str]]:
        ids: dict[str, set[str]] = {}
        contexts: set[str] = set()
        for file in self._files.get("question_answering", []):
            columns = read_columns(file, ["id", "context"])
            ids[file.parent.name] = set(columns["id"].to_pylist())
            contexts.update(columns["context"].unique().to_pylist())
        return ids, contexts


def within(name: str, corpus: CorpusSettings, layout: Layout) -> Iterator[str]:
    """Yield a line for each split of a fetched corpus that shares too much with its training split.

    Args:
        name: the corpus's name.
        corpus: its settings.
        layout: where it is.

    Raises:
        MtdnnError: one of its files is missing or not readable.
    """
    training = Training({name: corpus}, layout)
    for split in corpus.splits:
        if split == "train":
            continue
        path = layout.corpus(name) / f"{split}.parquet"
        seen = training.seen(corpus.family, path)
        asks = corpus.family == "question_answering"
        if why := refusal(sum(seen), len(seen), questions=asks):
            row = seen.index(True)
            called = read_columns(path, ["id"])["id"][row].as_py()
            yield (
                f"{path}: a run that is trained on {name} has no score on all of it, as {why}; "
                f"the first is row {row}, {called!r}"
            )
