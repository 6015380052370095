"""Answers side by side: the rules find the right questions in both directions."""

import html.parser
import re
from pathlib import Path

import numpy as np
import pytest

from mtdnn.config.layout import RunId
from mtdnn.machine.files import read_json
from mtdnn.reporting import cases, products
from mtdnn.reporting.answers import read_answers
from tests.support.answers import BASELINE, HOSTILE, MIXTURE, QUESTIONS, make
from tests.support.factories import fail_run, make_answers, make_experiment, make_questions

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "published.csv"


def ids(found, kind, direction):
    (entry,) = [each for each in found["kinds"] if each["kind"] == kind]
    return [case["id"] for case in entry["directions"][direction]["cases"]]


def test_each_rule_finds_its_questions_in_both_directions(answered):
    found = cases.find(answered)
    assert found["table"] == "table2"
    assert [row["label"] for row in found["rows"]] == ["QA", "QA+MCC", "QA+SC", "QA+MCC+SC"]
    assert (ids(found, "found", 0), ids(found, "found", 1)) == (["found", "hostile"], ["lost"])
    assert (ids(found, "boundary", 0), ids(found, "boundary", 1)) == (["wider"], ["cut"])
    assert (ids(found, "withheld", 0), ids(found, "withheld", 1)) == (["open"], ["fooled"])
    for kind in found["kinds"]:
        for count in kind["counts"]:
            assert len(count["gained"]) == len(count["lost"]) == 3


def test_swapping_baseline_and_mixture_swaps_the_directions(tmp_path, answered):
    here = cases.find(answered)
    there = cases.find(make(tmp_path, MIXTURE, BASELINE, seeds=(1, 2, 3)))
    for kind in ("found", "boundary", "withheld"):
        assert ids(here, kind, 0) == ids(there, kind, 1)
        assert ids(here, kind, 1) == ids(there, kind, 0)


def test_questions_on_which_most_runs_agree_come_first(tmp_path):
    names = [f"q{number}" for number in range(5)]
    questions = [{**QUESTIONS[0], "id": name} for name in names]
    experiment = make_experiment(tmp_path, seeds=[1, 2, 3], slices={"dev": {"label": "dev"}})
    make_questions(experiment, questions)
    for row in experiment.tables["table2"].rows:
        for run in experiment.runs_of(row):
            found_in = {  # q3 is found in every seed, q1 in two, q4 in one
                name: row.mixture != "qa" and run.seed <= {"q3": 3, "q1": 2, "q4": 1}.get(name, 0)
                for name in names
            }
            answers = {name: ("Ada Fell", -1.0 if found_in[name] else 1.0) for name in names}
            make_answers(experiment, run, answers)
    found = cases.find(experiment)
    assert ids(found, "found", 0) == ["q3", "q1", "q4"]
    assert ids(found, "found", 1) == []
    answers = found["kinds"][0]["directions"][0]["cases"][1]["answers"]
    assert [(each["agreeing"], each["seeds"]) for each in answers] == [(3, 3)] + 3 * [(2, 3)]
    assert answers[1]["em"] == pytest.approx(200 / 3)


def test_published_questions_and_their_verdicts(tmp_path):
    first, second, _ = cases.PUBLISHED
    context = "It was Alexius Komnenos who spoke Modern English."
    questions = [
        {"id": first.id, "question": "Who?", "context": context, "answers": ["Alexius Komnenos"]},
        {"id": second.id, "question": "What?", "context": context, "answers": ["Modern English"]},
    ]
    experiment = make_experiment(
        tmp_path, seeds=[1, 2, 3], slices={"dev": {"label": "dev"}}, published=str(PUBLISHED)
    )
    make_questions(experiment, questions)
    for row in experiment.tables["table2"].rows:
        for run in experiment.runs_of(row):
            odds = -1.0 if "sc" in row.mixture.split("_") else 1.0
            make_answers(
                experiment,
                run,
                {first.id: ("Alexius Komnenos", odds), second.id: ("Modern English", -1.0)},
            )
    found = cases.find(experiment)
    assert [case["id"] for case in found["published"]] == [first.id, second.id]
    verdicts = {claim["id"]: claim["verdict"] for claim in found["claims"] if claim["id"]}
    assert verdicts == {first.id: "supported", second.id: "contradicted"}
    assert all(claim["verdict"] for claim in found["claims"])
    of_others = experiment.model_copy(update={"published": None})
    assert cases.find(of_others)["claims"] == []


