"""metrics.json of a tiny made-up run: slices, thresholds, training overlap, auxiliary corpora."""

import json
from collections import defaultdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtdnn.config.loading import parse
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import metrics
from mtdnn.evaluation.predictions import LABELS
from mtdnn.machine.files import read_json, write_json, write_text

SYNTHETIC = {"kind": "synthetic", "train": 10, "dev": 10}
EXPERIMENT = {
    "experiment": "tiny",
    "title": "Tiny",
    "notice": "made up",
    "encoders": {
        "small": {"label": "Small", "source": {"kind": "files", "path": "somewhere"}},
    },
    "corpora": {
        "squad": {
            "label": "Tea questions",
            "family": "question_answering",
            "source": {**SYNTHETIC, "recipe": "squad"},
            "held_out_titles": ["Cocoa"],
        },
        "cola": {
            "label": "Grammar",
            "family": "sequence_classification",
            "labels": ["bad", "good"],
            "source": {**SYNTHETIC, "recipe": "cola"},
        },
        "swag": {
            "label": "Endings",
            "family": "multiple_choice",
            "source": {**SYNTHETIC, "recipe": "swag"},
        },
    },
    "mixtures": {"all": {"label": "All", "corpora": ["squad", "cola", "swag"]}},
    "decoding": {"null_threshold": 0.5},
    "seeds": [1],
    "slices": {
        "tea": {"label": "Tea", "titles": ["Tea"], "questions": 3, "answerable": 2},
        "rest": {"label": "Rest", "exclude_titles": ["Tea"]},
        "every": {"label": "Every"},
        "held": {"label": "Held out", "split": "held_out"},
    },
    "tune_threshold_on": "held_out",
    "tables": {
        "t": {"title": "T", "rows": [{"encoder": "small", "mixture": "all", "weight": 0.8}]}
    },
}
# (id, title, context, gold answers), and (answer, null odds)
TRAIN = [("t1", "Milk", "Milk is white.", ["white"])]
DEV = [
    ("d1", "Tea", "Tea is hot.", ["hot", "hot."], "hot", -1.0),
    ("d2", "Tea", "Tea is hot.", ["Tea"], "Tea is", 1.0),
    ("d3", "Tea", "Tea grows.", [], "Tea", 2.0),
    ("d4", "Rice", "Rice is dry.", ["dry"], "Rice", 0.0),
]
HELD_OUT = [
    ("h1", "Cocoa", "Cocoa is sweet.", ["sweet"], "sweet", 1.2),
    ("h2", "Cocoa", "Cocoa is sweet.", [], "Cocoa", 1.8),
]
QUESTIONS = defaultdict(
    lambda: "Is it?", d1="How hot is tea?", d2="Then what is hot?", d3="Who drinks tea?"
)
# corpus: (label, prediction) of each row
AUXILIARY = {
    "cola": [(1, 1), (1, 0), (0, 0), (0, 1), (1, 1)],
    "swag": [(0, 0), (1, 1), (3, 2)],
}
CORPORA = ("squad", "cola", "swag")


@pytest.fixture
def tiny(tmp_path):
    """A function that writes a made-up run, with changes, and returns experiment and run folder."""

    def build(dev=DEV, held_out=HELD_OUT, train=TRAIN, auxiliary=AUXILIARY, **changes):
        mapping = {**EXPERIMENT, "results": str(tmp_path / "results"), **changes}
        experiment = parse(mapping, "tiny.yaml")
        layout, [run] = experiment.layout, experiment.runs()
        folder = layout.run(run)
        write_text(folder / "config.yaml", dump_yaml(experiment.resolve(run)))
        digests = {name: name * 2 for name in CORPORA}
        write_json(
            folder / "model" / "run.json",
            {
                "fingerprint": "f" * 16,
                "corpora": digests,
                "provenance": {"commit": "c0ffee", "steps": 7},
            },
        )
        for name in CORPORA:
            rows = len(AUXILIARY.get(name, []))
            write_json(
                layout.corpus(name) / "manifest.json",
                {"digest": digests[name], "splits": {"dev": {"rows": rows}}},
            )
        splits = {"train": train, "dev": dev, "held_out": held_out}
        for split, rows in splits.items():
            names = ("id", "title", "context", "answer_texts")
            table = pa.Table.from_pylist(
                [
                    {**dict(zip(names, row, strict=False)), "question": QUESTIONS[row[0]]}
                    for row in rows
                ]
            )
            pq.write_table(table, layout.corpus("squad") / f"{split}.parquet")
        predictions = [
            {"corpus": "squad", "split": split, "id": row[0], "answer": row[4], "null_odds": row[5]}
            for split in ("held_out", "dev")
            for row in reversed(splits[split])
        ]
        pq.write_table(pa.Table.from_pylist(predictions), folder / "predictions.parquet")
        labels = [
            {"corpus": name, "split": "dev", "row": row, "label": label, "prediction": prediction}
            for name, pairs in auxiliary.items()
            for row, (label, prediction) in enumerate(pairs)
        ]
        pq.write_table(pa.Table.from_pylist(labels, LABELS), folder / "auxiliary.parquet")
        return experiment, folder

    return build


