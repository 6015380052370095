"""Text of users and corpora stays text in every output of a whole workflow.

All titles, labels, notices, questions, answers and ids of the experiment are hostile: each is code
to one of the formats.
"""

import json
import random
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
from mlflow import MlflowClient

from mtdnn.reporting.cases import PUBLISHED
from mtdnn.reporting.escaping import markdown, menu, one_line, visible
from mtdnn.reporting.products import FIGURES, PAGES
from tests.support.browser import open_page
from tests.support.hostile import CONTROL, LONG, MARKUP, OPENINGS, UNUSUAL, text
from tests.support.tiny import FILLERS
from tests.support.workdir import Workdir, make_workdir

TITLE = text("=cmd()")
NOTICE = text("- x", MARKUP, CONTROL, UNUSUAL, LONG)
ROWS = {"fast": text("_hidden", MARKUP), "qa_sc": text("+1", UNUSUAL, LONG)}
QUESTION = text("1. x", MARKUP, UNUSUAL, CONTROL)
ARTICLE = text("@x", MARKUP, CONTROL)
ANSWER = text("**", MARKUP)
CONTEXT = f"{UNUSUAL} {ANSWER} {CONTROL} {' '.join(FILLERS)}"


def experiment() -> dict:
    """Return changes of the small experiment after which all of its text is hostile."""
    begin = iter(OPENINGS * 2)
    squad = {"kind": "files", "format": "squad", "root": "corpora"}
    cola = {"kind": "files", "format": "jsonl", "root": "corpora"}
    splits = {
        name: {split: [f"{name}.{split}"] for split in ("train", "dev")}
        for name in ("squad", "cola")
    }
    return {
        "title": TITLE,
        "notice": NOTICE,
        "encoders": {
            "tiny": {"label": text(next(begin)), "source": {"kind": "files", "path": "encoder"}}
        },
        "corpora": {
            "squad": {
                "label": text(next(begin)),
                "family": "question_answering",
                "source": {**squad, "splits": splits["squad"]},
            },
            "cola": {
                "label": text(next(begin)),
                "family": "sequence_classification",
                "labels": ["$bad_{x}", "<b>good"],
                "source": {**cola, "splits": splits["cola"]},
            },
        },
        "mixtures": {
            "qa": {"label": text(next(begin)), "corpora": ["squad"]},
            "qa_sc": {"label": text(next(begin)), "corpora": ["squad", "cola"]},
        },
        "variants": {"fast": {"label": text(next(begin)), "training": {"epochs": 2}}},
        "slices": {
            "dev": {"label": text(next(begin))},
            "hard": {"label": text(next(begin)), "only": "unanswerable"},
        },
        "tables": {
            "table1": {
                "title": text("| a |", MARKUP, CONTROL, UNUSUAL),
                "rows": [
                    {"encoder": "tiny", "mixture": "qa"},
                    {
                        "encoder": "tiny",
                        "mixture": "qa_sc",
                        "weight": 0.8,
                        "label": ROWS["qa_sc"],
                    },
                    {
                        "encoder": "tiny",
                        "mixture": "qa",
                        "variant": "fast",
                        "label": ROWS["fast"],
                    },
                ],
            }
        },
        "figures": {
            "figure3": {"title": text("$a$"), "table": "table1", "x": "weight"},
            "figure4": {"title": text("%c", LONG, CONTROL), "table": "table1", "x": "mixture"},
        },
    }


def write_corpora(folder: Path) -> None:
    """Write questions and sentences whose every text is hostile."""
    folder.mkdir()
    draw = random.Random(1)
    for split, count in (("train", 12), ("dev", 12)):
        questions = []
        for number in range(count):
            known = PUBLISHED[number].id if split == "dev" and number < len(PUBLISHED) else None
            start = CONTEXT.index(ANSWER)
            answers = [{"text": ANSWER, "answer_start": start}] if number % 3 else []
            questions.append(
                {
                    "id": known or f"{split} {number} {MARKUP}",
                    "question": f"{QUESTION} {number}?",
                    "answers": answers,
                    "is_impossible": not answers,
                }
            )
        # A model is not scored on contexts that it was trained on.
        paragraphs = [
            {"context": f"{CONTEXT} {split} {n}", "qas": questions[n::3]} for n in range(3)
        ]
        article = {"title": ARTICLE, "paragraphs": paragraphs}
        (folder / f"squad.{split}").write_text(json.dumps({"data": [article]}))
        lines = [
            {"id": f"{n} {MARKUP}", "sentence1": text(draw.choice(OPENINGS)), "label": n % 2}
            for n in range(count)
        ]
        (folder / f"cola.{split}").write_text("".join(json.dumps(each) + "\n" for each in lines))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Workdir:
    """Run the whole workflow."""
    workdir = make_workdir(tmp_path_factory.mktemp("text"))
    write_corpora(workdir.folder / "corpora")
    workdir.settings |= experiment()
    answer = workdir.snakemake()
    assert answer.returncode == 0, answer.stdout
    answer = workdir.call(sys.executable, "-m", "mtdnn", "summary", "small.yaml")
    assert answer.returncode == 0, answer.stdout
    return workdir


