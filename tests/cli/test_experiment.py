"""Commands for an experiment as a whole."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mtdnn.cli.main import main
from mtdnn.config.experiment import Experiment
from tests.support.factories import small

DEMO = "config/demo.yaml"


def test_check_counts_the_runs(capsys):
    assert main(["check", DEMO]) == 0
    assert capsys.readouterr().out == "config/demo.yaml: valid, 9 runs\n"


def test_plan_prints_json_and_imports_nothing_heavy():
    code = (
        "import sys, mtdnn.cli.main as cli;"
        "cli.main(['plan', '--json', '--no-measuring', sys.argv[1]]);"
        "assert not {'torch', 'transformers', 'mlflow'} & set(sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, DEMO], capture_output=True, text=True, check=True
    )
    planned = json.loads(answer.stdout)
    assert planned["total"]["runs"] == sum(group["runs"] for group in planned["groups"]) == 9


def test_messages_of_a_plan_as_json_name_the_experiment_s_file(tmp_path, capsys):
    path = tmp_path / 'my "own".yaml'
    settings = yaml.safe_load(Path("config/paper.yaml").read_text())
    settings |= {"results": str(tmp_path), "published": None}
    del settings["corpora"]["squad"]["rows"]
    path.write_text(yaml.safe_dump(settings))
    assert main(["plan", "--json", "--no-measuring", str(path)]) == 0
    missing = {group["missing"] for group in json.loads(capsys.readouterr().out)["groups"]}
    command = f"`mtdnn corpus {shlex.quote(str(path))} squad`"
    assert missing == {f"the size of squad is unknown; {command} fetches it"}


def test_plan_prints_a_table(capsys):
    assert main(["plan", "--no-measuring", DEMO]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["runs", "done", "steps", "time", "memory"]
    assert any(line.split()[:2] == ["all", "9"] for line in lines)


@pytest.mark.parametrize("command", ["run", "resolve"])
def test_an_unknown_run_gets_a_message_with_the_known_ones(capsys, command):
    assert main([command, DEMO, "base/qa/w1.0/default/seed7"]) == 2
    error = capsys.readouterr().err
    assert "unknown run 'base/qa/w1.0/default/seed7'; known are base/" in error


def test_settings_explains_every_section(capsys):
    assert main(["settings"]) == 0
    text = capsys.readouterr().out
    assert "learning_rate" in text and "n_best" in text


def test_schema_is_written(tmp_path):
    assert main(["schema", str(tmp_path / "schema.json")]) == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == Experiment.model_json_schema()


def test_check_refuses_a_folder_that_holds_no_encoder(tmp_path, capsys):
    """Both folders are named in one go: a decoder, and one without a tokenizer."""
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 8, "n_head": 2}')
    (tmp_path / "empty").mkdir()
    settings = small()
    for name, folder in (("tiny", tmp_path), ("large", tmp_path / "empty")):
        source = {"kind": "files", "path": str(folder)}
        settings["encoders"][name] = {"label": name, "source": source}
    settings["tables"]["table1"]["rows"].append({"encoder": "large", "mixture": "qa"})
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["check", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    written = [line.strip() for line in path.read_text().splitlines()]
    places = [
        f"mtdnn: error: {path}: line {written.index(f'path: {folder}') + 1}: encoders.{name}.source"
        for name, folder in (("tiny", tmp_path), ("large", tmp_path / "empty"))
    ]
    assert lines[0].startswith(f"{places[0]}.path: {tmp_path}/config.json: gpt2 is a decod")
    assert lines[1].startswith(f"{places[1]}.path: {tmp_path}/empty: missing config.json")
    assert len(lines) == 2
