"""Corpora: publishers' formats, refusals that name file, row and reason, our own generator."""

import copy
import functools
import http.server
import json
import re
import threading
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtdnn.config.settings import CorpusSettings
from mtdnn.data import downloads
from mtdnn.data.corpora import fetching, synthetic
from mtdnn.data.corpora.publishers import read
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256

MIRROR = Path(__file__).parents[4] / "shared/data"

# --- small corpora in the publishers' formats ------------------------------------------------

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
FILES = {
    "squad": {"train.json": json.dumps(SQUAD), "dev.json": json.dumps(SQUAD)},
    "swag": {"train.csv": SWAG, "dev.csv": SWAG},
    "cola": {"train.tsv": COLA, "in.tsv": COLA, "out.tsv": COLA.rstrip("\n")},
    "mrpc": {"train.txt": MRPC, "ids.tsv": "20\t21\n"},
    "mnli": {"train.jsonl": MNLI, "dev.jsonl": MNLI},
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
}


def corpus(name: str, **changes) -> CorpusSettings:
    mapping = copy.deepcopy(SETTINGS[name])
    mapping["source"] |= {"kind": "files", **changes.pop("source", {})}
    return CorpusSettings.model_validate({"label": name, **mapping, **changes})


def write(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in FILES[name].items():
        (folder / file).write_bytes(text.encode())
    return folder


def fetch(settings: CorpusSettings, root: Path | str, output: Path) -> dict:
    lock = output.parent / "lock.json"
    fetching.fetch("made", settings, root=str(root), lock=lock, output=output)
    return json.loads((output / "manifest.json").read_text())


def rows(output: Path, split: str) -> list[dict]:
    return pq.read_table(output / f"{split}.parquet").to_pylist()


@pytest.mark.parametrize(
    ("name", "train", "dev"),
    [("squad", 3, 3), ("swag", 2, 2), ("cola", 2, 4), ("mrpc", 2, 1), ("mnli", 2, 2)],
)
def test_counts_and_manifest(name, train, dev, tmp_path):
    root = write(tmp_path / "data", name)
    manifest = fetch(corpus(name, rows={"train": train, "dev": dev}), root, tmp_path / "out")
    assert {s: v["rows"] for s, v in manifest["splits"].items()} == {"train": train, "dev": dev}
    for split, described in manifest["splits"].items():
        assert described["sha256"] == sha256(tmp_path / f"out/{split}.parquet")
    assert manifest["source"]["sha256"] == {f: sha256(root / f) for f in FILES[name]}
    dropped = {"label '-'": 1} if name == "mnli" else {}
    assert manifest["splits"]["train"]["dropped"] == dropped


def test_questions(tmp_path):
    fetch(corpus("squad"), write(tmp_path / "data", "squad"), tmp_path / "out")
    first, second, third = rows(tmp_path / "out", "dev")
    assert first == {
        "id": "a",
        "title": "Berg",
        "paragraph": 0,
        "context": CONTEXT,
        "question": "What does Ünal Berg keep?",
        "answer_texts": ["goat", "a goat"],
        "answer_starts": [18, 16],
    }
    assert (second["answer_texts"], second["answer_starts"]) == ([], [])
    assert (third["title"], third["paragraph"]) == ("", 1)


def test_choices(tmp_path):
    fetch(corpus("swag"), write(tmp_path / "data", "swag"), tmp_path / "out")
    first, second = rows(tmp_path / "out", "train")
    assert first["choices"] == ["He stands.", "He runs, fast.", 'He says "no".', "He sleeps."]
    assert (first["sentence"], first["label"]) == ("A man sits.", 2)
    assert second["choices"][0] == "It stops."


def test_sentences(tmp_path):
    for name in ("cola", "mrpc", "mnli"):
        fetch(corpus(name), write(tmp_path / "data" / name, name), tmp_path / name)
    first, second = rows(tmp_path / "cola", "train")
    assert (first["sentence1"], first["sentence2"], first["label"]) == (
        'The cat sat "down.',
        None,
        1,
    )
    assert second["label"] == 0
    (dev,) = rows(tmp_path / "mrpc", "dev")
    assert (dev["id"], dev["sentence2"], dev["label"]) == ("20-21", "It rose .", 0)
    assert [row["id"] for row in rows(tmp_path / "mrpc", "train")] == ["10-11", "30-31"]
    # A line separator inside of a sentence is no end of a record.
    assert rows(tmp_path / "mnli", "train")[0]["sentence1"] == "It\u2028rains."
    assert [row["label"] for row in rows(tmp_path / "mnli", "train")] == [0, 2]


def test_held_out_articles_leave_the_training_split(tmp_path):
    root = write(tmp_path / "data", "squad")
    manifest = fetch(corpus("squad", held_out_titles=["Berg"]), root, tmp_path / "out")
    assert {s: v["rows"] for s, v in manifest["splits"].items()} == {
        "train": 1,
        "dev": 3,
        "held_out": 2,
    }
    assert [row["id"] for row in rows(tmp_path / "out", "held_out")] == ["a", "b"]
    with pytest.raises(MtdnnError, match="no training article 'Bergg'; the nearest is 'Berg'"):
        fetch(corpus("squad", held_out_titles=["Bergg"]), root, tmp_path / "other")


def test_the_digest_is_that_of_the_rows(tmp_path):
    root = write(tmp_path / "data", "squad")
    first = fetch(corpus("squad"), root, tmp_path / "a")["digest"]
    (root / "train.json").write_text(json.dumps(SQUAD, indent=1))
    assert fetch(corpus("squad"), root, tmp_path / "b")["digest"] == first
    assert fetch(corpus("squad", held_out_titles=["Berg"]), root, tmp_path / "c")["digest"] != first
    changed = json.dumps(SQUAD).replace("It rains", "It drips").replace('"rains"', '"drips"')
    (root / "train.json").write_text(changed)
    assert fetch(corpus("squad"), root, tmp_path / "d")["digest"] != first


def test_names_and_indices_of_labels_are_both_understood(tmp_path):
    root = write(tmp_path / "data", "mnli")
    lines = [
        json.dumps({"gold_label": label, "sentence1": "A.", "sentence2": "B."})
        for label in ("neutral", 1, "1")
    ]
    (root / "train.jsonl").write_text("\n".join(lines))
    fetch(corpus("mnli"), root, tmp_path / "out")
    assert [row["label"] for row in rows(tmp_path / "out", "train")] == [1, 1, 1]


# --- refusals --------------------------------------------------------------------------------


def deep(levels: int = 100_000) -> str:
    return "[" * levels + "]" * levels


SQUAD_TEXT, MNLI_LINE = json.dumps(SQUAD), MNLI.splitlines()[0]
REFUSED = [
    ("squad", "train.json", '"answer_start": 18', '"answer_start": 17', "'a'.*does not stand at"),
    ("squad", "train.json", '"answer_start": 18', '"answer_start": -30', "does not stand at"),
    ("squad", "train.json", '"answer_start": 18', '"answer_start": 18.0', "whole number, not 18.0"),
    ("squad", "train.json", '"id": "b"', '"id": "a"', "'a' stands here a second time"),
    ("squad", "train.json", '"id": "b", ', "", "missing column 'id'"),
    ("squad", "train.json", '"What does it do?"', '" "', "'c': question is empty"),
    ("squad", "train.json", '"What does it do?"', "7", "question must be text, not 7"),
    ("squad", "train.json", '"It rains."', '""', "context is empty"),
    ("squad", "train.json", '"context"', '"kontext"', "paragraph 0: has no context"),
    ("squad", "train.json", '"is_impossible": true', '"is_impossible": false', "but it has 0 answ"),
    ("squad", "train.json", '"It rains."', '"It \\ud800"', "half a surrogate"),
    ("squad", "train.json", '"data"', '"dat"', "'data' must be a list of objects"),
    ("squad", "train.json", SQUAD_TEXT, SQUAD_TEXT[:-40], "not readable as JSON"),
    ("squad", "train.json", SQUAD_TEXT, deep(), "not readable as JSON"),
    ("squad", "train.json", SQUAD_TEXT, '{"data": []}', "split train is empty"),
    ("swag", "train.csv", ",2\n", ",4\n", "line 2: label '4' is none of 0 to 3"),
    ("swag", "train.csv", ",2\n", ",two\n", "line 2: label 'two'"),
    ("swag", "train.csv", "ending3,label", "ending4,label", "line 2: missing column 'ending3'"),
    ("swag", "train.csv", "It eats.", "", "line 3: choice 2 is empty"),
    ("swag", "train.csv", ",It eats.", "", "line 3: 7 fields instead of 8"),
    ("swag", "train.csv", ",It runs.,0\n", ',"It ru', "line 3: not valid CSV: unexpected end"),
    ("swag", "train.csv", "ending1", "ending0", "line 1: a column name stands twice"),
    ("cola", "train.tsv", "ks08\t0", "ks08\t2", "line 2: label '2' is none of unacceptable"),
    ("cola", "train.tsv", "ks08\t0", "ks08\t-1", "line 2: label '-1'"),
    ("cola", "train.tsv", "\t*\t", "\t", "line 2: 3 fields instead of 4"),
    ("cola", "train.tsv", "Cat the sat.", "", "line 2: sentence1 is empty"),
    ("cola", "train.tsv", COLA, "", "split train is empty"),
    ("mrpc", "train.txt", "#2 String", "#3 String", "line 2: missing column '#2 String'"),
    ("mrpc", "train.txt", "30\t31", "10\t11", "line 4: the id '10-11' stands"),
    ("mrpc", "ids.tsv", "20\t21", "20\t22", "ids.tsv: line 1: no row of the train files"),
    ("mnli", "train.jsonl", "contradiction", "contra", "line 3: label 'contra' is none of entail"),
    ("mnli", "train.jsonl", '"contradiction"', "true", "line 3: label True"),
    ("mnli", "train.jsonl", MNLI, MNLI[:-9], "line 3: not valid JSON, cut off perhaps"),
    ("mnli", "train.jsonl", MNLI_LINE, deep(), "line 1: nested too deep"),
    ("mnli", "train.jsonl", MNLI_LINE, "[1]", "line 1: must be a JSON object"),
    ("mnli", "train.jsonl", MNLI_LINE, "", "line 1: not valid JSON"),
]


@pytest.mark.parametrize(("name", "file", "old", "new", "message"), REFUSED)
def test_bad_input_is_refused_with_file_row_and_reason(name, file, old, new, message, tmp_path):
    root = write(tmp_path / "data", name)
    text = (root / file).read_bytes().decode()
    assert old in text
    (root / file).write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(MtdnnError, match=message) as error:
        fetch(corpus(name), root, tmp_path / "out")
    assert "empty" in message or file in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FILES)
