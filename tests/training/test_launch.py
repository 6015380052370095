"""Several processes train one run: on CPUs, over gloo, as GPUs would over NCCL."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mtdnn.config.layout import Layout
from mtdnn.errors import MtdnnError
from mtdnn.model import attention
from mtdnn.training import loop
from mtdnn.training.loop import train
from mtdnn.training.stepper import RecordedParts
from tests.support.interrupted import assert_same, outcome, states
from tests.support.processes import PATIENCE_SECONDS, together
from tests.support.recorder import StandIn
from tests.support.tiny import make_run_folder

WITHOUT_DROPOUT = {"head_dropout": 0, "encoder_dropout": 0}
WITH_DROPOUT = {"head_dropout": 0.3, "encoder_dropout": 0.1}
# A softmax does not change when a constant is added to all of its inputs. The gradients of these
# biases are rounding errors, from which Adamax makes full steps.
WITHOUT_MEANING = ("attention.self.key.bias", "qa_outputs.bias", "heads.swag.linear.bias")
# Batches of 4, and one of a single item at the end of each pass.
SMALL = {"rows": 21, "weight": 0.4, "encoder": {"num_hidden_layers": 1}}


def make(folder: Path, **settings):
    return make_run_folder(folder, **SMALL, training={"batch_size": 4, "epochs": 2, **settings})


class Launched:
    """`mtdnn train` as a process of its own, which starts the processes that train."""

    def __init__(self, run_dir: Path, *options: str):
        command = [sys.executable, "-m", "mtdnn", "train", str(run_dir), "--threads", "2"]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
        )

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task")
        return [int(n) for task in tasks.glob("*/children") for n in task.read_text().split()]

    def end(self) -> tuple[int, str, str]:
        """Exit status, output and errors; fails if a process is still running."""
        children = self.children()
        try:
            output, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            self.process.kill()
        await_end(children)
        return self.process.returncode, output, errors


def await_end(processes: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := [number for number in processes if _lives(number)]:
        assert time.monotonic() < deadline, f"{left} are left"
        time.sleep(0.1)


def _lives(process: int) -> bool:
    """Whether a process runs; one whose parent was killed may stay as a zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def wait_for_checkpoint(run_dir: Path, process: subprocess.Popen) -> None:
    """Wait for the first checkpoint."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not states(run_dir):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def complaints(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if "error" in line.lower()]


# --- the result of one process ---------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The result of one process for a run without dropout."""
    run_dir, run = make(tmp_path_factory.mktemp("single"), **WITHOUT_DROPOUT)
    train(run_dir, run, threads=1)
    return outcome(run_dir)


def assert_near(result, expected) -> None:
    """Check that losses and weights are the same up to rounding."""
    (weights, lines), (other_weights, other_lines) = result, expected
    assert len(lines) >= 20 and len({line["corpus"] for line in lines}) == 4
    for line, other in zip(lines, other_lines, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
        assert ("dev_loss" in line) == ("dev_loss" in other)
        assert line.get("dev_loss", {}) == pytest.approx(other.get("dev_loss", {}), abs=1e-5)
        for value in ("loss", "grad_norm", "dev_loss"):
            line, other = {**line, value: None}, {**other, value: None}
        assert line == other
    for name, value in weights.items():
        if not name.endswith(WITHOUT_MEANING):
            torch.testing.assert_close(value, other_weights[name], atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.slow
def test_the_command_starts_processes_with_the_result_of_one(tmp_path, single):
    run_dir, _ = make(tmp_path, gpus=2, **WITHOUT_DROPOUT)
    status, output, errors = Launched(run_dir).end()
    assert status == 0, errors
    assert not re.search("warn|deprecat", errors, re.IGNORECASE), errors
    assert errors.count("steps · ") == 1 and "OMP" not in output + errors
    assert_near(outcome(run_dir), single)
    journal = (run_dir / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line).get("part") for line in journal].count(1) == 1
    assert json.loads(journal[-1])["end"] == "FINISHED"
    assert not states(run_dir)


@pytest.mark.parametrize("size", [3, 5])
def test_accumulation_checkpointed_activations_and_more_processes_than_items(
    tmp_path, single, size
):
    saving = {"accumulation": 2, "activation_checkpointing": True}
    run_dir, run = make(tmp_path, gpus=size, **saving, **WITHOUT_DROPOUT)
    assert together(size, run_dir, run) == [0] * size
    assert_near(outcome(run_dir), single)


def test_processes_know_loss_weights_rates_of_heads_and_batch_sizes(tmp_path):
    own = {"loss_weights": {"cola": 3.0}, "head_learning_rates": {"mnli": 1e-4}}
    own |= {"batch_sizes": {"swag": 3}, "learning_rates": {"swag": 2e-5}}
    results = []
    for size in (1, 2):
        folder = tmp_path / str(size)
        run_dir, run = make(folder, gpus=size, **own, **WITHOUT_DROPOUT)
        assert together(size, run_dir, run) == [0] * size
        results.append(outcome(run_dir))
    assert_near(*results)


def test_processes_share_the_estimate_of_an_anchor_and_pull_once(tmp_path):
    fisher = {"by": "true_fisher", "corpus": "cola", "items": 7}
    anchor = {"to": "phase_start", "strength": 1e5, **fisher}
    row = {"encoder": "tiny", "mixture": "squad_swag_cola_mnli", "weight": 0.4}
    results, penalties = [], []
    for size in (1, 2):
        run_dir, run = make_run_folder(
            tmp_path / str(size),
            **SMALL,
            tables={"t": {"title": "t", "rows": [row]}},
            schedule={"phases": [{"steps": 14}, {"steps": 10}]},
            training={"batch_size": 4, "gpus": size, "anchor": anchor, **WITHOUT_DROPOUT},
        )
        assert together(size, run_dir, run) == [0] * size
        weights, lines = outcome(run_dir)
        penalties.append([line.pop("penalty") for line in lines[14:]])
        results.append((weights, lines))
    assert_near(*results)
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-3) and min(penalties[0][1:]) > 0