def measured(tiny, **changes):
    experiment, folder = tiny(**changes)
    metrics.write(folder, experiment)
    return read_json(folder / "metrics.json")


def test_whole_file(tiny):
    result = measured(tiny)
    assert result["experiment"] == "tiny"
    assert result["notice"] == "made up"
    assert result["run"] == {
        "encoder": "small",
        "mixture": "all",
        "weight": 0.8,
        "variant": "default",
        "seed": 1,
        "target": "squad",
    }
    assert result["measures"] == ["exact", "f1"]
    assert list(result["slices"]) == ["tea", "rest", "every", "held"]
    tea = result["slices"]["tea"]
    assert result["em"] == tea["exact"] == pytest.approx(200 / 3)
    assert result["f1"] == tea["f1"] == pytest.approx(200 / 3)
    assert result["fingerprint"] == "f" * 16
    provenance = result["provenance"]
    assert (provenance["commit"], provenance["steps"]) == ("c0ffee", 7)
    assert provenance["corpora"]["cola"] == "colacola"
    assert list(provenance["scored"]) == ["commit"]


def test_scores_of_a_slice_by_hand(tiny):
    tea = measured(tiny)["slices"]["tea"]
    tuned = tea.pop("tuned")
    assert tea == {
        "label": "Tea",
        "corpus": "squad",
        "split": "dev",
        "questions": 3,
        "clusters": 2,
        "threshold": 0.5,
        "exact": pytest.approx(100 * 2 / 3),
        "f1": pytest.approx(100 * 2 / 3),
        "total": 3,
        "HasAns_exact": 50.0,
        "HasAns_f1": 50.0,
        "HasAns_total": 2,
        "NoAns_exact": 100.0,
        "NoAns_f1": 100.0,
        "NoAns_total": 1,
        "best_exact": pytest.approx(100 * 2 / 3),
        "best_exact_thresh": -1.0,
        "best_f1": pytest.approx(100 * (1 + 2 / 3 + 1) / 3),
        "best_f1_thresh": 1.0,
        "null_odds_auc": 1.0,
    }
    # Tuned on the held-out questions: between 1.2, which is right, and 1.8, which is wrong.
    assert tuned["threshold"] == pytest.approx(1.5)
    assert tuned["tuned_on"] == "held_out"
    assert tuned["f1"] == pytest.approx(100 * (1 + 2 / 3 + 1) / 3)
    assert not any(key.startswith("best_") for key in tuned)


def test_slices_select_by_title_and_split(tiny):
    slices = measured(tiny)["slices"]
    assert {name: scores["questions"] for name, scores in slices.items()} == {
        "tea": 3,
        "rest": 1,
        "every": 4,
        "held": 2,
    }
    assert slices["rest"]["null_odds_auc"] is None
    assert "NoAns_total" not in slices["rest"]


def test_a_slice_is_not_scored_at_a_threshold_tuned_on_its_own_questions(tiny):
    slices = measured(tiny)["slices"]
    assert slices["held"]["tuned"] is None
    assert slices["rest"]["tuned"]["threshold"] == pytest.approx(1.5)
    shared = [*DEV[:3], ("d4", "Rice", "Cocoa is sweet.", ["sweet"], "Cocoa", 0.0)]
    slices = measured(tiny, dev=shared)["slices"]
    assert slices["rest"]["tuned"] is None
    assert slices["tea"]["tuned"] is not None


def test_without_tuning_there_is_no_tuned_score(tiny):
    assert measured(tiny, tune_threshold_on=None)["slices"]["tea"]["tuned"] is None


