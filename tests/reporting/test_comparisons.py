"""A table's comparisons in three formats, and in the table's notes."""

import csv
import re

from mtdnn.machine.files import read_json
from mtdnn.reporting import products, tables
from mtdnn.statistics import records
from tests.support.comparisons import comparison, make_mixtures, make_runs, make_variants


def test_comparisons_in_three_formats_and_in_the_notes_of_the_table(tmp_path):
    mixtures = make_mixtures(tmp_path)
    make_runs(mixtures, "table2", [0.4, 0.7, 0.41, 0.8])
    products.write_table(mixtures, "table2")
    assert "against QA" not in mixtures.layout.table("table2", "md").read_text()
    records.write(mixtures, ["table2"])
    products.write_comparisons(mixtures, "table2")
    products.write_table(mixtures, "table2")
    entry = read_json(mixtures.layout.statistics("table2"))
    found = comparison(entry, "baseline", "qa_mcc_sc")
    shown = tables.interval(found["measures"]["em"])
    for path in (mixtures.layout.table("table2", "md"), mixtures.layout.comparison("table2", "md")):
        text = path.read_text()
        assert shown in text and found["verdict"]["text"] in text.replace("\\", "")
        assert mixtures.notice in text
    assert r"Permutation" in mixtures.layout.comparison("table2", "tex").read_text()
    with open(mixtures.layout.comparison("table2", "csv"), newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(entry["comparisons"])
    assert float(lines[2]["em_difference"]) == found["measures"]["em"]["difference"]


def test_a_table_without_published_scores_shows_conclusions_and_which_are_flipped(tmp_path):
    experiment = make_variants(tmp_path)
    make_runs(experiment, "s", [0.3, 0.9, 0.6, 0.6])
    records.write(experiment, ["s"])
    products.write_comparisons(experiment, "s")
    text = experiment.layout.comparison("s", "md").read_text()
    assert "| higher | – | 3 |" in text and "| open | yes | 3 |" in text
    assert "| Conclusion |" in text and "Published" not in text and "Verdict" not in text


def test_comparisons_of_other_families_have_their_measures_and_words(classified):
    text = classified.layout.comparison("nli", "md").read_text()
    assert "On dev (120 items in 30 clusters):" in text and "On SNLI (120 items in" in text
    assert "| From | To | Δ Acc. | p (Acc.) | Permutation | Detectable | Δ F1 | p (F1) |" in text
    assert "a permutation test of Acc., uncorrected" in text
    assert "| Conclusion |" in text and "Published" not in text
    assert not re.findall("question|paragraph|threshold", text)
    with open(classified.layout.comparison("nli", "csv"), newline="") as file:
        lines = list(csv.DictReader(file))
    entry = read_json(classified.layout.statistics("nli"))
    for line, each in zip(lines, entry["comparisons"], strict=True):
        assert (line["items"], line["clusters"]) == ("120", "30")
        numbers = each["measures"]["accuracy"]
        assert float(line["accuracy_difference"]) == numbers["difference"]


def test_correlations_and_entities_are_compared_by_their_names(scored_and_tagged):
    for name, labels, sentence in (
        ("similarity", ("Pearson", "Spearman"), "differs from STS-B in Pearson correlation."),
        ("entities", ("Entity F1", "Acc."), "differs from WNUT 2017 in entity F1."),
    ):
        text = scored_and_tagged.layout.comparison(name, "md").read_text()
        head = " | ".join(f"Δ {label} | p ({label})" for label in labels)
        assert head.replace(" | Δ", " | Permutation | Detectable | Δ") in text
        assert "On dev (120 items in 30 clusters):" in text and "| Conclusion |" in text
        assert sentence in text
        assert not re.findall("question|paragraph|threshold", text)
        (entry,) = read_json(scored_and_tagged.layout.statistics(name))["comparisons"]
        for label, numbers in zip(labels, entry["measures"].values(), strict=True):
            assert numbers["low"] < numbers["difference"] < numbers["high"], label
            assert tables.interval(numbers) in text


def test_rows_with_other_targets_are_not_compared_and_have_no_numbers(mixed):
    text = mixed.layout.comparison("targets", "md").read_text()
    assert "they have different targets" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| MNLI | MNLI+SQuAD at")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    heading = next(line for line in text.splitlines() if line.startswith("| From"))
    shown = dict(zip([cell.strip() for cell in heading.strip("|").split("|")], cells, strict=True))
    (found,) = [
        each
        for each in read_json(mixed.layout.statistics("targets"))["comparisons"]
        if "mnli_squad" in each["to"]
    ]
    assert shown["Δ EM"] == "–" and shown["p (EM)"] == "–"
    assert shown["Δ Acc."] == tables.interval(found["measures"]["accuracy"])
    assert shown["Detectable"] == f"{found['measures']['accuracy']['detectable']:.2f}"