def test_processes_that_record_their_steps_train_what_one_does(tmp_path, single):
    count, results = multiprocessing.Value("i"), []

    class Counted(StandIn):
        def __call__(self, work):
            count.value += 1
            return super().__call__(work)

    def records(rank):
        os.environ["MTDNN_PLAIN"] = "attention, dropout, embedding, optimizer"
        attention.one_by_one = attention.side_by_side  # as on a GPU

        def stepper_for(model, optimizer, settings, device, team, loss_weights):
            recorder = Counted()
            given = (model, optimizer, settings, device, recorder, loss_weights)
            recorder.stepper = RecordedParts(*given, team=team)
            return recorder.stepper

        loop.stepper_for = stepper_for

    def computes(rank):
        records(rank)
        Counted.__call__ = refuse

    for before in (records, computes):
        run_dir, run = make(tmp_path / before.__name__, gpus=2, **WITHOUT_DROPOUT)
        assert together(2, run_dir, run, before) == [0, 0]
        results.append(outcome(run_dir))
        assert count.value > 8
    assert_same(*results)
    assert_near(results[0], single)


def refuse(recorder, work):
    raise RuntimeError("no recordings here")


# --- with dropout ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir, run = make(tmp_path_factory.mktemp("undisturbed"), gpus=3, epochs=4, **WITH_DROPOUT)
    assert together(3, run_dir, run) == [0] * 3
    return outcome(run_dir)


def test_a_stopped_and_resumed_run_ends_like_an_undisturbed_one(tmp_path, undisturbed):
    """With three processes, so that the order of sums matters."""
    run_dir, run = make(tmp_path, gpus=3, epochs=4, **WITH_DROPOUT)

    def stop_one(rank: int) -> None:
        """SIGTERM for the last process alone, in the middle of the tenth to twentieth step."""
        whole = loop.random_state

        def random_state(seed, step, number):
            if rank == 2 and step == 14:
                os.kill(os.getpid(), signal.SIGTERM)
            whole(seed, step, number)

        loop.random_state = random_state

    assert together(3, run_dir, run, stop_one) == [3, 0, 0]
    assert [state.name for state in states(run_dir)] == ["step00000020"]
    for other in (1, 2):
        changed = run.training.model_copy(update={"gpus": other})
        with pytest.raises(MtdnnError, match=rf"gpus: 3, and {other} would not give the same"):
            train(run_dir, run.model_copy(update={"training": changed}), threads=1)
    assert together(3, run_dir, run) == [0] * 3
    assert_same(outcome(run_dir), undisturbed)


