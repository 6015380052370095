"""Intervals and tests against known truth and independent references; statistics.json by hand."""

import csv
import math
import resource
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
from scipy import stats

from mtdnn.config.layout import RunId
from mtdnn.machine.files import read_json, write_json, write_text
from mtdnn.reporting import products, tables
from mtdnn.statistics import inference
from mtdnn.statistics import records as statistics
from mtdnn.statistics.inference import Arm, Estimate, compare, components, flips, labelings
from mtdnn.statistics.simulation import Scenario, simulate
from tests.support.factories import QA, WEIGHTS, fail_run, make_experiment, make_run

# --- inference -------------------------------------------------------------------------------


def arms(random, seeds, sizes, spread=0.0):
    """Two arms of random 0/1 scores, and the scores of the questions themselves."""
    questions = random.random((2, seeds, sizes.sum())) < 0.7 + spread * random.standard_normal(
        (2, seeds, 1)
    )
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return [
        Arm(np.add.reduceat(each, starts, axis=1), sizes) for each in questions * 1.0
    ], questions


def test_one_seed_is_the_cluster_robust_regression_of_statsmodels():
    random = np.random.default_rng(1)
    sizes = random.integers(3, 12, 60)
    (first, second), questions = arms(random, 1, sizes)
    estimate = compare(first, second)
    difference = questions[1, 0].astype(float) - questions[0, 0]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    fit = sm.OLS(difference, np.ones(len(difference))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}, use_t=True
    )
    assert estimate.difference == pytest.approx(fit.params[0])
    correction = math.sqrt(len(sizes) / (len(sizes) - 1))
    assert estimate.error == pytest.approx(fit.bse[0] * correction)
    assert estimate.degrees == len(sizes) - 1


def test_without_questions_in_the_variance_it_is_welch_s_test():
    """Every paragraph alike: only seeds vary, and nothing is left of the questions."""
    sizes, means = np.full(50, 10), np.array([[70.0, 71.0, 73.0], [74.0, 74.5, 74.2]])
    first, second = (Arm(np.outer(each, sizes), sizes) for each in means)
    parts, estimate = components(first, second), compare(first, second)
    assert parts.questions == pytest.approx(0, abs=1e-20)
    reference = stats.ttest_ind(means[1], means[0], equal_var=False)
    assert estimate.difference / estimate.error == pytest.approx(reference.statistic)
    assert estimate.degrees == pytest.approx(reference.df)
    assert estimate.p() == pytest.approx(reference.pvalue)


def test_p_and_interval_say_the_same():
    estimate = Estimate(difference=1.3, error=0.5, degrees=4.2, confidence=0.95)
    assert estimate.p(estimate.low) == pytest.approx(0.05)
    assert estimate.p(estimate.high) == pytest.approx(0.05)
    assert estimate.low < 0 < estimate.high and estimate.p() > 0.05


def test_detectable_difference_is_found_with_eighty_percent():
    estimate = Estimate(difference=0.0, error=0.4, degrees=12.0, confidence=0.95)
    critical = stats.t.ppf(0.975, 12)
    power = stats.nct.sf(critical, 12, estimate.detectable() / 0.4)
    assert power == pytest.approx(0.8, abs=0.01)


def test_equal_arms_differ_by_nothing():
    sizes = np.array([3, 4, 5])
    arm = Arm(np.array([[1.0, 2.0, 3.0]]), sizes)
    estimate = compare(arm, arm)
    assert (estimate.difference, estimate.low, estimate.high, estimate.p()) == (0, 0, 0, 1)
    signs = flips(3, 99, np.random.default_rng(0))
    assert inference.permutation_test([(arm, arm)], None, signs) == [1.0]


def test_permutation_of_runs_is_exact_when_only_runs_differ():
    sizes, means = np.full(40, 5), np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    pair = tuple(Arm(np.outer(each, sizes), sizes) for each in means)
    labels = labelings(3, 10_000, np.random.default_rng(0))
    signs = flips(40, len(labels), np.random.default_rng(0))
    (p,) = inference.permutation_test([pair], labels, signs)
    assert p == pytest.approx(2 / 20, abs=1e-3)
    assert {tuple(row) for row in labels} == {tuple(-row) for row in labels}
    assert len({tuple(row) for row in labels}) == 20


