"""Any question by YAML alone: targets of other families, two QA corpora, rows of other results."""

import sys

import pytest

from mtdnn.machine.files import read_json
from tests.support.workdir import Workdir, make_workdir

NLI = {"family": "sequence_classification", "labels": ["entailment", "neutral", "contradiction"]}


def synthetic(recipe, seed=1, **sizes):
    sizes = {"train": 16, "dev": 12, **sizes}
    return {"kind": "synthetic", "recipe": recipe, "seed": seed, **sizes}


CORPORA = {
    "mnli": {"label": "MNLI", **NLI, "source": synthetic("mnli")},
    "snli": {"label": "SNLI", **NLI, "source": synthetic("mnli", seed=2)},
    "anli": {"label": "ANLI", **NLI, "source": synthetic("mnli", seed=3, test=10)},
    "squad": {
        "label": "SQuAD",
        "family": "question_answering",
        "source": synthetic("squad", train=9, dev=6),
    },
    "news": {
        "label": "NewsQA",
        "family": "question_answering",
        "source": synthetic("squad", seed=2, train=9, dev=6),
    },
    "quoref": {
        "label": "Quoref",
        "family": "question_answering",
        "source": synthetic("squad", seed=3, train=9, dev=6, test=6),
    },
    "cola": {
        "label": "CoLA",
        "family": "sequence_classification",
        "labels": ["bad", "good"],
        "metrics": ["matthews", "accuracy"],
        "source": synthetic("cola"),
    },
    "mrpc": {
        "label": "MRPC",
        "family": "sequence_classification",
        "labels": ["other", "same"],
        "source": synthetic("mrpc"),
    },
}


def row(mixture, weight=1.0, **keys):
    return {"encoder": "tiny", "mixture": mixture, "weight": weight, **keys}


def finished(folder, corpora, mixtures, rows, **settings) -> Workdir:
    """Run an experiment to its report, and check that it is whole."""
    workdir = make_workdir(folder)
    workdir.settings |= {
        "corpora": {name: CORPORA[name] for name in corpora},
        "mixtures": mixtures,
        "variants": {},
        "tables": {"main": {"title": "Scores", "rows": rows}},
        "figures": {"mixtures": {"title": "Mixtures", "table": "main", "x": "mixture"}},
        **settings,
    }
    del workdir.settings["slices"]
    check(workdir)
    return workdir


def check(workdir):
    answer = workdir.snakemake()
    assert answer.returncode == 0, answer.stdout
    for name in ("report.html", "agreement.json", "checksums.json", "figures/mixtures.svg"):
        assert (workdir.results / name).stat().st_size > 0, name
    verified = workdir.call(sys.executable, "-m", "mtdnn", "verify", str(workdir.results))
    assert verified.returncode == 0, verified.stdout
    assert "Nothing to be done" in workdir.snakemake().stdout


def scores(workdir, path):
    return read_json(workdir.results / "runs" / "tiny" / path / "default/seed1/metrics.json")


def statistics(workdir):
    return read_json(workdir.results / "statistics.json")["tables"]["main"]


@pytest.mark.slow
def test_mnli_as_the_target_with_snli_and_a_qa_corpus(tmp_path):
    mixtures = {
        "alone": {"label": "MNLI", "corpora": ["mnli"]},
        "all": {"label": "MNLI+SNLI+QA", "corpora": ["mnli", "snli", "squad"], "target": "mnli"},
    }
    rows = [row("alone"), row("all", 0.5)]
    corpora = ["mnli", "snli", "squad", "anli"]
    workdir = finished(tmp_path, corpora, mixtures, rows, evaluate_on=["anli"])
    found = scores(workdir, "all/w0.5")
    assert (found["run"]["target"], found["measures"][0]) == ("mnli", "accuracy")
    assert found["slices"]["anli"]["split"] == "test" and found["slices"]["anli"]["questions"] == 10
    assert found["auxiliary"]["squad"]["measures"] == ["exact", "f1"]
    assert found["auxiliary"]["snli"]["majority"] >= 100 / 3
    compared = statistics(workdir)
    assert {each["slice"] for each in compared["comparisons"]} == {"dev", "anli"}
    assert {each["headline"] for each in compared["comparisons"]} == {"accuracy"}
    table = (workdir.results / "tables" / "main.md").read_text()
    assert "Acc." in table and "Matthews" in table and "EM" not in table


