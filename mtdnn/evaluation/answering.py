"""Predict the items of a file with a trained model: questions in SQuAD's format, or other rows."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mtdnn.config.settings import RunSettings
from mtdnn.data.corpora.fetching import read_questions, read_unlabelled
from mtdnn.data.features import Features
from mtdnn.data.tokenising import Tokenizer, tokenise
from mtdnn.evaluation.decoding import predictions_table
from mtdnn.evaluation.predictions import answer, classify
from mtdnn.model.device import use_device
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.saving import load


def answer_file(
    folder: Path,
    run: RunSettings,
    corpus: str,
    data: Path,
    threshold: float | None = None,
    threads: int | None = None,
) -> tuple[dict[str, str], dict[str, float]]:
    """Answer the questions of a file in SQuAD's format, which needs no gold answers.

    Args:
        folder: a run's `model/`.
        run: the settings that the model was trained with.
        corpus: the question-answering corpus whose head answers.
        data: the file.
        threshold: null threshold, in logits; the run's own if absent.
        threads: CPU threads; all cores if absent.

    Returns:
        Answers ("" for no answer) and null odds, in logits, by question id.

    Raises:
        MtdnnError: the model is missing or broken, or `data` is not a SQuAD file with questions.
    """
    rows = read_questions(data)
    with _loaded(folder, run, corpus, rows, threads) as (model, features, device):
        best = answer(model, corpus, features, len(rows), run, device)
    ids, contexts = ([row[name] for row in rows] for name in ("id", "context"))
    table = predictions_table(corpus, "questions", ids, contexts, best)
    limit = run.decoding.null_threshold if threshold is None else threshold
    odds = dict(zip(ids, table["null_odds"].to_pylist(), strict=True))
    texts = dict(zip(ids, table["answer"].to_pylist(), strict=True))
    return {name: "" if odds[name] > limit else text for name, text in texts.items()}, odds


def predict_file(
    folder: Path, run: RunSettings, corpus: str, data: Path, threads: int | None = None
) -> dict[str, Any]:
    """Predict the items of a file, which need no labels.

    Args:
        folder: a run's `model/`.
        run: the settings that the model was trained with.
        corpus: the corpus whose head predicts; not one of question answering.
        data: the file, as `mtdnn.data.corpora.fetching.read_unlabelled` reads it.
        threads: CPU threads; all cores if absent.

    Returns:
        By id (without ids: row-0, row-1, …) the name of a label, the number of a choice (from 0),
        a number, or the name of each token's tag.

    Raises:
        MtdnnError: the model is missing or broken, or the file is not one of such items.
    """
    rows = read_unlabelled(data, run.corpora[corpus])
    with _loaded(folder, run, corpus, rows, threads) as (model, features, device):
        table = classify(model, corpus, features, run, device)
    names = run.corpora[corpus].labels
    if "predicted_tags" in table.column_names:
        found: list[Any] = [
            [names[tag] for tag in tags] for tags in table["predicted_tags"].to_pylist()
        ]
    else:
        found = table["prediction"].to_pylist()
        found = [names[int(each)] for each in found] if names else found
    return dict(zip((row["id"] for row in rows), found, strict=True))


@contextmanager
def _loaded(
    folder: Path, run: RunSettings, corpus: str, rows: Sequence[dict[str, Any]], threads: int | None
) -> Iterator[tuple[MultiTaskModel, Features, torch.device]]:
    """Load the model and tokenise rows of a corpus's family; give both with their device."""
    family = run.corpora[corpus].family
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    columns["row"] = list(range(len(rows)))
    device = use_device(threads)
    model = load(folder, run).to(device).eval()
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "items.arrow"
        tokenise(family, run.features, Tokenizer(folder), [columns], target)
        yield model, Features(target, family), device
