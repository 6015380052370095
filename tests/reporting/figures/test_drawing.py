"""Saved figures: the same bytes each time."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.colors import to_hex
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mtdnn.config.layout import PAPER_WIDTHS, RunFolder, RunId
from mtdnn.machine.files import write_text
from mtdnn.reporting import products
from mtdnn.reporting.figures import registry
from mtdnn.reporting.figures.drawing import PAPER, SCREEN, Page, styled
from mtdnn.reporting.figures.palette import luminance
from mtdnn.reporting.figures.training import run_loss
from tests.support.factories import make_experiment, make_run

WRITE = """\
import sys
from mtdnn.config.loading import parse
from mtdnn.config.yaml_files import read_yaml
from mtdnn.reporting import products
products.write_figure(parse(read_yaml(sys.argv[1]), "x"), sys.argv[2])
"""


@pytest.mark.parametrize("name", ["figure3", "figure4", *products.TRAINING_FIGURES])
def test_figures_have_three_formats_with_the_same_bytes_in_every_process(drawn, name):
    products.write_figure(drawn, name)
    first = {
        suffix: drawn.layout.figure(name, suffix).read_bytes() for suffix in ("svg", "png", "pdf")
    }
    assert first["png"].startswith(b"\x89PNG")
    assert first["pdf"].startswith(b"%PDF")
    assert b"<svg" in first["svg"]
    path = drawn.layout.root / "experiment.json"
    write_text(path, drawn.model_dump_json())
    # In another process neither the seed of hashing nor earlier figures are the same.
    subprocess.run([sys.executable, "-c", WRITE, str(path), name], check=True)
    for suffix, content in first.items():
        assert drawn.layout.figure(name, suffix).read_bytes() == content, suffix


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_the_last_bits_of_the_layout_do_not_change_a_figure(drawn, monkeypatch, suffix):
    """They depend on where the solver's variables lie in memory."""
    products.write_figure(drawn, "loss")
    file = drawn.layout.figure("loss", suffix)
    before = file.read_bytes()
    execute = ConstrainedLayoutEngine.execute

    def nudged(engine, figure):
        execute(engine, figure)
        for panel in figure.subfigs:
            panel.bbox_relative.set_points(panel.bbox_relative.get_points() * (1 + 1e-13))
            for axes in panel.axes:
                place = axes.get_position(original=True).get_points()
                axes.set_position(Bbox(place * (1 + 1e-13)))

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", nudged)
    products.write_figure(drawn, "loss")
    assert file.read_bytes() == before


def test_the_last_bits_of_clip_paths_do_not_change_a_figure(drawn, monkeypatch):
    products.write_figure(drawn, "loss")
    file = drawn.layout.figure("loss", "svg")
    before = file.read_text()
    clip = GraphicsContextBase.get_clip_rectangle

    def nudged(context):
        box = clip(context)
        return box and Bbox(box.get_points() * (1 + 1e-14))

    monkeypatch.setattr(GraphicsContextBase, "get_clip_rectangle", nudged)
    products.write_figure(drawn, "loss")
    assert file.read_text() == before
    assert set(re.findall(r'clipPath id="(\w+)"', before)) == set(re.findall(r"url.#(\w+)", before))


SVG = "{http://www.w3.org/2000/svg}"


