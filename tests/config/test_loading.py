"""Loading an experiment: each mistake is one line that names the file, the key and the remedy."""

import re
from pathlib import Path

import pytest
import yaml

from mtdnn.config.experiment import RESERVED_NAMES
from mtdnn.config.loading import load, load_run, parse, validate
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.reporting.products import FIGURES, PAGES
from tests.support.factories import GRID, small

ROOT = Path(__file__).parents[2]

FILES = {
    "kind": "files",
    "format": "squad",
    "splits": {"train": ["train"], "dev": ["dev"]},
}
ROW = "tables.table1.rows.1"
COLA = small()["corpora"]["cola"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainig": {}}, "trainig: unknown key; did you mean 'training'?"),
        ({"training__epocs": 3}, "training.epocs: unknown key; did you mean 'epochs'?"),
        (
            {"corpora__squad__source__recipee": "squad"},
            "corpora.squad.source.recipee: unknown key; did you mean 'recipe'?",
        ),
        (
            {"tables__table1__rows__1__mixture": "qa_cs"},
            f"{ROW}.mixture: unknown name 'qa_cs'; did you mean 'qa_sc'?",
        ),
        (
            {"tables__table1__rows__1__encoder": "huge"},
            f"{ROW}.encoder: unknown name 'huge'; known are tiny",
        ),
        (
            {"tables__table1__rows__1__variant": "long"},
            f"{ROW}.variant: unknown name 'long'; did you mean 'longer'?",
        ),
        (
            {"tables__table1__rows__1__weight": 1.2},
            f"{ROW}.weight: must be at most 1, not 1.2",
        ),
        (
            {"tables__table1__rows__1__weight": 0},
            f"{ROW}.weight: must be greater than 0, not 0",
        ),
        (
            {"tables__table1__rows__1__weight": 1},
            f"{ROW}.weight: with 1.0 the auxiliary corpora of qa_sc are never drawn; "
            "give a weight below 1",
        ),
        (
            {"tables__table1__rows__0__weight": 0.5},
            "tables.table1.rows.0.weight: qa has no auxiliary corpus, "
            "so its weight is 1.0, not 0.5",
        ),
        (
            {"training__learning_rate": "fast"},
            "training.learning_rate: must be a number, not 'fast'",
        ),
        (
            {"training__learning_rate": float("nan")},
            "training.learning_rate: must be a finite number, not nan",
        ),
        (
            {"training__optimizer": "adam"},
            "training.optimizer: must be 'adamax' or 'adamax_legacy', not 'adam'",
        ),
        (
            {"variants__longer": {"training": {"epochs": "many"}}},
            "variants.longer: training.epochs: must be a whole number, not 'many'",
        ),
        (
            {"variants__longer": {"training": {"epocs": 3}}},
            "variants.longer: training.epocs: unknown key; did you mean 'epochs'?",
        ),
        (
            {"variants__default": {}},
            "variants.default: this name means the experiment's own settings; choose another",
        ),
        (
            {"mixtures__qa__corpora": ["squid"]},
            "mixtures.qa.corpora: unknown name 'squid'; did you mean 'squad'?",
        ),
        (
            {"corpora__bola": COLA, "mixtures__qa_sc__corpora": ["cola", "bola"]},
            "mixtures.qa_sc.target: is missing; name the corpus whose scores count, one of cola, "
            "bola",
        ),
        (
            {"mixtures__qa_sc__target": "coal"},
            "mixtures.qa_sc.target: 'coal' is not one of its corpora; did you mean 'cola'?",
        ),
        (
            {"tables__table1__rows__1__qa_weight": 0.8},
            "tables.table1.rows.1: qa_weight: is another name of weight, which is also given; "
            "keep one of them",
        ),
        (
            {"mixtures__qa_sc__corpora": ["squad", "cola", "cola"]},
            "mixtures.qa_sc: each corpus may occur only once",
        ),
        (
            {"corpora__cola__labels": ["good"]},
            "corpora.cola: labels: a sequence_classification corpus needs at least two",
        ),
        (
            {
                "variants__longer": {"schedule": {"steps_of_weight": 0.8}},
                "tables__table1__rows__1__variant": "longer",
            },
            f"{ROW}.variant: longer has schedule.steps_of_weight, which is for question answering "
            "alone, not for qa_sc",
        ),
        (
            {"schedule__steps_of_weight": 0.8},
            "schedule.steps_of_weight: is for question answering alone; set it in a variant and "
            "use that in rows of question answering alone",
        ),
        (
            {"slices__dev__tune_threshold_on": "dev"},
            "slices.dev.tune_threshold_on: a slice cannot be tuned on itself; name another",
        ),
        (
            {"slices__dev__tune_threshold_on": "test"},
            "slices.dev.tune_threshold_on: unknown name 'test'; known are dev",
        ),
        (
            {"tables__table1__slice": "test"},
            "tables.table1.slice: unknown name 'test'; known are dev",
        ),
        ({"seeds": [1, 1]}, "seeds: each may occur only once"),
        (
            {"tables__train": {"title": "T", "rows": [{"encoder": "tiny", "mixture": "qa"}]}},
            "tables.train: is a name that the workflow uses; choose another",
        ),
        (
            {"figures__loss": {"title": "F", "table": "table1", "x": "mixture"}},
            "figures.loss: is a name that the workflow uses; choose another",
        ),
        (
            {"figures__table1": {"title": "F", "table": "table1", "x": "mixture"}},
            "figures.table1: is the name of a table, too; choose another",
        ),
        (
            {"corpora__squad__source": {**FILES, "splits": {"train": ["a.json"]}}},
            "corpora.squad.source.splits: dev is missing",
        ),
        (
            {"corpora__squad__source": {**FILES, "format": "csv"}},
            "corpora.squad.source.format: question_answering is read from squad, not from csv",
        ),
        (
            {"corpora__cola__source": {**FILES, "format": "squad"}},
            "corpora.cola.source.format: sequence_classification is read from csv, tsv or jsonl, "
            "not from squad",
        ),
        (
            {"corpora__cola__source": {**FILES, "format": "csv", "columns": {"sentence": "text"}}},
            "corpora.cola.source.columns: sequence_classification has no column 'sentence'; "
            "did you mean 'sentence2'?",
        ),
        (
            {
                "tune_threshold_on": "held_out",
                "corpora__squad__held_out_titles": ["A"],
                "tables__table1__rows": [{"encoder": "tiny", "mixture": "qa_sc", "weight": 0.5}],
                "mixtures__qa_sc__target": "cola",
                "figures": {},
            },
            "tune_threshold_on: is for question answering, which is no row's target",
        ),
        (
            {"tune_threshold_on": "held_out"},
            "tune_threshold_on: held_out needs a corpus with held_out_titles",
        ),
        (
            {"slices__dev__corpus": "sqad"},
            "slices.dev.corpus: unknown name 'sqad'; did you mean 'squad'?",
        ),
        (
            {"slices__cola": {"label": "CoLA", "corpus": "cola"}},
            "slices.cola.corpus: no mixture in a table has a target with the family and labels of "
            "cola",
        ),
        (
            {"mixtures__qa_sc__target": "cola", "slices__dev__only": "answerable"},
            "slices.dev.only: is for question answering, and cola is sequence_classification",
        ),
        ({"slices__dev__split": "test"}, "slices.dev.split: squad has no split test"),
        ({"slices__dev__split": "held_out"}, "slices.dev.split: squad has no split held_out"),
        ({"evaluate_on": ["sqad"]}, "evaluate_on.0: unknown name 'sqad'; did you mean 'squad'?"),
        (
            {"evaluate_on": ["squad"], "slices__squad": {"label": "own"}},
            "evaluate_on.0: squad is the name of a slice; rename that",
        ),
        (
            {"corpora__cola__metrics": ["mcc"]},
            "corpora.cola: metrics: 'mcc' is none of sequence_classification: accuracy, f1, "
            "matthews",
        ),
        (
            {"corpora__cola__metrics": ["f1", "f1"]},
            "corpora.cola: metrics: each may occur only once",
        ),
        (
            {"figures__figure4__table": "table2"},
            "figures.figure4.table: unknown name 'table2'; did you mean 'table1'?",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(changes, message):
    with pytest.raises(MtdnnError) as caught:
        parse(small(**changes), where="small.yaml")
    assert str(caught.value) == f"small.yaml: {message}"


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(MtdnnError) as caught:
        parse(small(trainig={}, training__epochs=0), where="small.yaml")
    assert len(str(caught.value).splitlines()) == 2


def test_all_unknown_names_are_reported_at_once():
    settings = small(figures__figure4__table="table9")
    rows = settings["tables"]["table1"]["rows"]
    rows[0]["encoder"], rows[1]["mixture"] = "huge", "qa_cs"
    with pytest.raises(MtdnnError) as error:
        parse(settings, where="small.yaml")
    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "tables.table1.rows.0.encoder",
        "tables.table1.rows.1.mixture",
        "figures.figure4.table",
    ]


def test_a_missing_key_is_named():
    settings = small()
    del settings["seeds"]
    with pytest.raises(MtdnnError, match=r"^small.yaml: seeds: is missing$"):
        parse(settings, where="small.yaml")


@pytest.mark.parametrize("mapping", [None, [], "a"])
def test_anything_but_a_mapping_is_refused(mapping):
    with pytest.raises(MtdnnError, match=r"^small.yaml: must be a mapping of keys to values$"):
        parse(mapping, where="small.yaml")


def test_a_mistake_in_the_settings_of_a_run_names_its_key():
    settings = parse(small(), where="x")
    run = settings.resolve(settings.runs()[0]).model_dump(mode="json")
    run["training"]["epocs"] = run["training"].pop("epochs")
    with pytest.raises(MtdnnError, match=r"^run: training.epocs: unknown key; did you mean 'ep"):
        validate(RunSettings, run, "run")


def test_the_lock_file_is_next_to_the_experiment_unless_it_names_one(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small()))
    assert load(path).lock == str(tmp_path / "small.lock.json")
    path.write_text(yaml.safe_dump(small(lock="other.json")))
    assert load(path).lock == "other.json"


