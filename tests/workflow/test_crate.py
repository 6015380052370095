"""`mtdnn crate` writes what the RO-Crate specification asks for, and no text of a corpus."""

import hashlib
import json
import zipfile
from datetime import datetime
from pathlib import Path

import pytest

from mtdnn.cli.main import main
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.machine.files import write_json, write_text
from mtdnn.workflow import checksums
from tests.support.factories import make_experiment, make_run, make_statistics

rocrate = pytest.importorskip("rocrate.rocrate", reason="the extra `crate` is not installed")

SECRET = "a sentence of the corpus"
BINARY = b"\x00the weights of a model\xff"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A finished experiment of two runs, with texts of a corpus wherever they occur."""
    rows = [
        {"encoder": "base", "mixture": "qa"},
        {"encoder": "base", "mixture": "qa_sc", "weight": 0.8},
    ]
    experiment = make_experiment(
        tmp_path_factory.mktemp("made"), tables={"t": {"title": "T", "rows": rows}}, figures={}
    )
    root = experiment.layout.root
    for run in experiment.runs():
        folder = make_run(experiment, run)
        (folder / "model" / "model.safetensors").write_bytes(BINARY)
        write_text(folder / "journal.jsonl", SECRET)
    make_statistics(experiment)
    write_json(root / "corpora" / "squad" / "manifest.json", {"digest": "abc"})
    for name in ("corpora/squad/dev.parquet", "cases.md", "cases.json", "report.html"):
        write_text(root / name, SECRET)
    write_text(root / "pages" / "cases.html", SECRET)
    write_text(root / "tables" / "t.md", "| EM |")
    write_text(root / "figures" / "effects.svg", "<svg/>")
    write_text(root / "logs" / "train.log", SECRET)
    write_text(root / "experiment.yaml", dump_yaml(experiment))
    checksums.write(experiment)
    return root


@pytest.fixture(scope="module")
def crate(results, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("crate") / "out"
    assert main(["crate", str(results), str(out)]) == 0
    return out


def graph(crate: Path) -> dict[str, dict]:
    described = json.loads((crate / "ro-crate-metadata.json").read_text())
    assert described["@context"] == "https://w3id.org/ro/crate/1.2/context"
    return {entity["@id"]: entity for entity in described["@graph"]}


def ids(value) -> set[str]:
    return {each["@id"] for each in (value if isinstance(value, list) else [value])}


def test_the_root_has_what_the_specification_requires(crate):
    """RO-Crate 1.2: the metadata descriptor, and the properties of the root data entity."""
    entities = graph(crate)
    descriptor = entities["ro-crate-metadata.json"]
    assert descriptor["@type"] == "CreativeWork"
    assert ids(descriptor["about"]) == {"./"}
    assert "https://w3id.org/ro/crate/1.2" in ids(descriptor["conformsTo"])
    root = entities["./"]
    assert root["@type"] == "Dataset" and root["name"] and root["description"]
    assert datetime.fromisoformat(root["datePublished"])
    (licence,) = ids(root["license"])
    assert entities[licence]["name"] == "MIT License"
    main_entity = entities[next(iter(ids(root["mainEntity"])))]
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow"} <= set(main_entity["@type"])
    assert main_entity["@id"] == "workflow/Snakefile"
    assert entities[next(iter(ids(main_entity["programmingLanguage"])))]["name"] == "Snakemake"


def test_every_file_is_described_with_its_size_and_digest(crate):
    entities = graph(crate)
    parts = ids(entities["./"]["hasPart"])
    files = {str(f.relative_to(crate)) for f in crate.rglob("*") if f.is_file()}
    assert files - {"ro-crate-metadata.json"} == parts
    for name in parts:
        content, entity = (crate / name).read_bytes(), entities[name]
        assert entity["contentSize"] == str(len(content))
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
        assert entity["name"] and entity["description"]
    run = "runs/base/qa/w1.0/default/seed1"
    wanted = {"experiment.yaml", "checksums.json", "statistics.json", "tables/t.md"}
    wanted |= {"figures/effects.svg", "corpora/squad/manifest.json", "LICENSE", "CITATION.cff"}
    wanted |= {f"{run}/{name}" for name in ("config.yaml", "metrics.json", "model/run.json")}
    assert wanted <= parts and "workflow/rules/training.smk" in parts


def test_every_reference_leads_somewhere(crate):
    """Entities that are no addresses on the web are in the crate themselves."""
    entities = graph(crate)
    for entity in entities.values():
        for value in entity.values():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict) and not each["@id"].startswith("http"):
                    assert each["@id"] in entities, each


def test_each_run_says_how_it_was_made(crate):
    actions = {e["name"]: e for e in graph(crate).values() if e["@type"] == "CreateAction"}
    assert len(actions) == 2
    action = actions["Training and evaluation of base/qa/w1.0/default/seed1"]
    software = [graph(crate)[each] for each in ids(action["instrument"])]
    versions = {each["name"]: each["version"] for each in software}
    assert versions["torch"] == "2.13.0" and versions["python"] == "3.11.0"
    assert any("0123456789ab" in each.get("identifier", "") for each in software)
    assert action["startTime"] == "2026-01-02T03:04:05+00:00" < action["endTime"]
    assert "runs/base/qa/w1.0/default/seed1/metrics.json" in ids(action["result"])


def test_the_library_reads_it_back(crate, results, tmp_path):
    read = rocrate.ROCrate(crate)
    assert read.name == read.root_dataset["name"]
    assert read.mainEntity.id == "workflow/Snakefile"
    read.write(tmp_path / "copy")
    assert graph(tmp_path / "copy").keys() == graph(crate).keys()


def test_no_text_of_a_corpus_and_no_weights_go_in(crate):
    for file in filter(Path.is_file, crate.rglob("*")):
        content = file.read_bytes()
        assert SECRET.encode() not in content and BINARY not in content, file
        assert file.name not in ("predictions.parquet", "auxiliary.parquet", "train.parquet")


def test_models_go_in_on_demand_and_a_zip_file_is_one_crate(results, tmp_path, capsys):
    out = tmp_path / "out.zip"
    assert main(["crate", str(results), str(out), "--with-models"]) == 0
    assert capsys.readouterr().err == f"mtdnn: {out}: written\n"
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
        weights = "runs/base/qa/w1.0/default/seed1/model/model.safetensors"
        assert archive.read(weights) == BINARY
        assert "ro-crate-metadata.json" in names and len(names) == len(set(names))
    assert rocrate.ROCrate(out).mainEntity.id == "workflow/Snakefile"


def test_what_is_refused_is_one_line(results, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert main(["crate", str(results), str(tmp_path / "there")]) == 2
    assert capsys.readouterr().err.endswith("there: exists already; choose another name\n")
    table = results / "tables" / "t.md"
    before = table.read_text()
    try:
        table.write_text("other")
        assert main(["crate", str(results), str(tmp_path / "out")]) == 2
        assert "has changed since it was written" in capsys.readouterr().err
    finally:
        table.write_text(before)
    (results / "checksums.json").rename(tmp_path / "aside")
    try:
        assert main(["crate", str(results), str(tmp_path / "out")]) == 2
        assert "checksums.json: is missing: the experiment is not" in capsys.readouterr().err
    finally:
        (tmp_path / "aside").rename(results / "checksums.json")
    assert not (tmp_path / "out").exists()
