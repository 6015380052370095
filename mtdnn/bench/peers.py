"""Hugging Face's own ways to train an encoder, each with its best settings.

The peers of `mtdnn bench train`: what `Trainer` does in a step, without its bookkeeping.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    get_linear_schedule_with_warmup,
)
from transformers.utils.import_utils import is_flash_attn_2_available

from mtdnn.bench.harness import Feed, Work
from mtdnn.bench.material import Material
from mtdnn.training.loop import BATCHES_AHEAD
from mtdnn.training.stepper import precision

COMPILER = "inductor"
"""The backend of torch.compile."""

Example = dict[str, torch.Tensor]


class Peer:
    """Takes steps as `Trainer` does with the model class of Hugging Face's example.

    Collated tensors, assembled ahead in pinned memory; gradients clipped at 1, fused AdamW, the
    linear schedule; any algorithm, whether or not it computes the same bits each time.

    Args:
        material: encoder, features and settings.
        corpus: the corpus to train on.
        device: where to train.
        pad_to: length to pad every sequence to; that of the longest in its batch if absent.
        compiled: compile the model, as `torch_compile=True` does.
    """

    def __init__(
        self,
        material: Material,
        corpus: str,
        device: torch.device,
        pad_to: int | None = None,
        compiled: bool = False,
    ):
        self.features, self.device, self.pad_to = material.features[corpus], device, pad_to
        self.settings, about = material.run.training, material.run.corpora[corpus]
        options = self.model_options()
        if about.family == "question_answering":
            self.targets = {"start_positions": "start", "end_positions": "end"}
            model = AutoModelForQuestionAnswering.from_pretrained(material.encoder, **options)
        else:
            self.targets = {"labels": "label"}
            model = AutoModelForSequenceClassification.from_pretrained(
                material.encoder, num_labels=len(about.labels), **options
            )
        self.model = model.to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.settings.learning_rate, fused=True
        )
        self.schedule = get_linear_schedule_with_warmup(  # type: ignore[no-untyped-call]
            self.optimizer, 1_000, 10_000
        )
        if compiled:
            # With fixed shapes, every new length would be compiled again.
            self.model = torch.compile(self.model, dynamic=not pad_to, backend=COMPILER)

    def model_options(self) -> dict[str, Any]:
        """Return how the model differs from what its files say."""
        return {}

    def steps(self, batches: np.ndarray) -> Sequence[Work]:
        """Return a step for each row of `batches`, to be taken in this order again and again."""
        # Its dataset has the sequences one by one.
        examples = [[self._example(row) for row in rows] for rows in batches]
        feed = Feed(self.collate, examples, BATCHES_AHEAD)
        return [partial(self.step, feed)] * len(batches)

    def step(self, feed: Callable[[], Any]) -> None:
        """Take a step on the next batch."""
        with _any_algorithm():
            batch = feed()
            with precision(self.settings, self.device):
                loss = self.loss(batch)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()

    def loss(self, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch that `collate` returned."""
        loss: torch.Tensor = self.model(**{k: self._moved(v) for k, v in batch.items()}).loss
        return loss

    def collate(self, examples: list[Example]) -> Any:
        """Return examples as one batch."""
        batch = {}
        for name in examples[0]:
            values = [example[name] for example in examples]
            if values[0].dim() and not self.pad_to:
                stacked = nn.utils.rnn.pad_sequence(values, batch_first=True)
            else:
                stacked = torch.stack(values)
            batch[name] = self._pinned(stacked)
        return batch

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _example(self, row: int) -> Example:
        names = ("input_ids", "token_type_ids", *self.targets.values())
        columns = self.features.pick([row], names).columns
        ids = torch.from_numpy(columns["input_ids"].astype(np.int64))
        example = {
            "input_ids": ids,
            "token_type_ids": torch.from_numpy(columns["token_type_ids"].astype(np.int64)),
            "attention_mask": torch.ones_like(ids),
        }
        if self.pad_to:  # as the example's `map` does
            example = {
                k: nn.functional.pad(v, (0, self.pad_to - len(v))) for k, v in example.items()
            }
        return example | {k: torch.tensor(columns[v][0]).long() for k, v in self.targets.items()}


class Unpadded(Peer):
    """Takes question-answering steps on windows end to end, as transformers offers it for BERT.

    Its encoders take them with flash attention 2 (`DataCollatorWithFlattening` makes such batches)
    or with flex attention and a mask of blocks, which knows no dropout of the attention. Its heads
    do not take them, so the loss of each window is computed here.
    """

    @property
    def attention(self) -> str:
        """The best attention that is installed, as transformers calls it."""
        return unpadded_attention(self.device)

    def model_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"attn_implementation": self.attention}
        if self.attention == "flex_attention":
            options["attention_probs_dropout_prob"] = 0.0
        return options

    def collate(self, examples: list[Example]) -> Any:
        lengths = [len(example["input_ids"]) for example in examples]
        ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        tensors = {
            "input_ids": torch.cat([example["input_ids"] for example in examples])[None],
            "token_type_ids": torch.cat([example["token_type_ids"] for example in examples])[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "ends": ends,
            "window": torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
            **{name: torch.stack([example[name] for example in examples]) for name in self.targets},
        }
        return lengths, {name: self._pinned(tensor) for name, tensor in tensors.items()}

    def loss(self, batch: Any) -> torch.Tensor:
        lengths, tensors = batch[0], {name: self._moved(t) for name, t in batch[1].items()}
        targets = [tensors.pop(name) for name in self.targets]
        ends, window = tensors.pop("ends"), tensors.pop("window")
        hidden = self.model.base_model(**tensors, **self._separated(ends, window, max(lengths)))[0]
        logits = self.model.qa_outputs(hidden)[0].split(lengths)
        rows = nn.utils.rnn.pad_sequence(logits, batch_first=True, padding_value=-1e4)
        losses = [
            nn.functional.cross_entropy(row, target)
            for row, target in zip(rows.unbind(-1), targets, strict=True)
        ]
        return torch.stack(losses).mean()

    def _separated(self, ends: torch.Tensor, window: torch.Tensor, longest: int) -> dict[str, Any]:
        """Return the arguments of the model that keep windows apart."""
        if self.attention == "flash_attention_2":
            counts = {"max_length_q": longest, "max_length_k": longest}
            return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, **counts}
        if self.attention == "sdpa":
            return {"attention_mask": (window[:, None] == window)[None, None]}

        def same(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return window[query] == window[key]

        size = len(window)
        return {"attention_mask": create_block_mask(same, None, None, size, size, self.device.type)}


def unpadded_attention(device: torch.device) -> str:
    """Return the best attention to sequences end to end that is installed."""
    if is_flash_attn_2_available():
        return "flash_attention_2"
    return "flex_attention" if device.type == "cuda" else "sdpa"


@contextmanager
def _any_algorithm() -> Iterator[None]:
    """Let the device choose among all algorithms, as it does unless told otherwise."""
    chosen = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(chosen)
