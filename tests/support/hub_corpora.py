"""Invented corpora in the form of the Hub's repositories."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.support.hub_server import HubServer

ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])


def parquet(rows: list[dict], **types: pa.DataType) -> bytes:
    """Return the rows as a Parquet file; `types` are those of columns that need one."""
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array([row[name] for row in rows], kind))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def question(number: int, text: str | None) -> dict:
    context = f"The mill of Osterbach was built in {1800 + number}."
    start = [context.index(text)] if text else []
    return {
        "id": f"q{number}",
        "title": "Osterbach",
        "context": context,
        "question": "When was the mill of Osterbach built?",
        "answers": {"text": [text] if text else [], "answer_start": start},
    }


def squad_rows(numbers: range) -> list[dict]:
    return [question(n, str(1800 + n) if n % 2 else None) for n in numbers]


def swag_rows(number: int) -> list[dict]:
    endings = {f"ending{n}": f"does thing {n}." for n in range(4)}
    return [
        {
            "video-id": "v",
            "fold-ind": str(n),
            "startphrase": "A man sits. He",
            "sent1": "A man sits.",
            "sent2": "He",
            "gold-source": "gold",
            **endings,
            "label": n % 4,
        }
        for n in range(number)
    ]


def pair_rows(number: int, first: str, second: str | None, labels: int) -> list[dict]:
    return [
        {
            first: f"Sentence {n}.",
            **({second: f"Other sentence {n}."} if second else {}),
            "label": n % labels,
            "idx": n,
        }
        for n in range(number)
    ]


def card(configs: dict[str, dict[str, str]]) -> bytes:
    """Return a dataset card that lists the files of every split of every configuration."""
    listed = [
        {
            "config_name": name,
            "data_files": [{"split": s, "path": path} for s, path in files.items()],
        }
        for name, files in configs.items()
    ]
    return f"---\n{yaml.safe_dump({'configs': listed})}---\n# Invented\n".encode()


def push_datasets(hub: HubServer) -> None:
    """Push repositories with the structure of those of the paper's corpora."""
    hub.repository("datasets", "rajpurkar/squad_v2").push(
        {
            "README.md": card(
                {
                    "squad_v2": {
                        "train": "squad_v2/train-*",
                        "validation": "squad_v2/validation-*",
                    }
                }
            ),
            "squad_v2/train-00000-of-00001.parquet": parquet(squad_rows(range(6)), answers=ANSWERS),
            "squad_v2/validation-00000-of-00001.parquet": parquet(
                squad_rows(range(6, 10)), answers=ANSWERS
            ),
        }
    )
    hub.repository("datasets", "allenai/swag").push(
        {
            "README.md": card(
                {"regular": {"train": "regular/train-*", "validation": "regular/val*"}}
            ),
            "regular/train-00000-of-00001.parquet": parquet(swag_rows(6)),
            "regular/validation-00000-of-00001.parquet": parquet(swag_rows(4)),
        }
    )
    glue = {
        "cola": ({"train": 6, "validation": 4}, ("sentence", None, 2)),
        "mrpc": ({"train": 6, "validation": 4}, ("sentence1", "sentence2", 2)),
        "mnli": (
            {"train": 6, "validation_matched": 4, "validation_mismatched": 3},
            ("premise", "hypothesis", 3),
        ),
    }
    files = {
        f"{name}/{split}-00000-of-00001.parquet": parquet(pair_rows(rows, *shape))
        for name, (splits, shape) in glue.items()
        for split, rows in splits.items()
    }
    configs = {n: {s: f"{n}/{s}-*" for s in splits} for n, (splits, _) in glue.items()}
    hub.repository("datasets", "nyu-mll/glue").push({"README.md": card(configs), **files})


def hub_source(repo: str, name: str | None, columns: dict, dev: str = "validation") -> dict:
    splits = {"train": ["train"], "dev": [dev]}
    source = {"kind": "hub", "repo": repo, "splits": splits, "columns": columns}
    return {**source, "name": name} if name else source


CORPORA = {
    "squad": {
        "label": "SQuAD",
        "family": "question_answering",
        "source": hub_source("rajpurkar/squad_v2", None, {}),
        "rows": {"train": 6, "dev": 4},
    },
    "swag": {
        "label": "SWAG",
        "family": "multiple_choice",
        "source": hub_source(
            "allenai/swag",
            "regular",
            {"sentence": "sent1", "start": "sent2", "choices": [f"ending{n}" for n in range(4)]},
        ),
    },
    "cola": {
        "label": "CoLA",
        "family": "sequence_classification",
        "labels": ["unacceptable", "acceptable"],
        "source": hub_source("nyu-mll/glue", "cola", {"sentence1": "sentence"}),
    },
    "mrpc": {
        "label": "MRPC",
        "family": "sequence_classification",
        "labels": ["not_equivalent", "equivalent"],
        "source": hub_source("nyu-mll/glue", "mrpc", {}),
    },
    "mnli": {
        "label": "MNLI",
        "family": "sequence_classification",
        "labels": ["entailment", "neutral", "contradiction"],
        "source": hub_source(
            "nyu-mll/glue",
            "mnli",
            {"sentence1": "premise", "sentence2": "hypothesis"},
            dev="validation_matched",
        ),
    },
}
