"""The products: a cheap list, which follows its templates; all of them tell rows apart."""

import subprocess
import sys

import pytest

from mtdnn.machine.files import read_json
from mtdnn.reporting import products
from mtdnn.reporting.figures import registry
from mtdnn.statistics import records
from mtdnn.statistics.records import read_statistics
from tests.support.answers import BASELINE, MIXTURE, QUESTIONS
from tests.support.factories import make_answers, make_experiment, make_questions


def test_the_snakefile_imports_nothing_heavy_with_it():
    heavy = ("torch", "matplotlib", "pandas", "scipy", "jinja2", "numpy", "pyarrow")
    code = f"import sys, mtdnn.reporting.products; print(set({heavy}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_digest_of_templates_follows_them(monkeypatch):
    before = products.templates_digest()
    assert before == products.templates_digest()
    monkeypatch.setattr(products, "sha256", lambda path: "other")
    assert products.templates_digest() != before


def test_every_table_and_page_has_the_notice(classified):
    """Whoever sees a single file sees that its numbers are no evidence."""
    products.write_gradients(classified)
    root = classified.layout.root
    files = [
        *(
            path
            for folder in ("tables", "comparisons", "pages")
            for path in (root / folder).iterdir()
        ),
        *(classified.layout.cases(suffix) for suffix in ("md", "json")),
        classified.layout.summary,
    ]
    names = {file.name for file in files}
    assert {"nli.csv", "nli.tex", "interference.csv", "interference.md", "cases.md"} <= names
    for file in files:
        if file.name != "gradients.csv":  # which is empty here
            assert classified.notice in file.read_text(encoding="utf-8"), file


ROWS = [
    {"encoder": "base", "mixture": "qa"},
    {"encoder": "base", "mixture": "qa", "variant": "fast"},
    {"encoder": "base", "mixture": "qa_sc", "weight": 0.8},
    {"encoder": "base", "mixture": "qa_sc", "weight": 0.5},
    {"encoder": "base", "mixture": "qa_mcc", "weight": 0.5, "label": "QA+SC"},
    {"encoder": "large", "mixture": "qa"},
    {"encoder": "large", "mixture": "qa", "variant": "fast", "label": "QA"},
]


@pytest.fixture(scope="module")
def ambiguous(tmp_path_factory):
    """Rows of one table that share a mixture, a label, a weight or a variant."""
    table = {"title": "Rows", "rows": ROWS}
    experiment = make_experiment(
        tmp_path_factory.mktemp("ambiguous"),
        variants={"fast": {"training": {"epochs": 1}}},
        tables={"table1": table},
        slices={"dev": {"label": "dev"}, "who": {"label": "Who", "question_types": ["who"]}},
        figures={
            "figure3": {"title": "By weight", "table": "table1", "x": "weight"},
            "figure4": {"title": "By mixture", "table": "table1", "x": "mixture"},
        },
    )
    questions = [{**each, "title": str(n)} for n, each in enumerate(QUESTIONS)]
    make_questions(experiment, questions)
    for number, run in enumerate(experiment.runs()):
        make_answers(experiment, run, MIXTURE if number % 2 else BASELINE)
    records.write(experiment, ["table1"])
    records.collect(experiment)
    products.write_table(experiment, "table1")
    products.write_comparisons(experiment, "table1")
    products.write_cases(experiment)
    return experiment


def test_rows_are_told_apart_in_every_table(ambiguous):
    text = ambiguous.layout.table("table1", "md").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(block) for block in blocks] == [2 + len(ROWS)] * 2
    for block in blocks:
        names = [tuple(line.split(" | ")[:4]) for line in block[2:]]
        assert len(set(names)) == len(ROWS), names
    shared = [name for name in names if name[:2] == ("| QA", "BERT base")]
    assert [name[2] for name in shared] == ["default", "fast"]


def test_rows_are_told_apart_in_statistics_and_sentences(ambiguous):
    names: dict[str, set[str]] = {}
    for each in read_statistics(ambiguous)["tables"]["table1"]["comparisons"]:
        names.setdefault(each["from_label"], set()).add(each["from"])
        names.setdefault(each["to_label"], set()).add(each["to"])
    assert len(names) == len(ROWS) and all(len(paths) == 1 for paths in names.values()), names
    assert {"QA, BERT base", "QA, fast", "QA+SC at w 0.8"} <= names.keys()


def test_rows_are_told_apart_in_answers_and_figures(ambiguous):
    cases = read_json(ambiguous.layout.cases("json"))
    labels = [row["label"] for row in cases["rows"]]
    assert len(labels) == len(set(labels)) == 4, labels
    for name in (*ambiguous.figures, *products.FIGURES):
        figure = registry.draw(ambiguous, name)
        legends = [legend for part in parts(figure) for legend in part.legends]
        for legend in legends:
            texts = [text.get_text() for text in legend.get_texts()]
            assert len(set(texts)) == len(texts), (name, texts)
        for axes in figure.axes:
            ticks = [tick.get_text() for tick in axes.get_yticklabels() if tick.get_text()]
            assert len(set(ticks)) == len(ticks), (name, ticks)
        if name == "loss":
            titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
            assert len(set(titles)) == len(titles) == len(ROWS), titles


def parts(figure):
    """Yield a figure and all of its subfigures."""
    yield figure
    for inner in figure.subfigs:
        yield from parts(inner)
