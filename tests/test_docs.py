"""The documentation: commands parse, YAML loads, files and links exist, the notebook runs."""

import copy
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from mtdnn.cli.main import command_parser, main
from mtdnn.config.experiment import Experiment
from mtdnn.config.loading import parse
from mtdnn.config.settings import CorpusSettings
from mtdnn.reporting import products
from mtdnn.statistics import records
from tests.support.comparisons import make_mixtures, make_runs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *(ROOT / folder / "README.md" for folder in ("config", "profiles", "envs")),
    *(ROOT / "tests" / "benchmarks" / f"{name}.md" for name in ("README", "NOTES")),
    *sorted(DOCS.rglob("*.md")),
]
HOSTS = {
    *("127.0.0.1", "github.com", "keepachangelog.com", "sbert.net"),
    *("…", "host"),  # places that a reader fills in
}
OWN = ("config/mine.yaml", "config/paper.lock.json", "profiles/mine", "tests/benchmarks/records")
"""Files that a reader makes."""
TARGETS = {"all", "cases", "report", "fetched", *products.FIGURES}


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Yield the contents of the page's fenced blocks in one of these languages."""
    for token in tokens(page):
        if token.type == "fence" and token.info.strip() in languages:
            yield token.content


def inline(page: Path, kind: str) -> Iterator[Token]:
    """Yield the page's inline tokens of a kind, such as `code_inline`, `link_open`, `image`."""
    for token in tokens(page):
        yield from (each for each in token.children or [] if each.type == kind)


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """Yield the words of the page's commands that start with `program`; not of their output."""
    for text in blocks(page, "", "sh"):
        for line in text.splitlines():
            line = line.removeprefix("$ ")
            if line.startswith(f"{program} "):
                yield shlex.split(line, comments=True)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


pages = pytest.mark.parametrize("page", PAGES, ids=named)


@pages
def test_every_command_has_arguments_that_mtdnn_understands(page):
    for words in commands(page, "mtdnn"):
        command_parser().parse_args(words[1:])  # exits if it does not


@pages
def test_every_snakemake_command_names_options_configs_and_targets_that_exist(page):
    cli = pytest.importorskip("snakemake.cli")
    for words in commands(page, "snakemake"):
        options = cli.get_argument_parser().parse_args(words[1:])
        if any(str(file) in OWN for file in options.configfile):
            continue
        experiment = parse(merged(*options.configfile), where=" ".join(words))
        known = {*TARGETS, *experiment.tables, *experiment.figures}
        assert {target for target in options.targets if "/" not in target} <= known, words
        profile = options.workflow_profile
        assert profile in (None, "mine") or (ROOT / "profiles" / profile).is_dir(), words


def merged(*files: Path) -> dict[str, Any]:
    """Return the configs of some files, merged as Snakemake merges them."""
    from snakemake.utils import update_config

    settings: dict[str, Any] = {}
    for file in files:
        update_config(settings, yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))
    return settings


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "guides" / "experiment.md"], ids=named)
def test_the_mistake_that_is_shown_is_what_mtdnn_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    assert main(["new", "config/mine"]) == 0
    path = tmp_path / "config" / "mine.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub("^  learning_rate:", "  learning_rat:", text, flags=re.M), "utf-8")
    capsys.readouterr()
    assert main(["check", "config/mine.yaml"]) == 2
    assert capsys.readouterr().err in page.read_text(encoding="utf-8")


@pages
def test_every_target_of_make_exists(page):
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = [words[1] for words in commands(page, "make")]
    called += re.findall(
        r"^make ([a-z]+)", "\n".join(t.content for t in inline(page, "code_inline"))
    )
    assert set(called) <= known


@pages
def test_every_file_that_is_named_exists(page):
    names = [token.content for token in inline(page, "code_inline")]
    names += [word for text in blocks(page, "", "sh") for word in text.split()]
    folders = "config|docs|envs|mtdnn|profiles|tests|workflow"
    for name in names:
        if re.fullmatch(rf"(?:{folders})/[\w./-]+", name) and not name.startswith(OWN):
            # The map of the package names its modules from there.
            places = (ROOT / name, ROOT / "mtdnn" / name, ROOT / "mtdnn" / f"{name}.py")
            assert any(place.exists() for place in places), name


# --- YAML ------------------------------------------------------------------------------------


