"""Comparisons and verdicts of a table's rows, by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtdnn.config.experiment import Row, Slice
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.results import read_rows
from mtdnn.machine.files import read_json, write_json, write_text
from mtdnn.statistics import records
from mtdnn.statistics.comparisons import compare_tables, pairs
from tests.support.comparisons import (
    PUBLISHED,
    answer,
    comparison,
    make_mixtures,
    make_questions,
    make_runs,
    make_variants,
)
from tests.support.configs import overlaid
from tests.support.factories import QA, WEIGHTS, make_experiment


@pytest.fixture
def mixtures(tmp_path):
    return make_mixtures(tmp_path)


def test_statistics_of_a_table_by_hand(mixtures):
    right = make_runs(mixtures, "table2", [0.4, 0.7, 0.41, 0.8])
    records.write(mixtures, ["table2"])
    entry = read_json(mixtures.layout.statistics("table2"))
    kinds = [
        (each["kind"], each["from"].split("/")[1], each["to"].split("/")[1])
        for each in entry["comparisons"]
        if each["slice"] == "paper_dev"
    ]
    assert kinds == [
        ("baseline", "qa", "qa_mcc"),
        ("baseline", "qa", "qa_sc"),
        ("baseline", "qa", "qa_mcc_sc"),
        ("neighbour", "qa_mcc", "qa_sc"),
        ("neighbour", "qa_sc", "qa_mcc_sc"),
    ]
    found = comparison(entry, "baseline", "qa_mcc_sc")
    of = {
        name: [right[RunId("base", name, w, "default", s)].mean() for s in (1, 2, 3)]
        for name, w in (("qa", 1.0), ("qa_mcc_sc", 0.8))
    }
    expected = 100 * (np.mean(of["qa_mcc_sc"]) - np.mean(of["qa"]))
    assert found["measures"]["em"]["difference"] == pytest.approx(expected)
    assert found["measures"]["em"]["low"] < expected < found["measures"]["em"]["high"]
    assert (found["questions"], found["clusters"]) == (200, 40)
    assert found["seeds"] == [1, 2, 3]
    assert found["published"] == {"em": 1.036, "f1": 0.97}
    assert found["verdict"]["em"] == "supported"
    assert found["conclusion"] == "higher"
    same = comparison(entry, "baseline", "qa_sc")
    assert same["verdict"]["em"] == "not decidable" and same["conclusion"] == "open"
    worse = comparison(entry, "neighbour", "qa_sc")
    # Published: a fall of 0.428, as measured; the largest published effect is far smaller.
    assert worse["conclusion"] == "lower" and worse["verdict"]["em"] == "supported"
    family = [each for each in entry["comparisons"] if each["slice"] == "paper_dev"]
    ps = sorted(each["measures"]["em"]["p"] for each in family)
    assert min(each["measures"]["em"]["p_holm"] for each in family) == pytest.approx(
        min(1, 5 * ps[0])
    )
    assert all(each["measures"]["em"]["p_holm"] >= each["measures"]["em"]["p"] for each in family)
    other = comparison(entry, "baseline", "qa_mcc_sc", "first")
    assert other["questions"] == 30 and other["published"] is None
    assert other["verdict"]["em"] is None


def test_contradicted_by_sign_and_by_size(mixtures):
    make_runs(mixtures, "table2", [0.8, 0.5, 0.79, 0.4])
    records.write(mixtures, ["table2"])
    entry = read_json(mixtures.layout.statistics("table2"))
    assert comparison(entry, "baseline", "qa_mcc_sc")["verdict"]["em"] == "contradicted"
    published = PUBLISHED.replace("74.58,77.15", "99,99")
    write_text(mixtures.published, published)
    make_runs(mixtures, "table2", [0.5, 0.8, 0.5, 0.5])
    records.write(mixtures, ["table2"])
    found = comparison(read_json(mixtures.layout.statistics("table2")), "baseline", "qa_mcc_sc")
    assert found["verdict"]["em"] == "contradicted" and found["conclusion"] == "open"
    assert found["measures"]["em"]["p_published_holm"] < 0.05


def test_runs_that_answer_nothing_contradict_no_published_difference(mixtures):
    """Their scores are all equal, which says nothing of how sure the difference is."""
    rows = make_questions(mixtures)
    for run in (run for row in mixtures.tables["table2"].rows for run in mixtures.runs_of(row)):
        folder = answer(mixtures, run, rows, np.zeros(len(rows), bool))
        table = pq.read_table(RunFolder(folder).predictions).to_pylist()
        silent = [{**row, "null_odds": 5.0} for row in table]
        pq.write_table(pa.Table.from_pylist(silent), RunFolder(folder).predictions)
    records.write(mixtures, ["table2"])
    found = comparison(read_json(mixtures.layout.statistics("table2")), "baseline", "qa_mcc_sc")
    numbers = found["measures"]["em"]
    assert (numbers["difference"], numbers["error"], numbers["p_published"]) == (0, 0, 1)
    assert numbers["low"] is numbers["high"] is numbers["detectable"] is None
    assert found["verdict"]["em"] == "not decidable"
    assert found["verdict"]["text"] == (
        "Not decidable because the scores do not vary between seeds: whether QA+MCC+SC at w 0.8 "
        "differs from QA in EM as published."
    )
    assert records.NO_INTERVAL in found["notes"]


def test_one_seed_says_that_the_variance_between_seeds_is_unknown(tmp_path):
    experiment = make_experiment(tmp_path)
    make_runs(experiment, "table2", [0.3, 0.9, 0.3, 0.9])
    records.write(experiment, ["table2"])
    found = comparison(read_json(experiment.layout.statistics("table2")), "baseline", "qa_mcc")
    assert found["measures"]["em"]["low"] > 0 and found["measures"]["em"]["p_permutation"] < 0.01
    assert any("do not include the variance between seeds" in note for note in found["notes"])
    assert found["conclusion"] == "open"
    assert found["verdict"]["text"].startswith("Not decidable with one seed")


def test_two_seeds_that_differ_a_lot_differ_by_at_most_100_points(mixtures):
    rows, random = make_questions(mixtures), np.random.default_rng(0)
    for run in (run for row in mixtures.tables["table2"].rows for run in mixtures.runs_of(row)):
        if run.seed < 3:
            right = random.random(len(rows)) < (0.1, 0.9)[run.seed - 1]
            answer(mixtures, run, rows, right)
    records.write(mixtures, ["table2"])
    entry = read_json(mixtures.layout.statistics("table2"))
    em = comparison(entry, "baseline", "qa_mcc_sc")["measures"]["em"]
    assert (em["low"], em["high"]) == (-100, 100) and em["error"] > 20


def test_a_variant_is_compared_with_its_own_baseline_and_may_flip(tmp_path):
    experiment = make_variants(tmp_path)
    make_runs(experiment, "s", [0.3, 0.9, 0.6, 0.6])
    records.write(experiment, ["s"])
    entry = read_json(experiment.layout.statistics("s"))
    found = {(e["from"], e["to"]): e for e in entry["comparisons"] if e["slice"] == "paper_dev"}
    names = {row: f"base/{row}" for row in ("qa/w1.0/default", "qa/w1.0/v")}
    plain = found[names["qa/w1.0/default"], "base/qa_mcc_sc/w0.8/default"]
    other = found[names["qa/w1.0/v"], "base/qa_mcc_sc/w0.8/v"]
    assert (plain["conclusion"], plain["flips"]) == ("higher", None)
    assert (other["conclusion"], other["flips"]) == ("open", True)
    assert (names["qa/w1.0/default"], names["qa/w1.0/v"]) in found
    assert ("base/qa_mcc_sc/w0.8/default", names["qa/w1.0/v"]) not in found


def compared(experiment, table):
    """The kind of each pair of a table, with the mixture and the variant of both rows."""
    return [
        (pair.kind, *((row.row.mixture, row.row.variant) for row in (pair.first, pair.second)))
        for pair in pairs(read_rows(experiment, table))
    ]


def test_strategies_are_each_compared_with_the_paper_s_and_not_with_each_other():
    found = compared(overlaid("paper.yaml", "strategies.yaml"), "strategies")
    assert {pair[:2] for pair in found} == {("baseline", ("qa_mcc_sc", "weighted"))}
    assert len(found) == 17


def test_variants_are_compared_with_their_mixture_and_their_target_alone():
    found = compared(overlaid("paper.yaml", "sensitivity.yaml"), "sensitivity")
    alone, mixture = ("qa", "default"), ("qa_mcc_sc", "default")
    for name in ("families", "renormalise", "skip"):
        pair = ("qa_mcc_sc", name)
        assert [each[:2] for each in found if each[2] == pair] == [
            ("baseline", alone),
            ("variant", mixture),
        ]
    for name in ("overlap", "mean_loss", "encoder_dropout", "legacy", "fp32"):
        assert ("baseline", alone, ("qa", name)) in found
        assert ("baseline", ("qa", name), ("qa_mcc_sc", name)) in found
    assert len(found) == 1 + 3 * 2 + 5 * 2


def test_a_row_is_compared_with_the_one_that_it_names(tmp_path):
    mixed = {key: WEIGHTS[2][key] for key in ("mixture", "weight")}
    rows = [QA, WEIGHTS[2], {**QA, "variant": "v", "against": mixed}]
    changed = {
        "variants": {"v": {"training": {"epochs": 4}}},
        "tables": {"t": {"title": "Variants", "rows": rows}},
        "figures": {},
    }
    assert compared(make_experiment(tmp_path, **changed), "t") == [
        ("baseline", ("qa", "default"), ("qa_mcc_sc", "default")),
        ("baseline", ("qa", "default"), ("qa", "v")),
        ("chosen", ("qa_mcc_sc", "default"), ("qa", "v")),
    ]
    rows[2]["against"] = {**mixed, "variant": "v"}
    with pytest.raises(MtdnnError, match=r"rows\.2\.against: the table has no row \w+/qa_mcc_sc/"):
        make_experiment(tmp_path / "other", **changed)


def test_rows_of_the_paper_s_tables_are_compared_with_their_baseline_and_the_row_above():
    paper = overlaid("paper.yaml")
    sizes = {name: len(pairs(read_rows(paper, name))) for name in paper.tables}
    assert sizes == {
        **{"table1": 4 + 3, "table2": 3 + 2, "table3": 1},
        **{"validation": 0, "controls": 4 + 2, "arms": 4 + 3},
    }


def test_a_variant_is_compared_with_its_own_weight_first(tmp_path):
    rows = [*WEIGHTS[1:3], {**WEIGHTS[2], "variant": "v"}, {**WEIGHTS[2], "variant": "w"}]
    experiment = make_experiment(
        tmp_path,
        variants={name: {"training": {"epochs": n}} for n, name in enumerate("vw", 4)},
        tables={"t": {"title": "Variants", "rows": rows}},
        figures={},
    )
    found = [
        (pair.kind, pair.first.row.weight, pair.first.row.variant, pair.second.row.variant)
        for pair in pairs(read_rows(experiment, "t"))
    ]
    assert found == [
        ("baseline", 0.7, "default", "default"),
        ("baseline", 0.7, "default", "v"),
        ("baseline", 0.7, "default", "w"),
        ("variant", 0.8, "default", "v"),
        ("variant", 0.8, "default", "w"),
    ]


def from_other(experiment, folder, **row):
    """The experiment with a row of the one in `folder` at the end of table2."""
    table = experiment.tables["table2"]
    rows = [*table.rows, Row(origin=str(folder), **row)]
    tables = {**experiment.tables, "table2": table.model_copy(update={"rows": rows})}
    return experiment.model_copy(update={"tables": tables})


@pytest.fixture
def others(mixtures, tmp_path):
    """An experiment with runs, the folder of another one with runs on the same questions."""
    other = make_mixtures(tmp_path / "other")
    for each, effects in ((mixtures, [0.4, 0.5, 0.5, 0.5]), (other, [0.4, 0.8, 0.5, 0.5])):
        make_runs(each, "table2", effects)
        write_text(each.layout.experiment, dump_yaml(each))
    return mixtures, other.layout.root


ROW = {"encoder": "base", "mixture": "qa_mcc", "weight": 0.8}


def test_a_row_of_another_experiment_is_compared_where_the_questions_are_the_same(others):
    experiment, folder = others
    experiment = from_other(experiment, folder, **ROW)
    ((_, entry),) = compare_tables(experiment, ["table2"])
    theirs = f"{folder}/runs/base/qa_mcc/w0.8/default"
    found = [each for each in entry["comparisons"] if each["to"] == theirs]
    assert {(each["kind"], each["slice"]) for each in found} >= {("baseline", "paper_dev")}
    assert found[0]["to_label"].endswith(f" ({folder.name})")
    assert found[0]["measures"]["em"]["difference"] == pytest.approx(40, abs=12)
    assert theirs in entry["cells"] and "base/qa_mcc/w0.8/default" in entry["cells"]

    for path in folder.glob("runs/base/qa_mcc/w0.8/default/*/metrics.json"):
        content = read_json(path)
        content["provenance"]["corpora"]["squad"] = "of other rows"
        write_json(path, content)
    ((_, entry),) = compare_tables(experiment, ["table2"])
    reasons = {each["reason"] for each in entry["left_out"] if each["to"] == theirs}
    assert reasons == {"their experiments score them on different items"}
    assert theirs not in {each["to"] for each in entry["comparisons"]}


def test_slices_of_the_same_name_that_select_other_questions_are_not_compared(others):
    experiment, folder = others
    experiment = from_other(experiment, folder, **ROW)
    slices = {**experiment.slices, "first": Slice(label="one", titles=["Article 2"])}
    experiment = experiment.model_copy(update={"slices": slices})
    ((_, entry),) = compare_tables(experiment, ["table2"])
    theirs = f"{folder}/runs/base/qa_mcc/w0.8/default"
    reasons = {each["slice"]: each["reason"] for each in entry["left_out"] if each["to"] == theirs}
    assert (
        list(reasons) == ["first"] and "the slice first of made_up is another" in reasons["first"]
    )


def test_a_row_that_another_experiment_lacks_is_one_line(others):
    experiment, folder = others
    wrong = from_other(experiment, folder, **{**ROW, "mixture": "qa_mmc"})
    with pytest.raises(
        MtdnnError, match=r"^tables.table2.rows.\d+.mixture: .* has no 'qa_mmc'; did"
    ):
        list(compare_tables(wrong, ["table2"]))
    gone = from_other(experiment, folder / "gone", **ROW)
    with pytest.raises(MtdnnError, match=r"gone/experiment.yaml: no such file"):
        list(compare_tables(gone, ["table2"]))
