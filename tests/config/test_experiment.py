"""Experiments: their runs, variants, grids and paths, and those that the repository contains."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mtdnn.config.experiment import VARIED, Experiment, nearest
from mtdnn.config.layout import RunId
from mtdnn.config.loading import load, load_run, parse
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest
from tests.support.configs import overlaid
from tests.support.factories import GRID, small

ROOT = Path(__file__).parents[2]
CONFIGS = ("demo", "reduced", "paper")


def load_paper() -> Experiment:
    return load(ROOT / "config" / "paper.yaml")


def runs_of(experiment: Experiment, *tables: str) -> set[RunId]:
    rows = [row for table in tables for row in experiment.tables[table].rows]
    return {run for row in rows for run in experiment.runs_of(row)}


def test_the_paper_s_experiment_survives_being_written_and_read(tmp_path):
    experiment = load_paper()
    path = tmp_path / "experiment.yaml"
    path.write_text(dump_yaml(experiment))
    assert load(path) == experiment
    for run in experiment.runs():
        path.write_text(dump_yaml(experiment.resolve(run)))
        assert load_run(path) == experiment.resolve(run)


def test_sensitivity_extends_the_paper_and_shares_its_runs():
    experiment = overlaid("paper.yaml", "sensitivity.yaml")
    before, after = set(load_paper().runs()), set(experiment.runs())
    assert len(after - before) == 13 * 3
    table = runs_of(experiment, "sensitivity")
    assert len(table & before) == 2 * 3
    # Every choice differs from the paper's: it determines another model.
    kinds = {digest(experiment.resolve(run).determining()) for run in table}
    assert len(kinds) == len(table)


def test_tables_share_their_runs():
    experiment = load_paper()
    of_paper = runs_of(experiment, "table1", "table2", "table3", "validation")
    assert len({(r.encoder, r.mixture, r.weight) for r in of_paper}) == 9
    assert len(of_paper) == 9 * 3
    assert len(experiment.runs()) == (9 + 5) * 3
    reduced = load(ROOT / "config" / "reduced.yaml")
    assert (len(runs_of(reduced, "table1", "table2")), len(reduced.runs())) == (7, 9)
    assert len(load(ROOT / "config" / "demo.yaml").runs()) == 9


def test_a_variant_changes_what_it_names():
    experiment = parse(small(training__learning_rate=1e-3), where="small.yaml")
    settings = experiment.resolve(RunId("tiny", "qa", 1.0, "longer", 1))
    assert (settings.training.epochs, settings.training.learning_rate) == (3, 1e-3)
    assert experiment.settings_of("longer")["training"] == settings.training.model_dump()
    assert experiment.settings_of("default")["training"] == experiment.training.model_dump()


def test_rows_and_runs_are_named_by_what_tells_them_apart():
    changes = {"variants": {"longer": {"label": "3 epochs", "training": {"epochs": 3}}}}
    experiment = parse(small(seeds=[1, 2], **changes), where="small.yaml")
    row = experiment.tables["table1"].rows[1].model_copy(update={"variant": "longer"})
    assert experiment.row_label(row) == "QA+SC"
    assert experiment.long_row_label(row) == "QA+SC at w 0.8, 3 epochs"
    named = row.model_copy(update={"label": "Ours"})
    assert experiment.long_row_label(named) == "Ours at w 0.8"
    (run, _) = experiment.runs_of(row)
    assert run.row_path == "tiny/qa_sc/w0.8/longer"
    assert experiment.run_label(run) == "QA+SC, w 0.8, 3 epochs"
    alone = RunId("tiny", "qa", 1.0, "default", 2)
    assert experiment.run_label(alone, seed=True) == "QA, seed 2"
    assert experiment.mixtures["qa"].is_alone and not experiment.mixtures["qa_sc"].is_alone


def test_features_are_shared_with_the_default_unless_a_variant_changes_them():
    variants = {"overlap": {"features": {"stride_rule": "overlap"}}, "longer": {}}
    experiment = parse(small(variants=variants), where="small.yaml")
    names = [experiment.features_variant(name) for name in ("default", "longer", "overlap")]
    assert names == ["default", "default", "overlap"]


def test_tables_and_slices_have_defaults():
    slices = {"dev": {"label": "dev"}, "other": {"label": "other", "tune_threshold_on": "dev"}}
    other = {"title": "Other", "slice": "other", "grid": GRID}
    experiment = parse(small(slices=slices, tables__other=other), where="small.yaml")
    assert (experiment.slice_of("table1"), experiment.slice_of("other")) == ("dev", "other")
    assert (experiment.tuned_on("dev"), experiment.tuned_on("other")) == (None, "dev")
    assert experiment.published_split("dev") == "dev"
    assert experiment.published_split("other") is None


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, "sqlite:///{here}/results/mlflow.db"),
        ("sqlite:///my.db", "sqlite:///{here}/my.db"),
        ("sqlite:////my.db", "sqlite:////my.db"),
        ("https://some.org/mlflow", "https://some.org/mlflow"),
    ],
)
def test_the_store_s_uri_does_not_depend_on_the_working_directory(
    tmp_path, monkeypatch, uri, expected
):
    monkeypatch.chdir(tmp_path)
    experiment = parse(small(tracking_uri=uri), where="small.yaml")
    assert experiment.store_uri == expected.format(here=tmp_path)


def test_mtdnn_data_overrides_the_data_root(tmp_path, monkeypatch):
    experiment = parse(small(data_root=str(tmp_path)), where="small.yaml")
    assert experiment.data_path("squad") == str(tmp_path / "squad")
    assert experiment.data_path(None) == str(tmp_path)
    monkeypatch.setenv("MTDNN_DATA", "/elsewhere")
    assert experiment.data_path("squad") == "/elsewhere/squad"
    assert experiment.data_path("https://some.org/squad") == "https://some.org/squad"


def test_a_grid_is_every_combination_with_the_fewest_runs():
    experiment = parse(small(tables__grid={"title": "Grid", "grid": GRID}, seeds=[1, 2]), "x")
    rows = experiment.tables["grid"].rows
    names = ["learning_rate_1e-05-dry_skip", "learning_rate_3e-5-dry_skip"]
    expected = [("qa", 1.0), ("qa_sc", 0.5), ("qa_sc", 0.8)]
    assert [(r.mixture, r.weight, r.variant) for r in rows] == [
        (*each, name) for each in expected for name in names
    ]
    rates = {experiment.resolve(experiment.runs_of(r)[0]).training.learning_rate for r in rows}
    assert rates == {1e-5, 3e-5}
    assert experiment.variants[names[0]].label == "learning rate 1e-05, dry skip"
    # The other table's two rows are trained under the experiment's own settings.
    assert len(experiment.runs()) == 2 * (2 + 6)
    assert parse(yaml.safe_load(dump_yaml(experiment)), "x") == experiment


def test_settings_of_one_name_in_two_parts_are_two_variants():
    grids = {
        part: {**GRID, "variants": ["default"], "settings": {f"{part}.precision": ["bf16"]}}
        for part in ("training", "decoding")
    }
    tables = {f"tables__{part}": {"title": part, "grid": grid} for part, grid in grids.items()}
    experiment = parse(small(**tables), "x")
    for part, other in (("training", "decoding"), ("decoding", "training")):
        run = experiment.runs_of(experiment.tables[part].rows[0])[0]
        resolved = experiment.resolve(run)
        assert getattr(resolved, part).precision == "bf16"
        assert getattr(resolved, other).precision != "bf16"


def test_a_grid_never_replaces_a_variant_of_the_same_name():
    grid = {**GRID, "variants": ["default"], "settings": {"training.epochs": [3]}}
    variants = {"epochs_3": {"training": {"epochs": 4}}}
    with pytest.raises(MtdnnError, match=r"grid: needs a variant epochs_3, but that is another"):
        parse(small(tables__grid={"title": "Grid", "grid": grid}, variants=variants), "x")


def test_rows_have_a_weight_only_where_their_policy_uses_it():
    policies = ["weighted", "uniform", {"kind": "proportional", "alpha": 0.5}]
    grid = {**GRID, "variants": ["default"], "settings": {"schedule.policy": policies}}
    experiment = parse(small(tables__grid={"title": "Grid", "grid": grid}), "x")
    rows = experiment.tables["grid"].rows
    assert [(row.mixture, row.weight, row.variant) for row in rows] == [
        *(("qa", 1.0, f"policy_{name}") for name in ("weighted", "uniform", "proportional_0.5")),
        ("qa_sc", 0.5, "policy_weighted"),
        ("qa_sc", 1.0, "policy_uniform"),
        ("qa_sc", 1.0, "policy_proportional_0.5"),
        ("qa_sc", 0.8, "policy_weighted"),
    ]
    shown = [experiment.shown_weight(row) for row in rows]
    assert shown == ["1.0", "1.0", "1.0", "0.5", "–", "–", "0.8"]
    labels = [experiment.run_label(run) for row in rows[3:5] for run in experiment.runs_of(row)]
    assert labels == ["QA+SC, w 0.5, policy weighted", "QA+SC, policy uniform"]
    assert parse(experiment.model_dump(mode="json"), "x") == experiment


def test_runs_that_a_grid_shares_with_a_table_exist_once():
    plain = {**GRID, "settings": {}, "variants": ["default", "longer"]}
    experiment = parse(small(tables__grid={"title": "Grid", "grid": plain}), "x")
    assert len(experiment.tables["grid"].rows) == 6
    assert len(experiment.runs()) == 6


@pytest.mark.parametrize("name", CONFIGS)
def test_the_experiments_of_the_repository_are_valid(name):
    experiment = load(ROOT / "config" / f"{name}.yaml")
    assert experiment.experiment == name
    assert experiment.lock == str(ROOT / "config" / f"{name}.lock.json")
    assert {"table1", "table2"} <= set(experiment.tables)
    assert set(experiment.figures) == {"figure3", "figure4"}


def test_the_examples_of_policies_and_phases_are_valid():
    guides = ("strategies.md", "interference.md", "intermediate.md")
    text = "".join((ROOT / "docs" / "guides" / name).read_text() for name in guides)
    paper = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
    paper["encoders"]["base"] = {**paper["encoders"]["bert-base-cased"], "label": "base"}
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        example = yaml.safe_load(block)
        for key in ("mixtures", "variants", "training", "tables"):
            paper[key] = {**paper.get(key, {}), **example.get(key, {})}
    assert {"t5", "anti_curriculum", "after_mnli", "ewc", "own_lora"} <= paper["variants"].keys()
    runs = parse(paper, "paper.yaml").runs()
    assert "base/mnli/w1.0/default/seed1" in [run.path for run in runs]


@pytest.mark.parametrize(
    "names",
    [
        ("paper", "strategies"),
        ("paper", "interference"),
        ("demo", "interference-small"),
        ("demo", "strategies-small"),
        ("excerpt",),
        ("excerpt", "strategies-small", "strategies-excerpt"),
        ("excerpt", "families"),
    ],
)
def test_further_experiments_and_overlays_are_valid(names):
    experiment = overlaid(*(f"{name}.yaml" for name in names))
    assert experiment.runs()


def test_slices_that_ask_something_are_not_for_the_teachers_of_other_corpora():
    small = overlaid("demo.yaml", "interference-small.yaml")
    assert any(run.mixture == "mnli" for run in small.runs())
    assert small.scored_corpus("qa_mnli", "dev") == "squad"
    assert small.scored_corpus("mnli", "dev") is None  # it expects as many items as squad has
    paper = overlaid("paper.yaml", "interference.yaml")
    assert {paper.scored_corpus("mnli", name) for name in paper.slices} == {None}


def test_an_overlay_removes_entries_that_it_gives_as_null():
    small = overlaid("demo.yaml", "interference-small.yaml")
    assert set(small.tables) == {"remedies", "optimizers"} and not small.figures
    assert {run.encoder for run in small.runs()} == {"base"}


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
    for ours, theirs in (
        (paper, published["paper_dev"]),
        (stand_in, published["paper_held_out_stand_in"]),
        (official, published["official"]),
    ):
        assert (ours.questions, ours.answerable) == (theirs["questions"], theirs["answerable"])


def test_the_papers_settings_are_the_defaults():
    experiment = load_paper()
    for part in VARIED:
        assert getattr(experiment, part) == type(getattr(experiment, part))()


def test_the_schema_is_that_of_the_code():
    written = json.loads((ROOT / "config" / "schema.json").read_text())
    assert written == Experiment.model_json_schema(), "run: mtdnn schema config/schema.json"


NEWS = {
    "label": "News",
    "family": "question_answering",
    "source": {"kind": "synthetic", "recipe": "squad", "train": 9, "dev": 6, "test": 6},
}


def test_further_sets_become_slices_on_their_test_split_and_are_predicted_by_each_run():
    settings = small(corpora__news=NEWS, evaluate_on=["news"])
    experiment = parse(settings, where="small.yaml")
    assert list(experiment.slices) == ["dev", "news"]
    entry = experiment.slices["news"]
    assert (entry.label, entry.corpus, entry.split) == ("News", "news", "test")
    for run in experiment.runs():
        resolved = experiment.resolve(run)
        assert list(resolved.scored) == ["news"] and resolved.evaluated == {"news": ["test"]}
        assert resolved.splits_of("news") == ["test"] and resolved.head_of("news") == "squad"
        assert resolved.splits_of("squad") == ["dev", "held_out"]
        assert "scored" not in resolved.determining()
    assert experiment.corpora_of("qa") == ["squad", "news"]
    again = parse(experiment.model_dump(mode="json"), where="experiment.yaml")
    assert again == experiment


def test_the_default_slice_is_the_dev_split_of_the_target():
    settings = small()
    del settings["slices"]
    experiment = parse(settings, where="small.yaml")
    assert {name: (each.corpus, each.split) for name, each in experiment.slices.items()} == {
        "dev": (None, "dev")
    }
    assert experiment.scored_corpus("qa", "dev") == "squad"


def test_a_corpus_with_other_labels_is_scored_only_by_runs_that_were_trained_on_it():
    other = {**small()["corpora"]["cola"], "label": "Other", "labels": ["no", "yes"]}
    mixtures = {
        "cola": {"label": "CoLA", "corpora": ["cola"]},
        "both": {"label": "both", "corpora": ["cola", "other"], "target": "cola"},
    }
    rows = [
        {"encoder": "tiny", "mixture": "cola"},
        {"encoder": "tiny", "mixture": "both", "weight": 0.5},
    ]
    settings = small(corpora__other=other, evaluate_on=["other"], tables__table1__rows=rows)
    experiment = parse({**settings, "mixtures": mixtures}, where="small.yaml")
    assert experiment.scored_corpus("cola", "other") is None
    assert experiment.scored_corpus("both", "other") == "other"
    assert experiment.tuned_on("dev") is None


def test_rows_of_another_experiment_are_no_runs_of_this_one():
    settings = small()
    theirs = {"from": "results/other", "encoder": "big", "mixture": "all", "weight": 0.3}
    settings["tables"]["table1"]["rows"].append(theirs)
    experiment = parse(settings, where="small.yaml")
    *ours, row = experiment.tables["table1"].rows
    assert row.origin == "results/other" and row.path == "big/all/w0.3/default"
    assert experiment.tables["table1"].own_rows == ours
    assert experiment.runs() == parse(small(), where="small.yaml").runs()
    again = parse(experiment.model_dump(mode="json"), where="experiment.yaml")
    assert again == experiment


# --- averages --------------------------------------------------------------------------------

ALONE = {"encoder": "tiny", "mixture": "qa"}
BOTH = {"mixture": "qa_sc", "weight": 0.8}


def averaging(average, seeds=(1, 2), **row):
    """An experiment with a row for question answering alone and one for an average."""
    rows = [ALONE, {**ALONE, "variant": "soup", **row}]
    return small(
        seeds=list(seeds),
        variants={"soup": {"training": {"average": average}}},
        tables={"table1": {"title": "t", "rows": rows}},
        figures={},
    )


def test_averaged_runs_come_first_and_share_the_seed():
    experiment = parse(averaging({"of": [{"mixture": "qa"}, BOTH]}), where="x")
    assert [(run.mixture, run.variant, run.seed) for run in experiment.runs()] == [
        *(("qa", "default", 1), ("qa", "default", 2)),
        *(("qa_sc", "default", 1), ("qa", "soup", 1)),
        *(("qa_sc", "default", 2), ("qa", "soup", 2)),
    ]
    last = experiment.runs()[-1]
    assert experiment.sources_of(last) == experiment.resolve(last).sources
    assert experiment.is_average(last) and not experiment.is_average(experiment.runs()[0])


def test_an_average_over_named_seeds_is_one_run():
    """As one for each seed it would count one model several times."""
    average = {"of": [{**BOTH, "seeds": [1, 2, 3]}]}
    experiment = parse(averaging(average, mixture="qa_sc"), where="x")
    (only,) = (run for run in experiment.runs() if run.variant == "soup")
    assert (only.seed, only.weight) == (1, 1.0)
    assert [source.seed for source in experiment.sources_of(only)] == [1, 2, 3]
    assert experiment.shown_weight(experiment.tables["table1"].rows[1]) == "–"


@pytest.mark.parametrize(
    ("average", "message"),
    [
        ({"of": []}, "average.of: needs at least 1"),
        ({"of": [{"mixture": "qa"}]}, "average: of: mean needs at least two runs"),
        (
            {"of": [{"mixture": "qa"}, BOTH], "scale": 0.5},
            "average: scale: is for task_arithmetic and ties, not for mean",
        ),
        (
            {"of": [{"mixture": "qa"}], "method": "task_arithmetic", "density": 0.5},
            "average: density: is for ties, not for task_arithmetic",
        ),
        (
            {"of": [{"mixture": "qa"}, BOTH], "method": "ties", "density": 0},
            "average.density: must be greater than 0, not 0",
        ),
        ({"of": [{"mixture": "qa"}, {"mixture": "qas"}]}, "average.mixture: unknown name 'qas'"),
        (
            {"of": [{"mixture": "qa"}, {"mixture": "qa_sc"}]},
            "average.weight: with 1.0 the auxiliary corpora of qa_sc are never drawn",
        ),
        (
            {"of": [{"mixture": "qa"}, {"mixture": "qa", "variant": "soup"}]},
            "training.average: the run would need itself first",
        ),
    ],
)
def test_a_wrong_average_is_one_line(average, message):
    with pytest.raises(MtdnnError) as error:
        parse(averaging(average), where="x")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training": {"average": {"of": [{"mixture": "qa", "seeds": [1, 2]}]}}},
            "training.average: is for a variant, since it needs runs that are trained",
        ),
        (
            {
                "variants": {
                    "soup": {
                        "training": {
                            "average": {"of": [{"mixture": "qa", "seeds": [1, 2]}]},
                            "lora": {},
                        }
                    }
                }
            },
            "training: lora: an average trains nothing; leave it out",
        ),
    ],
)
def test_an_average_has_no_training(changes, message):
    average = {"of": [{"mixture": "qa", "seeds": [1, 2]}]}
    with pytest.raises(MtdnnError) as error:
        parse({**averaging(average), **changes}, where="x")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_each_head_of_an_average_is_one_of_its_runs():
    average = {"of": [{"mixture": "qa", "seeds": [1, 2]}]}
    with pytest.raises(MtdnnError) as error:
        parse(averaging(average, mixture="qa_sc"), where="x")
    assert "training.average.of: none of the runs has cola, which qa_sc has" in str(error.value)


# --- distillation ----------------------------------------------------------------------------


def taught(distillation, **changes):
    """An experiment with a row for QA+SC that learns from teachers."""
    row = {"encoder": "tiny", **BOTH, "variant": "taught"}
    variants = {
        "taught": {"training": {"distillation": distillation}},
        "shorter": {"features": {"max_length": 64}},
        **changes.pop("variants", {}),
    }
    mixtures = {**small()["mixtures"], "cola": {"label": "CoLA", "corpora": ["cola"]}}
    rows = {"table1": {"title": "t", "rows": [row]}}
    return small(
        **{"seeds": [1, 2], "variants": variants, "mixtures": mixtures, "tables": rows}, **changes
    )


TEACHERS = {"squad": {"mixture": "qa"}, "cola": {"mixture": "cola", "seed": 7}}


def test_teachers_come_first_with_the_seed_of_their_student_unless_they_have_their_own():
    experiment = parse(taught({"teachers": TEACHERS}, figures={}), where="x")
    assert [(run.mixture, run.variant, run.seed) for run in experiment.runs()] == [
        *(("qa", "default", 1), ("cola", "default", 7), ("qa_sc", "taught", 1)),
        *(("qa", "default", 2), ("qa_sc", "taught", 2)),
    ]
    last = experiment.runs()[-1]
    assert experiment.sources_of(last) == experiment.resolve(last).sources
    assert experiment.teachers_of(last) == experiment.resolve(last).teachers
    assert experiment.teachers_of(experiment.runs()[0]) == {}


def test_a_start_that_is_a_teacher_too_is_one_source():
    start = {"start_from": {"mixture": "qa"}, "distillation": {"teachers": TEACHERS}}
    experiment = parse(taught({}, variants={"taught": {"training": start}}, figures={}), where="x")
    run = experiment.resolve(experiment.runs()[-1])
    assert [source.mixture for source in run.sources] == ["qa", "cola"]
    assert run.start == run.teachers["squad"]


def test_distillation_is_part_of_what_determines_a_run():
    def determining(variant="taught", **changes):
        experiment = parse(taught({"teachers": TEACHERS, **changes}, figures={}), where="x")
        run = experiment.runs()[-1]
        return experiment.resolve(replace(run, variant=variant)).determining()

    assert determining() != determining(temperature=2) != determining(share=0.5)
    assert determining() == determining(share="annealed")
    assert "distillation" not in determining("default")["training"]


@pytest.mark.parametrize(
    ("distillation", "message"),
    [
        ({"teachers": {}}, "distillation.teachers: needs at least 1"),
        ({}, "training.distillation.teachers: is missing"),
        ({"teachers": TEACHERS, "share": 0}, "distillation.share: must be greater than 0"),
        ({"teachers": TEACHERS, "share": 1.5}, "distillation.share: must be at most 1"),
        ({"teachers": TEACHERS, "share": "anealed"}, "distillation.share: must be 'annealed'"),
        ({"teachers": TEACHERS, "temperature": 0}, "temperature: must be greater than 0"),
        (
            {"teachers": {"colla": {"mixture": "cola"}}},
            "training.distillation.teachers: unknown name 'colla'; did you mean 'cola'?",
        ),
        (
            {"teachers": {"squad": {"mixture": "qas"}}},
            "training.distillation.teachers.squad.mixture: unknown name 'qas'",
        ),
        (
            {"teachers": {"squad": {"mixture": "qa", "variant": "long"}}},
            "training.distillation.teachers.squad.variant: unknown name 'long'",
        ),
        (
            {"teachers": {"cola": {"mixture": "qa"}}},
            "distillation.teachers.cola: qa is not trained on cola; name another mixture",
        ),
        (
            {"teachers": {"squad": {"mixture": "qa", "variant": "shorter"}}},
            "distillation.teachers.squad: shorter has other features, so its items are others",
        ),
        (
            {"teachers": {"squad": {"mixture": "qa_sc"}}},
            "distillation.teachers.squad.weight: with 1.0 the auxiliary corpora of qa_sc are never",
        ),
        (
            {"teachers": {"squad": {**BOTH, "variant": "taught"}}},
            "training.distillation.teachers.squad: the run would need itself first",
        ),
    ],
)
def test_a_wrong_teacher_is_one_line(distillation, message):
    with pytest.raises(MtdnnError) as error:
        parse(taught(distillation, figures={}), where="x")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_teacher_of_a_corpus_that_the_row_does_not_have_is_one_line():
    rows = [{"encoder": "tiny", "mixture": "qa", "variant": "taught"}]
    mapping = taught({"teachers": TEACHERS}, figures={})
    message = "distillation.teachers.cola: qa is not trained on cola; leave it out"
    with pytest.raises(MtdnnError, match=message) as error:
        parse({**mapping, "tables": {"table1": {"title": "t", "rows": rows}}}, where="x")
    assert "\n" not in str(error.value)


def test_students_that_teach_each_other_are_refused():
    other = {"squad": {**BOTH, "variant": "taught"}}
    mine = {"squad": {**BOTH, "variant": "other"}}
    variants = {"other": {"training": {"distillation": {"teachers": other}}}}
    with pytest.raises(MtdnnError, match="the run would need itself first") as error:
        parse(taught({"teachers": mine}, variants=variants, figures={}), where="x")
    assert "\n" not in str(error.value)


def test_an_average_learns_from_nobody():
    average = {"of": [{"mixture": "qa"}, BOTH]}
    both = {"average": average, "distillation": {"teachers": TEACHERS}}
    with pytest.raises(MtdnnError, match="distillation: an average trains nothing; leave it out"):
        mapping = averaging(average, mixture="qa_sc")
        parse({**mapping, "variants": {"soup": {"training": both}}}, where="x")


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        *(
            (word, None)
            for word in ("absence", "reference", "difference", "tense", "text", "tests")
        ),
        *((word, "sentence1") for word in ("sentence", "sentences", "sentnce1", "sentence3")),
        ("sentense2", "sentence2"),
        ("lable", "label"),
        ("clusters", "cluster"),
    ],
)
def test_only_what_is_similar_is_suggested(name, suggested):
    known = ("id", "sentence1", "sentence2", "label", "cluster")
    said = f"did you mean {suggested!r}?" if suggested else f"known are {', '.join(known)}"
    assert nearest(name, known) == f"; {said}"