def made(workdir: Workdir, suffix: str) -> list[Path]:
    """Return the tables and comparisons in one format."""
    return [
        *workdir.results.glob(f"tables/*.{suffix}"),
        *workdir.results.glob(f"comparisons/*.{suffix}"),
    ]


# --- LaTeX -----------------------------------------------------------------------------------

DOCUMENT = r"""
\documentclass{article}
%s
\usepackage{booktabs,siunitx,threeparttable}
\begin{document}
\listoftables
%s
\end{document}
"""
FONTS = {"pdflatex": r"\usepackage[T1]{fontenc}\usepackage{lmodern}", "lualatex": ""}


def squeezed(text: str) -> str:
    """Return a text without spaces and hyphens, which line breaks change, and with plain quotes."""
    for shown, meant in (("’", "'"), ("”", '"'), ("“", '"'), ("[U+201C]", '"'), ("[U+201D]", '"')):
        text = text.replace(shown, meant)
    return re.sub(r"[\s\-‐]", "", text)


@pytest.mark.slow
@pytest.mark.parametrize("engine", FONTS)
def test_latex_prints_it(finished, tmp_path, engine):
    for program in (engine, "pdftotext"):
        if not shutil.which(program):
            pytest.skip(f"no {program}")
    sources = made(finished, "tex")
    summary = (finished.results / "summary.md").read_text(encoding="utf-8")
    for number, source in enumerate(re.findall(r"^```latex\n(.*?)^```$", summary, re.M | re.S)):
        sources.append(tmp_path / f"summary{number}.tex")
        sources[-1].write_text(source, encoding="utf-8")
    assert len(sources) == 5
    inputs = "\n".join(rf"\input{{{source}}}\clearpage" for source in sources)
    (tmp_path / "all.tex").write_text(DOCUMENT % (FONTS[engine], inputs))
    command = [engine, "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    for _ in range(2):  # the second time with the list of tables
        done = subprocess.run(command, cwd=tmp_path, capture_output=True)
        log = done.stdout.decode(errors="replace")
        assert done.returncode == 0, log[-3000:]
    assert "Missing character" not in log
    command = ["pdftotext", "-raw", "all.pdf", "-"]
    printed = squeezed(subprocess.run(command, cwd=tmp_path, capture_output=True).stdout.decode())
    settings = finished.settings
    assert printed.count(squeezed(MARKUP)) > 3 * len(sources)
    for label in (*(each["label"] for each in settings["mixtures"].values()), *ROWS.values()):
        assert squeezed(label.split(" ")[0]) in printed
    for character in "שЖ漢😀":
        assert character in printed or f"[U+{ord(character):04X}]" in printed


# --- HTML ------------------------------------------------------------------------------------

ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "span", "i"),
    *("b", "a", "br", "sup", "ul", "li", "mark", "code", "footer", "script", "table", "thead"),
    *("tbody", "tr", "th", "td"),
}
"""The elements of the templates."""


