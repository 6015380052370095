"""Runs that learn from others: what they learn, exact resumption, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch

from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data.features import training_features
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.teaching import teach
from mtdnn.machine.files import write_text
from mtdnn.model.batches import Lesson, batch_of
from mtdnn.model.multitask import build
from mtdnn.model.saving import load
from mtdnn.training.distilling import Teachers, teacher_share
from mtdnn.training.fingerprint import Fingerprint, is_finished, starts_elsewhere
from mtdnn.training.loop import train
from mtdnn.training.schedule import Step
from tests.support.interrupted import assert_same, outcome, train_with_stops
from tests.support.processes import together
from tests.support.tiny import make_encoder, make_tiny_experiment, prepare_corpora
from tests.support.trained import lines_of, schedule_of

CORPORA = ("squad", "mnli", "stsb")
ALONE = {name: {"mixture": name} for name in CORPORA}
WITHOUT_DROPOUT = {"head_dropout": 0, "encoder_dropout": 0}
VARIANTS = {
    "annealed": {"training": {"distillation": {"teachers": ALONE}}},
    "halved": {
        "training": {
            "distillation": {
                "teachers": {"squad": {"mixture": "squad"}},
                "share": 0.5,
                "temperature": 2,
            },
            **WITHOUT_DROPOUT,
        }
    },
    "undropped": {"training": {"distillation": {"teachers": ALONE}, **WITHOUT_DROPOUT}},
    "joint": {
        "training": {"distillation": {"teachers": ALONE}, "accumulation": 2},
        "schedule": {"joint": True, "policy": "uniform"},
    },
    "others": {
        "training": {
            "distillation": {"teachers": ALONE},
            "heads": {"mnli": "san"},
            "lora": {"rank": 2, "per": "corpus"},
            "loss_balancing": "uncertainty",
        }
    },
    "plain": {"training": WITHOUT_DROPOUT},
    "two": {"training": {"distillation": {"teachers": ALONE}, "gpus": 2, **WITHOUT_DROPOUT}},
}
MIXTURES = {
    **{name: {"label": name, "corpora": [name]} for name in CORPORA},
    "all": {"label": "all", "corpora": list(CORPORA)},
}


class Runs:
    """An experiment with encoder, corpora and features, whose runs can be trained one by one."""

    def __init__(self, folder):
        row = {"encoder": "tiny", "mixture": "all"}
        rows = [
            {**row, "variant": name, **({} if name == "joint" else {"weight": 0.5})}
            for name in VARIANTS
        ]
        self.experiment = make_tiny_experiment(
            folder,
            mixtures=MIXTURES,
            variants=VARIANTS,
            tables={"t": {"title": "t", "rows": rows}},
            training={"batch_size": 8, "epochs": 1, "learning_rate": 1e-3},
        )
        self.layout = self.experiment.layout
        make_encoder(self.layout.encoder("tiny"), num_hidden_layers=1)
        prepare_corpora(self.experiment, CORPORA)

    def find(self, mixture, variant="default"):
        weight = 0.5 if mixture == "all" and variant != "joint" else 1.0
        run = RunId("tiny", mixture, weight, variant, 1)
        folder, settings = self.layout.run(run), self.experiment.resolve(run)
        write_text(folder / "config.yaml", dump_yaml(settings))
        return folder, settings

    def make(self, mixture, variant="default", force=False):
        folder, settings = self.find(mixture, variant)
        train(folder, settings, threads=1, force=force)
        return folder, settings

    def taught_by_all(self):
        for name in CORPORA:
            folder, settings = self.make(name)
            teach(folder, settings, name, threads=1)
        return self


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("distilling")).taught_by_all()


def teacher_of(runs, corpus):
    folder, settings = runs.find(corpus)
    return load(RunFolder(folder).model, settings).eval()


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_batch_has_what_the_teacher_says_of_its_items(runs, corpus):
    _, run = runs.find("all", "annealed")
    features = training_features(runs.layout, run)
    step = Step(step=4, epoch=0, corpus=corpus, rows=np.array([5, 2, 11]))
    batch = batch_of(features[corpus], step.rows)
    lesson = Teachers(runs.layout, run, features, steps=10).taught(step, batch).lesson
    with torch.no_grad():
        expected = teacher_of(runs, corpus)(corpus, batch)
    torch.testing.assert_close(lesson.logits, expected, rtol=1e-4, atol=1e-5)
    assert lesson.share.item() == pytest.approx(0.6) and lesson.temperature == 1


def test_at_first_a_student_learns_what_its_teacher_says_alone(runs):
    folder, run = runs.make("all", "undropped")
    step, losses = schedule_of(folder)[0], [line["loss"] for line in lines_of(folder)]
    batch = batch_of(training_features(runs.layout, run)[step.corpus], step.rows)
    student = build(runs.layout.encoder("tiny"), run)
    with torch.no_grad():
        logits, taught = (m(step.corpus, batch) for m in (student, teacher_of(runs, step.corpus)))
        lesson = Lesson(taught, torch.tensor(1.0), 1.0, by_token=step.corpus == "squad")
        expected = student.head(step.corpus).soft_loss(logits, batch, lesson).item()
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[0] != pytest.approx(lines_of(runs.make("all", "plain")[0])[0]["loss"])


def test_two_processes_learn_the_same_as_one(runs):
    (one, _), (two, settings) = runs.make("all", "undropped"), runs.find("all", "two")
    assert together(2, two, settings) == [0, 0]
    found, expected = ([line["loss"] for line in lines_of(folder)] for folder in (two, one))
    assert found == pytest.approx(expected, rel=1e-4)


def test_corpora_without_a_teacher_have_their_labels_alone(runs):
    (folder, _), (plain, _) = runs.make("all", "halved"), runs.make("all", "plain")
    both = list(zip(lines_of(folder), lines_of(plain), strict=True))
    first = next(n for n, (line, _) in enumerate(both) if line["corpus"] == "squad")
    assert 0 < first < len(both)
    for number, (line, other) in enumerate(both[: first + 1]):
        same = line["loss"] == other["loss"]
        assert same == (number < first), number


@pytest.mark.parametrize("variant", ["annealed", "joint", "others"])
@pytest.mark.parametrize("moments", [(1, 3)], ids=str)
def test_a_stopped_student_ends_like_an_undisturbed_one(runs, variant, moments, tmp_path):
    folder, run = runs.make("all", variant, force=True)
    undisturbed = outcome(folder)
    again = Runs(tmp_path).taught_by_all()
    other, _ = again.find("all", variant)
    train_with_stops(other, run, moments)
    assert_same(outcome(other), undisturbed)


def test_the_share_falls_in_equal_parts_from_all_to_nothing():
    shares = [teacher_share("annealed", step, 4) for step in range(4)]
    assert shares == [1.0, 0.75, 0.5, 0.25]
    assert teacher_share(0.5, 3, 4) == 0.5
    assert math.isclose(sum(teacher_share("annealed", s, 1000) for s in range(1000)) / 1000, 0.5005)


def test_teachers_are_part_of_what_identifies_a_student(runs):
    folder, run = runs.make("all", "annealed")
    about = json.loads(RunFolder(folder).description.read_text())
    assert set(about["teachers"]) == set(CORPORA) and "start" not in about
    assert is_finished(folder, run) and not starts_elsewhere(runs.layout, run, about)
    assert Fingerprint.recorded(about).digest == about["fingerprint"]
    assert "teachers" not in json.loads(
        RunFolder(runs.make("all", "plain")[0]).description.read_text()
    )
    description = RunFolder(runs.find("mnli")[0]).description
    kept = description.read_text()
    changed = json.loads(kept)
    changed["files"]["heads.safetensors"] = "0" * 64
    description.write_text(json.dumps(changed))
    try:
        assert not is_finished(folder, run) and starts_elsewhere(runs.layout, run, about)
        with pytest.raises(MtdnnError, match="was computed from another model") as error:
            train(folder, run, threads=1)
        assert "\n" not in str(error.value)
    finally:
        description.write_text(kept)


def test_logits_that_are_missing_or_were_changed_are_named(runs):
    folder, run = runs.find("all", "halved")
    path = runs.layout.logits(run.teachers["squad"].path, "squad")
    kept = path.read_bytes()
    for content, message in ((None, "`mtdnn logits` writes it"), (kept[:-1] + b"!", "was changed")):
        path.unlink()
        if content:
            path.write_bytes(content)
        try:
            with pytest.raises(MtdnnError, match=message) as error:
                train(folder, run, threads=1, force=True)
            assert str(path) in str(error.value) and "\n" not in str(error.value)
        finally:
            path.write_bytes(kept)


def test_a_teacher_that_is_not_trained_is_named(tmp_path):
    folder, run = Runs(tmp_path).find("all", "annealed")
    with pytest.raises(MtdnnError, match=r"no such file; train tiny/squad/w1.0/default/seed1 fir"):
        train(folder, run, threads=1)
