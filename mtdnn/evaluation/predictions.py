"""Predict with a run's model: answers to questions, and labels of all other items."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mtdnn.config.dependencies import code_of
from mtdnn.config.layout import Layout, RunFolder, outdated_by
from mtdnn.config.settings import Family, RunSettings
from mtdnn.data.features import (
    ROWS_AT_A_TIME,
    Features,
    Sequences,
    check_pairs,
    check_unchanged,
)
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.decoding import PREDICTIONS, Answers, Decoder, SpanLogits, predictions_table
from mtdnn.evaluation.entities import OUTSIDE
from mtdnn.machine.files import digest, read_columns, read_portions, read_product
from mtdnn.machine.progress import Progress
from mtdnn.machine.staging import is_half_published, publishing
from mtdnn.model.batches import pack
from mtdnn.model.device import use_device
from mtdnn.model.heads import Head
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.saving import load

TOKENS_PER_BATCH = {"cpu": 4_096, "cuda": 32_768}
"""Tokens of a batch by device: enough to keep the device busy, few enough for its memory."""


LABELS = pa.schema(
    [
        ("corpus", pa.string()),
        ("split", pa.string()),
        ("row", pa.int32()),
        ("label", pa.float64()),
        ("prediction", pa.float64()),
        ("tags", pa.list_(pa.int16())),
        ("predicted_tags", pa.list_(pa.int16())),
    ]
)
"""Columns of auxiliary.parquet: one row for each item that is not a question.

`row` is the item's row in the corpus file. `label` and `prediction` are numbers of classes or
choices, or real numbers; an item of token classification has `tags` and `predicted_tags` instead,
one for each word.
"""

_MADE_FROM = b"mtdnn.made_from"  # key in the metadata of both files


def is_evaluated(run_dir: Path, run: RunSettings) -> bool:
    """Return whether a run's folder holds what evaluating its model now would give.

    Args:
        run_dir: the run's folder, with the description of its trained model.
        run: the run's settings.
    """
    if is_half_published(run_dir):
        return False
    files, expected = RunFolder(run_dir), _origin(run_dir, run)
    try:
        schemas = [pq.read_schema(path) for path in (files.predictions, files.auxiliary)]
    except (OSError, pa.ArrowException):
        return False
    return all((schema.metadata or {}).get(_MADE_FROM) == expected for schema in schemas)


def _origin(run_dir: Path, run: RunSettings) -> bytes:
    """Digest of what determines the predictions of a trained run."""
    fingerprint = read_product(RunFolder(run_dir).description).get("fingerprint")
    wanted = {name: run.splits_of(name) for name in run.evaluated}
    return digest([fingerprint, run.decoding.model_dump(), wanted, code_of("evaluate")]).encode()


def evaluate(run_dir: Path, run: RunSettings, threads: int | None = None) -> None:
    """Predict a run's evaluation sets: write `predictions.parquet` and `auxiliary.parquet`.

    These are the dev split of each of its corpora, the held-out split of its target if it has
    one, and every further split that a slice needs. Answers to questions go to the former file,
    all other predictions to the latter.

    Args:
        run_dir: the run's folder, with its trained model.
        run: the run's settings.
        threads: CPU threads; all cores if absent.

    Raises:
        MtdnnError: features, corpora or the model are missing, broken or changed, the model has no
            description, or it gives logits that are not finite.
    """
    device = use_device(threads)
    layout, origin = Layout.of_run(run_dir), {_MADE_FROM: _origin(run_dir, run)}
    check_unchanged(layout, run, "dev", "held_out", "test")
    model = load(RunFolder(run_dir).model, run).to(device).eval()
    with publishing(run_dir, outdated_by("evaluate")) as folder:
        files = RunFolder(folder)
        schema = PREDICTIONS.with_metadata(origin)
        with pq.ParquetWriter(files.predictions, schema, compression="zstd") as writer:
            labels = _predict(run, layout, model, device, writer)
        table = pa.concat_tables([LABELS.empty_table(), *labels])
        table = table.replace_schema_metadata(origin)
        pq.write_table(table, files.auxiliary, compression="zstd")


def _predict(
    run: RunSettings,
    layout: Layout,
    model: MultiTaskModel,
    device: torch.device,
    writer: pq.ParquetWriter,
) -> list[pa.Table]:
    """Write the answers to every question; return the predictions of all other items."""
    labels = []
    for name in [*run.corpora, *run.scored]:
        family, head = run.settings_of(name).family, run.head_of(name)
        folder = layout.features(run.encoder_name, run.features_variant, name)
        for split in run.splits_of(name):
            path, rows = folder / f"{split}.arrow", layout.corpus(name) / f"{split}.parquet"
            if split == "held_out" and not run.settings_of(name).held_out_titles:
                continue
            if not rows.exists():
                raise MtdnnError(f"{rows}: no such file; `mtdnn corpus` fetches the corpus again")
            features = Features(path, family)
            if family == "question_answering":
                questions = pq.read_metadata(rows).num_rows
                best = answer(model, head, features, questions, run, device)
                for table in _answers(name, split, rows, best):
                    writer.write_table(table)
                continue
            predicted = classify(model, head, features, run, device)
            if family == "token_classification":
                gold = read_columns(rows, ["tags"])["tags"].to_pylist()
                predicted = of_all_words(predicted, gold, run.settings_of(name).labels)
            labels.append(_named(name, split, predicted))
    return labels


def _answers(corpus: str, split: str, rows: Path, best: Answers) -> Iterator[pa.Table]:
    """Look up the answers' text, a portion at a time: all contexts may not fit in memory."""
    first = 0
    for batch in read_portions(rows, ROWS_AT_A_TIME, ["id", "context"]):
        part = best.part(first, first + len(batch))
        first += len(batch)
        ids, contexts = batch["id"].to_pylist(), batch["context"].to_pylist()
        yield predictions_table(corpus, split, ids, contexts, part)