@pytest.mark.parametrize(
    "train", [("t2", "Other", "Rice is dry.", ["dry"]), ("d4", "Other", "Something else.", [])]
)
def test_a_slice_that_shares_questions_with_training_is_not_measurable(tiny, train):
    slices = measured(tiny, train=[*TRAIN, train])["slices"]
    for name, total in (("rest", 1), ("every", 4)):
        assert slices[name] == {
            "label": name.capitalize(),
            "measurable": False,
            "reason": f"1 of its {total} questions have the context or the id of a question that "
            "the run was trained on; remove these from the training split, or their articles from "
            "the slice",
        }
    assert slices["tea"]["questions"] == 3


def test_top_scores_are_null_when_the_first_slice_is_not_measurable(tiny):
    result = measured(tiny, train=[*TRAIN, ("t2", "Other", "Tea is hot.", ["hot"])])
    assert (result["em"], result["f1"]) == (None, None)
    assert result["slices"]["rest"]["exact"] == 0.0


def test_thresholds_are_not_tuned_on_contexts_of_the_training_split(tiny):
    seen = [("h0", "Cocoa", "Milk is white.", [], "Milk", 0.1), *HELD_OUT]
    slices = measured(tiny, held_out=seen)["slices"]
    assert slices["tea"]["tuned"]["threshold"] == pytest.approx(1.5)
    assert slices["held"]["measurable"] is False


def test_auxiliary_scores_by_hand(tiny):
    auxiliary = measured(tiny)["auxiliary"]
    assert auxiliary == {
        "cola": {
            "label": "Grammar",
            "measures": ["accuracy", "f1", "matthews"],
            "accuracy": 60.0,
            "f1": pytest.approx(100 * 2 / 3),
            "matthews": pytest.approx(100 / 6),
            "majority": 60.0,
            "rows": 5,
        },
        "swag": {
            "label": "Endings",
            "measures": ["accuracy"],
            "accuracy": pytest.approx(200 / 3),
            "majority": pytest.approx(100 / 3),
            "rows": 3,
        },
    }


def test_constant_predictions_score_like_the_majority(tiny):
    constant = {name: [(label, 0) for label, _ in pairs] for name, pairs in AUXILIARY.items()}
    cola = measured(tiny, auxiliary=constant)["auxiliary"]["cola"]
    assert (cola["accuracy"], cola["matthews"], cola["f1"]) == (40.0, 0.0, 0.0)


def changed_slices(**changes):
    return {**EXPERIMENT["slices"], "tea": {**EXPERIMENT["slices"]["tea"], **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slices": changed_slices(questions=4)}, "slices.tea: has 3 questions, 4 are expected"),
        (
            {"slices": changed_slices(answerable=3)},
            "slices.tea: has 2 answerable questions, 3 are expected",
        ),
        (
            {"slices": changed_slices(titles=["Tee"])},
            "slices.tea: the split dev has no article 'Tee'",
        ),
        (
            {"slices": changed_slices(exclude_titles=["Cocoa"])},
            "slices.tea: the split dev has no article 'Cocoa'",
        ),
        (
            {"auxiliary": {**AUXILIARY, "swag": [(0, 0), (1, 1)]}},
            "swag: must have each of the 3 dev rows once, has 2 of them in 2 rows",
        ),
    ],
)
def test_unexpected_counts_titles_and_rows_are_refused(tiny, changes, message):
    experiment, folder = tiny(**changes)
    with pytest.raises(MtdnnError, match=message):
        metrics.write(folder, experiment)
    assert not (folder / "metrics.json").exists()


def test_missing_predictions_are_refused(tiny):
    experiment, folder = tiny()
    path = folder / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - 1), path)
    with pytest.raises(MtdnnError, match=r"1 of the 4 questions of squad dev are missing.*'d1'"):
        metrics.write(folder, experiment)
    path.write_bytes(b"PAR1 broken")
    with pytest.raises(MtdnnError, match=r"predictions\.parquet: not readable"):
        metrics.write(folder, experiment)
    path.unlink()
    with pytest.raises(MtdnnError, match=r"predictions\.parquet: no such file"):
        metrics.write(folder, experiment)


def test_a_corpus_that_changed_since_training_is_refused(tiny):
    experiment, folder = tiny()
    manifest = experiment.layout.corpus("cola") / "manifest.json"
    write_json(manifest, {**json.loads(manifest.read_text()), "digest": "other"})
    with pytest.raises(MtdnnError, match=r"cola/manifest\.json: digest: differs"):
        metrics.write(folder, experiment)


