"""`mtdnn bench`: takes turns, counts right, and its training benchmark runs everywhere."""

import json

import pytest

from mtdnn.bench import compare, grid
from mtdnn.cli import main


def test_sides_take_turns_and_the_first_round_does_not_count(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr("mtdnn.bench.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("mtdnn.bench.time.process_time", lambda: clock[0] / 2)

    def side(name, seconds):
        def work():
            calls.append(name)
            # The first call of each is slow, as if something had to be warmed up.
            clock[0] += seconds if calls.count(name) > 1 else 100

        return work

    case = compare("case", "peer", [side("a", 1)], [side("b", 3)], rounds=3, windows="none")
    assert calls == ["b", "a", "a", "b"] * 2
    assert (case["ours_s"], case["peer_s"], case["ratio"], case["cpu_ratio"]) == (1, 3, 3, 3)
    assert case["ratio_spread"] == [3, 3]
    assert (case["case"], case["peer"], case["rounds"]) == ("case", "peer", 3)
    assert case["windows"] == "none"


@pytest.mark.patient
@pytest.mark.slow
def test_the_training_benchmark_without_any_corpus(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MTDNN_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    options = ["--folder", str(tmp_path), "--encoder", "tiny", "--rounds", "1", "--threads", "1"]
    assert main(["bench", "train", "--json", *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "1 CPU threads" in printed["device"]
    assert [(case["case"], case["peer"]) for case in printed["cases"]] == [
        ("qa_step", "trainer_padded"),
        ("qa_step", "trainer_dynamic_grouped"),
        ("sc_step", "trainer_dynamic"),
        ("qa_memory", "trainer_padded"),
    ]
    memory = printed["cases"].pop()
    assert memory["ours_bytes"] > 10**8 and memory["peer_bytes"] > 10**8
    for case in printed["cases"]:
        assert case["ours_s"] > 0 and case["peer_s"] > 0
        assert case["windows"].startswith("synthetic")
        assert case["encoder"] == "tiny shape, random weights"


def test_no_step_of_the_grid_benchmark_computes(tmp_path):
    grid._write_snakefile(tmp_path)
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
    assert case["ours_s"] > case["ours_cpu_s"] > 0 and case["memory_mb"] > 50
