"""Answer the questions of any file in SQuAD's format with a trained model."""

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
    """Answer the questions of a file in SQuAD's format, which needs no gold answers.

    Args:
        folder: a run's `model/`.
        run: the settings that the model was trained with.
        data: the file.
        threshold: null threshold, in logits; the run's own if absent.
        threads: CPU threads; all cores if absent.

    Returns:
        Answers ("" for no answer) and null odds, in logits, by question id.

    Raises:
        MtdnnError: the model is missing or broken, or `data` is not a SQuAD file with questions.
    """
    corpus = run.corpora[run.target]
    rows = read_questions(data)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["row"] = list(range(len(rows)))
    device = use_device(threads)
    model = load(folder, run).to(device).eval()
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "questions.arrow"
        tokenise(corpus.family, run.features, Tokenizer(folder), [columns], target)
        features = Features(target, corpus.family)
        best = answer(model, run.target, features, len(rows), run, device)
    table = predictions_table(run.target, "questions", columns["id"], columns["context"], best)
    limit = run.decoding.null_threshold if threshold is None else threshold
    odds = dict(zip(columns["id"], table["null_odds"].to_pylist(), strict=True))
    texts = dict(zip(columns["id"], table["answer"].to_pylist(), strict=True))
    return {name: "" if odds[name] > limit else text for name, text in texts.items()}, odds
