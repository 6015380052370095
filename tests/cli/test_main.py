"""The command line: quick to start, complete in its help, one line for each error."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mtdnn.cli import main as command_line
from mtdnn.cli.arguments import Command
from mtdnn.cli.main import COMMANDS, main
from mtdnn.errors import MtdnnError
from mtdnn.training.stopping import Stopped

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "numpy", "pyarrow", "mlflow", "pandas", "datasets"}


def imported_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after `statement`."""
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


def test_help_lists_every_command_once_in_its_group(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    group, listed = "", {}
    for line in capsys.readouterr().out.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            group = line.removesuffix(":")
        elif found := re.fullmatch(r"  (\w+) {2,}(\S.*)", line):
            assert found[1] not in listed
            listed[found[1]] = (group, found[2])
    assert listed == {command.name: (command.group, command.description) for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_explains_itself(command: Command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command.name, "--help"])
    assert stop.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith(f"usage: mtdnn {command.name} [-h]")
    assert command.description in words


def test_every_command_that_the_workflow_and_the_documentation_call_exists():
    files = [ROOT / "README.md", ROOT / "config" / "README.md", ROOT / "Makefile"]
    files += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "profiles").glob("*.md")]
    files += [*ROOT.glob("**/Snakefile"), *(ROOT / "workflow").rglob("*.smk")]
    called = set()
    for file in files:
        called |= set(re.findall(r"(?:-m |^|`)mtdnn ([a-z]+)\b", file.read_text(), re.MULTILINE))
    assert len(called) > 20
    assert called <= {command.name for command in COMMANDS}


def test_help_imports_nothing_heavy():
    """It then answers in a fraction of a second, and so does every mistake in a command."""
    statement = "from contextlib import suppress\nfrom mtdnn.cli.main import main\n"
    statement += "with suppress(SystemExit): main(['--help'])"
    assert not {*HEAVY, "pydantic", "yaml"} & imported_by(statement)


def test_configuration_imports_nothing_heavy():
    assert not HEAVY & imported_by("import mtdnn.config.experiment, mtdnn.config.dependencies")


def test_training_needs_neither_snakemake_nor_mlflow():
    """It also runs on machines that have only torch and transformers."""
    modules = imported_by(
        "import mtdnn.cli.main, mtdnn.training.loop, mtdnn.evaluation.predictions, "
        "mtdnn.workflow.running"
    )
    assert not {"snakemake", "mlflow", "datasets", "matplotlib"} & modules
    assert "torch" in modules


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys):
    assert main(["check", str(tmp_path / "none.yaml")]) == 2
    error = capsys.readouterr().err
    assert error == f"mtdnn: error: {tmp_path / 'none.yaml'}: no such file\n"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (MtdnnError("one\ntwo"), 2, "mtdnn: error: one\nmtdnn: error: two\n"),
        (Stopped("stopped by signal 15", 15), 143, "mtdnn: error: stopped by signal 15\n"),
        (
            OSError(errno.EPERM, os.strerror(errno.EPERM), "x.json"),
            2,
            "mtdnn: error: x.json: Operation not permitted\n",
        ),
        (KeyboardInterrupt(), 130, "mtdnn: interrupted\n"),
        (MemoryError(), 2, "mtdnn: error: out of memory; close other programs, or use a larger"),
    ],
)
def test_each_kind_of_error_has_its_status_and_no_traceback(
    monkeypatch, capsys, error, status, said
):
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(command_line, "COMMANDS", [Command("fail", "", "", (), fail)])
    assert main(["fail"]) == status
    assert capsys.readouterr().err.startswith(said)


def test_ctrl_c_is_one_line_also_while_libraries_are_loaded():
    program = """if True:
        import sys
        from mtdnn.__main__ import run
        class Interrupting:
            def find_spec(self, name, *_):
                if name == "tqdm":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Interrupting())
        sys.argv = ["mtdnn", "plan", "config/demo.yaml"]
        sys.exit(run())
    """
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (130, "mtdnn: interrupted\n")


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(command_line, "COMMANDS", [Command("fail", "", "", (), fail)])
    with pytest.raises(ZeroDivisionError):
        main(["fail"])
