"""GPUs of one machine are shared out: each process gets one of its own, or waits."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtdnn import devices

HOLD = """
import os, sys
from mtdnn import devices
devices.visible = lambda: os.environ["GPUS"].split(",")
devices.take_one()
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


def take(folder: Path, gpus: str) -> subprocess.Popen:
    """A process that takes a GPU and holds it until its input is closed."""
    kept = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    return subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**kept, "GPUS": gpus, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_process_gets_a_gpu_of_its_own_and_a_third_waits(tmp_path):
    first, second = take(tmp_path, "3,GPU-5f"), take(tmp_path, "3,GPU-5f")
    taken = {process.stdout.readline().strip() for process in (first, second)}
    assert taken == {"3", "GPU-5f"}
    third = take(tmp_path, "3,GPU-5f")
    assert "every GPU is in use" in third.stderr.readline()
    time.sleep(2 * devices.POLL_SECONDS)
    assert third.poll() is None
    second.kill()  # a dead process holds nothing
    assert third.stdout.readline().strip() in taken
    for process in (first, second, third):
        process.communicate()


def test_a_single_gpu_is_not_locked(tmp_path):
    first, second = take(tmp_path, "0"), take(tmp_path, "0")
    assert [process.stdout.readline().strip() for process in (first, second)] == ["None", "None"]
    for process in (first, second):
        process.communicate()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("allowed", "present", "expected"),
    [(None, 2, ["0", "1"]), ("1", 2, ["1"]), ("", 2, []), ("0", 0, []), ("0,3", 4, ["0", "3"])],
)
def test_what_may_be_used(monkeypatch, allowed, present, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    found = [Path(f"/dev/nvidia{number}") for number in range(present)]
    monkeypatch.setattr(devices.Path, "glob", lambda *_: found)
    assert devices.visible() == expected
