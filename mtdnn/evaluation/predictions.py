"""Predict with a run's model: answers to every question, labels of every auxiliary dev set."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mtdnn.config.dependencies import code_of
from mtdnn.config.layout import Layout, RunFolder, outdated_by
from mtdnn.config.settings import RunSettings
from mtdnn.data.features import ROWS_AT_A_TIME, Features, Sequences, check_unchanged
from mtdnn.evaluation.decoding import PREDICTIONS, Answers, Decoder, SpanLogits, predictions_table
from mtdnn.machine.files import digest, read_product
from mtdnn.machine.progress import Progress
from mtdnn.machine.staging import publishing
from mtdnn.model.batches import pack
from mtdnn.model.device import use_device
from mtdnn.model.heads import ChoiceHead, LabelHead
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.saving import load

TOKENS_PER_BATCH = {"cpu": 4_096, "cuda": 32_768}
"""Tokens of a batch by device: enough to keep the device busy, few enough for its memory."""


_MADE_FROM = b"mtdnn.made_from"  # key in the metadata of both files


def is_evaluated(run_dir: Path, run: RunSettings) -> bool:
    """Return whether a run's folder holds what evaluating its model now would give.

    Args:
        run_dir: the run's folder, with the description of its trained model.
        run: the run's settings.
    """
    files, expected = RunFolder(run_dir), _origin(run_dir, run)
    try:
        schemas = [pq.read_schema(path) for path in (files.predictions, files.auxiliary)]
    except (OSError, pa.ArrowInvalid):
        return False
    return all((schema.metadata or {}).get(_MADE_FROM) == expected for schema in schemas)


def _origin(run_dir: Path, run: RunSettings) -> bytes:
    """Digest of what determines the predictions of a trained run."""
    description = RunFolder(run_dir).description
    fingerprint = read_product(description).get("fingerprint") if description.exists() else None
    return digest([fingerprint, run.decoding.model_dump(), code_of("evaluate")]).encode()


def evaluate(run_dir: Path, run: RunSettings, threads: int | None = None) -> None:
    """Predict a run's dev sets and write its `predictions.parquet` and `auxiliary.parquet`.

    Questions are those of the primary corpus's dev split and, if it exists, held-out split.

    Args:
        run_dir: the run's folder, with its trained model.
        run: the run's settings.
        threads: CPU threads; all cores if absent.

    Raises:
        MtdnnError: features, corpora or the model are missing, broken or changed, or the model
            gives logits that are not finite.
    """
    device = use_device(threads)
    layout, origin = Layout.of_run(run_dir), {_MADE_FROM: _origin(run_dir, run)}
    check_unchanged(layout, run, "dev", "held_out")
    model = load(RunFolder(run_dir).model, run).to(device).eval()
    with publishing(run_dir, outdated_by("evaluate")) as folder:
        files = RunFolder(folder)
        schema = PREDICTIONS.with_metadata(origin)
        with pq.ParquetWriter(files.predictions, schema, compression="zstd") as writer:
            labels = _predict(run, layout, model, device, writer)
        table = pa.concat_tables([_no_labels(), *labels]).replace_schema_metadata(origin)
        pq.write_table(table, files.auxiliary, compression="zstd")


def _predict(
    run: RunSettings,
    layout: Layout,
    model: MultiTaskModel,
    device: torch.device,
    writer: pq.ParquetWriter,
) -> list[pa.Table]:
    """Write the answers to every question; return the labels of each auxiliary corpus."""
    labels = []
    for name, corpus in run.corpora.items():
        folder = layout.features(run.encoder_name, run.features_variant, name)
        if name != run.primary:
            features = Features(folder / "dev.arrow", corpus.family)
            labels.append(classify(model, name, features, run, device))
            continue
        for split in ("dev", "held_out"):
            if (folder / f"{split}.arrow").exists():
                features = Features(folder / f"{split}.arrow", corpus.family)
                rows = layout.corpus(name) / f"{split}.parquet"
                questions = pq.read_metadata(rows).num_rows
                best = answer(model, name, features, questions, run, device)
                for table in _predictions(split, rows, best):
                    writer.write_table(table)
    return labels


def _predictions(split: str, rows: Path, best: Answers) -> Iterator[pa.Table]:
    """Look up the answers' text, a portion at a time: all contexts may not fit in memory."""
    first = 0
    for batch in pq.ParquetFile(rows).iter_batches(ROWS_AT_A_TIME, columns=["id", "context"]):
        part = best.part(first, first + len(batch))
        first += len(batch)
        yield predictions_table(split, batch["id"].to_pylist(), batch["context"].to_pylist(), part)


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
    model: MultiTaskModel, corpus: str, features: Features, run: RunSettings, device: torch.device
) -> pa.Table:
    """Predict the label of every item of an auxiliary corpus.

    Args:
        model: the model, on `device` and in evaluation mode.
        corpus: name of the corpus, whose head decides.
        features: the corpus's items.
        run: the run's settings.
        device: where the model computes.

    Returns:
        One row per item, in the corpus's order: `corpus`, `row`, gold `label`, `prediction`.
    """
    head, tables = model.heads[corpus], []
    assert isinstance(head, ChoiceHead | LabelHead), f"{corpus} has no labels"
    batches = batches_by_length(features, TOKENS_PER_BATCH[device.type])
    for sequences, logits in outputs(model, corpus, features, run, device, batches):
        first = sequences.items[:-1]
        scores = head.scores(torch.from_numpy(logits), pack(sequences, features.family))
        tables.append(
            _labels(
                corpus,
                sequences.columns["example"][first],
                sequences.columns["label"][first],
                scores.argmax(dim=1).numpy(),
            )
        )
    return pa.concat_tables(tables).sort_by("row")


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
        (sequences, outputs of the head) for other families.
    """
    ahead: tuple[Sequences, torch.Tensor] | None = None
    with Progress(f"evaluate {corpus}", len(features), "items") as progress:
        for items in batches:
            sequences = features.pick(items)
            with _precision(run, device):
                logits = model(corpus, pack(sequences, features.family).to(device))
            if ahead:
                yield ahead[0], ahead[1].float().cpu().numpy()
            ahead = sequences, logits
            progress.advance(len(items))
    if ahead:
        yield ahead[0], ahead[1].float().cpu().numpy()


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


def _labels(corpus: str, rows: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "corpus": pa.array([corpus] * len(rows), pa.string()),
            "row": pa.array(rows, pa.int32()),
            "label": pa.array(labels, pa.int32()),
            "prediction": pa.array(predictions, pa.int32()),
        }
    )


def _no_labels() -> pa.Table:
    return _labels("", *(np.array([], np.int32) for _ in range(3)))
