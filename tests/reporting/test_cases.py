"""Answers side by side: the rules find what they say, in both directions, and show it as text."""

import html.parser
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtdnn.evaluation.scoring import summary
from mtdnn.machine.files import read_json
from mtdnn.reporting import cases, products, templating
from mtdnn.reporting.answers import read_answers
from mtdnn.reporting.figures import curves
from tests.support.answers import BASELINE, HOSTILE, MIXTURE, QUESTIONS, make
from tests.support.factories import make_answers, make_experiment, make_questions


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return make(tmp_path_factory.mktemp("cases"), seeds=(1, 2, 3))


def ids(found, kind, direction):
    (entry,) = [each for each in found["kinds"] if each["kind"] == kind]
    return [case["id"] for case in entry["directions"][direction]["cases"]]


def test_each_rule_finds_its_questions_in_both_directions(experiment):
    found = cases.find(experiment)
    assert found["table"] == "table2"
    assert [row["label"] for row in found["rows"]] == ["QA", "QA+MCC", "QA+SC", "QA+MCC+SC"]
    assert (ids(found, "found", 0), ids(found, "found", 1)) == (["found", "hostile"], ["lost"])
    assert (ids(found, "boundary", 0), ids(found, "boundary", 1)) == (["wider"], ["cut"])
    assert (ids(found, "withheld", 0), ids(found, "withheld", 1)) == (["open"], ["fooled"])
    for kind in found["kinds"]:
        for count in kind["counts"]:
            assert len(count["gained"]) == len(count["lost"]) == 3


def test_directions_change_places_with_the_arms(tmp_path, experiment):
    here = cases.find(experiment)
    there = cases.find(make(tmp_path, MIXTURE, BASELINE, seeds=(1, 2, 3)))
    for kind in ("found", "boundary", "withheld"):
        assert ids(here, kind, 0) == ids(there, kind, 1)
        assert ids(here, kind, 1) == ids(there, kind, 0)


def test_where_most_runs_agree_comes_first(tmp_path):
    names = [f"q{number}" for number in range(5)]
    questions = [{**QUESTIONS[0], "id": name} for name in names]
    experiment = make_experiment(tmp_path, seeds=[1, 2, 3], slices={"dev": {"label": "dev"}})
    make_questions(experiment, questions)
    for row in experiment.tables["table2"].rows:
        for run in experiment.runs_of(row):
            given_in = {  # q3 is found in every seed, q1 in two, q4 in one
                name: row.mixture != "qa" and run.seed <= {"q3": 3, "q1": 2, "q4": 1}.get(name, 0)
                for name in names
            }
            answers = {name: ("Ada Fell", -1.0 if given_in[name] else 1.0) for name in names}
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
    experiment = make_experiment(tmp_path, seeds=[1, 2, 3], slices={"dev": {"label": "dev"}})
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


def test_without_runs_the_reason_is_said(tmp_path):
    experiment = make_experiment(tmp_path)
    cases.write(experiment)
    assert read_json(experiment.layout.root / "cases.json")["reason"]
    assert "No table compares" in (experiment.layout.root / "cases.md").read_text()
    products.write_page(experiment, "cases")


class Elements(html.parser.HTMLParser):
    """Tags of a page, and the text that a reader sees."""

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


def test_html_in_a_question_or_answer_is_text(experiment):
    cases.write(experiment)
    products.write_page(experiment, "cases")
    page = Elements(experiment.layout.page("cases").read_text())
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert not [name for name in page.attributes if name.startswith("on")]
    assert HOSTILE in page.text
    text = (experiment.layout.root / "cases.md").read_text()
    assert not re.search(r"(?<!\\)<(?!mark|/mark)", text)
    for line in text.splitlines():
        if line.startswith("| QA"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 6, 7), line


@given(
    st.text(min_size=1, max_size=300),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=4),
    st.integers(1, 200),
)
def test_marked_pieces_are_the_text(text, bounds, excerpt):
    spans = [tuple(sorted(min(each, len(text)) for each in pair)) for pair in bounds]
    pieces = templating.segments(text, spans, excerpt)
    inside = {place for start, end in spans for place in range(start, end)}
    shown = "".join(piece for piece, _ in pieces)
    assert shown.removeprefix("…").removesuffix("…") in text or shown == text
    marked = sum(len(piece) for piece, is_marked in pieces if is_marked)
    assert marked == len(inside)
    whole = templating.segments(text, spans, 10**6)
    assert "".join(piece for piece, _ in whole) == text
    assert all(a[1] != b[1] for a, b in itertools.pairwise(whole))


def test_question_groups_cover_every_question(experiment):
    answers = read_answers(experiment)
    for grouping in cases.group_differences(answers):
        assert sum(group["questions"] for group in grouping["groups"]) == len(QUESTIONS)
        for group in grouping["groups"]:
            assert group["rows"][0]["differences"] == []
            assert all(len(row["differences"]) == 3 for row in group["rows"][1:])


def test_curves_follow_the_official_definitions(experiment):
    answered = next(iter(read_answers(experiment).baseline.seeds.values()))
    kept = answered.questions
    thresholds = np.array([-5.0, -2.0, -1.0, 0.0, 2.0, 5.0])
    for metric, key in (("exact", "exact"), ("f1", "f1")):
        expected = [summary(kept.scores, kept.odds, t)[key] for t in thresholds]
        assert curves.over_thresholds(answered, metric, thresholds) == pytest.approx(expected)
        ours, theirs = curves.precision_recall(answered, metric), official_curve(kept, metric)
        assert ours[0] == pytest.approx(theirs[0]) and ours[1] == pytest.approx(theirs[1])


def official_curve(questions, metric):
    """The loop of the official script over null odds in ascending order."""
    order = sorted(range(len(questions)), key=questions.odds.__getitem__)
    total, precisions, recalls = 0.0, [], []
    for place, index in enumerate(order):
        if questions.scores.answerable[index]:
            total += getattr(questions.scores, metric)[index]
        last = place == len(order) - 1
        if last or questions.odds[index] != questions.odds[order[place + 1]]:
            precisions.append(100 * total / (place + 1))
            recalls.append(100 * total / sum(questions.scores.answerable))
    return np.array(precisions), np.array(recalls)