def test_labelings_of_many_seeds_are_drawn_at_random():
    labels = labelings(9, 500, np.random.default_rng(0))
    assert labels.shape == (500, 18)
    assert (labels.sum(axis=1) == 0).all()


# Small, because CI runs it: `python -m mtdnn.statistics.simulation` is the long form, with every
# scenario. Bounds are the long form's, widened by the error of a share of so few simulations.
SHORT = 1000


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("of_arm", [0.0, 0.05])
def test_intervals_cover_and_tests_keep_their_level(seeds, of_arm):
    scenario = Scenario(
        f"short {of_arm}", seeds, questions=800, deviations=(0.015, 0.015), of_arm=of_arm
    )
    outcome = simulate(scenario, SHORT, resamples=252)
    error = 2 * math.sqrt(0.05 * 0.95 / SHORT)
    assert 0.95 - 0.02 <= outcome.coverage <= 0.95 + 0.02 + error / 2
    assert outcome.rejected <= 0.05 + error
    assert outcome.permuted <= 0.05 + error
    assert 0.7 < outcome.correlation < 0.9


def test_intervals_cover_a_true_difference_of_f1():
    scenario = Scenario("f1", 3, questions=600, difference=0.03, metric="f1", of_arm=0.02)
    outcome = simulate(scenario, 500, resamples=20)
    assert 0.92 <= outcome.coverage <= 0.985


# --- statistics.json -------------------------------------------------------------------------

PUBLISHED = """\
table,encoder,mixture,qa_weight,split,em,f1
table2,bert-base-cased,qa,1.0,dev,73.544,76.18
table2,bert-base-cased,qa_mcc,0.8,dev,73.988,76.754
table2,bert-base-cased,qa_sc,0.8,dev,73.56,76.435
table2,bert-base-cased,qa_mcc_sc,0.8,dev,74.58,77.15
"""
PARAGRAPHS, PER_PARAGRAPH = 40, 5


def make_questions(experiment, paragraphs=PARAGRAPHS, per_paragraph=PER_PARAGRAPH):
    """The dev split of the made-up SQuAD: the answer of every second question is "yes"."""
    rows = [
        {
            "id": f"q{paragraph}-{number}",
            "title": f"Article {paragraph % 7}",
            "context": f"Context {paragraph}",
            "question": f"What is number {number}?",
            "answer_texts": ["yes"] if number % 2 else [],
        }
        for paragraph in range(paragraphs)
        for number in range(per_paragraph)
    ]
    path = experiment.layout.corpus("squad") / "dev.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return rows


