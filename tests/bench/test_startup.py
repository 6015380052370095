"""The benchmark of start-up times."""

import json
from pathlib import Path

import pytest

from mtdnn.bench import startup
from mtdnn.bench.harness import Options
from mtdnn.cli.main import main


@pytest.mark.patient
@pytest.mark.slow
def test_the_benchmark_of_the_start(tmp_path, capsys):
    options = ["--folder", str(tmp_path), "--rounds", "1"]
    assert main(["bench", "startup", "--json", *options]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert [case["case"] for case in cases] == ["help", "imports", "first_step"]
    assert all(case["ours_s"] > 0 and case["peer_s"] > 0 for case in cases)


def test_every_round_trains_the_run(tmp_path, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(startup, "compare_processes", lambda *given: commands.append(given[2]))
    options = Options(Path("config/demo.yaml"), "tiny", tmp_path, 1, rounds=1, only="first_step")
    for _ in startup.cases(options):
        (command,) = commands
        for _ in range(2):
            assert main(command[3:]) == 0
    assert "up to date" not in capsys.readouterr().err
