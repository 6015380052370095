"""Publishers' formats: their records become rows; bad files are refused with file and place."""

import json
from codecs import BOM_UTF8
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


def test_rows_without_a_header_may_have_further_columns(tmp_path):
    train = read_splits(corpus_settings("stsb"), write_files(tmp_path, "stsb"))["train"]
    assert [(row["label"], row["sentence1"], row["sentence2"]) for row in train.rows] == [
        (5.0, "A plane takes off.", 'An "air plane.'),
        (0.25, "It rains.", "It snows."),
    ]


def test_conll_files_give_sentences(tmp_path):
    train = read_splits(corpus_settings("wnut"), write_files(tmp_path, "wnut"))["train"]
    assert [row["tokens"] for row in train.rows] == [
        ["Mirl", "Berg", "lives"],
        ["in", "Ulm"],
        ["It", "rains"],
    ]
    assert train.rows[0]["tags"] == [9, 10, 0]


CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-group
rejects VBZ B-VP O

Peter NNP B-NP B-person

-DOCSTART- -X- -X- O
Ulm NNP B-NP B-location
"""


def test_documents_of_conll_files_are_clusters_and_columns_have_numbers(tmp_path):
    (tmp_path / "train.conll").write_text(CONLL_2003)
    settings = corpus_settings("wnut", source={"splits": {"train": ["train.conll"]}})
    rows = read_splits(settings, tmp_path)["train"].rows
    assert [row["tokens"] for row in rows] == [["EU", "rejects"], ["Peter"], ["Ulm"]]
    assert [row["tags"] for row in rows] == [[5, 0], [9], [7]]
    assert [row["cluster"] for row in rows] == [f"train.conll-{n}" for n in (1, 1, 2)]
    parts = corpus_settings(
        "wnut",
        labels=["NNP", "VBZ"],
        source={"splits": {"train": ["train.conll"]}, "columns": {"tags": 1}},
    )
    assert [row["tags"] for row in read_splits(parts, tmp_path)["train"].rows] == [[0, 1], [0], [0]]


QUESTIONS = """id,text,q,span,fold
1,"Berg, who is old, keeps a goat.",What?,"(24, 30)",train
2,It rains.,What?,-,train
3,It snows.,What?,"(3, 8)",valid
4,It drips.,What?,"(3, 8)",eval
"""
SPANS = {
    "format": "csv",
    "files": ["all.csv"],
    "split_column": "fold",
    "splits": {"train": ["train"], "dev": ["valid", "eval"]},
    "columns": {"context": "text", "question": "q", "answer_start": "span"},
}


def test_a_csv_file_may_have_texts_as_long_as_any_other_file(tmp_path):
    text = "It rains. " * 20_000
    (tmp_path / "all.csv").write_text(QUESTIONS.replace("It rains.", text))
    rows = read_splits(corpus_settings("squad", source=SPANS, no_answer="-"), tmp_path)[
        "train"
    ].rows
    assert rows[1]["context"] == text


def test_a_csv_of_questions_is_divided_by_a_column(tmp_path):
    (tmp_path / "all.csv").write_text(QUESTIONS)
    splits = read_splits(corpus_settings("squad", source=SPANS, no_answer="-"), tmp_path)
    assert [row["answer_texts"] for row in splits["train"].rows] == [["a goat"], []]
    assert [row["answer_texts"] for row in splits["dev"].rows] == [["snows"], ["drips"]]
    for changes, message in (
        (
            {"splits": {"train": ["train"], "dev": ["valdi"]}},
            r"all\.csv: splits\.dev: no row has the split 'valdi'; they have train, valid, eval",
        ),
        ({"split_column": "fodl"}, "line 2: missing column 'fodl', the split_column"),
        ({"columns": {**SPANS["columns"], "question": "quest"}}, "line 2: missing column 'quest'"),
    ):
        wrong = corpus_settings("squad", source={**SPANS, **changes}, no_answer="-")
        with pytest.raises(MtdnnError, match=message):
            read_splits(wrong, tmp_path)


def test_a_headerless_tsv_of_choices_is_divided_by_a_column(tmp_path):
    (tmp_path / "all.tsv").write_text("tr\tWhy?\tx\ty\tB\ntr\tHow?\tx\ty\tA\nva\tWho?\tx\ty\tB\n")
    source = {
        "format": "tsv",
        "header": False,
        "files": ["all.tsv"],
        "split_column": 0,
        "splits": {"train": ["tr"], "dev": ["va"]},
        "columns": {"sentence": 1, "choices": [2, 3], "label": 4},
    }
    splits = read_splits(corpus_settings("swag", source=source, labels=["A", "B"]), tmp_path)
    assert [row["label"] for row in splits["train"].rows] == [1, 0]
    assert splits["dev"].rows[0]["sentence"] == "Who?"


def test_a_json_document_has_a_list_for_each_split(tmp_path):
    entries = [{"sentence1": f"A {n}.", "label": n % 2} for n in range(3)]
    document = {"train": entries, "validation": entries[:1], "other": []}
    (tmp_path / "all.json").write_text(json.dumps(document))
    source = {
        "format": "json",
        "header": True,
        "files": ["all.json"],
        "splits": {"train": ["train"], "dev": ["validation"]},
        "columns": {},
    }
    splits = read_splits(corpus_settings("cola", source=source), tmp_path)
    assert [len(splits[split].rows) for split in ("train", "dev")] == [3, 1]
    broken = {**document, "train": [entries[0], 7]}
    (tmp_path / "all.json").write_text(json.dumps(broken))
    with pytest.raises(MtdnnError, match=r"all\.json: train: entry 2: must be a JSON object"):
        read_splits(corpus_settings("cola", source=source), tmp_path)
    (tmp_path / "train.json").write_text(json.dumps(entries))  # or one list for each file
    single = {**source, "files": [], "splits": {"train": ["train.json"]}}
    assert read_splits(corpus_settings("cola", source=single), tmp_path)["train"] == splits["train"]


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
    ("squad", "train.json", '"context"', '"kontext"', "article 1, paragraph 1: missing 'context'"),
    ("squad", "train.json", '"is_impossible": true', '"is_impossible": false', "but it has 0 answ"),
    ("squad", "train.json", '"data"', '"dat"', "'data' must be a list of objects"),
    ("squad", "train.json", SQUAD_TEXT, SQUAD_TEXT[:-40], "not readable as JSON"),
    ("squad", "train.json", SQUAD_TEXT, deep(), "not readable as JSON"),
    ("swag", "train.csv", ",It eats.", "", "line 3: 7 fields instead of 8"),
    ("swag", "train.csv", ",It runs.,0\n", ',"It ru', "line 3: not valid CSV: unexpected end"),
    ("swag", "train.csv", "ending1", "ending0", "line 1: duplicate column name"),
    ("cola", "train.tsv", "\t*\t", "\t", "line 2: 3 fields instead of 4"),
    ("mrpc", "ids.tsv", "20\t21", "20\t22", "ids.tsv: line 1: no row of the train files"),
    ("stsb", "train.csv", '\tAn "air plane.', "", "line 1: 6 fields instead of 7 or more"),
    ("wnut", "train.conll", "lives\tO", "lives", "line 3: 1 column instead of 2"),
    ("wnut", "train.conll", "Mirl\tB-person", "Mirl", "line 1: 1 column instead of at least 2"),
    ("mnli", "train.jsonl", MNLI, MNLI[:-9], "line 3: not valid JSON, perhaps cut off"),
    ("mnli", "train.jsonl", MNLI_LINE, deep(), "line 1: nested too deeply"),
    ("mnli", "train.jsonl", MNLI_LINE, "[1]", "line 1: must be a JSON object"),
    ("mnli", "train.jsonl", MNLI_LINE, "", "line 1: empty; remove the line"),
    ("cola", "train.tsv", "\n", "\n\n", "line 2: empty; remove the line"),
    ("swag", "train.csv", "\n", "\n\n", "line 2: empty; remove the line"),
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


@pytest.mark.parametrize("name", FILES)
def test_blank_lines_at_the_end_and_byte_order_marks_are_no_rows(name, tmp_path):
    plain, dressed = (write_files(tmp_path / folder, name) for folder in ("plain", "dressed"))
    for file in FILES[name]:
        content = (dressed / file).read_bytes()
        mark = b"" if content.startswith(BOM_UTF8) else BOM_UTF8
        (dressed / file).write_bytes(mark + content + b"\n\r\n\n  \t\n ")
    of_plain, of_dressed = (read_splits(corpus_settings(name), root) for root in (plain, dressed))
    assert of_plain.keys() == of_dressed.keys()
    assert all(of_plain[split].rows == of_dressed[split].rows for split in of_plain)


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
    "stsb": {"train": ["sts-train.csv"], "dev": ["sts-dev.csv"], "test": ["sts-test.csv"]},
    "wnut": {
        "train": ["wnut17train.conll"],
        "dev": ["emerging.dev.conll"],
        "test": ["emerging.test.annotated"],
    },
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
    "stsb": (5749, 1500, 1379),
    "wnut": (3394, 1009, 1287),
}
FOLDERS = {"squad": "squad_v2", "wnut": "wnut17"}


@needs_published
@pytest.mark.parametrize("name", SPLITS)
def test_published_files_are_read_completely(name, tmp_path):
    folder = FOLDERS.get(name, name)
    lines = [line.split() for line in (PUBLISHED / "SHA256SUMS").read_text().splitlines()]
    sums = {
        file.removeprefix(f"{folder}/"): digest
        for digest, file in lines
        if file.startswith(f"{folder}/")
    }
    source = {"splits": SPLITS[name], "sha256": sums}
    if name == "mrpc":
        source["dev_ids"] = "dev_ids.tsv"
    rows = dict(zip(("train", "dev", "test"), COUNTS[name], strict=False))
    settings = corpus_settings(name, source=source, rows=rows)
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
