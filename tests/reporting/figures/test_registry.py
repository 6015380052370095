"""Every figure can be drawn by its name, with or without runs."""

import pytest

from mtdnn.reporting import products
from mtdnn.reporting.figures import registry
from tests.support.factories import make_experiment


def small_print(figure):
    return " ".join(figure.subfigs[1].texts[0].get_text().split())


def test_every_built_in_figure_can_be_drawn():
    assert set(registry.BUILT_IN) == set(products.FIGURES)


def test_the_small_print_names_missing_runs_and_the_notice(drawn):
    for name in ("figure3", *products.TRAINING_FIGURES):
        text = small_print(registry.draw(drawn, name))
        assert "Made-up numbers" in text
        assert "0.9" in text
        assert "not run" in text


def test_a_figure_without_runs_says_that_there_is_nothing_to_draw(tmp_path):
    experiment = make_experiment(tmp_path)
    for name in ("figure3", "figure4", *products.TRAINING_FIGURES):
        products.write_figure(experiment, name)
        body = registry.draw(experiment, name).subfigs[0]
        texts = [text.get_text() for axes in body.axes for text in axes.texts]
        assert "nothing to draw yet" in texts


@pytest.mark.parametrize("name", products.ANSWER_FIGURES)
def test_figures_of_answers_are_written_even_without_runs(tmp_path, name):
    experiment = make_experiment(tmp_path)
    products.write_figure(experiment, name)
    for suffix in ("svg", "png", "pdf"):
        assert experiment.layout.figure(name, suffix).stat().st_size > 0


@pytest.mark.parametrize("name", products.FIGURES)
def test_every_figure_is_drawn_without_question_answering(classified, name):
    products.write_figure(classified, name)
    figure = registry.draw(classified, name)
    answers = name in ("groups", "precision_recall", "thresholds")
    reason = "No run of this experiment has question answering as its target."
    assert (reason in small_print(figure)) == answers
    texts = [text.get_text() for axes in figure.subfigs[0].axes for text in axes.texts]
    assert ("nothing to draw" in texts) == answers


def test_every_figure_is_drawn_with_scores_and_tags(scored_and_tagged):
    for name in (*scored_and_tagged.figures, *products.FIGURES):
        figure = registry.draw(scored_and_tagged, name)
        texts = [text.get_text() for axes in figure.subfigs[0].axes for text in axes.texts]
        assert "nothing to draw" not in texts, name
    panels = registry.draw(scored_and_tagged, "tasks").subfigs[0].axes
    shown = [(axes.get_title(), axes.get_xlabel().replace("\n", " ")) for axes in panels]
    for title in ("STS-B (target)", "STS-B"):
        assert (title, "Pearson correlation (× 100)") in shown
    for title in ("WNUT 2017 (target)", "WNUT 2017"):
        assert (title, "entity F1 (%)") in shown


def test_only_rows_that_answer_questions_are_among_the_curves(mixed):
    axes = registry.draw(mixed, "precision_recall").subfigs[0].axes[0]
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == [
        "SQuAD",
        "SQuAD+MNLI",
    ]
