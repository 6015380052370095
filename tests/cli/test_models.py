"""Commands for trained models: missing files give one line."""

import pytest

from mtdnn.cli.main import main
from mtdnn.config.loading import parse
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.model import saving
from tests.support.factories import small


def test_a_model_that_is_missing_is_named(tmp_path, capsys):
    command = ["predict", "--model", str(tmp_path), "--data", "x.json", "--output", "y.json"]
    assert main(command) == 2
    assert capsys.readouterr().err == f"mtdnn: error: {tmp_path / 'run.json'}: no such file\n"


def test_a_description_of_another_form_is_refused(tmp_path, capsys):
    (tmp_path / "run.json").write_text("[1]")
    command = ["predict", "--model", str(tmp_path), "--data", "x.json", "--output", "y.json"]
    assert main(command) == 2
    assert capsys.readouterr().err.endswith("run.json: must be a mapping of keys to values\n")


def test_the_run_of_an_export_must_have_settings(tmp_path, capsys):
    assert main(["export", str(tmp_path), "squad", str(tmp_path / "out")]) == 2
    message = f"{tmp_path / 'config.yaml'}: no such file; `mtdnn resolve` writes it again"
    assert capsys.readouterr().err == f"mtdnn: error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_an_export_says_where_it_is(tmp_path, monkeypatch, capsys):
    experiment = parse(small(), "small.yaml")
    settings = experiment.resolve(experiment.runs()[0])
    (tmp_path / "config.yaml").write_text(dump_yaml(settings), encoding="utf-8")
    monkeypatch.setattr(saving, "export", lambda *_: None)
    assert main(["export", str(tmp_path), "squad", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == f"mtdnn: {tmp_path / 'out'}: written\n"


@pytest.mark.parametrize("command", ["predict", "score"])
def test_files_must_be_given(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command])
    assert stop.value.code == 2
    assert "the following arguments are required: --" in capsys.readouterr().err
