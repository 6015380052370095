"""The fingerprint of a run changes with what determines its model, and with nothing else."""

import pytest

from mtdnn.config.layout import Layout, RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json
from mtdnn.training import launch
from mtdnn.training.fingerprint import Fingerprint, check_gpus, is_finished, is_ours, trained_code
from tests.support.tiny import make_run_folder


def test_it_changes_with_the_settings_that_determine_the_model(trained):
    run_dir, run = trained
    layout = Layout.of_run(run_dir)
    first = Fingerprint.of(layout, run).digest

    def changed(**parts):
        return Fingerprint.of(layout, run.model_copy(update=parts)).digest

    assert changed(notice="shown", mixture_label="other") == first
    assert changed(decoding=run.decoding.model_copy(update={"n_best": 3})) == first
    assert changed(seed=2) != first
    assert changed(training=run.training.model_copy(update={"warmup": 0.2})) != first


def test_one_gpu_does_not_count_and_two_do(tmp_path):
    _, run = make_run_folder(tmp_path, rows=12)

    def changed(**settings):
        return run.model_copy(update={"training": run.training.model_copy(update=settings)})

    assert "gpus" not in run.determining()["training"]
    assert changed(activation_checkpointing=True).determining() == run.determining()
    assert changed(gpus=2).determining() != run.determining()
    assert not launch.is_to_launch(1) and launch.is_to_launch(2)


def test_the_corpora_count_by_their_digests(tmp_path):
    run_dir, run = make_run_folder(tmp_path, rows=12)
    layout = Layout.of_run(run_dir)
    before = Fingerprint.of(layout, run)
    features = layout.features(run.encoder_name, run.features_variant, "cola") / "features.json"
    digest = read_json(features)["corpus_digest"]
    features.write_text(features.read_text().replace(digest, "0" * len(digest)))
    after = Fingerprint.of(layout, run)
    assert after.digest != before.digest
    assert {name for name in run.corpora if after.corpora[name] != before.corpora[name]} == {"cola"}


def test_a_recorded_fingerprint_is_the_one_that_was_trained(trained):
    run_dir, run = trained
    record = read_json(RunFolder(run_dir).description)
    recorded = Fingerprint.recorded(record)
    assert recorded == Fingerprint.of(Layout.of_run(run_dir), run)
    assert recorded.digest == record["fingerprint"]


def test_a_run_is_finished_until_its_settings_change(trained, tmp_path):
    run_dir, run = trained
    assert is_finished(run_dir, run)
    assert not is_finished(run_dir, run.model_copy(update={"seed": 2}))
    untrained, settings = make_run_folder(tmp_path, rows=12)
    assert not is_finished(untrained, settings)


def test_reference_and_trial_paths_are_part_of_the_code_and_still_ours(monkeypatch):
    code = trained_code()
    monkeypatch.setenv("MTDNN_PLAIN", "dropout,attention")
    assert trained_code() == f"{code}-attention-dropout"
    assert is_ours(trained_code()) and not is_ours("0" * 16) and not is_ours(None)
    monkeypatch.setenv("MTDNN_TRIAL", "tables,products")
    assert trained_code() == f"{code}-attention-dropout-+products-+tables"
    assert is_ours(trained_code())


def test_a_checkpoint_of_another_number_of_gpus_is_not_ignored(tmp_path):
    run_dir, run = make_run_folder(tmp_path, rows=12)
    layout = Layout.of_run(run_dir)

    def on(gpus):
        training = run.training.model_copy(update={"gpus": gpus})
        return run.model_copy(update={"training": training})

    (layout.state(Fingerprint.of(layout, on(2)).digest) / "step00000010").mkdir(parents=True)
    check_gpus(layout, on(2), Fingerprint.of(layout, on(2)))
    for gpus in (1, 3):
        with pytest.raises(MtdnnError, match=r"was started with training\.gpus: 2") as error:
            check_gpus(layout, on(gpus), Fingerprint.of(layout, on(gpus)))
        assert "\n" not in str(error.value)
