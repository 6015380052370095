"""Full and read-only disks, replaced files, NaN, small GPUs, impatient users."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mtdnn.cli.main import main
from mtdnn.config.layout import Layout
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data import tokenising
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import predictions
from mtdnn.machine.files import read_json, save_tensors, write_json, write_text
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.training import loop
from mtdnn.training.checkpoints import Checkpoints
from mtdnn.training.loop import train
from mtdnn.training.stopping import Stopped
from tests.support.interrupted import assert_same, fresh, outcome, states
from tests.support.tiny import make_run_folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir, run = fresh(tmp_path_factory.mktemp("undisturbed"))
    train(run_dir, run, threads=1)
    return outcome(run_dir)


@contextmanager
def mounted(folder: Path, *options: str):
    """Mount a folder, or skip the test where this process may not."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as folder:
        yield folder


@pytest.fixture
def train_command(monkeypatch):
    """Run `mtdnn train` in this process, with a checkpoint after each step."""

    def call(run_dir: Path, minutes: str = "0") -> int:
        return main(["train", str(run_dir), "--threads", "1", "--checkpoint-minutes", minutes])

    return call


def stop_at(monkeypatch, number: int) -> None:
    """Stop training with SIGTERM once the checkpoint of a step is written."""
    save = Checkpoints.save

    def save_and_stop(self, step, *rest):
        save(self, step, *rest)
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)


# --- disks -----------------------------------------------------------------------------------


def test_a_full_disk_ends_training_and_keeps_the_checkpoints(
    tmp_path, undisturbed, train_command, capsys
):
    run_dir, _ = fresh(tmp_path / "run")
    state = Layout.of_run(run_dir).root / "state"
    with mounted(state, "-t", "tmpfs", "-o", "size=1500k", "tmpfs"):
        filler, save = state / "filler", Checkpoints.save

        def save_until_full(self, step, *rest):
            if step == 4:
                with pytest.raises(OSError, match="No space"), open(filler, "wb", 0) as file:
                    while True:
                        file.write(bytes(4096))
            save(self, step, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_until_full)
            assert train_command(run_dir) == 2
        message = capsys.readouterr().err
        pattern = r"^mtdnn: error: \S*state\S*: No space left on device; free some space"
        assert re.search(pattern, message, re.MULTILINE), message
        assert "Traceback" not in message
        assert [path.name for path in states(run_dir)] == ["step00000002", "step00000003"]
        assert not list(state.glob("*/.*"))
        filler.unlink()
        assert train_command(run_dir, "10") == 0
        assert "resumes after 3 steps" in capsys.readouterr().out
    assert_same(outcome(run_dir), undisturbed)


@pytest.mark.parametrize("kind", ["json", "text", "tensors", "parquet"])
def test_a_full_disk_leaves_the_old_file_whole(small_disk, kind, capsys):
    target = small_disk / "file"
    target.write_text("old")
    large = "x" * (2 << 20)
    with pytest.raises(OSError) as error:
        if kind == "json":
            write_json(target, large)
        elif kind == "text":
            write_text(target, large)
        elif kind == "tensors":
            save_tensors({"a": torch.zeros(1 << 19)}, target.with_name("tensors"))
        else:
            experiment_table(target, large)
    assert error.value.errno == errno.ENOSPC and error.value.filename
    assert target.read_text() == "old"


def experiment_table(target: Path, text: str) -> None:
    import pyarrow as pa

    from mtdnn.machine.files import replacing

    with replacing(target) as draft:
        pq.write_table(pa.table({"a": [text]}), draft, compression="none")


def test_a_read_only_folder_is_named(tmp_path, train_command, capsys):
    run_dir, _ = fresh(tmp_path / "run")
    root = Layout.of_run(run_dir).root
    with mounted(root, "--bind", "-o", "ro", str(root)):
        if os.access(root, os.W_OK):
            pytest.skip("this system mounts nothing read-only")
        assert train_command(run_dir) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"mtdnn: error: \S+: Read-only file system; make it writable", message)
    assert train_command(run_dir, "10") == 0


