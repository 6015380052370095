"""Jinja2 templates: the report's pages as HTML, `cases.md` and `summary.md` as Markdown.

A page is self-contained: it holds its style and its script and loads nothing. Every value is
escaped: HTML by Jinja2's autoescape, Markdown by the filter `md`.
"""

import math
from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mtdnn.config.experiment import Experiment
from mtdnn.reporting.blocks import MISSING
from mtdnn.reporting.comparisons import p_value
from mtdnn.reporting.escaping import markdown, visible
from mtdnn.reporting.tables import number, seeds, signed
from mtdnn.reporting.wording import THRESHOLDS

EXCERPT_CHARACTERS = 420
"""How much of a context is shown around its marked spans; a shorter context is shown whole."""


def render(template: str, experiment: Experiment, **values: Any) -> str:
    """Fill in a template; a value that it uses but does not get is an error."""
    return _environment().get_template(f"{template}.j2").render(experiment=experiment, **values)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mtdnn.reporting"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "md": markdown,
        "signed": signed,
        "number": number,
        "score": score,
        "mark_html": mark_html,
        "mark_md": mark_md,
        "spread": spread,
        "seeds": seeds,
        "interval": interval,
        "p_value": p_value,
    }
    environment.globals |= {
        "segments": segments,
        "spans": spans,
        "badge": badge,
        "MISSING": MISSING,
        "THRESHOLDS": THRESHOLDS,
    }
    return environment


# --- numbers ---------------------------------------------------------------------------------


def score(value: dict[str, Any] | None) -> str:
    """Format a cell of `statistics.json`: the mean, with ± standard deviation if it is known."""
    if not value or value.get("mean") is None:
        return MISSING
    deviation = value.get("deviation")
    return number(value["mean"]) + (f" ± {deviation:.2f}" if deviation is not None else "")


def spread(values: list[float]) -> str:
    """Format the mean of differences, with their range if there are several."""
    if not values:
        return MISSING
    mean = signed(math.fsum(values) / len(values))
    if len(values) == 1:
        return mean
    return f"{mean} ({signed(min(values))} to {signed(max(values))})"


def interval(value: dict[str, Any]) -> str:
    """Format the bounds of a measured difference."""
    low, high = value.get("low"), value.get("high")
    if low is None and high is None:
        return MISSING
    return f"{signed(low)} to {signed(high)}"


def badge(word: str | None) -> Markup:
    """Return a verdict as a coloured word in HTML."""
    if not word:
        return Markup(MISSING)
    return Markup('<span class="verdict {}">{}</span>').format(word.replace(" ", "-"), word)


# --- marked contexts -------------------------------------------------------------------------


def segments(
    text: str, spans: Iterable[tuple[int, int]], excerpt: int = EXCERPT_CHARACTERS
) -> list[tuple[str, bool]]:
    """Cut a text into pieces, each with whether it is in a span; shorten a long text.

    Args:
        text: the context of a question.
        spans: starts and ends in characters; they may overlap.
        excerpt: how many characters to keep around the spans; cuts are made at spaces and marked
            with an ellipsis.
    """
    inside = [False] * len(text)
    for start, end in spans:
        inside[start:end] = [True] * (min(end, len(text)) - start)
    marked = [place for place, each in enumerate(inside) if each]
    first, last = (marked[0], marked[-1] + 1) if marked else (0, 0)
    margin = max(0, excerpt - (last - first)) // 2
    begin, stop = _at_space(text, first - margin), max(last, _at_space(text, last + margin))
    if not marked or len(text) <= excerpt:
        begin, stop = 0, len(text) if len(text) <= excerpt else _at_space(text, excerpt)
    pieces: list[tuple[str, bool]] = [("…", False)] if begin > 0 else []
    place = begin
    while place < stop:
        until = place
        while until < stop and inside[until] == inside[place]:
            until += 1
        pieces.append((text[place:until], inside[place]))
        place = until
    return pieces + ([("…", False)] if stop < len(text) else [])


def _at_space(text: str, place: int) -> int:
    """The start of the word at `place`; both ends of the text stay as they are."""
    if place <= 0 or place >= len(text):
        return min(max(place, 0), len(text))
    return text.rfind(" ", 0, place) + 1


def spans(golds: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return the spans of a case's gold answers in its context, in characters."""
    return [(gold["start"], gold["start"] + len(gold["text"])) for gold in golds]


def mark_html(pieces: list[tuple[str, bool]], kind: str = "gold") -> Markup:
    """Join the pieces of `segments`, with the marked ones in `<mark>` of this class."""
    return Markup("").join(
        Markup('<mark class="{}">{}</mark>').format(kind, text) if inside else text
        for text, inside in pieces
    )


def mark_md(pieces: list[tuple[str, bool]]) -> str:
    """Join the pieces of `segments`, with the marked ones in bold.

    Spaces around a marked piece stay outside the asterisks, or Markdown would not make it bold.
    """
    parts = []
    for text, inside in pieces:
        core = markdown(text)
        before = " " if text[:1].isspace() else ""
        after = " " if text[1:] and text[-1:].isspace() else ""
        parts.append(f"{before}{_bold(core) if inside and core else core}{after}")
    return "".join(parts)


def _bold(text: str) -> str:
    """Return escaped Markdown in bold; asterisks next to punctuation would not make it so."""
    is_word = text[0].isalnum() and text[-1].isalnum()
    return f"**{text}**" if is_word else f"<b>{text}</b>"
