"""Tables against numbers computed by hand from the files of the runs."""

import re
import shutil
import statistics
import subprocess
import textwrap

import pandas as pd
import pytest

from mtdnn.config.experiment import Slice
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import metrics
from mtdnn.evaluation.results import read_rows
from mtdnn.machine.files import read_json, write_json, write_text
from mtdnn.reporting import products, tables
from tests.support.answers import make
from tests.support.factories import QA, fail_run, make_experiment, make_run
from tests.support.published_scores import PUBLISHED, write_published
from tests.support.targets import CLASSIFIED_NOTE, make_targets

BASE_QA = RunId("base", "qa", 1.0, "default", 1)
BEST = RunId("base", "qa_mcc_sc", 0.8, "default", 1)


def read(experiment, name, suffix):
    return experiment.layout.table(name, suffix).read_text(encoding="utf-8")


def markdown_row(text, start):
    """Cells of the first Markdown row that starts with these cells."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_shows_the_scores_of_the_run(tmp_path):
    experiment = make_experiment(tmp_path)
    folder = make_run(experiment, BEST, em=74.123, f1=77.987)
    products.write_table(experiment, "table1")
    scores = read_json(RunFolder(folder).metrics)["slices"]["paper_dev"]
    expected = [f"{scores[key]:.2f}" for key in ("exact", "f1", "HasAns_f1", "NoAns_exact")]
    expected += [f"{scores['null_odds_auc']:.3f}", "1/1"]
    row = ["QA+MCC+SC", "BERT base", "0.8", *expected]
    assert markdown_row(read(experiment, "table1", "md"), "QA+MCC+SC | BERT base | 0.8") == row
    tex = [line for line in read(experiment, "table1", "tex").splitlines() if " & 0.8 & " in line]
    # The encoder is that of all rows, and this row's scores are missing in all others.
    assert tex == [" & ".join([row[0], *row[2:]]) + r" \\"]
    data = pd.read_csv(experiment.layout.table("table1", "csv"))
    record = data[data.weight == 0.8].iloc[0]
    assert (record.em, record.f1) == (74.123, 77.987)
    assert record.no_ans_accuracy == scores["NoAns_exact"]
    assert record.official_em == pytest.approx(73.123)
    assert record.seeds == record.seeds_wanted == 1


def test_missing_and_failed_runs_show_a_dash_and_the_reason(tmp_path):
    experiment = make_experiment(tmp_path)
    make_run(experiment, BASE_QA)
    fail_run(experiment, BEST, "train", "CUDA out of memory")
    products.write_table(experiment, "table1")
    text = read(experiment, "table1", "md")
    row = markdown_row(text, "QA+MCC+SC | BERT base | 0.8")
    assert row[3:] == [r"– \[2\]"] * 5 + ["0/1"]
    assert r"- \[1\] not run" in text
    assert r"- \[2\] train failed: CUDA out of memory" in text
    tex = read(experiment, "table1", "tex")
    assert r"{--\tnote{2}}" in tex
    assert r"\item[2] train failed: CUDA out of memory" in tex
    data = pd.read_csv(experiment.layout.table("table1", "csv")).set_index("weight")
    assert data.em.notna().tolist() == [False, False, False, False, True]
    assert data.reasons[0.8].startswith("train failed: CUDA out of memory")


def test_a_failure_hides_the_scores_of_an_earlier_attempt(tmp_path):
    experiment = make_experiment(tmp_path)
    make_run(experiment, BEST, em=70)
    fail_run(experiment, BEST, "train", "no room left")
    products.write_table(experiment, "table1")
    assert "70.00" not in read(experiment, "table1", "md")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"em": 70', "not readable as JSON"),
        ("[]", "must be a JSON object; delete it and repeat the step"),
        ('{"em": 70}', "has no scores of slices; score the run again"),
        ('{"slices": {"dev": 3}}', "has no scores of slices; score the run again"),
    ],
)
def test_unreadable_metrics_are_a_reason_in_the_table(tmp_path, content, reason):
    experiment = make_experiment(tmp_path)
    folder = make_run(experiment, BEST)
    write_text(RunFolder(folder).metrics, content)
    products.write_table(experiment, "table1")
    assert reason in read(experiment, "table1", "md")


def test_several_seeds_give_mean_and_sample_standard_deviation(tmp_path):
    experiment = make_experiment(tmp_path, seeds=[1, 2, 3])
    ems = [70.0, 71.0, 73.0]
    for seed, em in enumerate(ems[:2], start=1):
        make_run(experiment, RunId("base", "qa", 1.0, "default", seed), em)
    fail_run(experiment, RunId("base", "qa", 1.0, "default", 3), "evaluate", "no disk")
    products.write_table(experiment, "table1")
    text = read(experiment, "table1", "md")
    mean, deviation = statistics.fmean(ems[:2]), statistics.stdev(ems[:2])
    row = markdown_row(text, "QA | BERT base")
    assert row[3] == f"{mean:.2f} ± {deviation:.2f}"
    assert row[-1].startswith("2/3 ")
    assert "seed 3: evaluate failed: no disk" in text
    make_run(experiment, RunId("base", "qa", 1.0, "default", 3), ems[2])
    RunFolder(experiment.layout.run(RunId("base", "qa", 1.0, "default", 3))).failure.unlink()
    products.write_table(experiment, "table1")
    record = pd.read_csv(experiment.layout.table("table1", "csv")).iloc[-1]
    assert record.em == pytest.approx(statistics.fmean(ems))
    assert record.em_sd == pytest.approx(statistics.stdev(ems))
    assert f"{record.em:.2f} +- {record.em_sd:.2f}" in read(experiment, "table1", "tex")


def test_published_numbers_are_next_to_their_rows_with_signed_differences(tmp_path):
    experiment = make_experiment(tmp_path, published=write_published(tmp_path))
    make_run(experiment, BASE_QA, em=73.044, f1=76.18)
    make_run(experiment, BEST, em=75.0, f1=77.0)
    products.write_table(experiment, "table1")
    text = read(experiment, "table1", "md")
    assert markdown_row(text, "QA | BERT base")[-4:] == ["73.544", "76.18", "−0.50", "0.00"]
    best = markdown_row(text, "QA+MCC+SC | BERT base | 0.8")
    assert best[-4:] == ["74.58", "77.15", "+0.42", "−0.15"]
    not_run = markdown_row(text, "QA+MCC+SC | BERT base | 0.9")
    assert not_run[-4:] == ["73.92", "76.47", "–", "–"]
    assert markdown_row(text, "QA+MCC+SC | BERT base | 0.5")[-4:] == ["–"] * 4
    record = pd.read_csv(experiment.layout.table("table1", "csv")).iloc[-1]
    assert record.em_difference == pytest.approx(-0.5)
    # Numbers of another table, another encoder or the blind test set are not used.
    products.write_table(experiment, "table3")
    assert markdown_row(read(experiment, "table3", "md"), "QA | BERT large")[-4:-2] == [
        "77.902",
        "80.831",
    ]
    products.write_table(experiment, "table2")
    assert "77.15" not in read(experiment, "table2", "md")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("table,encoder\ntable1,base\n", "line 2: no value for em"),
        (PUBLISHED.replace("73.544", "high"), "line 2: em: 'high' is not a number"),
    ],
)
def test_a_mistake_in_the_published_file_is_an_error_in_one_line(tmp_path, content, message):
    write_text(tmp_path / "published.csv", content)
    experiment = make_experiment(tmp_path, published=str(tmp_path / "published.csv"))
    with pytest.raises(MtdnnError, match=message):
        products.write_table(experiment, "table1")


def test_a_slice_that_cannot_be_measured_has_its_reason_in_a_note(tmp_path):
    reason = "5795 of its 11873 questions are about contexts that the run was trained on"
    experiment = make_experiment(tmp_path)
    make_run(experiment, BASE_QA, not_measurable={"official": reason})
    products.write_table(experiment, "table1")
    text = read(experiment, "table1", "md")
    second = text.split("On other questions:")[1]
    assert markdown_row(second, "QA | BERT base") == ["QA", "BERT base", "1.0", r"– \[2\]"]
    assert rf"\[2\] not measurable: {reason}" in text
    make_run(experiment, BASE_QA, not_measurable={"paper_dev": reason})
    products.write_table(experiment, "table1")
    assert markdown_row(read(experiment, "table1", "md"), "QA | BERT base")[3] == r"– \[2\]"


def test_scores_at_the_tuned_threshold_have_columns_only_if_one_is_tuned(tmp_path):
    plain = make_experiment(tmp_path)
    make_run(plain, BASE_QA, em=70.0, tuned=True)
    products.write_table(plain, "table1")
    assert "tuned" not in read(plain, "table1", "md")
    corpora = {name: c.model_dump() for name, c in plain.corpora.items()}
    corpora["squad"]["held_out_titles"] = ["Somewhere"]
    tuned = make_experiment(tmp_path, corpora=corpora, tune_threshold_on="held_out")
    products.write_table(tuned, "table1")
    row = markdown_row(read(tuned, "table1", "md"), "QA | BERT base")
    assert row[8:10] == ["71.00", "74.00"]
    make_run(tuned, BASE_QA, em=70.0, tuned=False)
    products.write_table(tuned, "table1")
    assert "no threshold was tuned" in read(tuned, "table1", "md")


def test_a_slice_of_answerable_questions_says_what_it_lacks(tmp_path):
    """As config/strategies-excerpt.yaml scores it: notes have no keys of files."""
    slices = {"dev": Slice(label="answerable questions", only="answerable")}
    experiment = make(tmp_path).model_copy(update={"slices": slices})
    for row in experiment.tables["table2"].rows:
        for run in experiment.runs_of(row):
            metrics.write(experiment.layout.run(run), experiment)
    products.write_table(experiment, "table2")
    text = read(experiment, "table2", "md")
    assert "no unanswerable questions" in text and "needs answerable and unanswerable" in text
    assert "NoAns\\_" not in text and "null\\_odds" not in text


def test_a_variant_has_a_column_and_no_published_number(tmp_path):
    rows = [QA, {**QA, "variant": "legacy"}]
    experiment = make_experiment(
        tmp_path,
        published=write_published(tmp_path),
        variants={"legacy": {"label": "old code", "training": {"optimizer": "adamax_legacy"}}},
        tables={"table1": {"title": "Variants", "rows": rows}},
        figures={},
    )
    make_run(experiment, RunId("base", "qa", 1.0, "legacy", 1), em=72)
    products.write_table(experiment, "table1")
    row = markdown_row(read(experiment, "table1", "md"), "QA | BERT base | old code")
    assert row[4] == "72.00"
    second = read(experiment, "table1", "md").split("On other questions:")[1]
    assert markdown_row(second, "QA | BERT base | old code")[-1] == "71.00 / 74.00"
    assert row[-4:] == ["–"] * 4


def test_every_format_has_the_notice_and_the_provenance(tmp_path):
    experiment = make_experiment(tmp_path)
    make_run(experiment, BASE_QA, steps=60)
    products.write_table(experiment, "table1")
    for suffix in ("md", "tex", "csv"):
        text = read(experiment, "table1", suffix)
        assert experiment.notice in text
        assert "QA weight" in text
    for suffix in ("md", "tex"):
        text = read(experiment, "table1", suffix)
        assert text.index(experiment.notice) < text.index("QA+MCC+SC")
        assert "commit 0123456789ab, scored at ba9876543210; 1 run" in text
        assert "0.2 min on cpu" in text


AWKWARD = r"R&D_100% |x| <b>#1</b> $5 ~^{a}\ [z] `c` *d* “é”"


def test_special_characters_are_escaped(tmp_path):
    rows = [{**QA, "label": AWKWARD}]
    experiment = make_experiment(
        tmp_path, notice=AWKWARD, tables={"t": {"title": AWKWARD, "rows": rows}}, figures={}
    )
    fail_run(experiment, BASE_QA, "train", AWKWARD)
    products.write_table(experiment, "t")
    text = read(experiment, "t", "md")
    assert r"\<b\>\#1\</b\>" in text
    row = next(line for line in text.splitlines() if line.startswith("| R"))
    # Ten unescaped bars enclose and separate nine columns.
    assert row.replace(r"\|", "").count("|") == 10
    tex = read(experiment, "t", "tex")
    assert (
        r"R\&D\_100\% \textbar{}x\textbar{} \textless{}b\textgreater{}\#1\textless{}/b"
        r"\textgreater{} \$5 \textasciitilde{}\textasciicircum{}\{a\}\textbackslash{} {[}z{]}"
    ) in tex
    assert pd.read_csv(experiment.layout.table("t", "csv")).label[0] == AWKWARD


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_latex_compiles(tmp_path, classified):
    experiment = make_experiment(
        tmp_path,
        notice=AWKWARD.replace("“é”", ""),
        published=write_published(tmp_path),
        seeds=[1, 2],
    )
    for seed in (1, 2):
        make_run(experiment, RunId("base", "qa", 1.0, "default", seed), em=70 + seed)
    fail_run(experiment, BEST, "train", "no room left")
    products.write_table(experiment, "table1")
    tables = [
        experiment.layout.table("table1", "tex"),
        classified.layout.table("nli", "tex"),
        classified.layout.table("interference", "tex"),
        classified.layout.comparison("nli", "tex"),
    ]
    inputs = "\n".join(rf"\input{{{table}}}\clearpage" for table in tables)
    document = rf"""
        \documentclass{{article}}\usepackage{{booktabs,siunitx,threeparttable}}
        \begin{{document}}{inputs}\end{{document}}
    """
    (tmp_path / "document.tex").write_text(textwrap.dedent(document))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"],
        cwd=tmp_path,
        capture_output=True,
    )
    log = done.stdout.decode(errors="replace")
    if re.search(r"(booktabs|siunitx|threeparttable)\.sty' not found", log):
        pytest.skip("a LaTeX package is missing here")
    assert done.returncode == 0, log[-2000:]
    wide = [float(points) for points in re.findall(r"Overfull .hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0) < 12, "a table is wider than the page"


def test_columns_are_the_measures_of_the_target(classified):
    text = read(classified, "nli", "md")
    assert "| Encoder | Weight | Acc. | F1 | Seeds |" in text
    assert "MNLI: Acc. and F1 in percent on dev (120 items). Several" in text
    assert not re.findall("question|paragraph|threshold|Null|HasAns", text)
    record = pd.read_csv(classified.layout.table("nli", "csv")).iloc[0]
    row = read_rows(classified, "nli")[0]
    assert record.accuracy == row.score("dev", "accuracy").mean
    assert markdown_row(text, "MNLI | BERT base")[3].startswith(f"{record.accuracy:.2f} ± ")
    assert "em" not in record and "has_ans_f1" not in record
    cola = read(classified, "cola", "md")
    assert "| Matthews | Acc. | Seeds |" in cola  # as `metrics` orders them
    assert "CoLA: Acc. in percent and Matthews times 100 on dev" in cola


def test_further_sets_are_columns_with_intervals(classified):
    entry = read_json(classified.layout.statistics("nli"))
    (found,) = [
        each
        for each in entry["comparisons"]
        if (each["slice"], each["kind"]) == ("snli", "baseline") and "squad" in each["to"]
    ]
    shown = tables.interval(found["measures"]["accuracy"])
    second = read(classified, "nli", "md").split("On other items:")[1]
    assert "| SNLI: Acc. / F1 | SNLI: Δ Acc. (95% interval) |" in second
    assert markdown_row(second, "MNLI+SQuAD | BERT base")[-1] == shown
    assert markdown_row(second, "MNLI | BERT base")[-1] == "–"  # the baseline
    tex = read(classified, "nli", "tex").replace("$-$", "−")
    difference, low_to_high = shown.rstrip(")").split(" (")
    assert f"{difference.replace('−', '-')} & {low_to_high}" in tex
    assert "/" not in tex.split(r"\begin{tabular}")[2].split(r"\end{tabular}")[0]
    assert shown in classified.layout.page("nli").read_text()
    assert pd.read_csv(classified.layout.table("nli", "csv")).snli_accuracy.notna().all()
    # No row of the other table can be scored there.
    assert "SNLI" not in read(classified, "cola", "md")
    assert "snli_accuracy" not in pd.read_csv(classified.layout.table("cola", "csv"))


def test_rows_with_several_targets_share_the_union_of_columns(mixed):
    text = read(mixed, "targets", "md")
    columns = "EM | F1 | Acc. | Matthews | HasAns F1 | NoAns acc. | Null AUC | Seeds"
    assert f"|  | Encoder | Weight | {columns} |" in text
    dash = r"– \[1\]"
    cola = markdown_row(text, "CoLA | BERT base")
    assert [cell == dash for cell in cola[3:10]] == [True, True, False, False, True, True, True]
    assert markdown_row(text, "SQuAD | BERT base")[5] == dash
    assert r"- \[1\] another target" in text
    assert "SQuAD: EM and F1 in percent on dev (120 questions) at null threshold 0." in text
    data = pd.read_csv(mixed.layout.table("targets", "csv")).set_index("label")
    assert data.em.notna().tolist() == [True, True, False, False, False]
    assert data.matthews.notna().tolist() == [False, False, False, False, True]


def test_correlations_and_entities_have_their_own_columns_and_units(scored_and_tagged):
    similarity, entities, targets = (
        read(scored_and_tagged, name, "md") for name in ("similarity", "entities", "targets")
    )
    assert "|  | Encoder | Weight | Pearson | Spearman | Seeds |" in similarity
    assert "STS-B: Pearson and Spearman times 100 on dev (120 items)." in similarity
    assert "|  | Encoder | Weight | Entity F1 | Acc. | Seeds |" in entities
    assert "WNUT 2017: Entity F1 and Acc. in percent on dev (120 items)." in entities
    for text in (similarity, entities):
        assert not re.findall("question|paragraph|threshold|Null|HasAns", text)
    columns = "Pearson | Spearman | Entity F1 | Acc. | EM | F1 | HasAns F1 | NoAns acc. | Null AUC"
    assert f"| Weight | {columns} | Seeds |" in targets
    data = pd.read_csv(scored_and_tagged.layout.table("targets", "csv")).set_index("label")
    for label, column in (("STS-B", "pearson"), ("WNUT 2017", "entity_f1"), ("SQuAD", "em")):
        assert list(data.index[data[column].notna()]) == [label]
    page = scored_and_tagged.layout.page("similarity").read_text()
    assert "variance between seeds and between clusters of items" in " ".join(page.split())


def test_a_note_is_shown_as_text_in_every_format(classified):
    assert CLASSIFIED_NOTE in pd.read_csv(classified.layout.table("nli", "csv")).note[0]
    assert r"Others found \<b\>nothing\</b\>: 50% of\_it \& more." in read(classified, "nli", "md")
    tex = r"Others found \textless{}b\textgreater{}nothing\textless{}/b\textgreater{}: 50\% of\_it"
    assert tex in read(classified, "nli", "tex")
    assert tex in classified.layout.summary.read_text()
    page = classified.layout.page("nli").read_text()
    assert "Others found &lt;b&gt;nothing&lt;/b&gt;: 50% of_it &amp; more." in page
    assert "note" not in pd.read_csv(classified.layout.table("cola", "csv"))


def test_rows_of_another_experiment_are_read_where_they_are(tmp_path, classified):
    write_text(classified.layout.experiment, dump_yaml(classified))
    other = {"from": str(classified.layout.root), "encoder": "base", "mixture": "mnli_squad"}
    experiment = make_targets(
        tmp_path,
        {"nli": [("mnli", [])]},
        experiment="ours",
        evaluate_on=["snli"],
        tables={
            "nli": {
                "title": "NLI",
                "rows": [{"encoder": "base", "mixture": "mnli"}, {**other, "weight": 0.8}],
            }
        },
    )
    products.write_table(experiment, "nli")
    products.write_page(experiment, "nli")
    text = read(experiment, "nli", "md")
    theirs = markdown_row(read(classified, "nli", "md"), "MNLI+SQuAD | BERT base")
    name = rf"MNLI+SQuAD ({classified.experiment})".replace("_", r"\_")
    assert markdown_row(text, name)[1:] == theirs[1:]
    data = pd.read_csv(experiment.layout.table("nli", "csv"))
    assert data["from"].fillna("").tolist() == ["", str(classified.layout.root)]


def test_differences_have_a_sign_unless_they_are_zero():
    values = (1.234, -1.236, 0.0, -0.001, None)
    assert [tables.signed(value) for value in values] == ["+1.23", "−1.24", "0.00", "0.00", "–"]


def test_a_negative_correlation_has_a_minus_sign_and_stays_aligned(tmp_path):
    experiment = make_targets(tmp_path, {"cola": [("cola", []), ("cola", ["mnli"])]}, seeds=[1])
    path = RunFolder(experiment.layout.run(experiment.runs()[0])).metrics
    changed = read_json(path)
    changed["slices"]["dev"]["matthews"] = -12.5
    write_json(path, changed)
    products.write_table(experiment, "cola")
    assert markdown_row(read(experiment, "cola", "md"), "CoLA | BERT base")[3] == "−12.50"
    tex = read(experiment, "cola", "tex")
    assert "S[table-format=+2.2]" in tex and " & -12.50 & " in tex
