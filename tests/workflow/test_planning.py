"""`mtdnn plan`: expected steps are those of the schedule, rates are measured only once."""

import numpy as np
import pytest

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import Layout
from mtdnn.data.features import training_features
from mtdnn.machine.files import digest, read_json, write_json
from mtdnn.training import schedule
from mtdnn.workflow import planning
from tests.support.factories import make_experiment
from tests.support.tiny import make_run_folder, make_tiny_experiment

SIZES = {"squad": 600, "swag": 90, "cola": 300, "mrpc": 40, "mnli": 500}


@pytest.mark.parametrize("dry", ["refill", "skip", "renormalise"])
@pytest.mark.parametrize("weight", [0.5, 0.8])
def test_expected_steps_are_the_mean_of_drawn_schedules(tmp_path, dry, weight):
    experiment = make_experiment(tmp_path, schedule={"dry": dry}, training={"batch_size": 4})
    run = next(r for r in experiment.runs() if r.mixture == "qa_mcc_sc" and r.weight == weight)
    settings = experiment.resolve(run)
    expected = planning.expected_steps(settings, SIZES)
    drawn = dict.fromkeys(SIZES, 0.0)
    for seed in range(20):
        for step in schedule.of_run(settings.model_copy(update={"seed": seed}), SIZES):
            drawn[step.corpus] += 1 / 20
    assert expected["squad"] == pytest.approx(300) == drawn["squad"]
    for name, count in drawn.items():
        assert count == pytest.approx(expected[name], rel=0.1, abs=3), name


def test_expected_steps_of_question_answering_with_the_steps_of_a_weight(tmp_path):
    experiment = make_experiment(tmp_path, training={"batch_size": 4, "epochs": 3})
    settings = experiment.resolve(next(r for r in experiment.runs() if r.mixture == "qa"))
    longer = settings.schedule.model_copy(update={"steps_of_weight": 0.8})
    settings = settings.model_copy(update={"schedule": longer})
    expected = planning.expected_steps(settings, {"squad": 600})
    assert expected == {"squad": pytest.approx(3 * 150 / 0.8)}
    seeds = (settings.model_copy(update={"seed": seed}) for seed in range(20))
    drawn = np.mean([len(list(schedule.of_run(each, {"squad": 600}))) for each in seeds])
    assert drawn == pytest.approx(expected["squad"], rel=0.05)


def test_seeds_form_a_group_and_assumed_values_have_a_reason(tmp_path):
    planned = planning.plan(make_experiment(tmp_path, seeds=[1, 2, 3]), threads=1)
    assert planned["total"]["runs"] == 27 and len(planned["groups"]) == 9
    assert planned["total"]["hours"] > 0 and planned["total"]["estimated"]
    lines = list(planning.lines(planned))
    assert lines[1].startswith("base/qa_mcc_sc/w0.5/default ") and " 28 " in lines[1]
    assert lines[1].count("~") == 3
    reason = "assumed, because the encoder base is missing; `mtdnn encoder CONFIG base` fetches it"
    assert any(reason in line for line in lines)
    assert any("40 GFLOP/s of a CPU thread" in line for line in lines)


def test_the_time_of_a_student_has_that_of_its_teachers_predictions(tmp_path):
    distillation = {"teachers": {"squad": {"mixture": "qa"}}}
    row = {"encoder": "base", "mixture": "qa_sc", "weight": 0.8}
    experiment = make_experiment(
        tmp_path,
        variants={"taught": {"training": {"distillation": distillation}}},
        tables={"t": {"title": "t", "rows": [row, {**row, "variant": "taught"}]}},
        figures={},
    )
    groups = {group["row"]: group for group in planning.plan(experiment, threads=1)["groups"]}
    plain, taught = (groups[f"base/qa_sc/w0.8/{name}"] for name in ("default", "taught"))
    assert list(groups)[1] == "base/qa/w1.0/default"
    assert taught["steps"] == plain["steps"]
    assert 1 < taught["hours"] / plain["hours"] < 1.5


def test_an_unknown_size_has_a_reason_and_no_time(tmp_path):
    experiment = make_experiment(tmp_path)
    source = {"kind": "hub", "repo": "a/b", "splits": {"train": ["t"], "dev": ["d"]}}
    corpora = experiment.model_dump(mode="json")["corpora"]
    corpora["cola"]["source"] = source
    planned = planning.plan(make_experiment(tmp_path, corpora=corpora), threads=1)
    assert planned["total"]["hours"] is None
    lines = list(planning.lines(planned))
    assert "–: the size of cola is unknown; `mtdnn corpus CONFIG cola` fetches it" in lines
    assert lines[1].split()[-2:] == ["–", "–"]


def test_a_large_grid_is_collapsed_and_planned_by_its_rows(tmp_path, monkeypatch):
    experiment = make_experiment(tmp_path, seeds=list(range(1112)))
    resolved, resolve = [], Experiment.resolve
    monkeypatch.setattr(Experiment, "resolve", lambda *given: resolved.append(1) or resolve(*given))
    planned = planning.plan(experiment, threads=1)
    assert planned["total"]["runs"] == 10_008
    assert len(resolved) < 10 * len(planned["groups"])

    rows = [
        {"encoder": "base", "mixture": "qa_sc", "weight": round(w, 3)}
        for w in np.linspace(0.1, 0.9, 60)
    ]
    experiment = make_experiment(
        tmp_path, tables={"table1": {"title": "Weights", "rows": rows}}, figures={}
    )
    lines = list(planning.lines(planning.plan(experiment, threads=1)))
    assert lines[1].split()[:3] == ["base/qa_sc/…", "60", "0"] and "–" in lines[1]
    assert " min" in lines[1] or " s " in lines[1]