def test_numbers_without_a_dot_are_numbers(tmp_path):
    path = tmp_path / "small.yaml"
    text = yaml.safe_dump(small()) + "training: {learning_rate: 3e-5, weight_decay: 1E-2}\n"
    path.write_text(text)
    training = load(path).training
    assert (training.learning_rate, training.weight_decay) == (3e-5, 1e-2)


def test_an_experiment_and_its_runs_survive_being_written_and_read(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(small(variants__other={"schedule": {"dry": "skip"}})))
    experiment = load(path)
    path.write_text(dump_yaml(experiment))
    assert load(path) == experiment
    for run in experiment.runs():
        path.write_text(dump_yaml(experiment.resolve(run)))
        assert load_run(path) == experiment.resolve(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixtures": ["qb"]}, r"tables.grid.grid.mixtures: unknown name 'qb'; known are"),
        ({"encoders": ["tinny"]}, "unknown name 'tinny'"),
        ({"variants": ["shorter"]}, "variants: unknown name 'shorter'"),
        ({"weights": []}, "grid.weights: qa_sc needs at least one"),
        ({"weights": [1.2]}, "weight"),
        ({"settings": {"learning_rate": [1]}}, "'learning_rate' is not a setting; write, for"),
        ({"settings": {"training.learning_rat": [1]}}, "learning_rat: unknown key"),
        ({"settings": {"training.epochs": ["many"]}}, "epochs"),
        ({"settings": {"training.epochs": list(range(1, 9999))}}, "more than 10000 combinations"),
        ({"weight": [0.5]}, "weight: unknown key; did you mean 'weights'?"),
    ],
)
def test_a_mistake_in_a_grid_is_one_line(changes, message):
    with pytest.raises(MtdnnError, match=message) as error:
        parse(small(tables__grid={"title": "Grid", "grid": {**GRID, **changes}}), "x")
    assert "\n" not in str(error.value)


def test_a_table_needs_rows():
    with pytest.raises(MtdnnError, match=r"tables\.grid: has neither rows nor a grid"):
        parse(small(tables__grid={"title": "Grid"}), "x")


def test_digits_are_numbers_of_columns_where_columns_have_no_names():
    columns = {"label": "1", "sentence1": "3", "id": ["0", "2"]}
    source = {**FILES, "format": "tsv", "columns": columns}
    for header, expected in ((False, {"label": 1, "sentence1": 3, "id": [0, 2]}), (True, columns)):
        changes = {"corpora__cola__source": {**source, "header": header}}
        experiment = parse(small(**changes), "small.yaml")
        assert experiment.corpora["cola"].source.columns == expected


def test_the_names_that_the_workflow_uses_are_reserved():
    rules = {
        name
        for path in [ROOT / "workflow" / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
        for name in re.findall(r"^rule (\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(rules) > 15
    assert rules | {*FIGURES, *PAGES} == RESERVED_NAMES
