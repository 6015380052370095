"""The demo is learnable: a model learns its answers, but not shuffled ones."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mtdnn.cli.main import main
from mtdnn.config.layout import RunFolder
from mtdnn.machine.files import read_json
from tests.support.forking import environment

DEMO = Path(__file__).parents[2] / "config" / "demo.yaml"
RUN = "base/qa/w1.0/default/seed1"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The folder of the demo's encoders, with the base encoder fetched."""
    folder = tmp_path_factory.mktemp("encoder")
    config = experiment(folder, shuffled=False)
    if main(["encoder", str(config), "base"]) != 0:
        pytest.skip("the demo's encoder cannot be fetched")
    return folder / "results" / "demo" / "encoders"


def experiment(folder: Path, shuffled: bool) -> Path:
    """Write the demo reduced to question answering, with its results in `folder`."""
    mapping = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    mapping["results"] = str(folder / "results")
    mapping["corpora"] = {"squad": mapping["corpora"]["squad"]}
    mapping["corpora"]["squad"]["source"]["shuffle_answers"] = shuffled
    mapping["mixtures"] = {"qa": mapping["mixtures"]["qa"]}
    del mapping["training"]["batch_sizes"]
    mapping["tables"] = {"one": {"title": "One", "rows": [{"encoder": "base", "mixture": "qa"}]}}
    mapping["figures"] = {}
    config = folder / "demo.yaml"
    folder.mkdir(exist_ok=True)
    config.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    return config


def scores(folder: Path, encoder: Path, shuffled: bool) -> dict:
    """Train the demo's QA run step by step, each a sub-command; return its scores."""
    config = experiment(folder, shuffled)
    root = folder / "results" / "demo"
    root.mkdir(parents=True)
    (root / "encoders").symlink_to(encoder)
    run = str(root / "runs" / RUN)
    for step in (
        ["corpus", str(config), "squad"],
        ["features", str(config), "base", "squad"],
        ["run", str(config), RUN, "--threads", "1"],
        ["metrics", str(config), run],
    ):
        command = [sys.executable, "-m", "mtdnn", *step]
        subprocess.run(command, check=True, capture_output=True, env=environment())
    return read_json(RunFolder(Path(run)).metrics)["slices"]["dev"]


@pytest.mark.slow
def test_answers_are_learnt_but_shuffled_answers_are_not(tmp_path, encoder):
    learnt = scores(tmp_path / "learnt", encoder, shuffled=False)
    floor = 100 * learnt["NoAns_total"] / learnt["total"]
    assert 30 < floor < 37  # a third of the questions have no answer
    assert learnt["f1"] > floor + 20
    assert learnt["HasAns_f1"] > 50 and learnt["NoAns_exact"] > 50
    shuffled = scores(tmp_path / "shuffled", encoder, shuffled=True)
    assert shuffled["f1"] < floor + 10
    assert shuffled["HasAns_f1"] < 25
