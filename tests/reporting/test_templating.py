"""Texts with marked spans, and numbers, as templates show them."""

import itertools
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mtdnn.reporting import templating
from mtdnn.reporting.figures.palette import luminance


@given(
    st.text(min_size=1, max_size=300),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=4),
    st.integers(1, 200),
)
def test_the_pieces_of_a_text_make_up_the_text(text, bounds, excerpt):
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


def test_an_excerpt_keeps_the_marked_words_and_cuts_at_spaces():
    text = "one two three four five six seven eight nine ten"
    pieces = templating.segments(text, [(text.index("five"), text.index("five") + 4)], 18)
    shown = "".join(piece for piece, _ in pieces)
    assert [piece for piece, inside in pieces if inside] == ["five"]
    assert shown.startswith("…") and shown.endswith("…")
    assert all(word in text.split() for word in shown.strip("…").split())


def test_missing_numbers_are_dashes():
    assert templating.number(None) == templating.signed(None) == "–"
    assert templating.spread([]) == templating.score(None) == "–"
    assert templating.spread([1.0, -2.0]) == "−0.50 (−2.00 to +1.00)"
    assert templating.score({"mean": 70.0, "deviation": None}) == "70.00"
    assert templating.score({"mean": 70.0, "deviation": 1.5}) == "70.00 ± 1.50"


def test_all_text_of_a_page_can_be_read():
    style = (Path(templating.__file__).parent / "templates" / "base.html.j2").read_text()
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", style.split("<style>")[1].split("</style>")[0])
    names = dict(re.findall(r"--(\w+): (#\w+)", style))
    grounds = {"#ffffff"}
    checked = 0
    for selector, body in rules:
        values = re.sub(r"var\(--(\w+)\)", lambda found: names[found[1]], body)
        own = [long(each) for each in re.findall(r"background: (#\w+)", values)]
        hover = [long("#f5f8fa")] if "verdict" not in selector else []
        for ink in re.findall(r"(?<![-\w])color: (#\w+)", values):
            for ground in own or [*grounds, *hover]:
                low, high = sorted([luminance(long(ink)), luminance(ground)])
                assert (high + 0.05) / (low + 0.05) >= 4.5, (selector, ink, ground)
                checked += 1
    assert checked > 8


def long(colour):
    """A colour with two digits for each of red, green and blue."""
    return colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])