def claim_on_empty_answers(experiment):
    published = experiment.model_copy(update={"published": str(PUBLISHED)})
    (claim,) = [each for each in cases.find(published)["claims"] if "unanswered" in each["claim"]]
    return claim


def test_gains_are_summed_over_the_same_rows_in_every_seed(tmp_path):
    """In each seed, both mixtures with sequence classification gain two right answers, lose one."""
    experiment = make(tmp_path, seeds=(1, 2, 3))
    claim = claim_on_empty_answers(experiment)
    assert "+2, +2, +2 in 3 seeds" in claim["text"] and claim["verdict"] == "supported"
    fail_run(experiment, RunId("base", "qa_sc", 0.8, "default", 3), "evaluate", "no disk")
    claim = claim_on_empty_answers(experiment)
    assert "+2, +2 in 2 seeds" in claim["text"] and claim["verdict"] == "not decidable"


@pytest.mark.parametrize(
    ("holding", "seeds", "expected"),
    [
        (3, 3, "supported"),
        (0, 3, "contradicted"),
        (2, 3, "not decidable"),
        (1, 1, "not decidable"),
        (0, 1, "not decidable"),
        (0, 0, "not decidable"),
    ],
)
def test_a_verdict_needs_seeds_that_agree(holding, seeds, expected):
    assert cases.verdict(holding, seeds) == expected


def test_without_runs_the_reason_is_shown(tmp_path):
    experiment = make_experiment(tmp_path)
    cases.write(experiment)
    assert read_json(experiment.layout.cases("json"))["reason"]
    assert "No table compares" in experiment.layout.cases("md").read_text()
    products.write_page(experiment, "cases")
    assert "No table compares" in experiment.layout.page("cases").read_text()


class Elements(html.parser.HTMLParser):
    """The tags of a page and the text that a reader sees."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.text, self.inside = [], [], "", None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        self.text += "" if self.inside in ("script", "style") else data


def test_html_in_a_question_or_answer_is_shown_as_text(answered):
    cases.write(answered)
    products.write_page(answered, "cases")
    page = Elements(answered.layout.page("cases").read_text())
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert not [name for name in page.attributes if name.startswith("on")]
    assert HOSTILE in page.text
    text = answered.layout.cases("md").read_text()
    assert not re.search(r"(?<!\\)<(?!/?b>)", text)
    for line in text.splitlines():
        if line.startswith("| QA"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 6, 7), line


def test_question_groups_cover_every_question(answered):
    answers = read_answers(answered)
    for grouping in cases.group_differences(answers):
        assert sum(group["questions"] for group in grouping["groups"]) == len(QUESTIONS)
        for group in grouping["groups"]:
            assert group["rows"][0]["differences"] == []
            assert all(len(row["differences"]) == 3 for row in group["rows"][1:])


def test_intervals_of_groups_resample_paragraphs():
    random = np.random.default_rng(3)
    paragraphs = np.repeat(np.arange(60), 5)
    gains = random.normal(size=60)[paragraphs]  # questions of a paragraph share their fate
    resampled = (paragraphs, random.multinomial(60, np.full(60, 1 / 60), 4000))
    low, high = cases.bootstrap(gains, np.arange(300), resampled)
    spread = gains[::5].std() / 60**0.5
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.1)
    assert (high + low) / 2 == pytest.approx(gains.mean(), abs=0.2 * spread)
    assert cases.bootstrap(gains[:5], np.arange(5), resampled) == (None, None)


def test_groups_have_intervals_unless_they_are_about_one_paragraph(answered):
    (types, *_) = cases.group_differences(read_answers(answered))
    for group in types["groups"]:
        for row in group["rows"][1:]:
            if group["questions"] == 1:
                assert row["low"] is row["high"] is None
            elif row["low"] is not None:
                assert row["low"] <= np.mean(row["differences"]) <= row["high"]
