"""Runs that are averages of others: their files, their weights, and what is refused."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mtdnn.config.layout import Layout, RunFolder, RunId
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import metrics
from mtdnn.evaluation import predictions as evaluation
from mtdnn.evaluation.results import read_rows
from mtdnn.machine.files import write_text
from mtdnn.model.saving import load
from mtdnn.reporting.figures.training import draw_corpus_shares, draw_losses, run_loss
from mtdnn.tracking.content import Source, parameters
from mtdnn.training import schedule
from mtdnn.training.fingerprint import Fingerprint, is_finished, starts_elsewhere
from mtdnn.training.log import read_training
from mtdnn.training.loop import train
from mtdnn.workflow.verification import Models
from tests.support.tiny import make_encoder, make_tiny_experiment, prepare_corpora

OF = {
    "seeds": [{"mixture": "squad_cola", "weight": 0.5, "seeds": [1, 2]}],
    "mixtures": [{"mixture": "squad"}, {"mixture": "squad_cola", "weight": 0.5}],
}
VARIANTS = {
    "over_seeds": {"training": {"average": {"of": OF["seeds"]}}},
    "soup": {"training": {"average": {"of": OF["mixtures"]}}},
    "ties": {"training": {"average": {"method": "ties", "of": OF["mixtures"]}}},
    "lora": {"training": {"lora": {"rank": 2, "per": "corpus"}}},
    "of_lora": {
        "training": {
            "average": {
                "of": [
                    {"mixture": "squad_cola", "weight": 0.5, "variant": "lora"},
                    {"mixture": "squad"},
                ]
            }
        }
    },
}


ROW = {"encoder": "tiny", "mixture": "squad"}


class Runs:
    """An experiment with encoder, corpora and features, whose runs can be trained one by one."""

    def __init__(self, folder):
        self.experiment = make_tiny_experiment(
            folder,
            seeds=[1, 2],
            variants=VARIANTS,
            tables={"t": {"title": "t", "rows": [{**ROW, "variant": "soup"}]}},
            training={"batch_size": 8, "epochs": 1, "learning_rate": 1e-3},
        )
        self.layout = self.experiment.layout
        make_encoder(self.layout.encoder("tiny"))
        prepare_corpora(self.experiment, ("squad", "cola"))

    def make(self, mixture, variant="default", seed=1):
        weight = 0.5 if mixture != "squad" and variant in ("default", "lora") else 1.0
        run = RunId("tiny", mixture, weight, variant, seed)
        folder, settings = self.layout.run(run), self.experiment.resolve(run)
        write_text(folder / "config.yaml", dump_yaml(settings))
        train(folder, settings, threads=1)
        return folder, settings


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("averages"))
    runs.trained = {
        "alone": runs.make("squad"),
        "first": runs.make("squad_cola"),
        "second": runs.make("squad_cola", seed=2),
        "lora": runs.make("squad_cola", "lora"),
    }
    return runs


def weights(folder):
    names = ("model.safetensors", "heads.safetensors")
    return {k: v for name in names for k, v in load_file(folder / "model" / name).items()}


def test_the_mean_over_seeds_is_that_of_every_weight(runs):
    folder, run = runs.make("squad_cola", "over_seeds")
    found = weights(folder)
    one, other = (weights(runs.trained[name][0]) for name in ("first", "second"))
    assert found.keys() == one.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, (one[name] + other[name]) / 2, msg=name)
    evaluation.evaluate(folder, run, threads=1)
    assert len(pq.read_table(folder / "predictions.parquet")) == 24
    assert len(pq.read_table(folder / "auxiliary.parquet")) == 24


def test_a_soup_has_the_heads_that_its_runs_share(runs):
    folder, run = runs.make("squad", "soup")
    models = [load(*_place(runs, name)) for name in ("alone", "first")]
    found = load(folder / "model", run)
    assert set(found.heads) == {"squad"}
    for part in ("encoder", "pooler", "heads.squad"):
        one, other = (model.get_submodule(part).state_dict() for model in models)
        for name, value in found.get_submodule(part).state_dict().items():
            torch.testing.assert_close(value, (one[name] + other[name]) / 2)


def _place(runs, name) -> tuple:
    folder, settings = runs.trained[name]
    return folder / "model", settings


def test_a_head_that_only_one_run_has_is_taken_from_it(runs):
    folder, _ = runs.make("squad_cola", "ties")
    found, only = (weights(each) for each in (folder, runs.trained["first"][0]))
    for name in ("heads.cola.linear.weight", "heads.cola.linear.bias"):
        assert torch.equal(found[name], only[name])


def test_adapters_of_the_target_are_merged_before(runs):
    folder, run = runs.make("squad", "of_lora")
    found = load(folder / "model", run).encoder.state_dict()
    name = "encoder.layer.0.attention.self.query.weight"
    plain = [load_file(_place(runs, each)[0] / "model.safetensors") for each in ("lora", "alone")]
    expected = sum(each[f"bert.{name}"] for each in plain) / 2
    torch.testing.assert_close(found[name], expected)


def test_its_files_are_those_of_a_run_without_steps(runs):
    folder, run = runs.make("squad", "soup")
    assert read_training(folder) == [] and schedule.counts(folder) == []
    assert pq.read_table(folder / "schedule.parquet").schema.names[0] == "step"
    about = json.loads((folder / "model" / "run.json").read_text())
    assert about["provenance"]["steps"] == 0 and about["provenance"]["device"]
    sources = {source.path for source in run.sources}
    assert set(about["provenance"]["averaged"]) == sources and len(sources) == 2
    layout = Layout.of_run(folder)
    fingerprint = Fingerprint.of(layout, run)
    assert about["fingerprint"] == fingerprint.digest and is_finished(folder, run)
    assert not starts_elsewhere(layout, run, about)
    schedule.write(folder, run)  # has nothing to draw
    assert is_finished(folder, run)


def test_what_reads_finished_runs_copes_with_an_empty_log(runs):
    folder, run = runs.make("squad", "soup")
    evaluation.evaluate(folder, run, threads=1)
    metrics.write(folder, runs.experiment)
    source = Source(folder)
    assert (source.status, list(source.read())) == ("FINISHED", [])
    assert {point.key: point.value for point in source.scores()}["training/steps"] == 0
    names = parameters(RunFolder(folder).config)
    assert any("average" in name for name in names)
    assert list(Models(runs.experiment)(folder)) == []
    assert run_loss(folder).axes
    for draw in (draw_losses, draw_corpus_shares):
        assert draw(runs.experiment).axes
    (row,) = read_rows(runs.experiment, "t")
    assert len(row.present) == 1


def test_it_is_made_again_only_when_its_runs_have_changed(runs):
    folder, run = runs.make("squad", "soup")
    before = (folder / "model" / "run.json").stat().st_mtime_ns
    train(folder, run, threads=1)
    assert (folder / "model" / "run.json").stat().st_mtime_ns == before
    description = runs.trained["alone"][0] / "model" / "run.json"
    kept = description.read_text()
    changed = json.loads(kept)
    changed["files"]["heads.safetensors"] = "0" * 64
    description.write_text(json.dumps(changed))
    assert not is_finished(folder, run)
    with pytest.raises(MtdnnError, match=r"heads\.safetensors: was cut off or changed") as error:
        train(folder, run, threads=1)
    assert "\n" not in str(error.value)
    description.write_text(kept)
    assert is_finished(folder, run)


def test_a_run_that_is_not_trained_is_named(runs):
    run = runs.experiment.resolve(RunId("tiny", "squad", 1.0, "soup", 2))
    folder = runs.layout.run(RunId("tiny", "squad", 1.0, "soup", 2))
    with pytest.raises(MtdnnError, match=r"no such file; train tiny/squad/w1.0/default/seed2 fir"):
        train(folder, run, threads=1)


def test_a_killed_process_leaves_nothing_half_made(runs, monkeypatch):
    folder, run = runs.make("squad", "soup")
    before = weights(folder)
    monkeypatch.setattr("mtdnn.training.product.write_json", lambda *_: 1 / 0)
    monkeypatch.setattr(Fingerprint, "is_made_in", lambda *_: False)
    with pytest.raises(ZeroDivisionError):
        train(folder, run, threads=1)
    after = weights(folder)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not list(folder.glob(".draft*"))


def test_models_of_different_kinds_are_refused_in_one_line(runs, monkeypatch):
    settings = runs.trained["first"][1]
    training = {**settings.training.model_dump(), **VARIANTS["over_seeds"]["training"]}
    labels = settings.corpora["cola"].model_copy(update={"labels": ["bad", "good", "fair"]})
    run = RunSettings.model_validate(
        {
            **settings.model_dump(),
            "training": training,
            "corpora": {**settings.model_dump()["corpora"], "cola": labels.model_dump()},
            "variant": "other",
        }
    )
    folder = runs.layout.run(RunId("tiny", "squad_cola", 1.0, "other", 1))
    with pytest.raises(MtdnnError, match=r"average: the runs have models of different") as error:
        train(folder, run, threads=1)
    assert "\n" not in str(error.value)
