"""`mtdnn bench`: takes turns, counts right, and its training benchmark runs everywhere."""

import json

import pytest

from mtdnn.bench import grid, paper
from mtdnn.bench.harness import compare
from mtdnn.cli.main import main
from mtdnn.config.loading import load


def test_sides_take_turns_and_the_first_round_does_not_count(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr("mtdnn.bench.harness.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("mtdnn.bench.harness.time.process_time", lambda: clock[0] / 2)

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


def test_the_papers_steps_follow_from_the_sizes_of_the_corpora():
    """By hand: 16 in a batch, two epochs; SQuAD's batches end one, the others share the rest."""
    steps = paper.steps_of_kinds(load(paper.CONFIG))
    batches = -(-130_319 * paper.WINDOWS_PER_QUESTION // 16)
    assert steps["base", "squad"] == pytest.approx(7 * 2 * batches)
    assert steps["large", "squad"] == pytest.approx(2 * 2 * batches)
    # Beside SQuAD: four corpora at w 0.5, 0.7, 0.8, 0.9; three without SWAG at 0.8; SWAG alone.
    four = sum((1 - w) / w / 4 for w in (0.5, 0.7, 0.8, 0.9))
    assert steps["base", "cola"] == pytest.approx(2 * batches * (four + 0.25 / 3))
    assert steps["base", "swag"] == pytest.approx(2 * batches * (four + 0.25))
    assert steps["large", "mnli"] == pytest.approx(2 * batches * 0.25 / 4)


def test_no_step_of_the_grid_benchmark_computes(tmp_path):
    grid._write_snakefile(tmp_path)
    for path in (tmp_path / "workflow" / "rules").iterdir():
        text = path.read_text()
        assert text.count("    shell:\n") == text.count('    shell:\n        "touch {output}"\n')
        assert "python -m mtdnn" not in text


@pytest.mark.patient
@pytest.mark.slow
def test_the_benchmark_of_the_paper_without_any_corpus(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MTDNN_DATA", str(tmp_path / "nowhere"))
    options = ["--folder", str(tmp_path), "--encoder", "tiny", "--threads", "1"]
    assert main(["bench", "paper", "--json", *options]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    kinds = case["kinds"]
    assert {(kind["encoder"], kind["corpus"]) for kind in kinds} == {
        (shape, corpus)
        for shape in ("base", "large")
        for corpus in ("squad", "swag", "cola", "mrpc", "mnli")
    }
    assert case["ours_s"] == pytest.approx(sum(k["steps"] * k["step_s"] for k in kinds), rel=1e-3)
    assert case["peer_s"] == 3600 * (7 * 9 + 2 * 13.5)


@pytest.mark.patient
@pytest.mark.slow
def test_the_benchmark_of_the_start(tmp_path, capsys):
    options = ["--folder", str(tmp_path), "--rounds", "1"]
    assert main(["bench", "startup", "--json", *options]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert [case["case"] for case in cases] == ["help", "imports", "first_step"]
    assert all(case["ours_s"] > 0 and case["peer_s"] > 0 for case in cases)


@pytest.mark.patient
@pytest.mark.slow
def test_the_grid_benchmark(capsys, monkeypatch):
    monkeypatch.setattr(grid, "SIZES", (9,))
    assert main(["bench", "grid", "--json", "--rounds", "1"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (case["case"], case["peer"]) == ("runs_9", "bare_snakemake")
    assert case["ours_s"] > case["ours_cpu_s"] > 0 and case["memory_mb"] > 50
