"""Commands for trained models: missing files give one line."""

import pytest

from mtdnn.cli.main import main


def test_a_model_that_is_missing_is_named(tmp_path, capsys):
    command = ["predict", "--model", str(tmp_path), "--data", "x.json", "--output", "y.json"]
    assert main(command) == 2
    assert capsys.readouterr().err == f"mtdnn: error: {tmp_path / 'run.json'}: no such file\n"


def test_the_run_of_an_export_must_have_settings(tmp_path, capsys):
    assert main(["export", str(tmp_path), "squad", str(tmp_path / "out")]) == 2
    message = f"{tmp_path / 'config.yaml'}: no such file; `mtdnn resolve` writes it again"
    assert capsys.readouterr().err == f"mtdnn: error: {message}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["predict", "score"])
def test_files_must_be_given(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command])
    assert stop.value.code == 2
    assert "the following arguments are required: --" in capsys.readouterr().err
