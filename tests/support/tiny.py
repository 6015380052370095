"""Encoders, corpora and experiments that are small enough to train within a test.

Encoders have random weights and a vocabulary of a few words; in the corpora, single words give
the right answer.
"""

import itertools
import random
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import torch
from transformers import AutoConfig, AutoModel

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunId
from mtdnn.config.loading import parse
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data import tokenising
from mtdnn.data.corpora.fetching import rows_digest
from mtdnn.data.corpora.rows import SCHEMAS
from mtdnn.machine.files import digest, sha256, write_json, write_text
from mtdnn.training import schedule
from tests.support import vocabularies

torch.set_num_threads(1)  # more threads slow tiny models down

COLOURS = ["red", "green", "blue", "white", "black"]
FILLERS = ["the", "house", "stands", "near", "a", "river", "and", "old", "trees", "grow", "there"]
CHARACTERS = [*string.ascii_lowercase, *string.digits, *".,?!'"]
VOCABULARY = [
    *vocabularies.BERT_TOKENS,
    *CHARACTERS,
    *("##" + c for c in string.ascii_lowercase + string.digits),
    *dict.fromkeys([*COLOURS, *FILLERS, "which", "colour", "is", "not", "good", "bad"]),
    *("##ing", "##s", "##ed", "un", "##er"),
]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
}
LABELS = {
    "cola": ["bad", "good"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "ner": ["O", "B-colour", "I-colour"],
}
FAMILIES = {
    "squad": "question_answering",
    "swag": "multiple_choice",
    "cola": "sequence_classification",
    "mnli": "sequence_classification",
    "stsb": "regression",
    "ner": "token_classification",
}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
# Sizes under the names that each configuration class has for them, and what each type is known for.
OWN_SIZES: dict[str, dict[str, Any]] = {
    "bert": {},
    "electra": {"embedding_size": 16},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "albert": {"embedding_size": 16},
    # Windows of 9 tokens in the second and third layer, on 40 in the features.
    "modernbert": {
        **{"num_hidden_layers": 4, "local_attention": 8, "norm_bias": True},
        **{"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3},
    },
    "mpnet": {},
    "deberta-v2": {
        **DEBERTA,
        **{"share_att_key": True, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0},
        **{"position_biased_input": False},
    },
}


def word_pieces(lowercase: bool = True) -> tokenizers.Tokenizer:
    """Return a BERT tokenizer with the words of `VOCABULARY`."""
    return vocabularies.word_pieces(VOCABULARY, lowercase)


def make_encoder(
    folder: Path, kind: str = "bert", seed: int = 0, gain: float = 6, **changes: Any
) -> Path:
    """Write an encoder with random weights into `folder`, as `mtdnn encoder` would.

    Args:
        folder: the folder, which is returned.
        kind: its model type.
        seed: seed of the weights.
        gain: factor on the initial weights; with 1, attention is almost uniform.
        changes: values of its configuration.
    """
    tokenizer = vocabularies.tokenizer_for(kind, VOCABULARY)
    vocabulary = 1 + max(tokenizer.get_vocab().values())
    sizes = {**SIZES, "vocab_size": vocabulary, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(kind, **{**sizes, **OWN_SIZES[kind], **changes})
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(gain)
            elif gain != 1 and name.endswith("bias"):
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    paths = sorted(path for path in folder.iterdir() if path.name != "manifest.json")
    files = {path.name: sha256(path) for path in paths}
    write_json(folder / "manifest.json", {"files": files, "digest": digest(files)})
    return folder


# --- corpora ---------------------------------------------------------------------------------


def squad_rows(count: int, draw: random.Random, longest: int = 30) -> list[dict]:
    """Return questions for the colour of a house: the one in the context, or no answer."""
    rows = []
    for number in range(count):
        words = draw.choices(FILLERS, k=draw.randint(6, longest))
        answerable = draw.random() < 0.7
        if answerable:
            words[draw.randrange(len(words))] = colour = draw.choice(COLOURS)
        context = " ".join(words)
        rows.append(
            {
                "id": f"q{number}",
                "title": "Houses",
                "paragraph": number,
                "context": context,
                "question": "which colour is the house ?",
                "answer_texts": [colour] if answerable else [],
                "answer_starts": [context.index(colour)] if answerable else [],
            }
        )
    return rows


def swag_rows(count: int, draw: random.Random) -> list[dict]:
    """Return questions with four choices of several lengths, of which the right one has `good`."""
    rows = []
    for number in range(count):
        label = draw.randrange(4)
        choices = [" ".join(draw.choices(FILLERS, k=draw.randint(2, 8))) for _ in range(4)]
        choices[label] += " good"
        rows.append(
            {
                "id": f"s{number}",
                "sentence": " ".join(draw.choices(FILLERS, k=draw.randint(3, 9))),
                "choices": choices,
                "label": label,
            }
        )
    return rows


def cola_rows(count: int, draw: random.Random) -> list[dict]:
    """Return single sentences that contain the name of their label."""
    rows = []
    for number in range(count):
        label = draw.randrange(2)
        words = draw.choices(FILLERS, k=draw.randint(3, 12))
        words.insert(draw.randrange(len(words)), LABELS["cola"][label])
        rows.append(
            {"id": f"c{number}", "sentence1": " ".join(words), "sentence2": None, "label": label}
        )
    return rows


def mnli_rows(count: int, draw: random.Random) -> list[dict]:
    """Return pairs whose second sentence ends with a word for the label."""
    rows = []
    for number in range(count):
        label = draw.randrange(3)
        rows.append(
            {
                "id": f"m{number}",
                "sentence1": " ".join(draw.choices(FILLERS, k=draw.randint(3, 12))),
                "sentence2": " ".join([*draw.choices(FILLERS, k=3), ["is", "not", "un"][label]]),
                "label": label,
            }
        )
    return rows


def stsb_rows(count: int, draw: random.Random) -> list[dict]:
    """Return pairs whose second sentence ends with a word for the score, 0, 2.5 or 5."""
    rows = []
    for number in range(count):
        score = draw.randrange(3)
        rows.append(
            {
                "id": f"b{number}",
                "sentence1": " ".join(draw.choices(FILLERS, k=draw.randint(3, 12))),
                "sentence2": " ".join([*draw.choices(FILLERS, k=3), ["bad", "un", "good"][score]]),
                "label": 2.5 * score,
            }
        )
    return rows


def ner_rows(count: int, draw: random.Random) -> list[dict]:
    """Return sentences with a colour, or a colour and black; some words have several tokens."""
    rows = []
    for number in range(count):
        words = draw.choices([*FILLERS, "housing", "riverer"], k=draw.randint(3, 12))
        tags = [0] * len(words)
        place, size = draw.randrange(len(words)), draw.randint(1, 2)
        words[place:place] = [draw.choice(COLOURS[:-1]), COLOURS[-1]][:size]
        tags[place:place] = [1, 2][:size]
        rows.append({"id": f"n{number}", "tokens": words, "tags": tags})
    return rows


ROWS = {
    "squad": squad_rows,
    "swag": swag_rows,
    "cola": cola_rows,
    "mnli": mnli_rows,
    "stsb": stsb_rows,
    "ner": ner_rows,
}


def write_corpus(folder: Path, family: str, **splits: list[dict]) -> Path:
    """Write a corpus into `folder`, as `mtdnn corpus` would, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for split, rows in splits.items():
        path = folder / f"{split}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[family]), path)
        described[split] = {"rows": len(rows), "sha256": sha256(path)}
    write_json(
        folder / "manifest.json",
        {"family": family, "splits": described, "digest": rows_digest(splits)},
    )
    return folder


# --- experiments -----------------------------------------------------------------------------


def make_tiny_experiment(folder: Path, **changes: Any) -> Experiment:
    """Return an experiment with six corpora and all mixtures; `changes` replace top-level keys."""
    names = list(FAMILIES)
    mixtures = {
        "_".join(corpora): {"label": "+".join(corpora), "corpora": list(corpora)}
        for size in range(len(names))
        for corpora in (("squad", *rest) for rest in itertools.combinations(names[1:], size))
    }
    mapping = {
        "experiment": "tiny",
        "title": "Tiny",
        "results": str(folder),
        "seeds": [1],
        "encoders": {"tiny": {"label": "Tiny", "source": {"kind": "hub", "repo": "no/where"}}},
        "corpora": {
            name: {
                "label": name,
                "family": family,
                "labels": LABELS.get(name, []),
                "source": {"kind": "synthetic", "recipe": name, "train": 9, "dev": 9},
            }
            for name, family in FAMILIES.items()
        },
        "mixtures": mixtures,
        "features": {"max_length": 40, "max_question_length": 8, "stride_tokens": 12},
        "training": {"batch_size": 8},
        "slices": {"dev": {"label": "dev"}},
        "tables": {"t": {"title": "t", "rows": [{"encoder": "tiny", "mixture": "squad"}]}},
    }
    return parse({**mapping, **changes}, where="tiny experiment")


def make_run_folder(
    folder: Path,
    mixture: str = "squad_swag_cola_mnli",
    weight: float = 0.5,
    rows: int = 40,
    kind: str = "bert",
    encoder: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[Path, RunSettings]:
    """Write all that a run needs for training: encoder, corpora, features, schedule, settings.

    Args:
        folder: the experiment's folder of results.
        mixture: names of the corpora, joined by "_".
        weight: the QA weight.
        rows: number of rows in each split of each corpus.
        kind: model type of the encoder.
        encoder: values of its configuration.
        changes: top-level keys of the experiment.

    Returns:
        The run's folder and its settings.
    """
    experiment = make_tiny_experiment(folder, **changes)
    layout = experiment.layout
    run_id = RunId("tiny", mixture, weight, "default", experiment.seeds[0])
    run, run_dir = experiment.resolve(run_id), layout.run(run_id)
    make_encoder(layout.encoder("tiny"), kind, **(encoder or {}))
    prepare_corpora(experiment, run.corpora, rows)
    write_text(run_dir / "config.yaml", dump_yaml(run))
    schedule.write(run_dir, run)
    return run_dir, run


def prepare_corpora(experiment: Experiment, names: Iterable[str], rows: int = 24) -> None:
    """Write corpora of some rows in each split, and their features for the encoder `tiny`."""
    layout = experiment.layout
    for name in names:
        family, draw = experiment.corpora[name].family, random.Random(name)
        splits = {split: ROWS[name](rows, draw) for split in ("train", "dev")}
        for row in splits["dev"]:
            row["id"] = f"dev-{row['id']}"  # a question with a training question's id has no score
        write_corpus(layout.corpus(name), family, **splits)
        tokenising.prepare(
            family=family,
            settings=experiment.features,
            encoder=layout.encoder("tiny"),
            corpus=layout.corpus(name),
            output=layout.features("tiny", "default", name),
        )
