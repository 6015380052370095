"""Answers of a trained model to the questions of any file in SQuAD's format."""

import tempfile
from pathlib import Path

from mtdnn.config.settings import RunSettings
from mtdnn.data.corpora.fetching import read_questions
from mtdnn.data.features import Features
from mtdnn.data.tokenising import Tokenizer, tokenise
from mtdnn.evaluation.decoding import predictions_table
from mtdnn.evaluation.predictions import answer
from mtdnn.model.device import use_device
from mtdnn.model.saving import load


def predict(
    folder: Path,
    run: RunSettings,
    data: Path,
    threshold: float | None = None,
    threads: int | None = None,
) -> tuple[dict[str, str], dict[str, float]]:
    """Answer the questions of a file in SQuAD's format; their answers need not be in it.

    Args:
        folder: a run's `model/`.
        run: the settings that it was trained with.
        data: the file.
        threshold: of the null odds; the run's own when absent.
        threads: CPU threads; all cores when absent.

    Returns:
        Answers ("" for none) and null odds by question id.
    """
    corpus = run.corpora[run.primary]
    rows = read_questions(data)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["row"] = list(range(len(rows)))
    device = use_device(threads)
    model = load(folder, run).to(device).eval()
    with tempfile.TemporaryDirectory() as room:
        target = Path(room) / "questions.arrow"
        tokenise(corpus.family, run.features, Tokenizer(folder), [columns], target)
        features = Features(target, corpus.family)
        best = answer(model, run.primary, features, len(rows), run, device)
    table = predictions_table("questions", columns["id"], columns["context"], best)
    limit = run.decoding.null_threshold if threshold is None else threshold
    odds = dict(zip(columns["id"], table["null_odds"].to_pylist(), strict=True))
    texts = dict(zip(columns["id"], table["answer"].to_pylist(), strict=True))
    return {name: "" if odds[name] > limit else text for name, text in texts.items()}, odds