class Page(HTMLParser):
    """The elements, the attributes and the text of a page."""

    def __init__(self, content: str):
        super().__init__()
        self.elements, self.attributes, self.text = Counter(), Counter(), ""
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.elements[tag] += 1
        self.attributes.update(name for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


def spaced(text: str) -> str:
    """Return a text as a browser shows it: spaces and line breaks are single spaces."""
    return " ".join(visible(text).split())


def labels(settings: dict) -> list[str]:
    """Return all labels of the experiment's rows, encoders and slices."""
    shown = [each["label"] for part in ("encoders", "slices") for each in settings[part].values()]
    return [*shown, *ROWS.values(), settings["mixtures"]["qa"]["label"]]


@pytest.mark.parametrize("name", ["table1", *PAGES])
def test_pages_show_it_and_gain_no_element(finished, name):
    page = Page((finished.results / "pages" / f"{name}.html").read_text(encoding="utf-8"))
    assert set(page.elements) <= ELEMENTS and page.elements["script"] == 1
    assert not [name for name in page.attributes if name.startswith("on") or name == "src"]
    text = " ".join(page.text.split())
    assert spaced(TITLE) in text and spaced(NOTICE) in text
    wanted = {
        "table1": [*labels(finished.settings), finished.settings["tables"]["table1"]["title"]],
        # Rows of the default variant are compared there.
        "cases": [
            *(QUESTION, ARTICLE, ANSWER, ROWS["qa_sc"]),
            finished.settings["mixtures"]["qa"]["label"],
        ],
        "runs": [each["label"] for each in finished.settings["corpora"].values()],
        "settings": [finished.settings["variants"]["fast"]["label"]],
        "interference": [finished.settings["corpora"]["cola"]["label"]],
    }[name]
    for each in wanted:
        assert spaced(each) in text, each


# --- Markdown --------------------------------------------------------------------------------


def test_markdown_shows_it_and_gains_no_element(finished):
    markdown_it = pytest.importorskip("markdown_it")
    reader = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for path in (*made(finished, "md"), *finished.results.glob("*.md")):
        page = Page(reader.render(path.read_text(encoding="utf-8")))
        allowed = {"h1", "h2", "h3", "p", "blockquote", "table", "thead", "tbody", "tr", "th", "td"}
        allowed |= {"pre", "code"} if path.stem == "summary" else {"em", "b"}
        assert set(page.elements) <= allowed | {"ul", "li", "strong"}, path
        text = " ".join(page.text.split())
        wanted = [TITLE, NOTICE, *([QUESTION, ARTICLE, ANSWER] if path.stem == "cases" else [])]
        if path.stem == "table1":
            wanted += [*ROWS.values(), finished.settings["tables"]["table1"]["title"]]
        for each in wanted:
            assert one_line(each) in text, (path, each)
        for table in re.findall(r"(?:^\|.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, path


# --- CSV -------------------------------------------------------------------------------------


def test_csv_holds_it_and_runs_in_no_spreadsheet(finished):
    begins = ("=", "+", "-", "@", "\t", "\r", "\n")
    for path in made(finished, "csv"):
        texts = pd.read_csv(path).select_dtypes(["object", "string"]).stack()
        assert not [value for value in texts if str(value).lstrip().startswith(begins)], path
    table = pd.read_csv(finished.results / "tables" / "table1.csv")
    assert len(table) == 3
    bare = [str(value).removeprefix("'") for value in table[["label", "title", "notice"]].stack()]
    for each in (*ROWS.values(), NOTICE, finished.settings["tables"]["table1"]["title"]):
        assert visible(each).replace("\r", "\n") in bare, each


# --- figures ---------------------------------------------------------------------------------


def texts_in(svg: Path) -> list[str]:
    """The texts that an SVG draws."""
    elements = ET.parse(svg).getroot().iter("{http://www.w3.org/2000/svg}text")
    return ["".join(each.itertext()) for each in elements]


@pytest.mark.parametrize("name", ["figure3", "figure4", *FIGURES])
def test_figures_draw_it(finished, name):
    path = finished.results / "figures" / name
    drawn = squeezed(" ".join(texts_in(path.with_suffix(".svg"))))
    assert squeezed(one_line(TITLE)) in drawn and squeezed(one_line(NOTICE)) in drawn
    titles = {key: each["title"] for key, each in finished.settings["figures"].items()}
    assert squeezed(one_line(titles.get(name, ""))) in drawn
    image = matplotlib.image.imread(path.with_suffix(".png"))
    assert min(image.shape[:2]) > 300
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_legends_name_each_series_once(finished):
    drawn = texts_in(finished.results / "figures" / "precision_recall.svg")
    for beginning in ("@x", "+1"):
        assert sum(text.strip().startswith(beginning) for text in drawn) == 1


# --- MLflow ----------------------------------------------------------------------------------


def test_mlflow_holds_it(finished):
    client = MlflowClient(f"sqlite:///{finished.folder / 'results' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    note = " ".join(experiment.tags["mlflow.note.content"].split())
    assert markdown(TITLE)[:200] in note
    runs = client.search_runs([experiment.experiment_id])
    trained = [run for run in runs if "mixture" in run.data.tags]
    assert len(runs) == 4 and len(trained) == 3
    names = [run.info.run_name for run in trained]
    assert len(set(names)) == 3 and max(map(len, names)) <= 250
    for run in trained:
        assert run.info.status == "FINISHED"
        assert run.data.tags["notice"] == visible(NOTICE)
        assert {each.path for each in client.list_artifacts(run.info.run_id)} >= {"metrics.json"}


# --- Snakemake's report ----------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_shows_it(finished):
    settings = finished.settings
    with open_page() as page:
        page.goto((finished.results / "report.html").as_uri())
        page.locator(".prose").wait_for()
        facts = " ".join(page.locator(".prose").inner_text().split())
        for each in (TITLE, NOTICE, settings["corpora"]["squad"]["label"]):
            assert one_line(each) in facts, each
        page.get_by_text("Tables", exact=True).first.click()
        wanted = {"table1": settings["tables"]["table1"]["title"]}
        wanted |= {name: figure["title"] for name, figure in settings["figures"].items()}
        for name, title in wanted.items():
            if name == "figure3":
                page.get_by_text("Results", exact=True).first.click()
                page.get_by_text("Figures", exact=True).first.click()
            entry = page.get_by_text(f"{name}: ").first
            entry.wait_for()
            assert menu(title) in " ".join(entry.inner_text().split())
