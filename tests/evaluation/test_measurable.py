"""Before it is trained, it is known whether a run could be scored."""

import random

import pytest

from mtdnn.config.layout import Layout
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.measurable import check
from tests.support.tiny import FAMILIES, ROWS, make_tiny_experiment, write_corpus

PAIRS = {"mnli": {"label": "MNLI", "corpora": ["mnli"]}}
QA = {"qa": {"label": "QA", "corpora": ["squad", "cola"], "target": "squad"}}
SOURCE = {
    "label": "MNLI first",
    "training": {"start_from": {"mixture": "mnli"}},
}


def experiment_of(folder, mixtures, slices, row, **changes):
    table = {"title": "t", "rows": [{"encoder": "tiny", **row}]}
    return make_tiny_experiment(
        folder, mixtures=mixtures, slices=slices, tables={"t": table}, **changes
    )


def fill(layout: Layout, name: str, seen: int, titles: tuple[str, str] = ("Old", "New")) -> None:
    """Write a corpus with 40 items in each split; the first `seen` of dev are training items.

    The articles of questions have the title Old if they are among these, else New.
    """
    train, dev = (ROWS[name](40, random.Random(split)) for split in ("train", "dev"))
    dev = [
        {**row, "id": f"dev-{number}"} for number, row in enumerate([*train[:seen], *dev[seen:]])
    ]
    if name == "squad":
        for number, row in enumerate(dev):
            row["title"] = titles[number >= seen]
    write_corpus(layout.corpus(name), FAMILIES[name], train=train, dev=dev)


def test_a_run_that_no_slice_could_score_is_refused_with_the_reason_of_each(tmp_path):
    slices = {"dev": {"label": "dev"}}
    experiment = experiment_of(tmp_path, PAIRS, slices, {"mixture": "mnli"})
    [run] = experiment.runs()
    fill(experiment.layout, "mnli", seen=2)  # 5 %
    check(experiment, run)
    fill(experiment.layout, "mnli", seen=3)
    with pytest.raises(MtdnnError) as refused:
        check(experiment, run)
    assert str(refused.value) == (
        f"slices.dev: no score for {run.path}: 3 of its 40 items have the texts of items that the "
        "run was trained on; remove these from the training split"
    )


def test_slices_of_questions_are_looked_at_one_by_one(tmp_path, capsys):
    slices = {
        "old": {"label": "old", "titles": ["Old"]},
        "new": {"label": "new", "titles": ["New"]},
    }
    experiment = experiment_of(tmp_path, QA, slices, {"mixture": "qa", "weight": 0.5})
    [run] = experiment.runs()
    fill(experiment.layout, "cola", seen=40)  # not the target
    fill(experiment.layout, "squad", seen=0)
    check(experiment, run)
    assert capsys.readouterr().err == ""
    fill(experiment.layout, "squad", seen=4)
    check(experiment, run)
    assert capsys.readouterr().err == (
        f"mtdnn: slices.old: no score for {run.path}: 4 of its 4 questions have the context or the "
        "id of a question that the run was trained on; remove these from the training split, or "
        "their articles from the slice\n"
    )
    fill(experiment.layout, "squad", seen=4, titles=("Old", "Old"))
    slices = {"old": slices["old"], "dev": {"label": "dev"}}
    experiment = experiment_of(tmp_path, QA, slices, {"mixture": "qa", "weight": 0.5})
    with pytest.raises(MtdnnError, match=r"slices\.old: .* 4 of its 40 .*\nslices\.dev: .* 4 of"):
        check(experiment, run)


def test_what_another_corpus_of_the_run_teaches_counts_too(tmp_path):
    mixtures = {"both": {"label": "Both", "corpora": ["mnli", "cola"], "target": "mnli"}}
    slices, row = {"dev": {"label": "dev"}}, {"mixture": "both", "weight": 0.5}
    experiment = experiment_of(tmp_path, mixtures, slices, row)
    [run] = experiment.runs()
    fill(experiment.layout, "mnli", seen=0)
    fill(experiment.layout, "cola", seen=0)
    check(experiment, run)
    dev = ROWS["mnli"](40, random.Random("dev"))
    layout = experiment.layout
    write_corpus(layout.corpus("cola"), "sequence_classification", train=dev[:3], dev=dev)
    with pytest.raises(MtdnnError, match="3 of its 40 items"):
        check(experiment, run)


def test_a_run_from_which_others_start_needs_no_score(tmp_path, capsys):
    slices = {"dev": {"label": "dev"}}
    row = {"mixture": "qa", "weight": 0.5, "variant": "later"}
    experiment = experiment_of(tmp_path, {**PAIRS, **QA}, slices, row, variants={"later": SOURCE})
    source, run = experiment.runs()
    fill(experiment.layout, "mnli", seen=40)
    fill(experiment.layout, "squad", seen=0)
    fill(experiment.layout, "cola", seen=0)
    check(experiment, source)
    assert "slices.dev: no score for tiny/mnli/" in capsys.readouterr().err
    check(experiment, run)


def test_what_is_not_fetched_is_not_looked_at(tmp_path, capsys):
    source = {"kind": "synthetic", "recipe": "mnli", "train": 9, "dev": 9, "test": 9}
    corpora = {
        name: corpus.model_dump() for name, corpus in make_tiny_experiment(tmp_path).corpora.items()
    }
    corpora["mnli"]["source"] = source
    slices = {"dev": {"label": "dev"}, "test": {"label": "test", "split": "test"}}
    experiment = experiment_of(tmp_path, PAIRS, slices, {"mixture": "mnli"}, corpora=corpora)
    [run] = experiment.runs()
    check(experiment, run)
    assert capsys.readouterr().err == ""
    fill(experiment.layout, "mnli", seen=40)  # but no test split
    check(experiment, run)
    assert "slices.dev: no score" in capsys.readouterr().err