def base() -> dict[str, Any]:
    """Return the experiment to which examples are added: the paper, with the corpora they name."""
    settings = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
    settings["encoders"]["base"] = {**settings["encoders"]["bert-base-cased"], "label": "base"}
    settings["encoders"]["large"] = {**settings["encoders"]["bert-large-cased"], "label": "large"}
    for name, like in {"snli": "mnli", "newsqa": "squad", "quoref": "squad"}.items():
        settings["corpora"][name] = {**settings["corpora"][like], "label": name}
    return settings


def added(settings: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with those of an example; `…` stands for what is there already."""
    settings = copy.copy(settings)
    for key, value in example.items():
        if key != "…":
            old = settings.get(key)
            both = isinstance(value, dict) and isinstance(old, dict)
            settings[key] = added(old, value) if both else value
    return settings


@pages
def test_every_yaml_block_is_a_part_of_an_experiment(page):
    """What a page shows one after the other also works together."""
    settings = base()
    for text in blocks(page, "yaml"):
        example = yaml.safe_load(text)
        if example.keys() <= Experiment.model_fields.keys():
            settings = added(settings, example)
        else:
            example = {"label": "x", "family": "sequence_classification"} | example
            if example["family"] == "sequence_classification":
                example["labels"] = ["a", "b"]
            CorpusSettings.model_validate(example)
    parse(settings, where=named(page))


# --- links -----------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    found, parsed = set(), tokens(page)
    for heading, text in itertools.pairwise(parsed):
        if heading.type == "heading_open":
            plain = re.sub(r"[^\w\s-]", "", text.content.lower())
            found.add(re.sub(r"\s+", "-", plain.strip()))
    return found


@pages
def test_every_link_leads_to_a_file_and_a_heading(page):
    links = [token.attrs["href"] for token in inline(page, "link_open")]
    links += [token.attrs["src"] for token in inline(page, "image")]
    for link in links:
        path, _, anchor = str(link).partition("#")
        if urlsplit(path).scheme:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        generated = target == DOCS / "reference" / "settings.md"
        headed = ROOT / "config" / "README.md" if generated else target
        assert not anchor or anchor in anchors(headed), link


@pages
def test_links_lead_to_few_other_hosts(page):
    found = re.findall(r"https?://[^\s)>\"'`]+", page.read_text(encoding="utf-8"))
    assert {urlsplit(url).hostname or "…" for url in found} <= HOSTS


# --- code, notebook, site --------------------------------------------------------------------


@pages
def test_every_block_of_python_compiles(page):
    for text in blocks(page, "python"):
        compile(text, named(page), "exec")


def test_the_notebook_loads_what_an_experiment_leaves(tmp_path, monkeypatch):
    experiment = make_mixtures(tmp_path)
    make_runs(experiment, "table2", [0.5, 0.6, 0.6, 0.7])
    products.write_table(experiment, "table2")
    records.write(experiment, list(experiment.tables))
    records.collect(experiment)
    experiment.layout.root.rename(tmp_path / "results" / "demo")
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(DOCS / "load-results.ipynb", as_version=4)
    nbformat.validate(notebook)
    names: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "load-results.ipynb", "exec"), names)
            assert not cell.outputs
    assert list(names["table"]["mixture"]) == ["qa", "qa_mcc", "qa_sc", "qa_mcc_sc"]
    assert len(names["runs"]) == 4 * 3 * len(experiment.slices)
    chosen = "table == 'table2' and kind == 'baseline' and slice == 'paper_dev' and measure == 'em'"
    *_, row = names["differences"].query(chosen).to_dict("records")
    assert row["to_label"].startswith("QA+MCC+SC")
    assert row["low"] < row["difference"] < row["high"]
    assert len(names["log"]) == 60 and len(names["answers"]) > 0


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path):
    if not importlib.util.find_spec("mkdocs") or not importlib.util.find_spec("mkdocstrings"):
        pytest.skip("mkdocs is not installed: make docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    site = sorted(tmp_path.rglob("*.html"))
    assert {"index.html", "tutorial.html"} <= {page.name for page in site}
    loaded = (
        r"<(?:script|img|iframe)[^>]*\ssrc=\"?(?:https?:)?//|<link[^>]*stylesheet[^>]*https?://"
    )
    for page in site:
        text = page.read_text(encoding="utf-8")
        assert not re.search(loaded, text), page
        assert "<!-- generated" not in text, page