def _named(corpus: str, split: str, predicted: pa.Table) -> pa.Table:
    """Return predictions in the columns `LABELS`, null where they have none."""
    columns = {name: predicted[name] for name in predicted.column_names}
    columns |= {
        name: [value] * len(predicted) for name, value in (("corpus", corpus), ("split", split))
    }
    filled = {name: columns.get(name, [None] * len(predicted)) for name in LABELS.names}
    return pa.table(filled).cast(LABELS)


def answer(
    model: MultiTaskModel,
    corpus: str,
    features: Features,
    questions: int,
    run: RunSettings,
    device: torch.device,
) -> Answers:
    """Find the best answer and the null score of each of N questions.

    Args:
        model: the model, on `device` and in evaluation mode.
        corpus: name of the corpus, whose head answers.
        features: windows of the questions.
        questions: N, the number of questions.
        run: the run's settings.
        device: where the model computes.

    Returns:
        Answers of the N questions; scores are in logits.

    Raises:
        MtdnnError: a logit is not finite, or a question has no window.
    """
    decoder = Decoder(questions, run.decoding)
    batches = batches_by_length(features, TOKENS_PER_BATCH[device.type])
    for sequences, logits in outputs(model, corpus, features, run, device, batches):
        columns = sequences.columns
        decoder.add(
            SpanLogits(
                start=logits[:, 0],
                end=logits[:, 1],
                offsets=np.concatenate([[0], np.cumsum(sequences.lengths)]).astype(np.int64),
                char_start=columns["char_start"],
                char_end=columns["char_end"],
                example=columns["example"],
            )
        )
    return decoder.answers()


def classify(
    model: MultiTaskModel, head: str, features: Features, run: RunSettings, device: torch.device
) -> pa.Table:
    """Predict the label of every item of a corpus that has no questions.

    Args:
        model: the model, on `device` and in evaluation mode.
        head: name of the corpus whose head decides.
        features: the items.
        run: the run's settings.
        device: where the model computes.

    Returns:
        One row per item, in the corpus's order: `row`, gold `label` and `prediction`; or, for
        token classification, `row`, the numbers of the `words` that have a token, and their
        `predicted_tags`.

    Raises:
        MtdnnError: a logit is not finite.
    """
    decide, tables = DECIDE[features.family], []
    batches = batches_by_length(features, TOKENS_PER_BATCH[device.type])
    for sequences, logits in outputs(model, head, features, run, device, batches):
        rows = sequences.columns["example"][sequences.items[:-1]]
        decided = decide(model.head(head), sequences, torch.from_numpy(logits), features.family)
        tables.append(pa.table({"row": rows, **decided}))
    return pa.concat_tables(tables).sort_by("row")


def _largest(
    head: Head, sequences: Sequences, logits: torch.Tensor, family: Family
) -> dict[str, Any]:
    """Decide for the choice or class with the largest score."""
    scores = head.scores(logits, pack(sequences, family))
    labels = sequences.columns["label"][sequences.items[:-1]]
    return {"label": labels, "prediction": scores.argmax(dim=1).numpy()}


def _given(
    head: Head, sequences: Sequences, logits: torch.Tensor, family: Family
) -> dict[str, Any]:
    """Take the logit as the predicted score."""
    scores = head.scores(logits, pack(sequences, family))
    return {"label": sequences.columns["label"], "prediction": scores[:, 0].numpy()}