def answer(experiment, run, rows, right):
    """A finished run which answers the questions right where `right` says so."""
    folder = make_run(experiment, run, em=100 * float(np.mean(right)))
    predictions = [
        {
            "split": "dev",
            "id": row["id"],
            "answer": "yes" if good else "no",
            "null_odds": 1.0 if good and not row["answer_texts"] else -1.0,
        }
        for row, good in zip(rows, right, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(predictions[::-1]), folder / "predictions.parquet")
    return folder


def make_runs(experiment, table, effects, seed=0):
    """Runs of a table's rows; `effects` are their probabilities of a right answer."""
    rows, random = make_questions(experiment), np.random.default_rng(seed)
    luck, right = random.random(len(rows)), {}
    for row, effect in zip(experiment.tables[table].rows, effects, strict=True):
        for run in experiment.runs_of(row):
            own = np.where(random.random(len(rows)) < 0.2, random.random(len(rows)), luck)
            right[run] = own < effect
            answer(experiment, run, rows, right[run])
    return right


@pytest.fixture
def mixtures(tmp_path):
    write_text(tmp_path / "published.csv", PUBLISHED)
    return make_experiment(
        tmp_path, seeds=[1, 2, 3], published=str(tmp_path / "published.csv"), slices=SLICES
    )


SLICES = {"paper_dev": {"label": "paper dev"}, "first": {"label": "one", "titles": ["Article 1"]}}


def comparison(entry, kind, end, slice_name="paper_dev"):
    (found,) = [
        each
        for each in entry["comparisons"]
        if each["kind"] == kind and f"/{end}/" in each["to"] and each["slice"] == slice_name
    ]
    return found


def test_statistics_of_a_table_by_hand(mixtures):
    right = make_runs(mixtures, "table2", [0.4, 0.7, 0.41, 0.8])
    statistics.write(mixtures, ["table2"])
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
    assert found["em"]["difference"] == pytest.approx(expected)
    assert found["em"]["low"] < expected < found["em"]["high"]
    assert (found["questions"], found["paragraphs"]) == (200, 40)
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
    ps = sorted(each["em"]["p"] for each in family)
    assert min(each["em"]["p_holm"] for each in family) == pytest.approx(min(1, 5 * ps[0]))
    assert all(each["em"]["p_holm"] >= each["em"]["p"] for each in family)
    other = comparison(entry, "baseline", "qa_mcc_sc", "first")
    assert other["questions"] == 30 and other["published"] is None
    assert other["verdict"]["em"] is None


def test_contradicted_by_sign_and_by_size(mixtures):
    make_runs(mixtures, "table2", [0.8, 0.5, 0.79, 0.4])
    statistics.write(mixtures, ["table2"])
    entry = read_json(mixtures.layout.statistics("table2"))
    assert comparison(entry, "baseline", "qa_mcc_sc")["verdict"]["em"] == "contradicted"
    published = PUBLISHED.replace("74.58,77.15", "99,99")
    write_text(mixtures.published, published)
    make_runs(mixtures, "table2", [0.5, 0.8, 0.5, 0.5])
    statistics.write(mixtures, ["table2"])
    found = comparison(read_json(mixtures.layout.statistics("table2")), "baseline", "qa_mcc_sc")
    assert found["verdict"]["em"] == "contradicted" and found["conclusion"] == "open"
    assert found["em"]["p_published_holm"] < 0.05


def test_one_seed_says_that_it_knows_nothing_of_seeds(tmp_path):
    experiment = make_experiment(tmp_path)
    make_runs(experiment, "table2", [0.3, 0.9, 0.3, 0.9])
    statistics.write(experiment, ["table2"])
    found = comparison(read_json(experiment.layout.statistics("table2")), "baseline", "qa_mcc")
    assert found["em"]["low"] > 0 and found["em"]["p_permutation"] < 0.01
    assert any("know nothing of how much seeds differ" in note for note in found["notes"])
    assert found["conclusion"] == "open"
    assert found["verdict"]["text"].startswith("Not decidable with one seed")


def test_missing_runs_leave_comparisons_out_with_the_reason(mixtures):
    make_runs(mixtures, "table2", [0.4, 0.7, 0.41, 0.8])
    for seed in (1, 2, 3):
        run = RunId("base", "qa_mcc", 0.8, "default", seed)
        fail_run(mixtures, run, "train", "no memory left")
    fail_run(mixtures, RunId("base", "qa_sc", 0.8, "default", 2), "evaluate", "no disk")
    (
        mixtures.layout.run(RunId("base", "qa_mcc_sc", 0.8, "default", 1)) / "predictions.parquet"
    ).unlink()
    statistics.write(mixtures, ["table2"])
    entry = read_json(mixtures.layout.statistics("table2"))
    reasons = {(each["from"], each["to"]): each["reason"] for each in entry["left_out"]}
    key = ("base/qa/w1.0/default", "base/qa_mcc/w0.8/default")
    assert "train failed: no memory left" in reasons[key]
    assert "no such file" in reasons[key[0], "base/qa_mcc_sc/w0.8/default"]
    found = comparison(entry, "baseline", "qa_sc")
    assert found["seeds"] == [1, 3]
    assert any("seed 2: evaluate failed: no disk" in note for note in found["notes"])
    statistics.write(mixtures, list(mixtures.tables))  # without any run of table 3
    statistics.collect(mixtures)
    everything = read_json(mixtures.layout.root / "statistics.json")
    assert set(everything["tables"]) == set(mixtures.tables)
    assert everything["tables"]["table3"]["comparisons"] == []
    cell = everything["cells"]["base/qa_sc/w0.8/default"]["paper_dev"]["em"]
    assert cell["seeds"] == [1, 3] and cell["deviation"] is not None


def test_a_variant_is_compared_with_its_own_baseline_and_may_flip(tmp_path):
    rows = [QA, WEIGHTS[2], {**QA, "variant": "v"}, {**WEIGHTS[2], "variant": "v"}]
    experiment = make_experiment(
        tmp_path,
        seeds=[1, 2, 3],
        variants={"v": {"label": "other", "training": {"span_loss": "mean"}}},
        tables={"s": {"title": "Sensitivity", "rows": rows}},
        figures={},
    )
    make_runs(experiment, "s", [0.3, 0.9, 0.6, 0.6])
    statistics.write(experiment, ["s"])
    entry = read_json(experiment.layout.statistics("s"))
    found = {(e["from"], e["to"]): e for e in entry["comparisons"] if e["slice"] == "paper_dev"}
    names = {row: f"base/{row}" for row in ("qa/w1.0/default", "qa/w1.0/v")}
    plain = found[names["qa/w1.0/default"], "base/qa_mcc_sc/w0.8/default"]
    other = found[names["qa/w1.0/v"], "base/qa_mcc_sc/w0.8/v"]
    assert (plain["conclusion"], plain["flips"]) == ("higher", None)
    assert (other["conclusion"], other["flips"]) == ("open", True)
    assert (names["qa/w1.0/default"], names["qa/w1.0/v"]) in found
    assert ("base/qa_mcc_sc/w0.8/default", names["qa/w1.0/v"]) not in found
    products.write_comparisons(experiment, "s")
    assert "| yes |" in experiment.layout.comparison("s", "md").read_text()


def test_comparisons_in_three_formats_and_in_the_table_s_notes(mixtures):
    make_runs(mixtures, "table2", [0.4, 0.7, 0.41, 0.8])
    products.write_table(mixtures, "table2")
    assert "against QA" not in mixtures.layout.table("table2", "md").read_text()
    statistics.write(mixtures, ["table2"])
    products.write_comparisons(mixtures, "table2")
    products.write_table(mixtures, "table2")
    entry = read_json(mixtures.layout.statistics("table2"))
    found = comparison(entry, "baseline", "qa_mcc_sc")
    shown = tables.interval(found["em"])
    for path in (mixtures.layout.table("table2", "md"), mixtures.layout.comparison("table2", "md")):
        text = path.read_text()
        assert shown in text and found["verdict"]["text"] in text.replace("\\", "")
        assert mixtures.notice in text
    assert r"Permutation" in mixtures.layout.comparison("table2", "tex").read_text()
    with open(mixtures.layout.comparison("table2", "csv"), newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == len(entry["comparisons"])
    assert float(records[2]["em_difference"]) == found["em"]["difference"]


def test_statistics_are_the_same_each_time(mixtures):
    make_runs(mixtures, "table2", [0.4, 0.7, 0.41, 0.8])
    statistics.write(mixtures, ["table2"])
    first = mixtures.layout.statistics("table2").read_bytes()
    statistics.write(mixtures, ["table2"])
    assert mixtures.layout.statistics("table2").read_bytes() == first


@pytest.mark.slow
def test_nine_runs_of_five_seeds_on_the_official_size(tmp_path):
    """Half a minute on two cores is at most a minute of one; memory stays below 2 GB."""
    experiment = make_experiment(tmp_path, seeds=[1, 2, 3, 4, 5])
    rows, random = make_questions(experiment, 1187, 10), np.random.default_rng(0)
    rows += [{**rows[0], "id": f"more{number}"} for number in range(3)]
    path = experiment.layout.corpus("squad") / "dev.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert len(rows) == 11_873
    runs = experiment.runs()
    assert len(runs) == 9 * 5
    for run in runs:
        folder = make_run(experiment, run)
        words = random.integers(0, 40, (len(rows), 3)).astype(str)
        table = {
            "split": ["dev"] * len(rows),
            "id": [row["id"] for row in rows],
            "answer": [" ".join(each) for each in words],
            "null_odds": random.standard_normal(len(rows)),
        }
        pq.write_table(pa.table(table), folder / "predictions.parquet")
    write_json(tmp_path / "experiment.yaml", experiment.model_dump(mode="json"))
    command = [sys.executable, "-m", "mtdnn", "statistics", str(tmp_path / "experiment.yaml")]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{time.monotonic() - started:.1f} s, {seconds:.1f} s of CPU, {after.ru_maxrss} kB")
    assert seconds < 60
    assert after.ru_maxrss < 2_000_000
