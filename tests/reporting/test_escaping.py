"""Any text comes back unchanged from every format."""

import csv
import io
import re
import xml.etree.ElementTree as ET

import pandas as pd
import pytest
from docutils.core import publish_doctree
from hypothesis import example, given
from hypothesis import strategies as st

from mtdnn.reporting.escaping import (
    csv_text,
    latex,
    markdown,
    menu,
    one_line,
    restructured,
    visible,
)
from tests.support.hostile import CONTROL, LONG, MARKUP, OPENINGS, UNUSUAL

# Characters that mean something somewhere, among others.
TEXTS = st.text(st.sampled_from("ab1 .)(-+=*_`~^#|<>&;[]{}$\\!'\"/:@%,\n\t\x00é–שЖ😀")) | st.text()


@given(TEXTS)
@example(CONTROL)
def test_what_is_visible_is_valid_xml_and_utf_8(text):
    shown = visible(text)
    assert len(shown) == len(text)
    escaped = shown.replace("&", "&amp;").replace("<", "&lt;")
    assert ET.fromstring(f"<a>{escaped}</a>".encode()).tag == "a"
    assert visible(shown) == shown


@given(TEXTS)
@example(MARKUP)
@example(UNUSUAL)
@example(LONG)
def test_markdown_is_read_as_the_text(text):
    markdown_it = pytest.importorskip("markdown_it")
    reader = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for before, start in (("", ""), ("> ", ""), ("# ", ""), ("- ", ""), ("x\n", "x ")):
        tokens = reader.parse(before + markdown(text))
        inline = [token for token in tokens if token.type == "inline"]
        nodes = [node for token in inline for node in token.children]
        assert len(inline) <= 1, before
        assert {node.type for node in nodes} <= {"text", "text_special", "softbreak"}
        read = "".join(node.content or " " for node in nodes)
        assert " ".join(read.split()) == (start + one_line(text)).strip()


@pytest.mark.parametrize("opening", OPENINGS)
def test_markdown_begins_no_block(opening):
    markdown_it = pytest.importorskip("markdown_it")
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(markdown(opening))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert "".join(node.content for node in tokens[1].children) == one_line(opening)


@given(TEXTS)
@example(MARKUP)
@example("name_ and `x`_ and |y| *z*")
def test_restructured_text_is_read_as_the_text(text):
    tree = publish_doctree(f"x {restructured(text)}", settings_overrides={"report_level": 5})
    read = tree.astext().replace("\x00", "")
    assert " ".join(read.split()) == f"x {one_line(text)}".strip()
    assert len(tree.children) == 1 and not list(tree.findall(lambda node: "refid" in str(node)))


@given(TEXTS)
@example("=cmd()")
@example(CONTROL)
def test_csv_is_read_as_the_text_and_never_as_a_formula(text):
    written = csv_text(pd.DataFrame([{"a": text, "b": 1}]))
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert len(rows) == 2 and rows[1][1] == "1"
    cell = rows[1][0]
    expected = visible(text).replace("\r\n", "\n").replace("\r", "\n")
    assert cell in (expected, f"'{expected}")
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@given(TEXTS)
def test_a_label_of_the_report_ends_no_script_and_names_no_wildcard(text):
    label = menu(text)
    assert "<" not in label and "\n" not in label and not re.search(r"\{\s*\w", label)
    assert label.replace("\u2060", "").replace("‹", "<") == one_line(text).replace(
        "\u2060", ""
    ).replace("‹", "<")


# What is left of LaTeX's special characters after the escapes that stand for one character.
ESCAPES = re.compile(
    r"\\[{}$&#%_]|\\text[a-z]+\{\}|\\ldots\{\}|\$(?:\\[a-zA-Z]+|-)\$|\{\[\}|\{\]\}|\\/"
    r"|\\mtdnncharacter\{[0-9A-F]+\}\{[^\\{}$&#%_]\}|\{\[\}U\+FFFD\{\]\}"
)


@given(TEXTS)
@example(MARKUP)
def test_latex_has_no_character_with_a_meaning(text):
    assert not re.search(r"[\\{}$&#%_^~<>|`\[\]]", ESCAPES.sub("", latex(text)))


def test_latex_of_plain_words_stays_readable():
    assert latex("QA+SC, 80% – “x”'s é") == (
        r"QA+SC, 80\% -- \mtdnncharacter{201C}{“}x\mtdnncharacter{201D}{”}'s é"
    )
