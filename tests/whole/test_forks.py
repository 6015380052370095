"""A program that is forked (`tests/support/forking.py`) behaves like one that is started."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.forking import environment

# In place of our package.
PROGRAM = """
import atexit, os, signal, sys, time

def sleep():
    print(os.getpid(), flush=True)
    time.sleep(600)

def terminated(number, _):
    raise SystemExit(number)

def shown():
    print(__name__, __package__, sys.argv[1:], sys.path[0], os.getcwd(), os.umask(0o77))
    print(os.environ["SHOWN"], sys.stdin.read(), "torch" in sys.modules, sys.orig_argv[1:])
    print("to stderr", file=sys.stderr)
    atexit.register(print, "at the end")

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    sys.exit(eval(sys.argv[1]))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Start the program above with an expression, in the folder of its package."""
    (tmp_path / "mtdnn").mkdir()
    (tmp_path / "mtdnn" / "__init__.py").touch()
    (tmp_path / "mtdnn" / "__main__.py").write_text(PROGRAM)
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['SHOWN'] = 'it is read'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def start(expression: str, is_forked: bool = True) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "mtdnn", expression],
            cwd=tmp_path,
            env=environment() if is_forked else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    output, errors = process.communicate("asked", timeout=300)
    return process.returncode, output, errors


def test_it_sees_and_says_the_same(program):
    status, output, errors = outcome(program("shown()", is_forked=False))
    assert (status, errors) == (0, "to stderr\n") and "it is read asked False" in output
    forked = output.replace("asked False", "asked True")  # torch is imported already
    assert outcome(program("shown()")) == (status, forked, errors)


@pytest.mark.parametrize(
    "expression",
    ["3", "None", "'no luck'", "1 / 0", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(4)"],
)
def test_it_ends_the_same(program, expression):
    status, output, errors = outcome(program(expression, is_forked=False))
    found = outcome(program(expression))
    assert found[:2] == (status, output)
    assert found[2].splitlines()[-1:] == errors.splitlines()[-1:]


def test_a_signal_reaches_it(program):
    process = program("sleep()")
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == signal.SIGTERM


def test_it_ends_if_the_process_that_stands_for_it_is_killed(program):
    process = program("sleep()")
    number = int(process.stdout.readline())
    assert number != process.pid
    process.kill()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{number}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
