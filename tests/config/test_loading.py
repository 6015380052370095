"""Loading an experiment: each mistake is one line that names the file, the key and the remedy."""

import copy
import datetime
import re
from pathlib import Path

import pytest
import yaml
from pydantic_core._pydantic_core import list_all_errors

from mtdnn.config.experiment import RESERVED_NAMES, Experiment
from mtdnn.config.loading import WORDING, load, load_run, parse, validate
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data.revisions import Locked
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
COLA = {**small()["corpora"]["cola"], "label": "Another"}


def phased(*phases: dict, weight: float = 0.8, **schedule: object) -> dict:
    """Changes by which the row `ROW` has these phases."""
    return {
        "variants__longer": {"schedule": {"phases": list(phases), **schedule}},
        "tables__table1__rows__1__variant": "longer",
        "tables__table1__rows__1__weight": weight,
    }


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
            {"training__optimizer": "sgd"},
            "training.optimizer: must be 'adamax', 'adamax_legacy', 'adamw' or 'adam', not 'sgd'",
        ),
        (
            {"training__optimizer": "adamx"},
            "training.optimizer: must be 'adamax', 'adamax_legacy', 'adamw' or 'adam', not 'adamx'"
            "; did you mean 'adamax'?",
        ),
        (
            {"experiment": "My Exp"},
            "experiment: must consist of lower-case letters, digits, '_', '.' and '-', the first a "
            "letter or a digit, not 'My Exp'",
        ),
        (
            {
                "tables__table1__grid": {
                    "encoders": ["tiny"],
                    "mixtures": ["qa"],
                    "weights": [0.5, 50],
                }
            },
            "tables.table1.grid.weights.1: must be at most 1, not 50",
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
            {"schedule__policy": "unifrom"},
            "schedule.policy: kind must be one of 'weighted', 'uniform', 'proportional', "
            "'temperature', 'annealed', 'round_robin', 'shuffled'; did you mean 'uniform'?",
        ),
        (
            {"schedule__policy": {"kind": "uniform", "alpha": 1}},
            "schedule.policy.alpha: unknown key; known are kind",
        ),
        (
            {"schedule__policy": {"kind": "temperature", "temperature": 0.5}},
            "schedule.policy.temperature: must be at least 1, not 0.5",
        ),
        (
            {
                "schedule__policy": {"kind": "temperature", "caps": {"coal": 5}},
                "tables__table1__rows__1__weight": 1,
            },
            "schedule.policy.caps: unknown name 'coal'; did you mean 'cola'?",
        ),
        (
            {"schedule__policy": "uniform"},
            f"{ROW}.weight: the schedule of variant default does not use it, so it is 1.0, not "
            "0.8; leave it out",
        ),
        (
            {"schedule__policy": "uniform", "schedule__spread": "families"},
            "schedule: spread: belongs to the policy weighted; uniform does not know it",
        ),
        (
            {"schedule__policy": "shuffled", "schedule__until": "target"},
            "schedule: until: the policy shuffled takes every batch of every corpus, so leave it "
            "out",
        ),
        (
            {"schedule__policy": "round_robin", "schedule__dry": "renormalise"},
            "schedule: dry: round_robin has no shares to divide; use refill or skip",
        ),
        (
            {"schedule__steps": 5, "schedule__until": "every_corpus"},
            "schedule: until: is not for a schedule with a number of steps; keep one of them",
        ),
        (
            {"schedule__steps": 5, "schedule__dry": "skip"},
            "schedule: dry: with a number of steps it is always refill; leave it out",
        ),
        (
            phased({}, {}, steps=5),
            "variants.longer: schedule: steps: is not for a schedule with phases; give each phase "
            "its length",
        ),
        (  # whether such a schedule needs a weight does not matter
            phased({"corpora": ["squad"]}, {"policy": "round_robin"}, weight=1.0, steps=5),
            "variants.longer: schedule: steps: is not for a schedule with phases; give each phase "
            "its length",
        ),
        (
            phased({"steps": 4, "epochs": 1}),
            "variants.longer: schedule: phases.0: has both steps and epochs; keep one of them",
        ),
        (
            phased({"restart": True}),
            "variants.longer: schedule: phases.0.restart: the first phase starts anew in any case; "
            "leave it out",
        ),
        (
            phased({"policy": "uniform", "spread": "families"}),
            "variants.longer: schedule: phases.0.spread: belongs to the policy weighted; uniform "
            "does not know it",
        ),
        (
            phased({"policy": {"kind": "shuffled", "temperature": 2}}),
            "variants.longer: schedule.phases.0.policy.temperature: unknown key; known are kind",
        ),
        (
            phased({"corpora": []}),
            "variants.longer: schedule.phases.0.corpora: needs at least 1",
        ),
        (
            phased({"corpora": ["coal"]}, {}),
            "variants.longer.schedule.phases.0.corpora: unknown name 'coal'; did you mean 'cola'?",
        ),
        (
            phased({"corpora": ["cola"]}, weight=1),
            f"{ROW}.variant: longer: schedule.phases: none has the target squad of qa_sc; add it "
            "to one",
        ),
        (
            phased({"corpora": ["squad"]}, weight=1),
            f"{ROW}.variant: longer: schedule.phases: none has cola of qa_sc; add it to one, or "
            "use a mixture without it",
        ),
        (
            {
                **phased({"corpora": ["squad"]}, {"corpora": ["cola"]}),
                "tables__table1__rows__1__mixture": "qa",
                "tables__table1__rows__1__weight": 1,
            },
            f"{ROW}.variant: longer: schedule.phases.1.corpora: qa does not have cola; remove it "
            "here",
        ),
        (
            phased({"corpora": ["cola"], "until": "target"}, {"corpora": ["squad"]}, weight=1),
            f"{ROW}.variant: longer: schedule.phases.0.until: the phase has no batches of the "
            "target squad",
        ),
        (
            phased({"corpora": ["cola"]}, {"corpora": ["squad"]}),
            f"{ROW}.weight: the schedule of variant longer does not use it, so it is 1.0, not 0.8; "
            "leave it out",
        ),
        (
            {
                "corpora__rte": COLA,
                "mixtures__qa_sc__corpora": ["squad", "cola", "rte"],
                **phased({"corpora": ["cola", "rte"]}, {"corpora": ["squad"]}, weight=1),
            },
            f"{ROW}.variant: longer: schedule.phases.0.policy: weighted needs the target squad "
            "among the phase's corpora; use another policy, for instance uniform",
        ),
        (
            {"training__loss_weights": {"coal": 2}},
            "training.loss_weights: unknown name 'coal'; did you mean 'cola'?",
        ),
        (
            {"training__loss_weights": {"squad": "log_labels"}},
            "training.loss_weights.squad: log_labels is for corpora with labels; give a number",
        ),
        (
            {"training__loss_weights": {"cola": "log_lables"}},
            "training.loss_weights.cola: must be 'log_labels', not 'log_lables'; "
            "did you mean 'log_labels'?",
        ),
        (
            {"training__heads": {"squad": "san"}},
            "training.heads.squad: is for sequence_classification, not for question_answering",
        ),
        (
            {"training__heads": {"cola": {"kind": "san", "turns": 1}}},
            "training.heads.cola.turns: must be at least 2, not 1",
        ),
        (
            {
                "corpora__cola__source": {
                    **{"kind": "synthetic", "recipe": "cola"},
                    **{"train": 9, "dev": 9},
                },
                "training__heads": {"cola": "san"},
            },
            "training.heads.cola: is for pairs of sentences, and cola has single ones",
        ),
        (
            {"training__heads": {"coal": "san"}},
            "training.heads: unknown name 'coal'; did you mean 'cola'?",
        ),
        (
            {"training__lora": {}, "training__frozen_layers": 2},
            "training: frozen_layers: lora freezes the whole encoder; keep one of them",
        ),
        (
            {"training__lora": {"rank": 0}},
            "training.lora.rank: must be at least 1, not 0",
        ),
        (
            {"variants__longer": {"training": {"lora": {"per": "task"}}}},
            "variants.longer: training.lora.per: must be 'run' or 'corpus', not 'task'",
        ),
        (
            {"variants__longer": {"training": {"frozen_layers": -1}}},
            "variants.longer: training.frozen_layers: must be at least 0, not -1",
        ),
        (
            {"training__loss_weights": {"cola": 0}},
            "training.loss_weights.cola: must be greater than 0, not 0",
        ),
        (
            {"variants__longer": {"training": {"head_learning_rates": {"coal": 1e-3}}}},
            "variants.longer.training.head_learning_rates: unknown name 'coal'; did you mean "
            "'cola'?",
        ),
        (
            {"training__learning_rates": {"cola": "fast"}},
            "training.learning_rates.cola: must be a number, not 'fast'",
        ),
        (
            {"training__batch_sizes": {"cola": 0}},
            "training.batch_sizes.cola: must be at least 1, not 0",
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
            "corpora.squad.source.splits: dev is missing; add it (dev may come from fractions)",
        ),
        (
            {"corpora__squad__source": {**FILES, "splits": {"train": ["a"], "dev": ["b", "a"]}}},
            "corpora.squad.source.splits: a is both train and dev; name another file, or divide it "
            "by fractions",
        ),
        (
            {"corpora__squad__source": {**FILES, "format": "conll"}},
            "corpora.squad.source.format: question_answering is read from squad, csv, tsv, jsonl "
            "or json, not from conll",
        ),
        (
            {"corpora__cola__source": {**FILES, "format": "squad"}},
            "corpora.cola.source.format: sequence_classification is read from csv, tsv, jsonl "
            "or json, not from squad",
        ),
        (
            {"corpora__cola__source": {**FILES, "format": "csv", "split_column": "fold"}},
            "corpora.cola.source: split_column: needs `files`, the files that hold all splits",
        ),
        (
            {"corpora__cola__source": {**FILES, "format": "csv", "files": ["all.csv"]}},
            "corpora.cola.source: files: needs split_column, the column that names a row's split",
        ),
        (
            {"corpora__cola__fractions": {"dev": 0.1}},
            "corpora.cola.fractions: dev is a split of the source already",
        ),
        (
            {"corpora__cola__source": {**FILES, "format": "csv", "columns": {"sentence": "text"}}},
            "corpora.cola.source.columns: sequence_classification has no column 'sentence'; "
            "did you mean 'sentence1'?",
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
            {"mixtures__qa_sc__label": " QA "},
            "mixtures.qa_sc.label: is that of qa, too: ' QA '; choose another",
        ),
        (
            {"variants__longer": {"label": "default"}},
            "variants.longer.label: is that of default, too: 'default'; choose another",
        ),
        ({"title": "a\ud800"}, "title: contains half a surrogate pair, which is not text"),
        (
            {"corpora__cola__labels": ["bad", "\udc00"]},
            "corpora.cola.labels.1: contains half a surrogate pair, which is not text",
        ),
        (
            {"corpora__cola__source": {**FILES, "format": "csv", "columns": {"label": 1.5}}},
            "corpora.cola.source.columns.label: must be text or a whole number or a list of texts "
            "or a list of whole numbers",
        ),
        (
            {"experiment": "x" * 65},
            f"experiment: must have at most 64 characters, not '{'x' * 65}'",
        ),
        ({"seeds": [2**32]}, "seeds.0: must be less than 4294967296, not 4294967296"),
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


