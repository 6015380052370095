"""What is measured on: an encoder and feature files, real ones or synthetic ones, labelled."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mtdnn.bench.harness import Options
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import MANIFEST, RunId
from mtdnn.config.loading import load
from mtdnn.config.settings import Family, RunSettings
from mtdnn.data import encoders, features, tokenising
from mtdnn.data.corpora import fetching
from mtdnn.data.features import SCHEMAS, Features
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import replacing, write_json
from mtdnn.machine.progress import say

PRETRAINED = "pretrained"
SHAPES = {
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}
VOCABULARY = 30522  # of BERT uncased; also MiniLM's
SYNTHETIC_ITEMS = 1_000

# Tokens of a sequence at the quantiles 0, 10 %, … 100 %: SQuAD's windows, and a sentence, pair or
# choice of the others, in the published training files (tests/benchmarks/NOTES.md).
LENGTHS: dict[str, tuple[int, ...]] = {
    "squad": (39, 106, 124, 135, 146, 159, 174, 191, 215, 261, 384),
    "swag": (15, 20, 23, 25, 27, 29, 31, 34, 38, 43, 95),
    "cola": (4, 7, 8, 9, 10, 10, 11, 12, 14, 17, 47),
    "mrpc": (19, 36, 41, 45, 50, 53, 57, 61, 64, 70, 103),
    "mnli": (5, 19, 24, 29, 33, 37, 42, 47, 53, 63, 277),
}
LIKE: dict[Family, str] = {
    "question_answering": "squad",
    "multiple_choice": "swag",
    "sequence_classification": "cola",
}
"""The lengths of any other corpus are those of this one."""
QUESTION = (6, 11, 13, 14, 15, 16, 17, 18, 19, 20, 33)  # of which [CLS] question [SEP]


@dataclass(frozen=True)
class Material:
    """A run's settings, its encoder and its training features.

    Attributes:
        run: settings of a run on the experiment's largest mixture.
        encoder: the encoder's folder.
        features: training features by corpus.
        facts: what was measured on, for the output.
    """

    run: RunSettings
    encoder: Path
    features: dict[str, Features]
    facts: dict[str, str]


def gather(options: Options) -> Material:
    """The encoder and the windows of the options; synthetic windows where there are no corpora."""
    experiment = experiment_of(options)
    name = next(iter(experiment.encoders))
    mixture = max(experiment.mixtures, key=lambda m: len(experiment.mixtures[m].corpora))
    run = experiment.resolve(RunId(name, mixture, 0.5, "default", experiment.seeds[0]))
    try:
        folders = {corpus: real_features(experiment, name, corpus) for corpus in run.corpora}
        windows = f"real ({experiment.experiment})"
    except MtdnnError as error:
        say(f"bench: synthetic windows, because {error}")
        folders = {
            name: synthetic_features(options.folder / "synthetic", name, corpus.family)
            for name, corpus in run.corpora.items()
        }
        windows = "synthetic, lengths of the real ones"
    if options.encoder == PRETRAINED:
        encoder, weights = fetched_encoder(experiment, name), name
    else:
        encoder = random_encoder(options.folder / "shapes" / options.encoder, options.encoder)
        weights = f"{options.encoder} shape, random weights"
    return Material(
        run=run,
        encoder=encoder,
        features={
            corpus: Features(folder / "train.arrow", run.corpora[corpus].family)
            for corpus, folder in folders.items()
        },
        facts={"windows": windows, "encoder": weights},
    )


def experiment_of(options: Options) -> Experiment:
    """The experiment of the options, its results below the benchmarks' own folder."""
    return load(options.experiment).model_copy(update={"results": str(options.folder)})


def fetched_encoder(experiment: Experiment, name: str) -> Path:
    """Folder of a pretrained encoder, fetched when it is not there."""
    folder = experiment.layout.encoder(name)
    if not folder.exists():
        lock = Path(experiment.lock)
        encoders.fetch(name, experiment.encoders[name], lock=lock, output=folder)
    return folder


def fetched_corpus(experiment: Experiment, name: str) -> Path:
    """Folder of a corpus, fetched when it is not there."""
    folder = experiment.layout.corpus(name)
    if not folder.exists():
        settings, lock = experiment.corpora[name], Path(experiment.lock)
        root = experiment.data_path(getattr(settings.source, "root", None))
        fetching.fetch(name, settings, root=root, lock=lock, output=folder)
    return folder


def real_features(experiment: Experiment, encoder: str, corpus: str) -> Path:
    """Folder of a corpus's features, prepared when they are not there."""
    folder = experiment.layout.features(encoder, "default", corpus)
    if not folder.exists():
        tokenising.prepare(
            family=experiment.corpora[corpus].family,
            settings=experiment.features,
            corpus=fetched_corpus(experiment, corpus),
            encoder=fetched_encoder(experiment, encoder),
            output=folder,
        )
    return folder


def synthetic_features(
    room: Path, corpus: str, family: Family, items: int = SYNTHETIC_ITEMS
) -> Path:
    """Feature files of random tokens: the lengths are those of real corpora, nothing else is."""
    folder, lengths = room / corpus, LENGTHS.get(corpus, LENGTHS[LIKE[family]])
    if folder.exists():
        return folder
    random = np.random.default_rng(1)
    places = np.linspace(0, 1, 11)
    choices = 4 if family == "multiple_choice" else 1
    columns: dict[str, list] = {name: [] for name in SCHEMAS[family].names}
    for item in range(items):
        heads = [int(np.interp(random.random(), places, QUESTION))] * choices
        for head in heads:
            length = int(np.interp(random.random(), places, lengths))
            tokens = random.integers(1000, VOCABULARY, length)
            columns["example"].append(item)
            columns["input_ids"].append(tokens)
            columns["token_type_ids"].append((np.arange(length) >= head).astype(np.int8))
            if family == "question_answering":
                columns["start"].append(min(head, length - 1))
                columns["end"].append(min(head + 2, length - 1))
                columns["char_start"].append(np.where(np.arange(length) < head, -1, 0))
                columns["char_end"].append(np.where(np.arange(length) < head, -1, 1))
            else:
                columns["label"].append(0)
    table = pa.table(columns, schema=SCHEMAS[family])
    with replacing(folder) as draft:
        draft.mkdir()
        with pa.ipc.new_file(str(draft / "train.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=features.ROWS_AT_A_TIME)
    return folder


def random_encoder(folder: Path, shape: str) -> Path:
    """A BERT of a known shape with random weights."""
    if not folder.exists():
        from transformers import BertConfig, BertModel

        sizes = SHAPES[shape]
        config = BertConfig(
            vocab_size=VOCABULARY, intermediate_size=4 * sizes["hidden_size"], **sizes
        )
        with replacing(folder) as draft:
            BertModel(config).save_pretrained(draft)
            write_json(draft / MANIFEST, {"encoder": shape, "digest": "random weights"})
    return folder
