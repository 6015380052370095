"""The encoder and the feature files that benchmarks use, real or synthetic, and labelled so."""

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
from mtdnn.machine.files import replacing, sha256, write_json
from mtdnn.machine.progress import say
from mtdnn.workflow.estimates import LENGTHS, LIKE

PRETRAINED = "pretrained"
SHAPES = {
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}
VOCABULARY = 30522  # of BERT uncased; also MiniLM's
SYNTHETIC_ITEMS = 1_000

QUESTION = (6, 11, 13, 14, 15, 16, 17, 18, 19, 20, 33)  # tokens of [CLS] question [SEP] alone


@dataclass(frozen=True)
class Material:
    """A run's settings, its encoder and its training features.

    Attributes:
        run: settings of a run on the experiment's largest mixture.
        encoder: the encoder's folder.
        features: training features by corpus.
        facts: names of windows and encoder, for the output.
    """

    run: RunSettings
    encoder: Path
    features: dict[str, Features]
    facts: dict[str, str]


def gather(options: Options) -> Material:
    """Return the encoder and the windows to measure on.

    Windows are synthetic if the experiment's corpora are not available. The run has the precision
    of the options if they name one.
    """
    experiment = experiment_of(options)
    name = next(iter(experiment.encoders))
    mixture = max(experiment.mixtures, key=lambda m: len(experiment.mixtures[m].corpora))
    run = experiment.resolve(RunId(name, mixture, 0.5, "default", experiment.seeds[0]))
    if options.precision:
        training = run.training.model_copy(update={"precision": options.precision})
        run = run.model_copy(update={"training": training})
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
    """Load the experiment of the options, with the benchmarks' own folder for its results."""
    return load(options.experiment).model_copy(update={"results": str(options.folder)})


def fetched_encoder(experiment: Experiment, name: str) -> Path:
    """Return the folder of a pretrained encoder, which is fetched if it is missing."""
    folder = experiment.layout.encoder(name)
    if not folder.exists():
        encoders.fetch(name, experiment.encoders[name], lock=_lock(experiment), output=folder)
    return folder


def fetched_corpus(experiment: Experiment, name: str) -> Path:
    """Return the folder of a corpus, which is fetched if it is missing."""
    folder = experiment.layout.corpus(name)
    if not folder.exists():
        settings = experiment.corpora[name]
        root = experiment.data_path(getattr(settings.source, "root", None))
        fetching.fetch(name, settings, root=root, lock=_lock(experiment), output=folder)
    return folder


def _lock(experiment: Experiment) -> Path:
    assert experiment.lock is not None, "`load` names the lock file"
    return Path(experiment.lock)


def real_features(experiment: Experiment, encoder: str, corpus: str) -> Path:
    """Return the folder of a corpus's features, which are prepared if they are missing."""
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


def synthetic_features(parent: Path, corpus: str, family: Family, items: int | None = None) -> Path:
    """Write a feature file of random tokens, with only the lengths of a real corpus.

    Args:
        parent: where to put the folder.
        corpus: the corpus's name, also that of the folder.
        family: its task family.
        items: number of items; `SYNTHETIC_ITEMS` if absent.

    Returns:
        The folder, `parent / corpus`; an existing one is kept.
    """
    folder, lengths = parent / corpus, LENGTHS.get(corpus, LENGTHS[LIKE[family]])
    if folder.exists():
        return folder
    random = np.random.default_rng(1)
    places = np.linspace(0, 1, 11)
    choices = 4 if family == "multiple_choice" else 1
    columns: dict[str, list[object]] = {name: [] for name in SCHEMAS[family].names}
    for item in range(items or SYNTHETIC_ITEMS):
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
            elif family == "token_classification":
                columns["tags"].append(np.zeros(length, np.int16))
                columns["word"].append(np.arange(length))
            else:
                columns["label"].append(0)
    table = pa.table(columns, schema=SCHEMAS[family])
    with replacing(folder) as draft:
        draft.mkdir()
        with pa.ipc.new_file(str(draft / "train.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=features.ROWS_AT_A_TIME)
    return folder


def random_encoder(folder: Path, shape: str) -> Path:
    """Write a BERT of a known shape with random weights; an existing folder is kept."""
    if not folder.exists():
        from transformers import BertConfig, BertModel

        sizes = SHAPES[shape]
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=sizes["hidden_size"],
            num_hidden_layers=sizes["num_hidden_layers"],
            num_attention_heads=sizes["num_attention_heads"],
            intermediate_size=4 * sizes["hidden_size"],
        )
        with replacing(folder) as draft:
            BertModel(config).save_pretrained(draft)
            files = {file.name: sha256(file) for file in sorted(draft.iterdir())}
            manifest = {"encoder": shape, "digest": "random weights", "files": files}
            write_json(draft / MANIFEST, manifest)
    return folder
