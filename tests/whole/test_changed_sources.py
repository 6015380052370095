"""A local file of a corpus is edited between two calls of Snakemake."""

import sys
from pathlib import Path

import pytest

from mtdnn.config.loading import load
from mtdnn.machine.files import read_product
from mtdnn.workflow import planning
from tests.support.workdir import Workdir, make_workdir

RUN = "tiny/sc/w1.0/default/seed1"
METRICS = f"results/small/runs/{RUN}/metrics.json"
SENTENCES = ["the cat sleeps", "cat the sleeps", "a dog barks", "barks dog a"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Workdir:
    """An experiment with one corpus, of local files, and one run."""
    workdir = make_workdir(tmp_path_factory.mktemp("changed"))
    columns = {"id": "nr", "sentence1": "text", "label": "label"}
    splits = {split: [f"{split}.csv"] for split in ("train", "dev")}
    source = {"kind": "files", "root": "data", "format": "csv"}
    source |= {"splits": splits, "columns": columns}
    settings = workdir.settings
    settings["corpora"] = {"cola": {**settings["corpora"]["cola"], "source": source}}
    settings["mixtures"] = {"sc": {"label": "SC", "corpora": ["cola"]}}
    settings["tables"] = {"t": {"title": "T", "rows": [{"encoder": "tiny", "mixture": "sc"}]}}
    del settings["variants"], settings["figures"]
    (workdir.folder / "data").mkdir()
    for split, end in zip(splits, ("", " now"), strict=True):
        rows = [
            f"{nr},{text}{end},{'good' if nr % 2 else 'bad'}"
            for nr, text in enumerate(SENTENCES * 3)
        ]
        (workdir.folder / "data" / f"{split}.csv").write_text("\n".join(["nr,text,label", *rows]))
    return workdir


def mtdnn(workdir: Workdir, *arguments: str) -> None:
    answer = workdir.call(sys.executable, "-m", "mtdnn", *arguments)
    assert answer.returncode == 0, answer.stdout


def snakemake(workdir: Workdir, *arguments: str) -> str:
    answer = workdir.snakemake(*arguments)
    assert answer.returncode == 0, answer.stdout
    return answer.stdout


def edit_dev_file(workdir: Workdir, old: str, new: str) -> Path:
    path = workdir.folder / "data" / "dev.csv"
    path.write_text(path.read_text().replace(old, new))
    return path


def runs_done(workdir: Workdir, monkeypatch) -> int:
    monkeypatch.chdir(workdir.folder)
    return planning.plan(load(Path("small.yaml")), threads=1, measure=False)["total"]["done"]


def test_a_changed_dev_file_is_followed_even_after_an_interruption(workdir, monkeypatch):
    # Fetched by hand: Snakemake has no record of it.
    mtdnn(workdir, "corpus", "small.yaml", "cola")
    snakemake(workdir, METRICS)
    assert "Nothing to be done" in snakemake(workdir, METRICS)
    assert runs_done(workdir, monkeypatch) == 1

    edit_dev_file(workdir, "dog barks", "dog sleeps")
    assert "Tokenising cola for tiny" in snakemake(workdir, METRICS, "--until", "features")
    assert runs_done(workdir, monkeypatch) == 0
    assert "Training" in snakemake(workdir, METRICS)
    assert runs_done(workdir, monkeypatch) == 1
    trained = read_product(workdir.results / "runs" / RUN / "model" / "run.json")
    fetched = read_product(workdir.results / "corpora" / "cola" / "manifest.json")
    assert trained["corpora"] == {"cola": fetched["digest"]}
    assert "Nothing to be done" in snakemake(workdir, METRICS)


def test_a_change_after_a_corpus_was_read_by_hand_is_noticed(workdir):
    edit_dev_file(workdir, "cat sleeps", "cat barks")
    mtdnn(workdir, "corpus", "small.yaml", "cola")
    snakemake(workdir, METRICS)
    edit_dev_file(workdir, "cat barks", "cat runs")
    assert "Fetching corpus cola" in snakemake(workdir, METRICS)
    assert "Nothing to be done" in snakemake(workdir, METRICS)