def _tags(head: Head, sequences: Sequences, logits: torch.Tensor, family: Family) -> dict[str, Any]:
    """Decide at the first token of each word for the tag with the largest logit."""
    word = sequences.columns["word"]
    first = np.flatnonzero(word >= 0)
    ends = np.searchsorted(first, np.concatenate([[0], np.cumsum(sequences.lengths)]))
    tags = logits.argmax(dim=1).numpy()[first]
    return {
        name: pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))
        for name, values in (("words", word[first]), ("predicted_tags", tags))
    }


DECIDE: dict[Family, Callable[[Head, Sequences, torch.Tensor, Family], dict[str, Any]]] = {
    "multiple_choice": _largest,
    "sequence_classification": _largest,
    "regression": _given,
    "token_classification": _tags,
}
"""How the items of each family but question answering get their predictions."""


def of_all_words(predicted: pa.Table, gold: Sequence[Sequence[int]], labels: list[str]) -> pa.Table:
    """Return predicted tags with gold tags, for every word of the corpus.

    A word that the encoder did not see, because it is beyond the maximum length or the tokenizer
    removes its characters, is predicted to be outside of any entity: `O`, or the first tag where
    there is no `O`.

    Args:
        predicted: `row`, `words` and `predicted_tags` of each sentence, in the corpus's order.
        gold: the gold tags of every sentence of the corpus, one for each word.
        labels: names of the tags.
    """
    unseen = labels.index(OUTSIDE) if OUTSIDE in labels else 0
    tags = [gold[row] for row in predicted["row"].to_pylist()]
    guesses = []
    sides = (predicted[name].to_pylist() for name in ("words", "predicted_tags"))
    for sentence, words, found in zip(tags, *sides, strict=True):
        guess = [unseen] * len(sentence)
        for word, tag in zip(words, found, strict=True):
            guess[word] = tag
        guesses.append(guess)
    return pa.table({"row": predicted["row"], "tags": tags, "predicted_tags": guesses})


@torch.inference_mode()
def outputs(
    model: MultiTaskModel,
    corpus: str,
    features: Features,
    run: RunSettings,
    device: torch.device,
    batches: Iterable[np.ndarray],
) -> Iterator[tuple[Sequences, np.ndarray]]:
    """Run the model on batches of items.

    On a GPU the next batch is computed while the caller decodes the current one.

    Args:
        model: the model, on `device` and in evaluation mode.
        corpus: name of the corpus, whose head gives the logits.
        features: the corpus's items.
        run: the run's settings.
        device: where the model computes.
        batches: the items of each batch, by number.

    Yields:
        The sequences of a batch, and their logits in fp32: (tokens, 2) for question answering,
        (tokens, tags) for token classification, (sequences, outputs of the head) for others.

    Raises:
        MtdnnError: a logit is not finite.
    """

    def finite(logits: torch.Tensor) -> np.ndarray:
        values: np.ndarray = logits.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise MtdnnError(
                f"{run.id.path}: the model gives logits of {corpus} that are not finite, because "
                "its training diverged; train it with a lower training.learning_rate"
            )
        return values

    if corpus in run.training.heads:
        check_pairs(features, corpus)
    ahead: tuple[Sequences, torch.Tensor] | None = None
    with Progress(f"evaluate {corpus}", len(features), "items") as progress:
        for items in batches:
            sequences = features.pick(items)
            with _precision(run, device):
                logits = model(corpus, pack(sequences, features.family).to(device))
            if ahead:
                yield ahead[0], finite(ahead[1])
            ahead = sequences, logits
            progress.advance(len(items))
    if ahead:
        yield ahead[0], finite(ahead[1])


def _precision(run: RunSettings, device: torch.device) -> torch.autocast:
    """Return the precision of the forward pass; `auto` is bf16 on a GPU, else that of training."""
    wanted = run.decoding.precision
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" else run.training.precision
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted == "bf16")


def batches_by_length(features: Features, tokens: int) -> Iterator[np.ndarray]:
    """Yield the numbers of all items, longest first, in batches of about `tokens` tokens.

    Items of similar length waste little padding, and if memory is too small for the largest
    batch, the first one fails.
    """
    lengths = np.add.reduceat(features.lengths, features.item_starts[:-1])
    order = np.argsort(-lengths, kind="stable")
    batch = (np.cumsum(lengths[order]) - lengths[order]) // tokens
    yield from np.split(order, np.flatnonzero(np.diff(batch)) + 1)
