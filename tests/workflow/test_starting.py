"""`mtdnn new` writes an experiment that passes `mtdnn check`, and never replaces a file."""

import re

import pytest
import yaml

from mtdnn.cli.main import main
from mtdnn.config.loading import parse
from mtdnn.workflow import starting


def test_a_new_experiment_is_valid_and_named_after_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    assert capsys.readouterr().out == "mine.yaml: written; edit it, then: mtdnn check mine.yaml\n"
    assert main(["check", "mine.yaml"]) == 0
    assert capsys.readouterr().out == "mine.yaml: valid, 2 runs\n"
    text = (tmp_path / "mine.yaml").read_text()
    assert "snakemake --configfile mine.yaml" in text and "{name}" not in text
    written = yaml.safe_load(text)
    assert written["experiment"] == "mine"
    assert written["tables"]["table1"]["title"] != written["figures"]["figure1"]["title"]


def test_everything_that_is_commented_out_is_valid_too(tmp_path):
    """The lines without a space after the # form an experiment together with the rest."""
    text = starting.write_new(str(tmp_path / "mine")).read_text()
    full, count = re.subn(r"^( *)#(?=[^ \n])", r"\1", text, flags=re.MULTILINE)
    assert count > 30
    experiment = parse(yaml.safe_load(full), "everything")
    assert set(experiment.corpora) == {"squad", "cola", "swag", "reviews"}
    assert set(experiment.variants) == {"slow"} and len(experiment.runs()) == 6
    assert experiment.mixtures["reviews_qa"].target == "reviews"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine", "mine.yaml: exists already; choose another name"),
        ("mine.yaml", "mine.yaml: exists already; choose another name"),
        ("other/mine", "other: no such folder; create it first"),
        (
            "My Words",
            "My Words.yaml: 'My Words' cannot be the name of an experiment; choose one of",
        ),
        ("../" + 65 * "x", "cannot be the name of an experiment"),
    ],
)
def test_what_is_refused_is_one_line(tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("my work")
    assert main(["new", name]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert (tmp_path / "mine.yaml").read_text() == "my work"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
