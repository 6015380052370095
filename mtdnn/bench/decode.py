"""Decoding of span logits, and prediction as a whole, against Hugging Face's example.

The peer's post-processing takes each question's windows in turn, pairs the 20 best starts with
the 20 best ends in Python, sorts the candidates and takes a softmax over the best. Its model runs
on windows padded to 384 tokens, in batches of 8. Both sides have the same windows and weights.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import AutoModelForQuestionAnswering

from mtdnn.bench.harness import Options, Timing, compare
from mtdnn.bench.material import Material, experiment_of, gather
from mtdnn.config.settings import DecodingSettings
from mtdnn.data.features import Features
from mtdnn.evaluation.decoding import Decoder, SpanLogits, predictions_table
from mtdnn.evaluation.predictions import answer
from mtdnn.model.device import use_device
from mtdnn.model.heads import Head
from mtdnn.model.multitask import MultiTaskModel, build
from mtdnn.training.stepper import chosen_precision, precision

MAX_LENGTH, BATCH = 384, 8  # the example's
PORTION = 24  # windows given to our decoder at a time, about the number in a batch on the CPU
PREDICTED = 240
"""Questions that the model predicts in a round; the decoding case has all of them."""


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """Yield two cases: decoding of a whole dev set, then model and decoding of a sample of it."""
    material, device = gather(options), use_device(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        windows = Windows(_dev_set(options, material), Path(folder) / "all.arrow")
        if "decode".startswith(options.only):
            yield _decode_case(material, windows, Timing(options.rounds))
        if "predict".startswith(options.only):
            sample = Windows(windows.path, Path(folder) / "sample.arrow", questions=PREDICTED)
            yield _predict_case(material, sample, device, Timing.on(device, options.rounds))


def _decode_case(material: Material, windows: "Windows", timing: Timing) -> dict[str, Any]:
    """Time the decoding of random logits."""
    logits = np.random.default_rng(1).normal(0, 3, (2, len(windows.flat), 1))[..., 0]
    logits = logits.astype(np.float32)
    padded = windows.padded(logits)
    return compare(
        "decode",
        "example_postprocessing",
        [lambda: ours(windows, logits, material.run.decoding)],
        [lambda: theirs(windows, padded, material.run.decoding)],
        timing,
        {"logits": "drawn at random", **material.facts},
    )


def _predict_case(
    material: Material, windows: "Windows", device: torch.device, timing: Timing
) -> dict[str, Any]:
    """Time the model's forward pass and the decoding of its logits."""
    run = material.run
    model = build(material.encoder, run).to(device).eval()
    peer = Peer(material.encoder, model, run.target, windows).to(device)

    def predict() -> None:
        best = answer(model, run.target, windows.features, len(windows.ids), run, device)
        predictions_table("squad", "dev", windows.ids, windows.contexts, best)

    def predict_as_the_example() -> None:
        with precision(run.training, device):
            logits = peer.predict(device)
        theirs(windows, logits, run.decoding)

    return compare(
        "predict",
        "example_trainer",
        [predict],
        [predict_as_the_example],
        timing,
        {"precision": chosen_precision(run.training, device), **material.facts},
    )


def _dev_set(options: Options, material: Material) -> Path:
    if material.facts["windows"].startswith("synthetic"):
        return options.folder / "synthetic" / material.run.target / "train.arrow"
    run, layout = material.run, experiment_of(options).layout
    return layout.features(run.encoder_name, run.features_variant, run.target) / "dev.arrow"


class Windows:
    """Windows of a feature file, or of a sample of its questions, for both sides.

    Contexts are not read: answers are cut from made-up contexts of the right lengths.

    Args:
        source: the feature file.
        path: where to write the windows that are used.
        questions: size of a sample, evenly spread; all questions if absent.
    """

    def __init__(self, source: Path, path: Path, questions: int | None = None):
        table = pa.ipc.open_file(str(source)).read_all()
        if questions:
            last = pc.max(table["example"]).as_py()
            chosen = np.unique(np.linspace(0, last, questions).astype(np.int32))
            table = table.filter(pc.is_in(table["example"], pa.array(chosen)))
        numbers = np.unique(table["example"].to_numpy(), return_inverse=True)[1]
        place = table.column_names.index("example")
        table = table.set_column(place, "example", pa.array(numbers, pa.int32()))
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table.combine_chunks())
        self.path, self.features = path, Features(path, "question_answering")
        self.rows = self.features.pick(range(len(self.features)))
        self.flat = self.rows.columns["char_end"]
        self.ends = np.concatenate([[0], np.cumsum(self.rows.lengths)]).astype(np.int64)
        self.example = self.rows.columns["example"]
        self.ids = [str(number) for number in range(self.example.max() + 1)]
        longest = np.zeros(len(self.ids), np.int64)
        np.maximum.at(longest, self.example, np.maximum.reduceat(self.flat, self.ends[:-1]))
        self.contexts = ["x" * max(int(length), 1) for length in longest]
        starts, ends = (self.rows.columns[name].tolist() for name in ("char_start", "char_end"))
        self.offsets = [
            [
                (a, b) if a >= 0 else None
                for a, b in zip(starts[first:last], ends[first:last], strict=True)
            ]
            for first, last in zip(self.ends[:-1], self.ends[1:], strict=True)
        ]

    def padded(self, values: np.ndarray, fill: float = -1e4) -> np.ndarray:
        """Pad values of the tokens, (…, T), to (…, windows, 384)."""
        padded = np.full((*values.shape[:-1], len(self.example), MAX_LENGTH), fill, values.dtype)
        padded[..., np.arange(MAX_LENGTH) < self.rows.lengths[:, None]] = values
        return padded


