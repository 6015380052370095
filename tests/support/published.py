"""Small corpora in the publishers' formats, and what tests do with them."""

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mtdnn.config.settings import CorpusSettings, FilesCorpus
from mtdnn.data.corpora import fetching, publishers
from mtdnn.data.corpora.rows import Split
from mtdnn.errors import MtdnnError

CONTEXT = "Ünal Berg keeps a goat. The goat is called Mirl."
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Berg",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "a",
                            "question": "What does Ünal Berg keep?",
                            "answers": [
                                {"text": "goat", "answer_start": 18},
                                {"text": "a goat", "answer_start": 16},
                            ],
                            "is_impossible": False,
                        },
                        {
                            "id": "b",
                            "question": "Who sold the goat?",
                            "answers": [],
                            "plausible_answers": [{"text": "Mirl", "answer_start": 43}],
                            "is_impossible": True,
                        },
                    ],
                }
            ],
        },
        {
            "paragraphs": [
                {
                    "context": "It rains.",
                    "qas": [
                        {
                            "id": "c",
                            "question": "What does it do?",
                            "answers": [{"text": "rains", "answer_start": 3}],
                        }
                    ],
                }
            ]
        },
    ],
}
SWAG = (
    ",sent1,sent2,ending0,ending1,ending2,ending3,label\n"
    '0,A man sits.,He,stands.,"runs, fast.","says ""no"".",sleeps.,2\n'
    "1,A dog barks.,,It stops.,It goes on.,It eats.,It runs.,0\n"
)
COLA = 'gj04\t1\t\tThe cat sat "down.\nks08\t0\t*\tCat the sat.\n'
MRPC = (
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    '1\t10\t11\tHe said "so .\tSo he said .\r\n'
    "0\t20\t21\tIt fell .\tIt rose .\r\n"
    "1\t30\t31\tIt is late .\tLate it is .\r\n"
)
MNLI = "".join(
    json.dumps({"gold_label": label, "sentence1": "It\u2028rains.", "sentence2": "It is wet."})
    + "\n"
    for label in ("entailment", "-", "contradiction")
)
STSB = (
    'main-captions\tMSRvid\t2012test\t0001\t5.000\tA plane takes off.\tAn "air plane.\n'
    "main-news\theadlines\t2013\t0002\t0.25\tIt rains.\tIt snows.\thttp://a\thttp://b\n"
)
WNUT = "Mirl\tB-person\nBerg\tI-person\nlives\tO\n\t\nin\tO\nUlm\tB-location\n\nIt\tO\nrains\tO"
FILES = {
    "squad": {"train.json": json.dumps(SQUAD), "dev.json": json.dumps(SQUAD)},
    "swag": {"train.csv": SWAG, "dev.csv": SWAG},
    "cola": {"train.tsv": COLA, "in.tsv": COLA, "out.tsv": COLA.rstrip("\n")},
    "mrpc": {"train.txt": MRPC, "ids.tsv": "20\t21\n"},
    "mnli": {"train.jsonl": MNLI, "dev.jsonl": MNLI},
    "stsb": {"train.csv": STSB, "dev.csv": STSB},
    "wnut": {"train.conll": WNUT, "dev.conll": WNUT},
}
SETTINGS = {
    "squad": {
        "family": "question_answering",
        "source": {"format": "squad", "splits": {"train": ["train.json"], "dev": ["dev.json"]}},
    },
    "swag": {
        "family": "multiple_choice",
        "source": {
            "format": "csv",
            "splits": {"train": ["train.csv"], "dev": ["dev.csv"]},
            "columns": {
                "sentence": "sent1",
                "start": "sent2",
                "choices": [f"ending{n}" for n in range(4)],
            },
        },
    },
    "cola": {
        "family": "sequence_classification",
        "labels": ["unacceptable", "acceptable"],
        "source": {
            "format": "tsv",
            "header": False,
            "splits": {"train": ["train.tsv"], "dev": ["in.tsv", "out.tsv"]},
            "columns": {"sentence1": 3, "label": 1},
        },
    },
    "mrpc": {
        "family": "sequence_classification",
        "labels": ["not_equivalent", "equivalent"],
        "source": {
            "format": "tsv",
            "splits": {"train": ["train.txt"]},
            "dev_ids": "ids.tsv",
            "columns": {
                "id": ["#1 ID", "#2 ID"],
                "label": "Quality",
                "sentence1": "#1 String",
                "sentence2": "#2 String",
            },
        },
    },
    "mnli": {
        "family": "sequence_classification",
        "labels": ["entailment", "neutral", "contradiction"],
        "source": {
            "format": "jsonl",
            "splits": {"train": ["train.jsonl"], "dev": ["dev.jsonl"]},
            "columns": {"label": "gold_label"},
            "drop_labels": ["-"],
        },
    },
    "stsb": {
        "family": "regression",
        "source": {
            "format": "tsv",
            "header": False,
            "splits": {"train": ["train.csv"], "dev": ["dev.csv"]},
            "columns": {"label": 4, "sentence1": 5, "sentence2": 6},
        },
    },
    "wnut": {
        "family": "token_classification",
        "labels": [
            "O",
            *("B-corporation", "I-corporation", "B-creative-work", "I-creative-work"),
            *("B-group", "I-group", "B-location", "I-location"),
            *("B-person", "I-person", "B-product", "I-product"),
        ],
        "source": {
            "format": "conll",
            "splits": {"train": ["train.conll"], "dev": ["dev.conll"]},
        },
    },
}


def corpus_settings(name: str, **changes: Any) -> CorpusSettings:
    """Return the settings of a corpus; `changes` replace keys, `source` keys of the source."""
    mapping = copy.deepcopy(SETTINGS[name])
    mapping["source"] |= {"kind": "files", **changes.pop("source", {})}
    return CorpusSettings.model_validate({"label": name, **mapping, **changes})


def write_files(folder: Path, name: str) -> Path:
    """Write the files of a corpus into `folder` and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in FILES[name].items():
        (folder / file).write_bytes(text.encode())
    return folder


def read_splits(settings: CorpusSettings, root: Path | str) -> dict[str, Split]:
    """Return the splits of a corpus whose files are below `root`."""
    assert isinstance(settings.source, FilesCorpus)
    return publishers.read(settings, settings.source, str(root))[0]


def fetch_corpus(settings: CorpusSettings, root: Path | str, output: Path) -> dict:
    """Write a corpus into the folder `output` and return its manifest."""
    lock = output.parent / "lock.json"
    fetching.fetch("tiny", settings, root=str(root), lock=lock, output=output)
    return json.loads((output / "manifest.json").read_text())


def read_rows(output: Path, split: str) -> list[dict]:
    """Return the rows of a split that `fetch_corpus` has written."""
    return pq.read_table(output / f"{split}.parquet").to_pylist()


def check_refused(folder: Path, name: str, file: str, old: str, new: str, message: str) -> None:
    """Check that a corpus is refused in one line when `new` replaces `old` in one of its files."""
    root = write_files(folder / "data", name)
    text = (root / file).read_bytes().decode()
    assert old in text
    (root / file).write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(MtdnnError, match=message) as error:
        fetch_corpus(corpus_settings(name), root, folder / "out")
    assert "empty" in message or file in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder / "out").exists()
