"""Text that is code to a program that takes it for more than text."""

MARKUP = (
    "{} {x} {0} {{y}} ${HOME} $a$ $$ \\ \\n \\end{table} % # _ ^ ~ & &lt; <script>alert(1)</script>"
    "</script><img src=x onerror=alert(1)> \"q\" 'r' `b` ``c`` | * **d** __e__ [l](http://u) "
    "--- ''s'' ,,t,, <!-- u --> :v: @w 'x"
)
"""On one line, with single spaces, so that every format can return it unchanged."""

UNUSUAL = (
    "שלום مرحبا e\u0301 a\u0308\u0323 ü ß Ą Ж 漢字 😀 👩\u200d🔬 «x» “y” \u202eabc\u202c œ € ½ "
    "–—…±−×Δ"
)
"""Other scripts and directions, combining characters, emoji, and what we write ourselves."""

LONG = "Wörd" * 60

CONTROL = "a\tb\nc\rd\x00e\x07f\x1b[31mg\x7fh\x85i\x9bj\u2028k"
"""Control characters; no output can hold all of them."""

OPENINGS = (
    *("=cmd()", "+1", "-1", "@x", "_hidden", "# h", "1. x", "1) x", "- x", "+ x", "> q", "=== x"),
    *("| a |", "$a$", "%c", "\\input{x}", "    code", "[x]: y", "``` x", "~~~", "**", ".. raw:: x"),
    *("{x}", "<b>", "&amp;", "'x", '"x', "--", "::"),
)
"""Beginnings that mean something at the start of a cell, a line or a label."""


def text(opening: str, *parts: str) -> str:
    """Return a hostile text with this beginning."""
    return " ".join([opening, *(parts or (MARKUP, UNUSUAL))])