def test_broken_utf8(name, tmp_path):
    root = write(tmp_path / "data", name)
    file = next(iter(FILES[name]))
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[:-3] + b"\xff" + content[-3:])
    with pytest.raises(MtdnnError, match=f"{file}: .*(UTF-8|utf-8)"):
        fetch(corpus(name), root, tmp_path / "out")


def test_choices_in_a_list_column_must_be_equally_many(tmp_path):
    lines = [
        json.dumps({"sentence": "A.", "choices": ["x", "y", "z"][:n], "label": 0}) for n in (3, 2)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    source = {"format": "jsonl", "splits": {"train": ["train.jsonl"]}, "columns": {}}
    with pytest.raises(MtdnnError, match="line 2: 2 choices where the others have 3"):
        fetch(corpus("swag", source=source), tmp_path, tmp_path / "out")


def test_counts_digests_and_files_must_be_there(tmp_path):
    root = write(tmp_path / "data", "cola")
    with pytest.raises(MtdnnError, match="dev has 4 rows, 5 are expected"):
        fetch(corpus("cola", rows={"dev": 5}), root, tmp_path / "out")
    digests = {"in.tsv": "0" * 64}
    with pytest.raises(MtdnnError, match=r"in\.tsv: its sha256 is"):
        fetch(corpus("cola", source={"sha256": digests}), root, tmp_path / "out")
    with pytest.raises(MtdnnError, match=r"no such file.*MTDNN_DATA"):
        fetch(corpus("cola"), tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(MtdnnError, match="splits: dev is missing"):
        splits = {"splits": {"train": ["train.tsv"]}}
        fetch(corpus("cola", source=splits), root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- downloads -------------------------------------------------------------------------------


class Server:
    """Serves a folder; the first `failures` requests for a file are cut off halfway."""

    def __init__(self, folder: Path) -> None:
        server = self
        self.failures, self.requests = 0, 0

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                if server.failures:
                    server.failures -= 1
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b"half")
                else:
                    super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    server = Server(write(tmp_path / "data", "cola"))
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_urls_are_downloaded_once_and_verified(server, tmp_path):
    digests = {file: sha256(tmp_path / "data" / file) for file in FILES["cola"]}
    pinned = corpus("cola", source={"sha256": digests})
    server.failures = 2
    manifest = fetch(pinned, server.url, tmp_path / "out")
    assert manifest["digest"] == fetch(pinned, tmp_path / "data", tmp_path / "local")["digest"]
    assert server.requests == 5
    fetch(pinned, server.url, tmp_path / "again")
    assert server.requests == 5, "the second time comes from the cache"


def test_bad_downloads_leave_nothing(server, tmp_path):
    digests = {file: sha256(tmp_path / "data" / file) for file in FILES["cola"]}
    server.failures = 9
    with pytest.raises(MtdnnError, match=r"train\.tsv: not downloaded: cut off"):
        fetch(corpus("cola", source={"sha256": digests}), server.url, tmp_path / "out")
    server.failures = 0
    wrong = {**digests, "train.tsv": "0" * 64}
    with pytest.raises(MtdnnError, match=r"train\.tsv: its sha256 is"):
        fetch(corpus("cola", source={"sha256": wrong}), server.url, tmp_path / "out")
    with pytest.raises(MtdnnError, match=r"a download needs the digest of train\.tsv"):
        fetch(corpus("cola"), server.url, tmp_path / "out")
    (tmp_path / "data/train.tsv").unlink()
    with pytest.raises(MtdnnError, match=r"train\.tsv: the server says 404"):
        fetch(corpus("cola", source={"sha256": digests}), server.url, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").rglob("*.tsv"))


# --- nothing but rows or refusals, whatever the files hold -----------------------------------


def survives(name: str, folder: Path, file: str, content: bytes) -> None:
    """Reading ends with rows that fit the contract or with a one-line refusal."""
    root = write(folder, name)
    (root / file).write_bytes(content)
    settings = corpus(name)
    try:
        splits, _ = read(settings, str(root))
        for split in splits.values():
            fetching._write(root, "checked", split, settings)
    except MtdnnError as error:
        assert file in str(error) or "ids.tsv" in str(error)
        assert "\n" not in str(error)


FUZZED = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.mark.parametrize("name", FILES)
@FUZZED
@given(data=st.data())
def test_mutated_files(name, tmp_path, data):
    file = next(iter(FILES[name]))
    content = bytearray(FILES[name][file].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 20)))
        content[start:end] = data.draw(
            st.one_of(
                st.binary(max_size=6),
                st.sampled_from([b"\t", b"\n", b'"', b",", b"null", b"\xff", b"{", b"]", b"1e999"]),
            )
        )
    survives(name, tmp_path / "data", file, bytes(content))


KEYS = (
    *("data", "paragraphs", "qas", "context", "question", "id", "answers", "text"),
    *("answer_start", "title", "is_impossible", "gold_label", "sentence1", "sentence2"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("name", ["squad", "mnli"])
@FUZZED
@given(value=JSON)
def test_json_of_any_shape(name, tmp_path, value):
    file = next(iter(FILES[name]))
    survives(name, tmp_path / "data", file, json.dumps(value).encode())


# --- our own generator -----------------------------------------------------------------------

RECIPES = {
    "squad": ("question_answering", []),
    "swag": ("multiple_choice", []),
    "cola": ("sequence_classification", ["unacceptable", "acceptable"]),
    "mrpc": ("sequence_classification", ["not_equivalent", "equivalent"]),
    "mnli": ("sequence_classification", ["entailment", "neutral", "contradiction"]),
}


def made_up(recipe: str, train: int = 300, dev: int = 120, **source) -> CorpusSettings:
    family, labels = RECIPES[recipe]
    source = {"kind": "synthetic", "recipe": recipe, "train": train, "dev": dev, **source}
    return CorpusSettings(label=recipe, family=family, labels=labels, source=source)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_seed_always_gives_the_same_corpus(recipe, tmp_path):
    first = fetch(made_up(recipe), ".", tmp_path / "a")
    assert {s: v["rows"] for s, v in first["splits"].items()} == {"train": 300, "dev": 120}
    assert fetch(made_up(recipe), ".", tmp_path / "b") == first
    assert fetch(made_up(recipe, seed=2), ".", tmp_path / "c")["digest"] != first["digest"]
    # More training rows change neither the first ones nor the dev split.
    fetch(made_up(recipe, train=400), ".", tmp_path / "d")
    if recipe != "mrpc":
        assert rows(tmp_path / "d", "train")[:290] == rows(tmp_path / "a", "train")[:290]
        assert rows(tmp_path / "d", "dev") == rows(tmp_path / "a", "dev")


@pytest.mark.parametrize("recipe", ["swag", "cola", "mrpc", "mnli"])
def test_no_label_is_a_safe_bet(recipe, tmp_path):
    fetch(made_up(recipe), ".", tmp_path / "out")
    for split in ("train", "dev"):
        labels = Counter(row["label"] for row in rows(tmp_path / "out", split))
        classes = len(RECIPES[recipe][1]) or 4
        assert len(labels) == classes
        assert max(labels.values()) / labels.total() < 0.5 + 0.3 / classes


def test_synthetic_questions(tmp_path):
    fetch(made_up("squad", train=1800, dev=900), ".", tmp_path / "out")
    train, dev = rows(tmp_path / "out", "train"), rows(tmp_path / "out", "dev")
    for split in (train, dev):
        unanswerable = sum(not row["answer_texts"] for row in split) / len(split)
        assert unanswerable == pytest.approx(1 / 3, abs=0.01)
        lengths = [len(c.split()) for c in {row["context"] for row in split}]
        assert 0.02 < sum(n >= synthetic.LONG_WORDS[0] for n in lengths) / len(lengths) < 0.15
        assert max(lengths) < 280
    assert len({row["title"] for row in train}) > 5
    assert {row["title"] for row in train}.isdisjoint({row["title"] for row in dev})
    assert Counter(len(row["answer_texts"]) for row in dev if row["answer_texts"]).keys() == {
        1,
        2,
        3,
    }
    assert all(len(row["answer_texts"]) <= 1 for row in train)


def told(row: dict) -> tuple[bool, bool]:
    """Whether the context states what is asked: of that person, of anybody."""
    for relation in synthetic._RELATIONS:
        for question in relation.questions:
            before, after = question.split("{p}")
            if row["question"].startswith(before) and row["question"].endswith(after):
                person = row["question"].removeprefix(before).removesuffix(after)
                patterns = [re.escape(s).replace(r"\{a\}", r"\w+") for s in relation.statements]
                return tuple(
                    any(re.search(p.replace(r"\{p\}", who), row["context"]) for p in patterns)
                    for who in (person, r"\w+")
                )
    raise AssertionError(f"no template has {row['question']!r}")


@pytest.mark.parametrize("hard_share", [synthetic.GAP_SHARE, 0.2])
def test_open_questions_are_open(hard_share, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "GAP_SHARE", hard_share)
    fetch(made_up("squad", train=900, dev=90), ".", tmp_path / "out")
    train = rows(tmp_path / "out", "train")
    elsewhere = 0
    for row in train:
        of_person, of_anybody = told(row)
        assert of_person == bool(row["answer_texts"])
        elsewhere += of_anybody and not of_person
    # Some of them can only be told apart by the person.
    assert elsewhere > hard_share * len(train) / 3 / 2


def test_answers_of_long_contexts_lie_everywhere(tmp_path):
    fetch(made_up("squad", train=3000, dev=3), ".", tmp_path / "out")
    places = [
        row["answer_starts"][0] / len(row["context"])
        for row in rows(tmp_path / "out", "train")
        if len(row["context"].split()) >= synthetic.LONG_WORDS[0] and row["answer_starts"]
    ]
    quarters = Counter(int(4 * place) for place in places)
    assert min(quarters[n] for n in range(4)) > len(places) / 10


def test_shuffled_answers_are_valid_but_mean_nothing(tmp_path):
    fetch(made_up("squad"), ".", tmp_path / "plain")
    fetch(made_up("squad", shuffle_answers=True), ".", tmp_path / "shuffled")
    assert rows(tmp_path / "plain", "dev") == rows(tmp_path / "shuffled", "dev")
    plain, shuffled = rows(tmp_path / "plain", "train"), rows(tmp_path / "shuffled", "train")
    assert [row["question"] for row in plain] == [row["question"] for row in shuffled]
    pairs = list(zip(plain, shuffled, strict=True))
    same = sum(a["answer_texts"] == b["answer_texts"] != [] for a, b in pairs)
    assert same < len(plain) / 10
    # Whether there is an answer is as likely for answerable questions as for the others.
    answered = [bool(b["answer_texts"]) for a, b in pairs if not a["answer_texts"]]
    assert sum(answered) / len(answered) == pytest.approx(2 / 3, abs=0.15)


def test_recipes_need_their_family():
    wrong = CorpusSettings(
        label="x",
        family="multiple_choice",
        source={"kind": "synthetic", "recipe": "squad", "train": 5, "dev": 5},
    )
    with pytest.raises(MtdnnError, match="recipe squad is question_answering"):
        fetching.fetch("x", wrong, root=".", lock=Path("lock.json"), output=Path("never"))


# --- the real mirror -------------------------------------------------------------------------

needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no data in {MIRROR}")
SPLITS = {
    "squad": {"train": ["train-v2.0.json"], "dev": ["dev-v2.0.json"]},
    "swag": {"train": ["train.csv"], "dev": ["val.csv"]},
    "cola": {
        "train": ["in_domain_train.tsv"],
        "dev": ["in_domain_dev.tsv", "out_of_domain_dev.tsv"],
    },
    "mrpc": {"train": ["msr_paraphrase_train.txt"]},
    "mnli": {
        "train": ["multinli_1.0_train.jsonl"],
        "dev": ["multinli_1.0_dev_matched.jsonl", "multinli_1.0_dev_mismatched.jsonl"],
    },
}
COUNTS = {
    "squad": (9372, 11873),
    "swag": (801, 200),
    "cola": (8551, 527 + 516),
    "mrpc": (3668, 408),
    "mnli": (13385, 7755 + 999),
}


@needs_mirror
@pytest.mark.parametrize("name", SPLITS)
def test_the_mirror_reads_completely(name, tmp_path):
    folder = "squad_v2" if name == "squad" else name
    lines = [line.split() for line in (MIRROR / "SHA256SUMS").read_text().splitlines()]
    sums = {
        file.removeprefix(f"{folder}/"): digest
        for digest, file in lines
        if file.startswith(f"{folder}/")
    }
    source = {"splits": SPLITS[name], "sha256": sums}
    if name == "mrpc":
        source["dev_ids"] = "dev_ids.tsv"
    train, dev = COUNTS[name]
    settings = corpus(name, source=source, rows={"train": train, "dev": dev})
    manifest = fetch(settings, MIRROR / folder, tmp_path / "out")
    assert not manifest["splits"]["train"]["dropped"]
    used = manifest["source"]["sha256"]
    assert used == {file: sums[file] for file in used}


@needs_mirror
def test_the_official_dev_set(tmp_path):
    splits = {"train": ["train-extra-answerable.json"], "dev": ["dev-v2.0.json"]}
    fetch(corpus("squad", source={"splits": splits}), MIRROR / "squad_v2", tmp_path / "out")
    dev = rows(tmp_path / "out", "dev")
    assert sum(bool(row["answer_texts"]) for row in dev) == 5928
    assert len({row["title"] for row in dev}) == 35
    assert len(rows(tmp_path / "out", "train")) == 16083