# --- files that change -----------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def replace_rows(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


def tokenise(run_dir: Path, run: RunSettings, _: int) -> None:
    layout = Layout.of_run(run_dir)
    tokenising.prepare(
        family="question_answering",
        settings=run.features,
        encoder=layout.encoder("tiny"),
        corpus=layout.corpus("squad"),
        output=layout.features("tiny", "default", "squad"),
    )


STEPS = {"features": tokenise, "train": train, "evaluate": predictions.evaluate}


@pytest.mark.parametrize(
    ("change", "name", "step"),
    [
        (cut, "corpora/squad/train.parquet", "train"),
        (replace_rows, "corpora/squad/train.parquet", "train"),
        (cut, "features/tiny/default/cola/train.arrow", "train"),
        (cut, "corpora/squad/dev.parquet", "evaluate"),
        (replace_rows, "corpora/squad/dev.parquet", "evaluate"),
        (cut, "features/tiny/default/squad/dev.arrow", "evaluate"),
        (cut, "encoders/tiny/tokenizer.json", "train"),
        (cut, "encoders/tiny/tokenizer.json", "features"),
        (replace_rows, "corpora/squad/dev.parquet", "features"),
    ],
)
def test_a_file_that_changed_after_tokenisation_is_named(tmp_path, change, name, step):
    run_dir, run = make_run_folder(
        tmp_path, mixture="squad_cola", rows=16, training={"epochs": 1, "batch_size": 8}
    )
    if step == "evaluate":
        train(run_dir, run, threads=1)
    change(Layout.of_run(run_dir).root / name)
    message = rf"{name}: was cut off or changed since it was written; delete it and rebuild it"
    with pytest.raises(MtdnnError, match=message):
        STEPS[step](run_dir, run, 1)


def test_a_corpus_that_was_replaced_as_a_whole_is_named(tmp_path):
    run_dir, run = make_run_folder(tmp_path, mixture="squad_cola", rows=16)
    manifest = Layout.of_run(run_dir).corpus("cola") / "manifest.json"
    write_json(manifest, {**read_json(manifest), "digest": "0" * 64})
    with pytest.raises(MtdnnError, match="cola: prepared from another version of cola than"):
        train(run_dir, run, threads=1)


# --- foreign checkpoints ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda description: description.update(version=1),
        lambda description: description.pop("version"),
        lambda description: description.update(sha256={}, numbers=[]),
        lambda description: description.clear(),
    ],
)
def test_a_checkpoint_of_another_version_is_skipped(
    tmp_path, undisturbed, monkeypatch, capsys, change
):
    run_dir, run = fresh(tmp_path)
    stop_at(monkeypatch, 3)
    with pytest.raises(Stopped):
        train(run_dir, run, threads=1, checkpoint_seconds=0)
    monkeypatch.undo()
    for folder in states(run_dir):
        description = read_json(folder / "checkpoint.json")
        change(description)
        write_json(folder / "checkpoint.json", description)
    train(run_dir, run, threads=1)
    assert capsys.readouterr().out.count("checkpoint skipped") == 2
    assert_same(outcome(run_dir), undisturbed)


def test_a_checkpoint_from_another_machine_is_used_and_reported(tmp_path, monkeypatch, capsys):
    run_dir, run = fresh(tmp_path)
    stop_at(monkeypatch, 3)
    with pytest.raises(Stopped):
        train(run_dir, run, threads=1, checkpoint_seconds=0)
    monkeypatch.undo()
    monkeypatch.setattr(loop, "device_name", lambda _: "another processor")
    train(run_dir, run, threads=1)
    assert "the result is as good" in capsys.readouterr().out
    parts = read_json(run_dir / "model" / "run.json")["provenance"]["parts"]
    assert [part["from_step"] for part in parts] == [0, 3]
    assert parts[1]["device"] == "another processor"


