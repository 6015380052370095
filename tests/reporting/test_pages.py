"""Pages and captions of the report: complete files, plain text stays text, reasons are shown."""

import re

import pytest
from docutils.core import publish_parts
from hypothesis import given
from hypothesis import strategies as st

from mtdnn.config.layout import RunId
from mtdnn.evaluation.results import read_rows
from mtdnn.machine.files import read_json, write_json
from mtdnn.reporting import interference, products
from mtdnn.reporting.facts import Captions, compare_link, facts, restructured
from tests.support.factories import fail_run, make_experiment, make_run

HOSTILE = "</script><img src=x onerror=alert(1)> `x` :raw: |y| *z* .. include:: /etc/passwd"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Two seeds of everything; one run was killed, one never started, labels are hostile."""
    made = make_experiment(tmp_path_factory.mktemp("report"), seeds=[1, 2], title=HOSTILE)
    for number, run in enumerate(made.runs()):
        if run == RunId("base", "qa_sc", 0.8, "default", 2):
            fail_run(made, run, "train", f"killed {HOSTILE}")
        elif run.encoder != "large" or run.seed == 1:
            folder = make_run(made, run, em=70 + 0.1 * number)
            write_json(folder / "mlflow.json", {"run_id": f"run{number}"})
    write_json(made.layout.root / "store.json", {"experiment_id": "7"})
    write_json(made.layout.root / "cases.json", {"reason": "No predictions were made."})
    for page in [*made.tables, *products.PAGES]:
        products.write_page(made, page)
    return made


def read(experiment, page):
    return experiment.layout.page(page).read_text(encoding="utf-8")


def test_pages_need_nothing_from_elsewhere_and_run_nothing_of_others(experiment):
    for page in [*experiment.tables, *products.PAGES]:
        text = read(experiment, page)
        assert text.count("<script") == text.count("</script") == 1, page
        assert "<img" not in text and "<link" not in text and "@import" not in text
        assert not re.findall(r'(?:src|href)="(?!http://127\.0\.0\.1:5000/#/)', text)


def test_scores_and_links_of_every_cell(experiment):
    text = read(experiment, "table1")
    for row in read_rows(experiment, "table1"):
        assert f"{row.score('paper_dev', 'exact').mean:.2f} ± " in text
        ids = [read_json(result.folder / "mlflow.json")["run_id"] for result in row.present]
        link = compare_link(experiment, row.present)
        assert link.endswith(f"runs=[%22{ids[0]}%22,%22{ids[1]}%22]&experiments=[%227%22]")
        assert link.replace("&", "&amp;") in text
    assert "/#/experiments/7/runs/" in read(experiment, "table3")


def test_a_server_is_linked_without_its_password(tmp_path):
    made = make_experiment(tmp_path, tracking_uri="https://me:secret@tracking.example/")
    folder = make_run(made, made.runs()[0])
    write_json(folder / "mlflow.json", {"run_id": "abc"})
    write_json(made.layout.root / "store.json", {"experiment_id": "7"})
    (row, *_) = read_rows(made, "table1")
    assert compare_link(made, row.present) == "https://tracking.example/#/experiments/7/runs/abc"


def test_a_failed_run_stands_there_with_its_reason(experiment):
    for page in ("table2", "runs", "interference"):
        text = read(experiment, page)
        assert "train failed: killed &lt;/script&gt;&lt;img" in text, page
    assert "not run" in read(experiment, "runs")


def test_settings_name_value_default_and_origin(experiment):
    text = read(experiment, "settings")
    row = r"<code>learning_rate</code></td><td>3e-05</td>\s*<td>3e-05</td><td>paper</td>"
    assert re.search(row, text)


def test_facts_are_those_of_the_runs(experiment):
    known = facts(experiment)
    assert known["runs"] == f"{len(experiment.runs()) - 3} of {len(experiment.runs())}"
    assert known["seeds"] == "1, 2" and known["commit"] == "0123456789ab"
    minutes, unit = known["hours"].split(" ", 1)
    assert unit == "min on cpu"
    assert float(minutes) == pytest.approx(0.25 * (len(experiment.runs()) - 3), abs=0.06)
    digest = read_json(experiment.layout.run(experiment.runs()[0]) / "metrics.json")
    assert f"SQuAD 2.0: {digest['provenance']['corpora']['squad'][:12]}" in known["corpora"]


def seen(source: str) -> str:
    """What a reader sees of reStructuredText, as one line."""
    settings = {"report_level": 5, "halt_level": 5}
    body = publish_parts(source, writer="html", settings_overrides=settings)["fragment"]
    text = re.sub(r"<[^>]*>", "", body)
    for name, character in (("lt", "<"), ("gt", ">"), ("quot", '"'), ("#64", "@"), ("amp", "&")):
        text = text.replace(f"&{name};", character)
    return " ".join(text.split())


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["C"])))
def test_any_text_is_itself_in_a_caption(text):
    plain = " ".join(text.split())
    assert seen(f"Before {restructured(text)} after.") == " ".join(f"Before {plain} after.".split())


def test_captions_read_the_runs_only_when_they_are_rendered(tmp_path, experiment):
    captions = Captions(make_experiment(tmp_path / "nothing"))
    assert captions["runs"] == r"0 of 9"
    assert seen(Captions(experiment)["title"]) == HOSTILE


def test_interference_holds_the_scores_of_metrics(experiment):
    products.write_interference(experiment)
    kinds = {(kind.mixture, kind.qa_weight): kind for kind in interference.kinds(experiment)}
    assert len(kinds) == 7
    frame = interference.frame(experiment, list(kinds.values()))
    for record in frame.to_dict("records"):
        run = RunId(record["encoder"], record["mixture"], record["qa_weight"], "default", 1)
        metrics = read_json(experiment.layout.run(run) / "metrics.json")["auxiliary"]
        assert record["accuracy"] == metrics[record["corpus"]]["accuracy"]
    text = experiment.layout.table("interference", "md").read_text()
    assert "81.50" in text and "train failed" in text
    tex = experiment.layout.table("interference", "tex").read_text()
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")


@pytest.mark.parametrize("name", products.ANSWER_FIGURES)
def test_figures_of_answers_are_drawn_from_whatever_there_is(tmp_path, name):
    made = make_experiment(tmp_path)
    products.write_figure(made, name)
    for end in ("svg", "png", "pdf"):
        assert made.layout.figure(name, end).stat().st_size > 0


def test_the_digest_of_templates_follows_them(monkeypatch):
    before = products.templates_digest()
    monkeypatch.setattr(products, "sha256", lambda path: "other")
    assert products.templates_digest() != before == before