def test_an_svg_has_a_title_a_description_and_its_text_as_text(drawn):
    products.write_figure(drawn, "loss")
    root = ElementTree.parse(drawn.layout.figure("loss", "svg")).getroot()
    assert root.find(f"{SVG}title").text == "Training loss of each corpus"
    assert drawn.notice in root.find(f"{SVG}desc").text
    texts = {"".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")}
    assert {"training step", "SQuAD 2.0", "Training loss of each corpus"} <= texts


def test_fonts_of_a_pdf_are_truetype(drawn):
    products.write_figure(drawn, "loss")
    content = drawn.layout.figure("loss", "pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Subtype /Type3" not in content


def test_a_paper_gets_the_drawing_alone_and_its_caption_as_latex(drawn):
    experiment = drawn.model_copy(update={"paper_figures": True})
    products.write_figure(experiment, "draws")
    for file in products.figure_files(experiment, "draws"):
        assert file.stat().st_size > 0
    for page, width in PAPER_WIDTHS.items():
        content = experiment.layout.figure("draws", "pdf", page).read_bytes()
        (box,) = re.findall(rb"/MediaBox \[ 0 0 ([0-9.]+)", content)
        assert float(box) == pytest.approx(72 * width)
    caption = experiment.layout.figure("draws", "tex").read_text()
    assert r"\caption{\textbf{How often each corpus was drawn.} " in caption
    assert "Made-up numbers: no model was trained." in caption
    with styled(Page("page", 6.9)):
        figure = registry.draw(experiment, "draws")
    assert len(figure.subfigs) == 1
    assert "Made-up numbers" not in " ".join(text.get_text() for text in texts_of(figure))


def test_a_title_that_asks_gets_no_full_stop(drawn):
    figures = {"figure4": drawn.figures["figure4"].model_copy(update={"title": "Does it help?"})}
    asking = {"title": "Which one?", "figures": figures, "paper_figures": True}
    experiment = drawn.model_copy(update=asking)
    products.write_figure(experiment, "figure4")
    assert r"\textbf{Does it help?} " in experiment.layout.figure("figure4", "tex").read_text()
    note = note_of(registry.draw(experiment, "figure4"))
    assert f"Experiment {drawn.experiment}: Which one? Made-up" in note


def note_of(figure):
    """The small print of a figure, on one line."""
    return " ".join(figure.subfigs[1].texts[0].get_text().split())


def test_of_a_short_run_every_step_is_drawn_and_said_to_be(tmp_path):
    experiment = make_experiment(tmp_path)
    for run in experiment.runs():
        make_run(experiment, run, steps=20)
    assert note_of(registry.draw(experiment, "loss")).startswith("Lines: every training step.")


def texts_of(figure):
    """All texts of a figure that are drawn and not empty."""
    texts = figure.findobj(Text)
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", ["figure4", *products.TRAINING_FIGURES])
def test_all_text_of_a_figure_can_be_read(drawn, name):
    figure = registry.draw(drawn, name)
    for text in texts_of(figure):
        ground = luminance(ground_of(text))
        low, high = sorted([ground, luminance(to_hex(text.get_color()))])
        assert (high + 0.05) / (low + 0.05) >= 4.5, text


def ground_of(text):
    """The colour below a text: that of a bar, or white."""
    for bar in text.axes.patches if text.axes else []:
        x, y = text.get_position()
        beside = bar.get_x() < x < bar.get_x() + bar.get_width()
        if beside and bar.get_y() < y < bar.get_y() + bar.get_height():
            return to_hex(bar.get_facecolor())
    return "#ffffff"


@pytest.mark.parametrize("page", [SCREEN, *PAPER], ids=lambda page: page.name or "screen")
@pytest.mark.parametrize("name", ["figure4", "tasks", *products.TRAINING_FIGURES, "loss of a run"])
def test_no_text_of_a_figure_is_clipped(drawn, name, page):
    with styled(page):
        _no_text_is_clipped(drawn, name)


def _no_text_is_clipped(drawn, name):
    if name == "loss of a run":
        run = RunId("base", "qa_mcc_sc", 0.8, "default", 1)
        config = RunFolder(drawn.layout.run(run)).config
        before = config.read_text()
        config.write_text(before.replace("label: MNLI", "label: Multi-genre inference (MNLI)"))
        figure = run_loss(drawn.layout.run(run))
        config.write_text(before)
    else:
        figure = registry.draw(drawn, name)
    figure.draw_without_rendering()
    # Ticks outside the axes are not drawn.
    ticks = {tick for axes in figure.findobj(Axes) for tick in axes.get_xticklabels(which="both")}
    for text in set(texts_of(figure)) - ticks:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 + 1, text


def test_a_long_title_becomes_smaller_before_it_wraps(drawn):
    def title(text):
        figures = {"figure4": drawn.figures["figure4"].model_copy(update={"title": text})}
        shown = registry.draw(drawn.model_copy(update={"figures": figures}), "figure4")
        return shown.subfigs[0].get_suptitle()

    long = "Mixture and score of every encoder, by the weight of the target and by corpus"
    assert title(long) == long
    assert "\n" in title(f"{long}, and {long}")
