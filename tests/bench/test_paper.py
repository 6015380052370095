"""The benchmark of the paper's nine runs."""

import json

import pytest

from mtdnn.bench import paper
from mtdnn.cli.main import main
from mtdnn.config.loading import load


def test_the_papers_steps_follow_from_the_sizes_of_the_corpora():
    """By hand: 16 in a batch, two epochs; SQuAD's batches end one; the others share the rest."""
    steps = paper.steps_of_kinds(load(paper.CONFIG))
    batches = -(-130_319 * paper.WINDOWS_PER_QUESTION // 16)
    assert steps["base", "squad"] == pytest.approx(7 * 2 * batches)
    assert steps["large", "squad"] == pytest.approx(2 * 2 * batches)
    # Besides SQuAD: four corpora at w 0.5, 0.7, 0.8, 0.9; three without SWAG at 0.8; SWAG alone.
    four = sum((1 - w) / w / 4 for w in (0.5, 0.7, 0.8, 0.9))
    assert steps["base", "cola"] == pytest.approx(2 * batches * (four + 0.25 / 3))
    assert steps["base", "swag"] == pytest.approx(2 * batches * (four + 0.25))
    assert steps["large", "mnli"] == pytest.approx(2 * batches * 0.25 / 4)


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
