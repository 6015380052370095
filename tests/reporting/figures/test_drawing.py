"""Saved figures: the same bytes each time."""

import re
import subprocess
import sys

import pytest
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.transforms import Bbox

from mtdnn.machine.files import write_text
from mtdnn.reporting import products

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


def test_the_last_bits_of_coordinates_do_not_change_a_figure(drawn, monkeypatch):
    """They depend on the layout solver and on matrix products, which differ between processes."""
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
