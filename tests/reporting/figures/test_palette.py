"""Colours are told apart without some cones and without colour, and text can be read on them."""

import itertools

import numpy as np
import pytest

from mtdnn.reporting.figures import palette

# Each deficiency at its severest, on linear RGB (Machado, Oliveira and Fernandes 2009, table 1).
EYES = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = XYZ @ np.ones(3)

PALETTES = {
    "corpora": palette.CORPUS_COLOURS,
    "mixtures": (*palette.MIXTURE_COLOURS, palette.GREY),
    "verdicts": tuple(look.colour for look in palette.VERDICTS.values()),
}

APART = 20
"""Distance in CIELAB that is far above what is just noticeable, about 2.3."""

LIGHTER = 7
"""Difference in lightness, of 100 from black to white, that is easily seen."""


def linear(colour):
    values = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB."""
    ratio = np.clip(XYZ @ np.clip(rgb, 0, 1), 0, None) / WHITE
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("name", PALETTES)
def test_colours_of_a_palette_are_told_apart_by_all_eyes(name, eyes):
    seen = {colour: lab(EYES[eyes] @ linear(colour)) for colour in PALETTES[name]}
    for first, second in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[first] - seen[second]) >= APART, (first, second)


@pytest.mark.parametrize("name", PALETTES)
def test_colours_of_a_palette_are_told_apart_in_greyscale(name):
    light = [lab(linear(colour))[0] for colour in PALETTES[name]]
    assert min(np.diff(sorted(light))) >= LIGHTER


def test_the_check_finds_red_and_green_of_one_lightness():
    seen = [lab(EYES["deuteranopia"] @ linear(colour)) for colour in ("#d62728", "#6d7d10")]
    assert np.linalg.norm(seen[0] - seen[1]) < APART


def test_markers_and_dashes_tell_apart_what_shares_a_colour():
    looks = list(itertools.islice(palette.looks(), 60))
    assert len(set(looks)) == len(looks)
    assert len({(look.marker, look.dash) for look in looks[:30]}) == 30


def test_a_digit_can_be_read_on_every_colour():
    for colour in {colour for colours in PALETTES.values() for colour in colours}:
        light = palette.luminance(colour)
        ink = palette.luminance({"black": "#000000", "white": "#ffffff"}[palette.ink_on(colour)])
        low, high = sorted([light, ink])
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour
    assert palette.ink_on(palette.CORPUS_COLOURS[1]) == "black"


def test_rows_of_one_mixture_have_different_looks(drawn):
    looks = palette.row_looks(drawn, ["qa", "qa_sc", "qa_sc", "qa_mcc_sc"])
    assert len(set(looks)) == 4
    assert [look.colour == palette.GREY for look in looks] == [True, False, False, False]