ODD = [
    *(
        None,
        True,
        -1,
        1.5,
        2**40,
        10**30,
        float("nan"),
        float("inf"),
        "",
        "x",
        "9" * 5000,
        "x" * 99,
    ),
    *([], [None], ["x"], [1.5], [["x"]], {}, {"x": 1}, {5: 1}, {"x": {}}, {"Bad Key": "x"}),
    *(b"\xff", datetime.date(2026, 1, 2), object(), "\ud800", {"kind": "x"}, {"kind": ["files"]}),
    {"kind": "files", "format": "csv", "splits": {"test": ["a"]}, "columns": {"label": 1.5}},
]


def places(value, place=()):
    """Yield the place of every value inside nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield (*place, key)
        yield from places(inner, (*place, key))


def test_pydantic_s_words_are_never_shown():
    templates = [each["message_template_python"] for each in list_all_errors()]
    raw = {re.escape(each.partition("{")[0]) for each in templates}
    raw = re.compile("|".join(each for each in raw if len(each) > 8) + "|is not valid")
    complete = parse(small(), "x").model_dump(mode="json")
    checked = 0
    for place in places(complete):
        for odd in ODD:
            changed = copy.deepcopy(complete)
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = odd
            try:
                parse(changed, "x.yaml")
            except MtdnnError as error:
                for line in str(error).splitlines():
                    assert line.startswith("x.yaml: ") and not raw.search(line), line
                    assert not re.search(r"\[key\]|\.(str|int|list\[\w+\])[:.]", line), line
                checked += 1
    assert checked > 1000


# The types of mistakes that pydantic-core finds for each type of schema.
FOUND = {
    "bool": {"bool_type", "bool_parsing"},
    "dict": {"dict_type"},
    "float": {"float_type", "float_parsing", "finite_number"},
    "int": {"int_type", "int_parsing", "int_parsing_size", "int_from_float"},
    "list": {"list_type"},
    "literal": {"literal_error"},
    "model": {"model_type"},
    "model-fields": {"model_type", "model_attributes_type", "invalid_key"},
    "str": {"string_type", "string_unicode"},
    "tagged-union": {"union_tag_invalid", "union_tag_not_found", "model_attributes_type"},
}
# Their mistakes are our own, or those of the schemas inside.
NOTHING = {
    *("any", "default", "definition-ref", "definitions", "function-after", "function-before"),
    *("model-field", "no-info", "nullable", "union"),
}
CONSTRAINTS = {
    "ge": "greater_than_equal",
    "gt": "greater_than",
    "le": "less_than_equal",
    "lt": "less_than",
    "max_length": {"str": "string_too_long"},
    "min_length": {"str": "string_too_short", "list": "too_short", "dict": "too_short"},
    "pattern": "string_pattern_mismatch",
}


@pytest.mark.parametrize("model", [Experiment, RunSettings, Locked])
def test_each_type_of_mistake_has_our_words(model):
    needed = set()

    def walk(schema):
        if isinstance(schema, list | tuple):
            for each in schema:
                walk(each)
        if not isinstance(schema, dict):
            return
        if isinstance(kind := schema.get("type"), str):
            needed.update(() if kind in NOTHING else FOUND[kind])
            for name in CONSTRAINTS.keys() & schema.keys():
                found = CONSTRAINTS[name]
                needed.add(found[kind] if isinstance(found, dict) else found)
        for each in schema.values():
            walk(each)

    walk(model.__pydantic_core_schema__)
    assert "string_type" in needed
    assert needed <= WORDING.keys()


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(MtdnnError) as caught:
        parse(small(trainig={}, training__epochs=0), where="small.yaml")
    assert len(str(caught.value).splitlines()) == 2


def test_the_mistakes_of_all_variants_are_reported_at_once():
    variants = {name: {"training": {"epochs": name}} for name in ("many", "few")}
    with pytest.raises(MtdnnError) as caught:
        parse(small(variants=variants), where="small.yaml")
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "variants.many",
        "variants.few",
    ]


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
