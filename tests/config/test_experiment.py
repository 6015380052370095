"""Experiments: what is refused and how, what is read, and the three that come along."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from mtdnn.config.dependencies import RunSteps, corpus_settings
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunId
from mtdnn.config.loading import load, load_run, parse
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest
from mtdnn.workflow.snakefile import load_experiment
from tests.support.factories import SMALL

ROOT = Path(__file__).parents[2]
CONFIGS = ("demo", "reduced", "paper")

ROW = "tables.table1.rows.1"


def small(**changes: object) -> dict:
    """`SMALL` with values put at places, whose dots are written as double underscores."""
    settings = copy.deepcopy(SMALL)
    for path, value in changes.items():
        place, (*parents, last) = settings, path.split("__")
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        place[int(last) if isinstance(place, list) else last] = value
    return settings


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
            {"tables__table1__rows__1__qa_weight": 1.2},
            f"{ROW}.qa_weight: Input should be less than or equal to 1, not 1.2",
        ),
        (
            {"tables__table1__rows__1__qa_weight": 0},
            f"{ROW}.qa_weight: Input should be greater than 0, not 0",
        ),
        (
            {"tables__table1__rows__1__qa_weight": 1},
            f"{ROW}.qa_weight: with 1.0 the auxiliary corpora of qa_sc are never drawn; "
            "give a weight below 1",
        ),
        (
            {"tables__table1__rows__0__qa_weight": 0.5},
            "tables.table1.rows.0.qa_weight: qa has no auxiliary corpus, "
            "so its QA weight is 1.0, not 0.5",
        ),
        (
            {"training__learning_rate": "fast"},
            "training.learning_rate: Input should be a valid number, "
            "unable to parse string as a number, not 'fast'",
        ),
        (
            {"training__learning_rate": float("nan")},
            "training.learning_rate: Input should be a finite number, not nan",
        ),
        (
            {"training__optimizer": "adam"},
            "training.optimizer: Input should be 'adamax' or 'adamax_legacy', not 'adam'",
        ),
        (
            {"variants__longer": {"training": {"epochs": "many"}}},
            "variants.longer: training.epochs: Input should be a valid integer, "
            "unable to parse string as an integer, not 'many'",
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
            {"mixtures__qa__corpora": ["cola"]},
            "mixtures.qa: needs exactly one question_answering corpus, has 0",
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
            {"tune_threshold_on": "held_out"},
            "tune_threshold_on: held_out needs a corpus with held_out_titles",
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


def test_every_mistake_of_a_file_is_told_at_once():
    with pytest.raises(MtdnnError) as caught:
        parse(small(trainig={}, training__epochs=0), where="small.yaml")
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_key_is_named():
    settings = small()
    del settings["slices"]
    with pytest.raises(MtdnnError, match=r"^small.yaml: slices: is missing$"):
        parse(settings, where="small.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 1: not valid YAML: the key 'a' occurs twice"),
        ("a: [1\nb: 2\n", "line 2: not valid YAML: expected ',' or ']', but got ':'"),
        ("- a\n", "must be a mapping of keys to values"),
        ("", "must be a mapping of keys to values"),
        ("a: \x00\n", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []\n", "not valid YAML: could not determine"),
    ],
)
def test_broken_yaml_is_one_line(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(MtdnnError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MtdnnError, match=r"none.yaml: no such file$"):
        load(tmp_path / "none.yaml")


def test_numbers_without_a_dot_are_numbers(tmp_path):
    path = tmp_path / "small.yaml"
    text = yaml.safe_dump(SMALL) + "training: {learning_rate: 3e-5, weight_decay: 1E-2}\n"
    path.write_text(text)
    training = load(path).training
    assert (training.learning_rate, training.weight_decay) == (3e-5, 1e-2)


def test_an_experiment_survives_being_written_and_read(tmp_path):
    experiment = load_paper()
    path = tmp_path / "experiment.yaml"
    path.write_text(dump_yaml(experiment))
    assert load(path) == experiment
    for run in experiment.runs():
        path.write_text(dump_yaml(experiment.resolve(run)))
        assert load_run(path) == experiment.resolve(run)


def load_paper() -> Experiment:
    return load(ROOT / "config" / "paper.yaml")


def runs_of(experiment: Experiment, *tables: str) -> set[RunId]:
    rows = [row for table in tables for row in experiment.tables[table].rows]
    return {run for row in rows for run in experiment.runs_of(row)}


def test_sensitivity_is_laid_over_the_paper_and_shares_its_runs():
    paper = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
    overlay = yaml.safe_load((ROOT / "config" / "sensitivity.yaml").read_text())
    update_config(paper, overlay)
    experiment = parse(paper, where="both")
    before, after = set(load_paper().runs()), set(experiment.runs())
    assert len(after - before) == 11 * 3
    table = runs_of(experiment, "sensitivity")
    assert len(table & before) == 2 * 3
    # Every choice is another one than the paper's: it determines another model.
    kinds = {digest(experiment.resolve(run).determining()) for run in table}
    assert len(kinds) == len(table)


def test_tables_share_their_runs():
    experiment = load_paper()
    of_paper = runs_of(experiment, "table1", "table2", "table3", "validation")
    assert len({(r.encoder, r.mixture, r.qa_weight) for r in of_paper}) == 9
    assert len(of_paper) == 9 * 3
    assert len(experiment.runs()) == (9 + 5) * 3
    reduced = load(ROOT / "config" / "reduced.yaml")
    assert (len(runs_of(reduced, "table1", "table2")), len(reduced.runs())) == (7, 9)
    assert len(load(ROOT / "config" / "demo.yaml").runs()) == 9


def test_a_variant_changes_what_it_names():
    experiment = parse(small(training__learning_rate=1e-3), where="small.yaml")
    settings = experiment.resolve(RunId("tiny", "qa", 1.0, "longer", 1))
    assert (settings.training.epochs, settings.training.learning_rate) == (3, 1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_experiments_that_come_along_are_valid(name):
    experiment = load(ROOT / "config" / f"{name}.yaml")
    assert experiment.experiment == name
    assert experiment.lock == str(ROOT / "config" / f"{name}.lock.json")
    assert {"table1", "table2"} <= set(experiment.tables)
    assert set(experiment.figures) == {"figure3", "figure4"}


def test_results_that_are_not_the_papers_say_so():
    assert load_paper().notice is None
    assert "Reduced data" in load(ROOT / "config" / "reduced.yaml").notice
    assert "Synthetic corpora" in load(ROOT / "config" / "demo.yaml").notice


@pytest.mark.parametrize("name", ["reduced", "paper"])
def test_slices_are_the_published_ones(name):
    published = json.loads((ROOT / "results/published/dev_slices.json").read_text())
    slices = load(ROOT / "config" / f"{name}.yaml").slices
    paper, stand_in, official = slices["paper_dev"], slices["stand_in"], slices["official"]
    titles = list(published["paper_dev"]["titles"])
    assert next(iter(slices)) == "paper_dev"
    assert paper.titles == stand_in.exclude_titles == titles
    for mine, theirs in (
        (paper, published["paper_dev"]),
        (stand_in, published["paper_held_out_stand_in"]),
        (official, published["official"]),
    ):
        assert (mine.questions, mine.answerable) == (theirs["questions"], theirs["answerable"])


def test_the_papers_settings_are_the_defaults():
    experiment = load_paper()
    for part in ("features", "schedule", "training", "decoding"):
        assert getattr(experiment, part) == type(getattr(experiment, part))()


def test_the_schema_is_that_of_the_code():
    written = json.loads((ROOT / "config" / "schema.json").read_text())
    assert written == Experiment.model_json_schema(), "run: mtdnn schema config/schema.json"


def test_every_unknown_name_is_said_at_once():
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


# --- what the workflow derives from an experiment ----------------------------------------------


def digests(settings: dict) -> dict[str, str]:
    experiment = parse(settings, where="small.yaml")
    run = RunId("tiny", "qa_sc", 0.8, "default", 1)
    known = RunSteps(experiment)
    return {step: known.settings(run, step) for step in ("train", "evaluate", "metrics")}


def test_runs_that_differ_in_their_seed_alone_share_no_digest():
    experiment = parse({**SMALL, "seeds": [1, 2]}, where="small.yaml")
    known, steps = RunSteps(experiment), ("train", "evaluate", "metrics")
    runs = experiment.runs()
    together = [known.settings(run, step) for run in runs for step in steps]
    assert len(set(together)) == len(together)
    alone = [RunSteps(experiment).settings(run, step) for run in runs for step in steps]
    assert together == alone


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"title": "Another"}, set()),
        ({"seeds": [1, 2]}, set()),
        ({"figures__figure4__title": "Another"}, set()),
        ({"variants__longer": {"training": {"epochs": 9}}}, set()),
        ({"slices__dev__label": "Another"}, {"metrics"}),
        ({"corpora__cola__label": "Another"}, {"metrics"}),
        ({"decoding__n_best": 5}, {"evaluate", "metrics"}),
        ({"training__epochs": 5}, {"train", "evaluate", "metrics"}),
        ({"schedule__spread": "families"}, {"train", "evaluate", "metrics"}),
    ],
)
def test_a_step_knows_only_the_settings_that_matter_to_it(changes, steps):
    before, after = digests(small()), digests(small(**changes))
    assert {step for step in before if before[step] != after[step]} == steps


def mirror(folder: Path, text: str) -> Experiment:
    folder.mkdir()
    (folder / "train.json").write_text(text)
    source = {"kind": "files", "format": "squad", "splits": {"train": ["train.json"]}}
    return parse(small(corpora__squad__source=source, data_root=str(folder)), where="small.yaml")


def test_a_moved_mirror_is_the_same_corpus_and_another_file_is_not(tmp_path):
    first, moved = mirror(tmp_path / "first", "{}"), mirror(tmp_path / "moved", "{}")
    other = mirror(tmp_path / "other", '{"data": []}')
    assert corpus_settings(first, "squad") == corpus_settings(moved, "squad")
    assert corpus_settings(first, "squad") != corpus_settings(other, "squad")


def test_mtdnn_data_overrides_the_data_root(tmp_path, monkeypatch):
    experiment = mirror(tmp_path / "mirror", "{}")
    assert experiment.data_path("squad") == str(tmp_path / "mirror" / "squad")
    monkeypatch.setenv("MTDNN_DATA", "/elsewhere")
    assert experiment.data_path("squad") == "/elsewhere/squad"
    assert experiment.data_path("https://some.org/squad") == "https://some.org/squad"


def test_missing_files_are_named_one_by_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = {"train": ["here.json", "gone.json"]}
    source = {"kind": "files", "format": "squad", "root": "squad", "splits": splits}
    settings = small(corpora__squad__source=source)
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "here.json").touch()
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(MtdnnError) as caught:
        load_experiment(settings, [Path("small.yaml")])
    assert str(caught.value) == (
        "small.yaml: corpora.squad.source.splits: no such file: squad/gone.json"
    )
    source["root"] = "https://some.org/squad"
    assert load_experiment(small(corpora__squad__source=source), [Path("small.yaml")])


# --- grids -----------------------------------------------------------------------------------

GRID = {
    "encoders": ["tiny"],
    "mixtures": ["qa", "qa_sc"],
    "qa_weights": [0.5, 0.8],
    "settings": {"training.learning_rate": [1e-5, "3e-5"], "schedule.dry": ["skip"]},
}


def test_a_grid_is_every_combination_with_the_fewest_runs():
    experiment = parse(small(tables__grid={"title": "Grid", "grid": GRID}, seeds=[1, 2]), "x")
    rows = experiment.tables["grid"].rows
    names = ["learning_rate_1e-05-dry_skip", "learning_rate_3e-5-dry_skip"]
    wanted = [("qa", 1.0), ("qa_sc", 0.5), ("qa_sc", 0.8)]
    assert [(r.mixture, r.qa_weight, r.variant) for r in rows] == [
        (*each, name) for each in wanted for name in names
    ]
    rates = {experiment.resolve(experiment.runs_of(r)[0]).training.learning_rate for r in rows}
    assert rates == {1e-5, 3e-5}
    assert experiment.variants[names[0]].label == "learning rate 1e-05, dry skip"
    # The other table's two rows are trained under the experiment's own settings.
    assert len(experiment.runs()) == 2 * (2 + 6)
    again = parse(yaml.safe_load(dump_yaml(experiment)), "x")
    assert again == experiment


def test_runs_that_a_grid_shares_with_a_table_are_made_once():
    plain = {**GRID, "settings": {}, "variants": ["default", "longer"]}
    experiment = parse(small(tables__grid={"title": "Grid", "grid": plain}), "x")
    assert len(experiment.tables["grid"].rows) == 6
    assert len(experiment.runs()) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixtures": ["qb"]}, r"tables.grid.grid.mixtures: unknown name 'qb'; known are"),
        ({"encoders": ["tinny"]}, "unknown name 'tinny'"),
        ({"variants": ["shorter"]}, "variants: unknown name 'shorter'"),
        ({"qa_weights": []}, "grid.qa_weights: qa_sc needs at least one"),
        ({"qa_weights": [1.2]}, "qa_weight"),
        ({"settings": {"learning_rate": [1]}}, "'learning_rate' is not a setting; write, for"),
        ({"settings": {"training.learning_rat": [1]}}, "learning_rat: unknown key"),
        ({"settings": {"training.epochs": ["many"]}}, "epochs"),
        ({"settings": {"training.epochs": list(range(1, 9999))}}, "more than 10000 combinations"),
        ({"weights": [0.5]}, "weights: unknown key"),
    ],
)
def test_a_wrong_grid_is_one_line(changes, message):
    with pytest.raises(MtdnnError, match=message) as error:
        parse(small(tables__grid={"title": "Grid", "grid": {**GRID, **changes}}), "x")
    assert "\n" not in str(error.value)


def test_a_table_needs_rows():
    with pytest.raises(MtdnnError, match=r"tables\.grid: has neither rows nor a grid"):
        parse(small(tables__grid={"title": "Grid"}), "x")