def test_processes_draw_different_masks(tmp_path):
    run_dir, run = make(tmp_path, gpus=2, epochs=1, **WITH_DROPOUT)

    def record(rank: int) -> None:
        whole = loop.random_state

        def random_state(*state):
            whole(*state)
            with open(tmp_path / f"drawn{rank}", "a") as file:
                file.write(f"{torch.rand(1).item()}\n")

        loop.random_state = random_state

    assert together(2, run_dir, run, record) == [0, 0]
    drawn = [(tmp_path / f"drawn{rank}").read_text().splitlines() for rank in range(2)]
    assert len(drawn[0]) == len(drawn[1]) == len(set(drawn[0] + drawn[1])) / 2


# --- signals and failures --------------------------------------------------------------------


@pytest.mark.slow
def test_sigterm_to_the_command_saves_a_checkpoint(tmp_path):
    run_dir, _ = make(tmp_path, gpus=2, epochs=100, **WITH_DROPOUT)
    launched = Launched(run_dir, "--checkpoint-minutes", "0")
    wait_for_checkpoint(run_dir, launched.process)
    launched.process.send_signal(signal.SIGTERM)
    status, _, errors = launched.end()
    assert status == 143
    (line,) = complaints(errors)
    assert re.search(r"stopped by signal 15 after (\d+)0 of \d+ steps; repeat the command", line)
    end = json.loads((run_dir / "journal.jsonl").read_text().splitlines()[-1])
    assert end["end"] == "KILLED"
    kept = int(states(run_dir)[-1].name[4:])
    assert end["reason"] in line and f"after {kept} of" in line


@pytest.mark.slow
@pytest.mark.parametrize("which", ["the leading one", "another one", "the command"])
def test_a_killed_process_ends_the_others(tmp_path, which):
    run_dir, _ = make(tmp_path, gpus=2, epochs=100, **WITH_DROPOUT)
    launched = Launched(run_dir, "--checkpoint-minutes", "0")
    wait_for_checkpoint(run_dir, launched.process)
    holder = next(Layout.of_run(run_dir).root.glob("state/runs/*/holder.json"))
    leading = json.loads(holder.read_text())["process"]
    (another,) = set(launched.children()) - {leading}
    if which == "the command":
        launched.process.kill()
        await_end([leading, another])
        assert not holder.exists()
        journal = (run_dir / "journal.jsonl").read_text().splitlines()
        assert json.loads(journal[-1])["end"] == "KILLED"
        assert launched.end()[0] == -signal.SIGKILL
        return
    os.kill(leading if which == "the leading one" else another, signal.SIGKILL)
    status, _, errors = launched.end()
    assert status == 2
    (line,) = complaints(errors)
    assert re.search(r"^mtdnn: error: training: process [01] of 2 was killed by signal 9", line)
    assert json.loads((run_dir / "failure.json").read_text())["reason"] in line


@pytest.mark.slow
def test_an_error_of_all_processes_is_reported_once(tmp_path):
    run_dir, run = make(tmp_path, gpus=2)
    encoder = Layout.of_run(run_dir).encoder(run.encoder_name)
    (encoder / "model.safetensors").write_bytes(b"cut off")
    status, _, errors = Launched(run_dir).end()
    assert status == 2
    (line,) = complaints(errors)
    assert f"{encoder / 'model.safetensors'}: was cut off or changed" in line


@pytest.mark.parametrize(("gpus", "started"), [(1, 2), (2, 1), (2, 3)])
def test_another_number_of_processes_is_refused(tmp_path, monkeypatch, gpus, started):
    run_dir, run = make(tmp_path, gpus=gpus)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(started))
    with pytest.raises(MtdnnError, match=f"gpus: {gpus}, but torchrun started {started}") as error:
        train(run_dir, run, threads=1)
    assert "\n" not in str(error.value)


def test_measuring_gradients_does_not_change_a_bit_and_makes_no_process_wait_forever(tmp_path):
    results = []
    for count in (0, 3):
        measuring = {"measurements": count, "dev_items": 4 * count, "max_share": 10}
        run_dir, run = make(tmp_path / str(count), gpus=2, interference=measuring, **WITH_DROPOUT)
        assert together(2, run_dir, run) == [0, 0]
        results.append(outcome(run_dir))
    (expected, plain), (weights, lines) = results
    measured = [line.pop("gradients", None) for line in lines]
    assert sum(each is not None for each in measured) == 3
    assert sum(line.pop("dev_loss", None) is not None for line in lines) == 2
    assert_same((weights, lines), (expected, plain))