@pytest.mark.parametrize(
    ("entry", "members"),
    [
        ({"only": "answerable"}, {"d1", "d2", "d4"}),
        ({"only": "unanswerable"}, {"d3"}),
        ({"question_types": ["what", "who"]}, {"d2", "d3"}),
        ({"question_words": {"least": 3, "most": 3}}, {"d3"}),
        ({"context_words": {"most": 2}}, {"d3"}),
        ({"answer_words": {}}, {"d1", "d2", "d4"}),
        ({"answer_words": {"least": 2}}, None),
        ({"titles": ["Tea"], "question_types": ["how", "other"]}, {"d1"}),
    ],
)
def test_slices_by_question_answer_and_length(tiny, entry, members):
    experiment, folder = tiny(slices={"some": {"label": "Some", **entry}})
    if members is None:
        with pytest.raises(MtdnnError, match=r"slices.some: has no questions"):
            metrics.write(folder, experiment)
        return
    corpus = experiment.layout.corpus("squad")
    questions = metrics.read_questions(corpus, "dev", folder)
    chosen = metrics.select("some", experiment.slices["some"], questions)
    assert set(chosen.ids) == members
    metrics.write(folder, experiment)
    scores = read_json(folder / "metrics.json")["slices"]["some"]
    assert scores["questions"] == len(members)


def test_slices_are_tuned_on_each_other_and_never_on_themselves(tiny):
    cross = {
        "tea": {"label": "Tea", "titles": ["Tea"], "tune_threshold_on": "rest"},
        "rest": {"label": "Rest", "exclude_titles": ["Tea"], "tune_threshold_on": "tea"},
        "every": {"label": "Every", "tune_threshold_on": "tea"},
    }
    result = measured(tiny, slices=cross, tune_threshold_on=None)["slices"]
    # The best of Rest is to answer nothing, as its only answer is wrong; of Tea, to answer d1
    # and d2 (odds -1 and 1) and not d3 (odds 2). At -1, d1 alone is answered, and rightly.
    assert result["tea"]["tuned"]["threshold"] == -1.0
    assert result["tea"]["tuned"]["exact"] == pytest.approx(200 / 3)
    assert result["rest"]["tuned"]["threshold"] == 1.5
    assert result["rest"]["tuned"]["tuned_on"] == "tea"
    assert result["every"]["tuned"] is None
    known = [("t1", "Rice", "Rice is dry.", ["dry"])]
    trained = measured(tiny, slices=cross, tune_threshold_on=None, train=known)["slices"]
    assert trained["rest"]["measurable"] is False
    assert trained["tea"]["tuned"] is None


def test_a_further_qa_corpus_is_judged_by_its_contexts_and_own_ids(tiny):
    """Ids of another corpus may be those of training questions; contexts may not."""
    news = {**EXPERIMENT["corpora"]["squad"], "label": "News", "held_out_titles": []}
    changes = {
        "corpora": {**EXPERIMENT["corpora"], "news": news},
        "slices": {"dev": {"label": "Dev"}},
        "evaluate_on": ["news"],
    }
    for context, measurable in (("Oats are brown.", True), ("Milk is white.", False)):
        experiment, folder = tiny(**changes)
        place = experiment.layout.corpus("news")
        place.mkdir(exist_ok=True)
        write_json(place / "manifest.json", {"digest": "n", "splits": {"dev": {"rows": 1}}})
        row = {"id": "t1", "title": "Oats", "context": context, "question": "Is it?"}
        table = pa.Table.from_pylist([{**row, "answer_texts": ["white"]}])
        pq.write_table(table, place / "dev.parquet")
        path = folder / "predictions.parquet"
        answer = {"split": "dev", "id": "t1", "answer": "white", "null_odds": 0.0}
        rows = [*pq.read_table(path).to_pylist(), {"corpus": "news", **answer}]
        pq.write_table(pa.Table.from_pylist(rows), path)
        metrics.write(folder, experiment)
        result = read_json(folder / "metrics.json")
        found = result["slices"]["news"]
        assert found.get("measurable", True) is measurable
        assert result["provenance"]["corpora"]["news"] == "n"
        if measurable:
            assert (found["corpus"], found["exact"]) == ("news", 100.0)
            assert found["tuned"]["tuned_on"] == "held_out" and found["tuned"]["exact"] == 100.0
