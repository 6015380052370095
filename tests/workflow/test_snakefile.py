"""Functions for the Snakefile: missing inputs are named, paths are quoted, delivery is started."""

import copy
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtdnn.errors import MtdnnError
from mtdnn.workflow import snakefile
from tests.support.factories import SMALL

SQUAD_FILES = {
    "kind": "files",
    "format": "squad",
    "root": "squad",
    "splits": {"train": ["train.json"], "dev": ["dev.json"]},
}


def test_a_file_that_vanishes_or_is_another_users_stops_no_dating_back(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() + 600,) * 2)
    date = os.utime

    def refuse(path):
        if path.name == "b":
            raise PermissionError
        date(path)

    monkeypatch.setattr(os, "utime", refuse)
    snakefile.date_back(tmp_path)
    ahead = {path.name for path in tmp_path.iterdir() if path.stat().st_mtime > time.time()}
    assert ahead == {"b"}


def test_published_numbers_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published = "results/published/published.csv"
    mapping = {**copy.deepcopy(SMALL), "published": published}
    assert Path(load(tmp_path, mapping).published).is_file()
    mapping["published"] = "no/such.csv"
    assert load(tmp_path, mapping).published == "no/such.csv"
    own = tmp_path / published
    own.parent.mkdir(parents=True)
    own.touch()
    mapping["published"] = published
    assert load(tmp_path, mapping).published == published


def test_files_from_the_future_are_dated_back(tmp_path, capsys):
    dates = {}
    for name, ahead in (("past", -600), ("future", 600), ("far", 7200)):
        path = tmp_path / "folder" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        dates[path] = time.time() + ahead
        os.utime(path, (dates[path], dates[path]))
    snakefile.date_back(tmp_path)
    for path, date in dates.items():
        kept = abs(path.stat().st_mtime - date) < 1
        assert path.stat().st_mtime <= time.time() and kept == (path.name == "past")
    assert "2 files" in capsys.readouterr().err
    snakefile.date_back(tmp_path)
    assert not capsys.readouterr().err


def load(folder: Path, mapping: dict[str, Any]):
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    return snakefile.load_experiment(mapping, [path])


def line_of(folder: Path, text: str) -> str:
    """Return `experiment.yaml: line …` for the line of the file that `load` wrote."""
    lines = (folder / "experiment.yaml").read_text(encoding="utf-8").splitlines()
    return f"experiment.yaml: line {[line.strip() for line in lines].index(text) + 1}"


@pytest.fixture
def mapping(tmp_path, monkeypatch) -> dict[str, Any]:
    """An experiment whose corpus and encoder are local files, which do not exist."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MTDNN_DATA", raising=False)
    mapping = copy.deepcopy(SMALL)
    mapping["data_root"] = "data"
    mapping["corpora"]["squad"]["source"] = dict(SQUAD_FILES)
    mapping["encoders"]["tiny"]["source"] = {"kind": "files", "path": "encoder"}
    return mapping


def test_every_missing_input_is_named(tmp_path, mapping, monkeypatch):
    with pytest.raises(MtdnnError) as error:
        load(tmp_path, mapping)
    assert str(error.value) == (
        f"{line_of(tmp_path, 'data_root: data')}: data_root: no such folder: data; "
        "set it, or the environment variable MTDNN_DATA"
    )
    (tmp_path / "data").mkdir()
    with pytest.raises(MtdnnError) as error:
        load(tmp_path, mapping)
    assert str(error.value).splitlines() == [
        f"{line_of(tmp_path, place)}: {message}"
        for place, message in (
            ("root: squad", "corpora.squad.source.root: no such folder: data/squad"),
            ("path: encoder", "encoders.tiny.source.path: no such folder: encoder"),
        )
    ]
    monkeypatch.setenv("MTDNN_DATA", "nowhere")  # which the file does not say
    with pytest.raises(MtdnnError, match=r"^experiment.yaml: MTDNN_DATA: no such folder: nowhere"):
        load(tmp_path, mapping)
    monkeypatch.delenv("MTDNN_DATA")
    (tmp_path / "encoder").mkdir()
    (tmp_path / "data" / "squad").mkdir()
    paragraph = {"context": "A.", "qas": [{"id": "1", "question": "B?", "answers": []}]}
    content = json.dumps({"data": [{"paragraphs": [paragraph]}]})
    (tmp_path / "data" / "squad" / "train.json").write_text(content)
    with pytest.raises(MtdnnError) as error:
        load(tmp_path, mapping)
    assert str(error.value) == (
        f"{line_of(tmp_path, 'splits:')}: corpora.squad.source.splits: no such file: "
        "data/squad/dev.json"
    )
    (tmp_path / "data" / "squad" / "dev.json").write_text(content)
    assert load(tmp_path, mapping).lock == "experiment.lock.json"


def test_a_missing_column_is_found_before_anything_starts(tmp_path, mapping):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "data" / name).write_text("sentence\tlabel\nA.\tgood\n")
    source = {"kind": "files", "format": "tsv", "splits": {"train": ["train"], "dev": ["dev"]}}
    mapping["corpora"]["cola"]["source"] = source
    mapping["corpora"]["squad"]["source"]["root"] = "gone"
    with pytest.raises(MtdnnError) as error:
        load(tmp_path, mapping)
    source = f"{line_of(tmp_path, 'source:')}: corpora.cola.source"  # the first is CoLA's
    wanted = "has no column 'sentence1'; name one of 'sentence', 'label'"
    assert str(error.value).splitlines() == [
        f"{line_of(tmp_path, 'root: gone')}: corpora.squad.source.root: no such folder: data/gone",
        f"{source}.columns.sentence1: train {wanted}",
        f"{source}.columns.sentence1: dev {wanted}",
    ]
    # What was fetched before no longer needs its source.
    for name in ("squad", "cola"):
        folder = tmp_path / "results" / "small" / "corpora" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    load(tmp_path, mapping)


def test_repeated_keys_are_refused(tmp_path):
    """Snakemake's own reader takes the last one."""
    path = tmp_path / "experiment.yaml"
    path.write_text("seeds: [1]\nseeds: [2]\n", encoding="utf-8")
    with pytest.raises(MtdnnError, match="seeds"):
        snakefile.load_experiment(SMALL, [path])


def test_paths_in_the_command_of_the_report_are_quoted(tmp_path):
    root = tmp_path / "re'sults; touch x"
    command = snakefile.report_command(
        Path("a b.yaml"), "Snake file", [root / "pages" / "t 1.html"], root
    )
    words = shlex.split(command)
    assert words[3] == str(root / "pages" / "t 1.html")
    assert words[words.index("--configfile") + 1] == "a b.yaml"
    assert words[words.index("--snakefile") + 1] == "Snake file"
    draft = words[words.index("--report") + 1]
    assert re.fullmatch(r"\.snakemake/report-[0-9a-f]{12}\.html", draft)
    beside = str(root / ".report.html")
    assert words[-7:] == ["mv", draft, beside, "&&", "mv", beside, str(root / "report.html")]


def test_delivery_is_a_process_in_a_session_of_its_own(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **options: started.append((args, options))
    )
    snakefile.start_delivery(Path("experiment.yaml"), tmp_path / "logs" / "sync.log")
    (((command,), options),) = started
    assert command == [
        *(sys.executable, "-m", "mtdnn", "sync", "experiment.yaml"),
        *("--follow", "--parent", str(os.getpid())),
    ]
    assert options["start_new_session"] and (tmp_path / "logs" / "sync.log").exists()
