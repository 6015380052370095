"""Digests of settings: each step depends on what can change its result, and on nothing else."""

from pathlib import Path

import pytest

from mtdnn.config.dependencies import (
    CODE,
    RunSteps,
    changed_sources,
    code_of,
    corpus_settings,
    encoder_settings,
    features_settings,
    is_local,
    source_files,
)
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.loading import parse
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256, write_json
from tests.support.factories import small


def digests(settings: dict) -> dict[str, str]:
    experiment = parse(settings, where="small.yaml")
    run = RunId("tiny", "qa_sc", 0.8, "default", 1)
    steps = RunSteps(experiment)
    return {step: steps.settings(run, step) for step in ("train", "evaluate", "metrics")}


def test_runs_that_differ_only_in_their_seed_have_different_digests():
    experiment = parse(small(seeds=[1, 2]), where="small.yaml")
    shared, steps = RunSteps(experiment), ("train", "evaluate", "metrics")
    runs = experiment.runs()
    together = [shared.settings(run, step) for run in runs for step in steps]
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
def test_a_step_depends_only_on_settings_that_matter_to_it(changes, steps):
    before, after = digests(small()), digests(small(**changes))
    assert {step for step in before if before[step] != after[step]} == steps


def mirror(folder: Path, text: str) -> Experiment:
    folder.mkdir()
    (folder / "train.json").write_text(text)
    splits = {"train": ["train"], "dev": ["dev"]}
    source = {"kind": "files", "format": "json", "files": ["train.json"], "splits": splits}
    return parse(small(corpora__squad__source=source, data_root=str(folder)), where="small.yaml")


def test_a_moved_mirror_is_the_same_corpus_and_another_file_is_not(tmp_path):
    first, moved = mirror(tmp_path / "first", "{}"), mirror(tmp_path / "moved", "{}")
    other = mirror(tmp_path / "other", '{"data": []}')
    assert corpus_settings(first, "squad") == corpus_settings(moved, "squad")
    assert corpus_settings(first, "squad") != corpus_settings(other, "squad")


def test_a_change_of_the_same_size_counts_and_so_does_each_file_of_one_name(tmp_path):
    (tmp_path / "de").mkdir()
    (tmp_path / "tr").mkdir()
    for name in ("de", "tr"):
        (tmp_path / name / "d.tsv").write_text("a\tb\n")
    source = {
        "kind": "files",
        "format": "tsv",
        "splits": {"train": ["tr/d.tsv"], "dev": ["de/d.tsv"]},
    }
    changes = {"corpora__cola__source": source, "data_root": str(tmp_path)}
    experiment = parse(small(**changes, results=str(tmp_path / "results")), "x")
    seen = {corpus_settings(experiment, "cola")}
    for name in ("de", "tr"):
        (tmp_path / name / "d.tsv").write_text("b\ta\n")
        seen.add(corpus_settings(experiment, "cola"))
    assert len(seen) == 3


def test_another_model_in_the_folder_of_an_encoder_counts(tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    source = {"kind": "files", "path": str(folder)}
    experiment = parse(small(encoders__tiny__source=source, results=str(tmp_path / "r")), "x")
    before = encoder_settings(experiment, "tiny")
    (folder / "README.md").write_text("not used")
    assert encoder_settings(experiment, "tiny") == before
    (folder / "model.safetensors").write_text("[]")
    assert encoder_settings(experiment, "tiny") != before


def test_an_archived_source_counts_as_it_was_when_it_was_fetched(tmp_path):
    experiment = mirror(tmp_path / "mirror", "{}")
    experiment = experiment.model_copy(update={"results": str(tmp_path / "results")})
    before = corpus_settings(experiment, "squad")
    folder = experiment.layout.corpus("squad")
    recorded = {"train.json": sha256(tmp_path / "mirror" / "train.json")}
    write_json(folder / "manifest.json", {"source": {"sha256": recorded}})
    assert changed_sources(experiment, "squad") == []
    (tmp_path / "mirror" / "train.json").write_text("[]")
    assert changed_sources(experiment, "squad") == [tmp_path / "mirror" / "train.json"]
    (tmp_path / "mirror" / "train.json").unlink()
    assert corpus_settings(experiment, "squad") == before
    assert changed_sources(experiment, "squad") == []


def test_only_a_local_folder_has_source_files(tmp_path):
    experiment = mirror(tmp_path / "mirror", "{}")
    assert source_files(experiment, "squad") == {"train.json": tmp_path / "mirror" / "train.json"}
    assert source_files(experiment, "cola") == {}  # synthetic
    source = experiment.corpora["squad"].source
    assert is_local(source)
    assert not is_local(source.model_copy(update={"root": "https://some.org/squad"}))


def test_labels_change_neither_encoders_nor_corpora_nor_features():
    before, after = parse(small(), "x"), parse(small(encoders__tiny__label="A", title="B"), "x")
    assert encoder_settings(before, "tiny") == encoder_settings(after, "tiny")
    after = parse(small(corpora__cola__label="A"), "x")
    assert corpus_settings(before, "cola") == corpus_settings(after, "cola")
    after = parse(small(corpora__cola__source__seed=2, encoders__tiny__layers=1), "x")
    assert encoder_settings(before, "tiny") != encoder_settings(after, "tiny")
    assert corpus_settings(before, "cola") != corpus_settings(after, "cola")


def test_features_of_a_variant_have_their_own_digest_if_it_changes_them():
    variants = {"overlap": {"features": {"stride_rule": "overlap"}}, "longer": {}}
    experiment = parse(small(variants=variants), "x")
    default = features_settings(experiment, "default")
    assert features_settings(experiment, "longer") == default
    assert features_settings(experiment, "overlap") != default


def test_gpus_of_runs_are_counted():
    experiment = parse(small(variants__longer={"training": {"gpus": 2}}), "x")
    steps = RunSteps(experiment)
    assert steps.gpus(RunId("tiny", "qa", 1.0, "default", 1)) == 1
    assert steps.gpus(RunId("tiny", "qa", 1.0, "longer", 1)) == 2


def test_imported_steps_are_kept_until_the_settings_change(tmp_path):
    experiment = parse(small(results=str(tmp_path)), "x")
    run = experiment.runs()[0]
    files = RunFolder(experiment.layout.run(run))
    assert RunSteps(experiment).imported(run) == []
    settings = {s: RunSteps(experiment).settings(run, s) for s in ("train", "evaluate")}
    write_json(files.imported, settings)
    write_json(files.description, {})
    assert RunSteps(experiment).imported(run) == ["train"]  # the predictions were deleted
    files.predictions.touch()
    assert RunSteps(experiment).imported(run) == ["train", "evaluate"]
    changed = parse(small(results=str(tmp_path), decoding__n_best=5), "x")
    with pytest.raises(MtdnnError, match=r"predictions.parquet: imported, but the experiment's"):
        RunSteps(changed).imported(run)


def test_code_of_every_step_has_a_digest():
    assert all(len(code_of(step)) == 16 for step in CODE)
    assert code_of("train") != code_of("metrics")
