"""Commands for single steps: unknown names, and steps that fail."""

import json
from pathlib import Path

import pytest
import yaml

from mtdnn.cli.main import main
from mtdnn.config.loading import load
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.data import tokenising
from mtdnn.training import loop
from tests.support.factories import small

DEMO = "config/demo.yaml"
RUN = "results/x/runs/base/qa/w1.0/default/seed1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoder", DEMO, "basic"], "unknown encoder 'basic'; known are base"),
        (["corpus", DEMO, "squid"], "unknown corpus 'squid'; known are squad"),
        (["features", DEMO, "basic", "squad"], "unknown encoder 'basic'"),
        (["features", DEMO, "base", "squid"], "unknown corpus 'squid'"),
        (["features", DEMO, "base", "squad", "--variant", "odd"], "unknown variant 'odd'"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_what_is_written_is_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small(results=str(tmp_path))), encoding="utf-8")
    layout, (run, *_) = load(path).layout, load(path).runs()
    file = f"{layout.run(run)}/config.yaml"
    for state in ("written", "up to date"):
        assert main(["resolve", str(path), run.path]) == 0
        assert capsys.readouterr().err == f"mtdnn: {file}: {state}\n"
    monkeypatch.setattr(tokenising, "prepare", lambda **_: None)
    assert main(["features", str(path), "tiny", "squad"]) == 0
    folder = layout.features("tiny", "default", "squad")
    assert capsys.readouterr().err == f"mtdnn: {folder}: written\n"


def test_a_fetched_corpus_that_shares_much_with_its_training_split_is_named(tmp_path, capsys):
    rows = [{"sentence1": f"S{n}.", "label": n % 2} for n in range(20)]
    for split, chosen in (("train", rows[:12]), ("dev", rows[10:])):
        lines = [json.dumps(row) + "\n" for row in chosen]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    splits = {"train": ["train.jsonl"], "dev": ["dev.jsonl"]}
    source = {"kind": "files", "root": str(tmp_path), "format": "jsonl", "splits": splits}
    path = tmp_path / "small.yaml"
    settings = small(results=str(tmp_path / "results"), corpora__cola__source=source)
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["corpus", str(path), "cola"]) == 0
    *_, line = capsys.readouterr().err.splitlines()
    assert "/cola/dev.parquet: a run that is trained on cola has no score on all of it" in line
    assert "2 of its 10 items" in line and line.endswith("the first is row 0, 'dev-0'")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has only its settings."""
    folder = tmp_path / RUN
    folder.mkdir(parents=True)
    experiment = load(DEMO)
    settings = experiment.resolve(experiment.runs()[0])
    (folder / "config.yaml").write_text(dump_yaml(settings), encoding="utf-8")
    return folder


def test_a_failed_step_leaves_its_reason_for_the_tables(run):
    assert main(["train", str(run)]) == 2
    failure = json.loads((run / "failure.json").read_text(encoding="utf-8"))
    assert failure["step"] == "train"
    assert failure["reason"].endswith("features.json: no such file; repeat the step that writes it")


def test_a_run_without_settings_is_refused_without_recording_a_failure(run, capsys):
    (run / "config.yaml").unlink()
    for step in ("schedule", "train", "evaluate"):
        assert main([step, str(run)]) == 2
        assert "config.yaml: no such file" in capsys.readouterr().err
    assert list(run.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "options", "seconds"),
    [(None, [], 600), ("5", [], 300), ("5", ["--checkpoint-minutes", "0.5"], 30)],
)
def test_train_passes_its_options_on(monkeypatch, run, variable, options, seconds):
    given = []
    monkeypatch.setattr(loop, "train", lambda *arguments: given.extend(arguments))
    monkeypatch.delenv("MTDNN_CHECKPOINT_MINUTES", raising=False)
    if variable:
        monkeypatch.setenv("MTDNN_CHECKPOINT_MINUTES", variable)
    assert main(["train", str(run), "--threads", "3", "--wait", *options]) == 0
    assert given[0] == run and given[2:] == [3, seconds, True, False]


def test_a_malformed_time_is_refused(run, monkeypatch, capsys):
    monkeypatch.setenv("MTDNN_CHECKPOINT_MINUTES", "often")
    with pytest.raises(SystemExit) as stop:
        main(["train", str(run)])
    assert stop.value.code == 2
    assert "--checkpoint-minutes: 'often' is not a number of minutes" in capsys.readouterr().err