@pytest.mark.slow
def test_two_qa_corpora_each_of_which_is_a_target(tmp_path):
    mixtures = {
        "squad": {"label": "SQuAD", "corpora": ["squad"]},
        "both": {"label": "SQuAD+NewsQA", "corpora": ["squad", "news"], "target": "squad"},
        "other": {"label": "NewsQA+SQuAD", "corpora": ["squad", "news"], "target": "news"},
    }
    rows = [row("squad"), row("both", 0.5), row("other", 0.5)]
    corpora = ["squad", "news", "quoref"]
    workdir = finished(tmp_path, corpora, mixtures, rows, evaluate_on=["quoref"])
    both, other = scores(workdir, "both/w0.5"), scores(workdir, "other/w0.5")
    assert set(both["auxiliary"]) == {"news"} and set(other["auxiliary"]) == {"squad"}
    assert both["slices"]["quoref"]["questions"] == 6
    assert (both["em"], other["em"]) == tuple(
        each["slices"]["dev"]["exact"] for each in (both, other)
    )
    compared = statistics(workdir)
    assert {each["to"] for each in compared["comparisons"]} == {"tiny/both/w0.5/default"}
    assert {each["reason"] for each in compared["left_out"]} == {"they have different targets"}


@pytest.mark.slow
def test_classification_without_qa_and_its_rows_in_another_experiment(tmp_path):
    mixtures = {
        "cola": {"label": "CoLA", "corpora": ["cola"]},
        "both": {"label": "CoLA+MRPC", "corpora": ["cola", "mrpc"], "target": "cola"},
    }
    rows = [row("cola"), row("both", 0.5)]
    workdir = finished(tmp_path, ["cola", "mrpc"], mixtures, rows)
    found = scores(workdir, "both/w0.5")
    assert found["measures"] == ["matthews", "accuracy"]
    assert found["matthews"] == found["slices"]["dev"]["matthews"]
    (compared,) = statistics(workdir)["comparisons"]
    assert (compared["headline"], list(compared["labels"].values())) == (
        "matthews",
        ["Matthews", "Acc."],
    )
    assert compared["verdict"]["text"].endswith("in Matthews correlation.")

    before = {
        file: file.stat().st_mtime_ns for file in workdir.results.rglob("*") if file.is_file()
    }
    folder = workdir.results.relative_to(workdir.folder)
    rows = [row("cola"), row("both", 0.5, **{"from": str(folder)})]
    workdir.settings |= {
        "experiment": "second",
        "training": {"epochs": 2},
        "tables": {"main": {"title": "Scores", "rows": rows}},
    }
    second = SecondWorkdir(workdir)
    wanted = ("main", "mixtures", "results/second/statistics.json")
    answer = second.snakemake(*wanted)
    assert answer.returncode == 0, answer.stdout
    assert "Nothing to be done" in second.snakemake(*wanted).stdout
    after = {file: file.stat().st_mtime_ns for file in before}
    assert after == before
    assert not (second.results / "runs" / "tiny" / "both").exists()
    (compared,) = statistics(second)["comparisons"]
    assert compared["to"] == f"{folder}/runs/tiny/both/w0.5/default"
    assert compared["to_label"] == "CoLA+MRPC at w 0.5 (small)"
    ours, theirs = scores(second, "cola/w1.0"), scores(workdir, "both/w0.5")
    difference = theirs["matthews"] - ours["matthews"]
    assert compared["measures"]["matthews"]["difference"] == pytest.approx(difference)
    assert "CoLA+MRPC (small)" in (second.results / "tables" / "main.md").read_text()

    second.settings["tables"]["main"]["rows"][1]["from"] = "results/none"
    refused = second.snakemake()
    assert refused.returncode != 0
    assert "tables.main.rows.1.from: no results of an experiment: results/none" in refused.stdout


class SecondWorkdir(Workdir):
    """Another experiment in the same working directory."""

    def __init__(self, first: Workdir):
        self.folder, self.settings = first.folder, first.settings

    @property
    def results(self):
        return self.folder / "results" / "second"
