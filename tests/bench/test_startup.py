"""The benchmark of start-up times."""

import json

import pytest

from mtdnn.cli.main import main


@pytest.mark.patient
@pytest.mark.slow
def test_the_benchmark_of_the_start(tmp_path, capsys):
    options = ["--folder", str(tmp_path), "--rounds", "1"]
    assert main(["bench", "startup", "--json", *options]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert [case["case"] for case in cases] == ["help", "imports", "first_step"]
    assert all(case["ours_s"] > 0 and case["peer_s"] > 0 for case in cases)
