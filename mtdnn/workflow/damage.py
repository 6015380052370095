"""Finds files that are not what was written, and answers that do not follow from their context."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from mtdnn.config.layout import Layout, RunFolder
from mtdnn.config.loading import load_run
from mtdnn.machine.files import read_columns, sha256


def changed_files(folder: Path, digests: Mapping[str, str | None]) -> Iterator[str]:
    """Yield a line for each file that is missing or has another digest.

    Args:
        folder: the folder of the files.
        digests: the expected SHA-256 of each file, by its name.
    """
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: no such file"
        elif sha256(path) != expected:
            yield (
                f"{path}: was changed after it was written: its sha256 differs; "
                "restore it, or redo its step"
            )


def wrong_answers(layout: Layout, files: RunFolder) -> Iterator[str]:
    """Yield a line for each answer that is not the text between its offsets in its context.

    Without their corpus, nothing can be said of answers and nothing is yielded.

    Args:
        layout: of the experiment that has the corpus.
        files: the run's files, with its predictions.
    """
    run = load_run(files.config)
    contexts: dict[tuple[str, str, str], str] = {}
    here = set()
    for name in [*run.corpora, *run.scored]:
        splits = {split: layout.corpus(name) / f"{split}.parquet" for split in run.splits_of(name)}
        if run.settings_of(name).family == "question_answering":
            for split, path in splits.items():
                if path.exists():
                    here.add(name)
                    rows = read_columns(path, ["id", "context"]).to_pylist()
                    contexts |= {(name, split, row["id"]): row["context"] for row in rows}
    columns = ["corpus", "split", "id", "answer", "answer_start", "answer_end"]
    for row in read_columns(files.predictions, columns).to_pylist() if here else []:
        context = contexts.get((row["corpus"], row["split"], row["id"]))
        start, end = row["answer_start"], row["answer_end"]
        expected = context[start:end] if context is not None and start >= 0 else ""
        is_known = row["corpus"] in here or row["corpus"] not in {*run.corpora, *run.scored}
        if is_known and (context is None or row["answer"] != expected):
            yield f"{files.predictions}: {row['id']}: its answer is not what its offsets point to"
