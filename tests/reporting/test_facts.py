"""Facts about the runs, in captions and links."""

import re

import pytest
from docutils.core import publish_parts
from hypothesis import given
from hypothesis import strategies as st

from mtdnn.config.layout import RunFolder
from mtdnn.evaluation.results import read_rows
from mtdnn.machine.files import read_json, write_json
from mtdnn.reporting.facts import Captions, compare_link, facts, restructured
from tests.support.answers import HOSTILE_MARKUP
from tests.support.factories import make_experiment, make_run


def test_facts_are_those_of_the_runs(unfinished):
    known, runs = facts(unfinished), unfinished.runs()
    assert known["runs"] == f"{len(runs) - 3} of {len(runs)}"
    assert known["seeds"] == "1, 2" and known["commit"] == "0123456789ab"
    minutes, unit = known["hours"].split(" ", 1)
    assert unit == "min on cpu"
    assert float(minutes) == pytest.approx(0.25 * (len(runs) - 3), abs=0.06)
    metrics = read_json(RunFolder(unfinished.layout.run(runs[0])).metrics)
    assert f"SQuAD 2.0: {metrics['provenance']['corpora']['squad'][:12]}" in known["corpora"]


def test_a_link_to_a_server_has_no_password(tmp_path):
    experiment = make_experiment(tmp_path, tracking_uri="https://me:secret@tracking.example/")
    folder = make_run(experiment, experiment.runs()[0])
    write_json(RunFolder(folder).logged, {"run_id": "abc"})
    write_json(experiment.layout.store, {"experiment_id": "7"})
    (row, *_) = read_rows(experiment, "table1")
    link = compare_link(experiment, row.present)
    assert link == "https://tracking.example/#/experiments/7/runs/abc"


def seen(source: str) -> str:
    """The text that a reader of reStructuredText sees, in one line."""
    settings = {"report_level": 5, "halt_level": 5}
    body = publish_parts(source, writer="html", settings_overrides=settings)["fragment"]
    text = re.sub(r"<[^>]*>", "", body)
    for name, character in (("lt", "<"), ("gt", ">"), ("quot", '"'), ("#64", "@"), ("amp", "&")):
        text = text.replace(f"&{name};", character)
    return " ".join(text.split())


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["C"])))
def test_a_caption_shows_any_text_unchanged(text):
    plain = " ".join(text.split())
    assert seen(f"Before {restructured(text)} after.") == " ".join(f"Before {plain} after.".split())


def test_captions_read_the_runs_only_when_they_are_rendered(tmp_path, unfinished):
    captions = Captions(make_experiment(tmp_path / "nothing"))
    assert captions["runs"] == "0 of 9"
    assert seen(Captions(unfinished)["title"]) == HOSTILE_MARKUP
