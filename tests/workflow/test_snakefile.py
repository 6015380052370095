"""What the Snakefile calls: an experiment's missing files are reported before anything starts."""

from pathlib import Path

import pytest
import yaml

from mtdnn.errors import MtdnnError
from mtdnn.workflow.snakefile import load_experiment
from tests.support.factories import small


def test_missing_files_are_named_one_by_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = {"train": ["here.json", "gone.json"]}
    source = {"kind": "files", "format": "squad", "root": "squad", "splits": splits}
    settings = small(corpora__squad__source=source)
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "here.json").touch()
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(MtdnnError) as caught:
        load_experiment(settings, [Path("small.yaml")])
    assert str(caught.value) == (
        "small.yaml: corpora.squad.source.splits: no such file: squad/gone.json"
    )
    source["root"] = "https://some.org/squad"
    assert load_experiment(small(corpora__squad__source=source), [Path("small.yaml")])
