"""Publishers' formats: their records become rows; bad files are refused with file and place."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtdnn.data.corpora.fetching import write_split
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256
from tests.support.file_server import FileServer
from tests.support.published import (
    CONTEXT,
    FILES,
    MNLI,
    SQUAD,
    check_refused,
    corpus_settings,
    fetch_corpus,
    read_rows,
    read_splits,
    write_files,
)

PUBLISHED = Path(__file__).parents[4] / "shared/data"


def test_squad_files_give_questions(tmp_path):
    splits = read_splits(corpus_settings("squad"), write_files(tmp_path, "squad"))
    first, second, third = splits["dev"].rows
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


def test_csv_files_give_choices(tmp_path):
    splits = read_splits(corpus_settings("swag"), write_files(tmp_path, "swag"))
    first, second = splits["train"].rows
    assert first["choices"] == ["He stands.", "He runs, fast.", 'He says "no".', "He sleeps."]
    assert (first["sentence"], first["label"]) == ("A man sits.", 2)
    assert second["choices"][0] == "It stops."


def test_tsv_and_jsonl_files_give_sentences(tmp_path):
    cola, mrpc, mnli = (
        read_splits(corpus_settings(name), write_files(tmp_path / name, name))
        for name in ("cola", "mrpc", "mnli")
    )
    first, second = cola["train"].rows
    assert (first["sentence1"], first["sentence2"], first["label"]) == (
        'The cat sat "down.',
        None,
        1,
    )
    assert second["label"] == 0
    (dev,) = mrpc["dev"].rows
    assert (dev["id"], dev["sentence2"], dev["label"]) == ("20-21", "It rose .", 0)
    assert [row["id"] for row in mrpc["train"].rows] == ["10-11", "30-31"]
    # A line separator within a sentence does not end a record.
    assert mnli["train"].rows[0]["sentence1"] == "It\u2028rains."
    assert [row["label"] for row in mnli["train"].rows] == [0, 2]


# --- files below a URL -----------------------------------------------------------------------


def test_files_below_a_url_are_those_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "cache"))
    root = write_files(tmp_path / "data", "cola")
    digests = {file: sha256(root / file) for file in FILES["cola"]}
    pinned = corpus_settings("cola", source={"sha256": digests})
    with FileServer(root) as server:
        assert read_splits(pinned, f"{server.url}/") == read_splits(pinned, root)
        with pytest.raises(MtdnnError, match=r"sha256: no digest of train\.tsv"):
            read_splits(corpus_settings("cola"), server.url)


# --- refusals --------------------------------------------------------------------------------


def deep(levels: int = 100_000) -> str:
    return "[" * levels + "]" * levels


SQUAD_TEXT, MNLI_LINE = json.dumps(SQUAD), MNLI.splitlines()[0]
REFUSED = [
    ("squad", "train.json", '"context"', '"kontext"', "paragraph 0: missing 'context'"),
    ("squad", "train.json", '"is_impossible": true', '"is_impossible": false', "but it has 0 answ"),
    ("squad", "train.json", '"data"', '"dat"', "'data' must be a list of objects"),
    ("squad", "train.json", SQUAD_TEXT, SQUAD_TEXT[:-40], "not readable as JSON"),
    ("squad", "train.json", SQUAD_TEXT, deep(), "not readable as JSON"),
    ("swag", "train.csv", ",It eats.", "", "line 3: 7 fields instead of 8"),
    ("swag", "train.csv", ",It runs.,0\n", ',"It ru', "line 3: not valid CSV: unexpected end"),
    ("swag", "train.csv", "ending1", "ending0", "line 1: duplicate column name"),
    ("cola", "train.tsv", "\t*\t", "\t", "line 2: 3 fields instead of 4"),
    ("mrpc", "ids.tsv", "20\t21", "20\t22", "ids.tsv: line 1: no row of the train files"),
    ("mnli", "train.jsonl", MNLI, MNLI[:-9], "line 3: not valid JSON, perhaps cut off"),
    ("mnli", "train.jsonl", MNLI_LINE, deep(), "line 1: nested too deeply"),
    ("mnli", "train.jsonl", MNLI_LINE, "[1]", "line 1: must be a JSON object"),
    ("mnli", "train.jsonl", MNLI_LINE, "", "line 1: not valid JSON"),
]


@pytest.mark.parametrize(("name", "file", "old", "new", "message"), REFUSED)
def test_bad_input_is_refused_with_file_row_and_reason(name, file, old, new, message, tmp_path):
    check_refused(tmp_path, name, file, old, new, message)


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_utf8_are_refused(name, tmp_path):
    root = write_files(tmp_path / "data", name)
    file = next(iter(FILES[name]))
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[:-3] + b"\xff" + content[-3:])
    with pytest.raises(MtdnnError, match=f"{file}: .*(UTF-8|utf-8)"):
        fetch_corpus(corpus_settings(name), root, tmp_path / "out")


# --- any content -----------------------------------------------------------------------------


def survives(name: str, folder: Path, file: str, content: bytes) -> None:
    """Check that the files give rows that fit the schema, or are refused in one line."""
    root = write_files(folder, name)
    (root / file).write_bytes(content)
    settings = corpus_settings(name)
    try:
        for split in read_splits(settings, root).values():
            write_split(root, "checked", split, settings)
    except MtdnnError as error:
        assert file in str(error) or "ids.tsv" in str(error)
        assert "\n" not in str(error)


FUZZED = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.mark.parametrize("name", FILES)
@FUZZED
@given(data=st.data())
def test_files_with_random_bytes_are_read_or_refused(name, tmp_path, data):
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
def test_json_of_any_shape_is_read_or_refused(name, tmp_path, value):
    file = next(iter(FILES[name]))
    survives(name, tmp_path / "data", file, json.dumps(value).encode())


# --- the published corpora -------------------------------------------------------------------

needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"no data in {PUBLISHED}")
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


@needs_published
@pytest.mark.parametrize("name", SPLITS)
def test_published_files_are_read_completely(name, tmp_path):
    folder = "squad_v2" if name == "squad" else name
    lines = [line.split() for line in (PUBLISHED / "SHA256SUMS").read_text().splitlines()]
    sums = {
        file.removeprefix(f"{folder}/"): digest
        for digest, file in lines
        if file.startswith(f"{folder}/")
    }
    source = {"splits": SPLITS[name], "sha256": sums}
    if name == "mrpc":
        source["dev_ids"] = "dev_ids.tsv"
    train, dev = COUNTS[name]
    settings = corpus_settings(name, source=source, rows={"train": train, "dev": dev})
    manifest = fetch_corpus(settings, PUBLISHED / folder, tmp_path / "out")
    assert not manifest["splits"]["train"]["dropped"]
    used = manifest["source"]["sha256"]
    assert used == {file: sums[file] for file in used}


@needs_published
def test_the_official_dev_set_has_its_known_counts(tmp_path):
    splits = {"train": ["train-extra-answerable.json"], "dev": ["dev-v2.0.json"]}
    fetch_corpus(
        corpus_settings("squad", source={"splits": splits}),
        PUBLISHED / "squad_v2",
        tmp_path / "out",
    )
    dev = read_rows(tmp_path / "out", "dev")
    assert sum(bool(row["answer_texts"]) for row in dev) == 5928
    assert len({row["title"] for row in dev}) == 35
    assert len(read_rows(tmp_path / "out", "train")) == 16083
