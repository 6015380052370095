"""`mtdnn bench`: its options reach the benchmarks."""

from pathlib import Path

import pytest

from mtdnn.bench import harness
from mtdnn.cli.main import main


def test_options_reach_the_benchmarks(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(harness, "run", lambda *given: called.extend(given))
    options = ["--rounds", "3", "--only", "squad", "--precision", "bf16", "--threads", "2"]
    folder = ["--folder", str(tmp_path), "--encoder", "tiny"]
    assert main(["bench", "train", "--json", *options, *folder]) == 0
    benchmark, given, as_json = called
    assert (benchmark, as_json) == ("train", True)
    assert given == harness.Options(
        experiment=Path("config/reduced.yaml"),
        encoder="tiny",
        folder=tmp_path,
        threads=2,
        rounds=3,
        precision="bf16",
        only="squad",
    )


@pytest.mark.parametrize("mistake", [["trains"], ["train", "--rounds", "0"]])
def test_mistakes_are_refused_before_anything_starts(monkeypatch, capsys, mistake):
    monkeypatch.setattr(harness, "run", None)
    with pytest.raises(SystemExit) as stop:
        main(["bench", *mistake])
    assert stop.value.code == 2
    assert "error: argument" in capsys.readouterr().err
