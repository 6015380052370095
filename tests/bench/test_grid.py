"""The benchmark of grids: nothing is computed, each size gives a case."""

import json

import pytest

from mtdnn.bench import grid
from mtdnn.cli.main import main


def test_no_step_of_the_grid_benchmark_computes_anything(tmp_path):
    grid.write_snakefile(tmp_path)
    for path in (tmp_path / "workflow" / "rules").iterdir():
        text = path.read_text()
        assert text.count("    shell:\n") == text.count('    shell:\n        "touch {output}"\n')
        assert "python -m mtdnn" not in text


@pytest.mark.patient
@pytest.mark.slow
def test_the_grid_benchmark(capsys, monkeypatch):
    monkeypatch.setattr(grid, "SIZES", (9,))
    assert main(["bench", "grid", "--json", "--rounds", "1"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (case["case"], case["peer"]) == ("runs_9", "bare_snakemake")
    assert case["ours_s"] > case["ours_cpu_s"] > 0 and case["memory_mib"] > 50