# --- numbers and memory ----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_before_it(tmp_path, monkeypatch, capsys):
    run_dir, run = fresh(tmp_path)
    whole, count = MultiTaskModel.loss, [0]

    def broken(self, name, batch):
        count[0] += 1
        return whole(self, name, batch) * (math.nan if count[0] == 6 else 1)

    monkeypatch.setattr(MultiTaskModel, "loss", broken)
    pattern = r"training: step 5 \(\w+\): loss nan.* in the batch of its training items \d+, \d+"
    with pytest.raises(MtdnnError, match=pattern):
        train(run_dir, run, threads=1, checkpoint_seconds=0)
    assert [path.name for path in states(run_dir)] == ["step00000004", "step00000005"]
    assert not (run_dir / "model").exists()
    monkeypatch.undo()
    train(run_dir, run, threads=1)
    assert "resumes after 5 steps" in capsys.readouterr().out


def test_too_little_memory_names_the_setting_to_change(tmp_path, monkeypatch):
    run_dir, run = fresh(tmp_path)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …\nSee documentation")

    monkeypatch.setattr(MultiTaskModel, "loss", full)
    pattern = r"step 0 \(\w+\): the GPU's memory is too small .* raise training.accumulation"
    with pytest.raises(MtdnnError, match=pattern) as error:
        train(run_dir, run, threads=1)
    assert "\n" not in str(error.value)


# --- clocks and users ------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_nothing(tmp_path, undisturbed, monkeypatch):
    run_dir, run = fresh(tmp_path)
    now = iter(range(10**10, -(10**10), -(10**8)))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    train(run_dir, run, threads=1, checkpoint_seconds=0)
    monkeypatch.undo()
    assert_same(outcome(run_dir), undisturbed)
    lines = (run_dir / "training.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[-1] < 3600


IMPATIENT = """
import os, signal, sys, time
from mtdnn.training.checkpoints import Checkpoints
from mtdnn.cli.main import main
save = Checkpoints.save
def twice(self, step, *rest):
    if step == 4:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(600)
    save(self, step, *rest)
Checkpoints.save = twice
sys.exit(main(["train", sys.argv[1], "--threads", "1", "--checkpoint-minutes", "0"]))
"""


def test_a_second_interrupt_ends_at_once_and_does_not_lose_a_checkpoint(tmp_path, undisturbed):
    run_dir, run = fresh(tmp_path)
    (run_dir / "config.yaml").write_text(dump_yaml(run), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, str(run_dir)], capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 130, done.stderr
    assert "mtdnn: interrupted" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in states(run_dir)] == ["step00000002", "step00000003"]
    train(run_dir, run, threads=1)
    assert_same(outcome(run_dir), undisturbed)


def test_checkpoints_on_a_slow_disk_become_rarer(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path / "state", 600)
    model = torch.nn.Linear(1, 1)
    write = save_tensors

    def slowly(*arguments):
        now[0] += 60
        write(*arguments)

    monkeypatch.setattr("mtdnn.training.checkpoints.save_tensors", slowly)
    now[0] = 601
    assert checkpoints.due
    checkpoints.save(1, model, torch.optim.Adamax(model.parameters()), [])
    saved = now[0]
    now[0] = saved + 2990
    assert not checkpoints.due
    now[0] = saved + 3001
    assert checkpoints.due


def test_a_second_process_for_the_same_run_waits_and_takes_the_result_of_the_first(
    tmp_path, undisturbed, capsys
):
    run_dir, run = fresh(tmp_path)
    (run_dir / "config.yaml").write_text(dump_yaml(run), encoding="utf-8")
    command = [sys.executable, "-m", "mtdnn", "train", str(run_dir), "--threads", "1"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    state = Layout.of_run(run_dir).root / "state"
    while not list(state.glob("runs/*/holder.json")) and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # so that it does not end before the second begins
    try:
        assert main(command[3:]) == 2
        assert f"is being trained by process {first.pid}" in capsys.readouterr().err
        assert not (run_dir / "failure.json").exists()
    finally:
        first.send_signal(signal.SIGCONT)
    train(run_dir, run, threads=1, wait=True)
    assert first.wait() == 0, first.stderr.read()
    assert_same(outcome(run_dir), undisturbed)