def ours(windows: Windows, logits: np.ndarray, settings: DecodingSettings) -> pa.Table:
    """Decode start and end logits, (2, T), with our decoder."""
    decoder = Decoder(len(windows.ids), settings)
    columns = windows.rows.columns
    for first in range(0, len(windows.example), PORTION):
        ends = windows.ends[first : first + PORTION + 1]
        part = slice(ends[0], ends[-1])
        decoder.add(
            SpanLogits(
                start=logits[0, part],
                end=logits[1, part],
                offsets=ends - ends[0],
                char_start=columns["char_start"][part],
                char_end=columns["char_end"][part],
                example=windows.example[first : first + PORTION],
            )
        )
    return predictions_table("squad", "dev", windows.ids, windows.contexts, decoder.answers())


def theirs(
    windows: Windows, logits: np.ndarray, settings: DecodingSettings
) -> tuple[dict[str, str], dict[str, float], dict[str, list[dict[str, Any]]]]:
    """Decode start and end logits, (2, windows, 384), as the example does.

    Returns:
        For each question: the answer ("" if null wins), the null odds, and the n best candidates.
    """
    of_question: defaultdict[int, list[int]] = defaultdict(list)
    for number, example in enumerate(windows.example.tolist()):
        of_question[example].append(number)
    answers: dict[str, str] = {}
    odds: dict[str, float] = {}
    lists: dict[str, list[dict[str, Any]]] = {}
    for example, name in enumerate(windows.ids):
        null: dict[str, Any] = {}
        candidates: list[dict[str, Any]] = []
        for number in of_question[example]:
            start, end = logits[0][number], logits[1][number]
            offsets = windows.offsets[number]
            score = start[0] + end[0]
            if not null or score < null["score"]:
                null = {"offsets": (0, 0), "score": score, "start": start[0], "end": end[0]}
            best_starts = np.argsort(start)[-1 : -settings.n_best - 1 : -1].tolist()
            best_ends = np.argsort(end)[-1 : -settings.n_best - 1 : -1].tolist()
            for a in best_starts:
                for b in best_ends:
                    if a >= len(offsets) or b >= len(offsets):
                        continue
                    if not offsets[a] or not offsets[b]:
                        continue
                    if b < a or b - a + 1 > settings.max_answer_tokens:
                        continue
                    candidates.append(
                        {
                            "offsets": (offsets[a][0], offsets[b][1]),
                            "score": start[a] + end[b],
                            "start": start[a],
                            "end": end[b],
                        }
                    )
        candidates.append(null)
        best = sorted(candidates, key=lambda c: c["score"], reverse=True)[: settings.n_best]
        if all(candidate["offsets"] != (0, 0) for candidate in best):
            best.append(null)
        context = windows.contexts[example]
        for candidate in best:
            first, last = candidate.pop("offsets")
            candidate["text"] = context[first:last]
        scores = np.array([candidate["score"] for candidate in best])
        exponents = np.exp(scores - scores.max())
        for share, candidate in zip(exponents / exponents.sum(), best, strict=True):
            candidate["probability"] = share
        winner = next((c for c in best if c["text"]), null)
        odds[name] = float(null["score"] - winner["start"] - winner["end"])
        answers[name] = "" if odds[name] > settings.null_threshold else winner["text"]
        lists[name] = [
            {k: float(v) if isinstance(v, np.floating) else v for k, v in c.items()} for c in best
        ]
    return answers, odds, lists


class Peer:
    """The example's model on padded windows.

    Args:
        encoder: folder of the encoder.
        model: our model; the peer gets its head.
        corpus: the question-answering corpus, which names the head.
        windows: what is predicted.
    """

    def __init__(self, encoder: Path, model: MultiTaskModel, corpus: str, windows: Windows):
        self.model = AutoModelForQuestionAnswering.from_pretrained(encoder).eval()
        head = model.heads[corpus]
        assert isinstance(head, Head)
        self.model.qa_outputs.load_state_dict(head.linear.state_dict())
        columns, ones = windows.rows.columns, np.ones(len(windows.flat), np.int64)
        self.inputs = {
            "input_ids": torch.from_numpy(windows.padded(columns["input_ids"].astype("i8"), 0)),
            "token_type_ids": torch.from_numpy(
                windows.padded(columns["token_type_ids"].astype("i8"), 0)
            ),
            "attention_mask": torch.from_numpy(windows.padded(ones, 0)),
        }

    def to(self, device: torch.device) -> "Peer":
        """Move the model to `device`."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def predict(self, device: torch.device) -> np.ndarray:
        """Return start and end logits, (2, windows, 384)."""
        logits = []
        for first in range(0, len(self.inputs["input_ids"]), BATCH):
            batch = {k: v[first : first + BATCH].to(device) for k, v in self.inputs.items()}
            output = self.model(**batch)
            logits.append(torch.stack([output.start_logits, output.end_logits]).float().cpu())
        return torch.cat(logits, dim=1).numpy()
