"""Tokenising a question-answering corpus, against the `map` of Hugging Face's example.

The peer does what the example does before training and before prediction: it tokenises questions
and contexts as pairs with the fast tokenizer into padded windows of 384 tokens that overlap by
128, and looks up the answer in the offsets, all inside `datasets.map` without its cache. Each
side is one process with the tokenizer's own threads.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from transformers import AutoTokenizer, BatchEncoding

from mtdnn.bench.harness import Options, Timing, compare
from mtdnn.bench.material import experiment_of, fetched_corpus, fetched_encoder
from mtdnn.config.settings import Family, FeatureSettings
from mtdnn.data.tokenising import Tokenizer, portions, tokenise

MAX_LENGTH, OVERLAP = 384, 128  # the example's


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """Yield a case for each split of the experiment's question-answering corpus."""
    experiment = experiment_of(options)
    family: Family = "question_answering"
    name = next(n for n, c in experiment.corpora.items() if c.family == family)
    encoder = fetched_encoder(experiment, next(iter(experiment.encoders)))
    corpus = fetched_corpus(experiment, name)
    settings = FeatureSettings(max_length=MAX_LENGTH, stride_rule="overlap", stride_tokens=OVERLAP)
    tokenizer, peer = Tokenizer(encoder), Peer(encoder)
    for split in ("train", "dev"):
        rows = corpus / f"{split}.parquet"
        if f"prepare_{split}".startswith(options.only):
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "windows.arrow"
                yield compare(
                    f"prepare_{split}",
                    "example_map",
                    [lambda: tokenise(family, settings, tokenizer, portions(rows), target)],  # noqa: B023
                    [lambda: peer.prepare(rows, split, Path(folder) / "peer.arrow")],  # noqa: B023
                    Timing(options.rounds),
                    {"windows": f"real ({experiment.experiment})", "processes": "1"},
                )


class Peer:
    """Makes windows of questions and contexts with the example's two `map` functions."""

    def __init__(self, encoder: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(encoder)

    def prepare(self, rows: Path, split: str, target: Path) -> Any:
        """Return the split's windows as a `datasets.Dataset` that `map` wrote to `target`."""
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        columns = ["id", "question", "context", "answer_texts", "answer_starts"]
        data = Dataset(pq.read_table(rows, columns=columns))
        return data.map(
            self.training_windows if split == "train" else self.dev_windows,
            batched=True,
            remove_columns=columns,
            cache_file_name=str(target),
            load_from_cache_file=False,
        )

    def _windows(self, examples: dict[str, list[Any]]) -> BatchEncoding:
        windows: BatchEncoding = self.tokenizer(
            [question.lstrip() for question in examples["question"]],
            examples["context"],
            truncation="only_second",
            max_length=MAX_LENGTH,
            stride=OVERLAP,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )
        return windows

    def training_windows(self, examples: dict[str, list[Any]]) -> dict[str, Any]:
        """Return windows with the answer's first and last token; [CLS] if a window lacks it."""
        windows = self._windows(examples)
        owners = windows.pop("overflow_to_sample_mapping")
        offsets = windows.pop("offset_mapping")
        starts, ends = [], []
        for number, window in enumerate(offsets):
            owner, sides = owners[number], windows.sequence_ids(number)
            span = (0, 0)
            if examples["answer_starts"][owner]:
                begin = examples["answer_starts"][owner][0]
                stop = begin + len(examples["answer_texts"][owner][0])
                first, last = 0, len(sides) - 1
                while sides[first] != 1:
                    first += 1
                while sides[last] != 1:
                    last -= 1
                if window[first][0] <= begin and window[last][1] >= stop:
                    while first < len(window) and window[first][0] <= begin:
                        first += 1
                    while window[last][1] >= stop:
                        last -= 1
                    span = (first - 1, last + 1)
            starts.append(span[0])
            ends.append(span[1])
        return {**windows, "start_positions": starts, "end_positions": ends}

    def dev_windows(self, examples: dict[str, list[Any]]) -> BatchEncoding:
        """Return windows with their question's id and the offsets of the context's tokens."""
        windows = self._windows(examples)
        owners = windows.pop("overflow_to_sample_mapping")
        windows["example_id"] = [examples["id"][owner] for owner in owners]
        windows["offset_mapping"] = [
            [
                pair if side == 1 else None
                for pair, side in zip(offsets, windows.sequence_ids(number), strict=True)
            ]
            for number, offsets in enumerate(windows["offset_mapping"])
        ]
        return windows