def test_rates_are_measured_once_if_features_exist(tmp_path, monkeypatch, capsys):
    run_dir, settings = make_run_folder(tmp_path, "squad_cola", 0.8, rows=24)
    row = {"encoder": "tiny", "mixture": "squad_cola", "weight": 0.8}
    experiment = make_tiny_experiment(
        tmp_path, seeds=[1, 2], tables={"t": {"title": "t", "rows": [row]}}
    )
    capsys.readouterr()
    planned = planning.plan(experiment, threads=1)
    assert capsys.readouterr().err == (
        "mtdnn: tiny/squad_cola/w0.8/default: measuring steps of squad, cola, for up to 10 s "
        "each; the times are kept\n"
    )
    (group,) = planned["groups"]
    assert group["missing"] == "" and 0 < group["hours"] < 0.1
    assert 50 < group["memory_mib"] < 5000
    sizes = {name: planning.size(experiment, "tiny", "default", name)[0] for name in ("squad",)}
    assert sizes["squad"] == len(training_features(Layout.of_run(run_dir), settings)["squad"])
    at_once = planned["runs_at_once"]
    assert planned["total"]["hours"] == pytest.approx(2 * group["hours"] / at_once)
    assert planned["total"]["device_hours"] == pytest.approx(2 * group["hours"])
    assert planned["total"]["jobs_at_once"] == 2
    assert any("2 parallel jobs" in line for line in planning.lines(planned))
    assert 0 < group["measuring"] <= 0.05
    said = f"Times include up to {100 * group['measuring']:.1f} % of training for measuring"
    assert any(line.startswith(said) for line in planning.lines(planned))

    monkeypatch.setattr("mtdnn.workflow.rates.measure", None)  # rates are not measured again
    (run_dir / "predictions.parquet").touch()
    (run_dir / "model").mkdir()
    description = run_dir / "model" / "run.json"
    write_json(description, {"config_digest": "of other settings"})
    assert planning.plan(experiment, threads=1)["groups"] == [group]
    assert not capsys.readouterr().err
    record: dict[str, object] = {"config_digest": digest(settings.determining())}
    write_json(description, {**record, "corpora": {"squad": "of other rows"}})
    assert planning.plan(experiment, threads=1)["groups"] == [group]
    manifests = {
        name: experiment.layout.corpus(name) / "manifest.json" for name in ("squad", "cola")
    }
    corpora = {name: read_json(path)["digest"] for name, path in manifests.items() if path.exists()}
    write_json(description, {**record, "corpora": corpora})
    again = planning.plan(experiment, threads=1)
    assert again["groups"] == [{**group, "done": 1}]
    # One run that is left has the machine to itself, and takes no less than its own time.
    assert again["total"]["hours"] == pytest.approx(group["hours"])
    assert again["total"]["memory_mib"] == pytest.approx(group["memory_mib"])
    lines = list(planning.lines(again))
    assert lines[1].split()[1:3] == ["2", "1"] and " s " in lines[1] and lines[1].endswith("MiB")


@pytest.mark.parametrize(
    "training",
    [{"activation_checkpointing": True}, {"accumulation": 2}, {"encoder_dropout": 0.0}, {}],
    ids=str,
)
def test_rates_are_measured_again_where_steps_take_another_time(tmp_path, monkeypatch, training):
    make_run_folder(tmp_path, "squad_cola", 0.8, rows=24)
    row = {"encoder": "tiny", "mixture": "squad_cola", "weight": 0.8}
    measured = []

    def measure(settings, encoder, folders, corpora, threads):
        measured.append(corpora)
        for corpus in corpora:
            yield corpus, {"step_s": 1.0, "token_s": 1.0, "memory_mib": 1.0}

    monkeypatch.setattr("mtdnn.workflow.rates.measure", measure)
    plain = {"learning_rate": 1e-3}
    for changes in (plain, {**plain, **training}, {**training, "learning_rate": 1e-4}):
        experiment = make_tiny_experiment(
            tmp_path, training=changes, tables={"t": {"title": "t", "rows": [row]}}
        )
        planning.plan(experiment, threads=1)
    assert measured == [["squad", "cola"]] * (2 if training else 1)


def test_rates_of_reference_paths_are_apart(tmp_path, monkeypatch):
    make_run_folder(tmp_path, "squad", rows=24)
    row = {"encoder": "tiny", "mixture": "squad"}
    experiment = make_tiny_experiment(tmp_path, tables={"t": {"title": "t", "rows": [row]}})
    monkeypatch.setattr(
        "mtdnn.workflow.rates.measure",
        lambda *_: iter([("squad", {"step_s": 1.0, "token_s": 1.0, "memory_mib": 1.0})]),
    )
    assert not planning.plan(experiment, threads=1)["groups"][0]["estimated"]
    monkeypatch.setenv("MTDNN_PLAIN", "all")
    assert planning.plan(experiment, threads=1, measure=False)["groups"][0]["estimated"]
