"""Text of users and corpora as text in every format: Markdown, LaTeX, reStructuredText, CSV, SVG.

HTML is escaped by Jinja2; see `mtdnn.reporting.templating`.
"""

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the Snakefile imports this module
    import pandas as pd

_SPACES = "\t\n\r"


def visible(text: str) -> str:
    """Replace what XML and terminals cannot take, such as control characters, by U+FFFD.

    Tabs and line breaks are kept.
    """
    return text if text.isprintable() else "".join("\ufffd" if _is_bad(c) else c for c in text)


def _is_bad(character: str) -> bool:
    is_control = unicodedata.category(character) in ("Cc", "Cs") and character not in _SPACES
    return is_control or character in "\ufffe\uffff"


def one_line(text: str) -> str:
    """Return text on one line, with single spaces, and without control characters."""
    return visible(" ".join(text.split()))


def markdown(text: str) -> str:
    """Escape plain text so that Markdown (and HTML in it) shows it unchanged, on one line."""
    escaped = re.sub(r"([\\`*_\[\]<>|#~$&^])", r"\\\1", one_line(text))
    # What would begin a list or underline a heading.
    return re.sub(
        r"^([-+]|=+|-+|\d+[.)])(?!\S)", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", escaped
    )


def restructured(text: str) -> str:
    """Escape plain text so that reStructuredText shows it unchanged, on one line."""
    return re.sub(r"([^\w\s]|_)", r"\\\1", one_line(text))


def menu(text: str) -> str:
    """Return text for the menu of Snakemake's report, on one line.

    The menu is part of a script, which `</script>` would end, so `<` becomes a similar character.
    Snakemake takes `{x}` for a wildcard, so an invisible character follows each opening brace.
    """
    return one_line(text).replace("<", "‹").replace("{", "{\u2060")


def csv_text(records: "pd.DataFrame") -> str:
    """Return records as CSV in which no spreadsheet program takes a text for a formula.

    A text that begins like a formula gets an apostrophe, which such programs do not show.
    """

    def defused(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = re.sub("\r\n?", "\n", value)  # pandas does not quote a lone return
        begins = value.lstrip(" ").startswith(
            ("=", "+", "-", "@", "＝", "＋", "－", "＠", *_SPACES)
        )
        return f"'{visible(value)}" if begins else visible(value)

    return records.map(defused).to_csv(index=False)


# --- LaTeX -----------------------------------------------------------------------------------

LATEX_NEEDS = (
    r"% needs \usepackage{booktabs,siunitx,threeparttable} and, with pdfLaTeX, "
    r"\usepackage[T1]{fontenc}"
)

LATEX_CHARACTER = r"""% Prints a character, or its code point if the document's font lacks it.
\providecommand{\mtdnncharacter}[2]{%
  \ifdefined\Uchar\iffontchar\font"#1 #2\else{[}U+#1{]}\fi
  \else\ifcsname u8:\detokenize{#2}\endcsname#2\else{[}U+#1{]}\fi\fi}"""

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "\ufffd": "{[}U+FFFD{]}",  # LuaTeX stops at it
}


def latex(text: str) -> str:
    """Escape plain text so that LaTeX prints it unchanged, on one line."""
    composed = unicodedata.normalize("NFC", one_line(text))
    # Two of these next to each other would become another character.
    apart = re.split(r"(?<=[-–—])(?=[-–—])|(?<=')(?=')|(?<=,)(?=,)", composed)
    return r"\/".join("".join(map(_printed, part)) for part in apart)


def _printed(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    # Letters of Latin-1 are in every font.
    if character.isascii() or (character <= "ÿ" and character.isalpha()):
        return character
    return rf"\mtdnncharacter{{{ord(character):04X}}}{{{character}}}"
