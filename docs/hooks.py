"""What MkDocs adds to the pages of this folder: references, and files from elsewhere.

A page says `<!-- generated: NAME -->` where the output of a command belongs. Links to files outside
this folder work in the repository; on the site, they lead to the file's page if it has one, and are
plain names otherwise.
"""

import io
import os
import re
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

from mtdnn.cli.arguments import EVERYDAY, STEPS, TOOLS
from mtdnn.cli.main import COMMANDS, main
from mtdnn.config.reference import ledger, reference

ROOT = Path(__file__).parents[1]
PROJECT = {
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "tests/benchmarks/NOTES.md": "project/speed.md",
}
"""Files of the repository that are pages of the site."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)")


def settings() -> str:
    """Return the tables of `mtdnn settings`."""
    return f"{ledger()}\n{reference()}".replace("### ", "## ")


def commands() -> str:
    """Return what `--help` prints, for `mtdnn` and for each command."""
    lines = []
    for group in (EVERYDAY, STEPS, TOOLS):
        lines.append(f"## {group[0].upper()}{group[1:]}\n")
        for command in COMMANDS:
            if command.group == group:
                lines += [f"### mtdnn {command.name}\n", "```text", _help(command.name), "```\n"]
    return "\n".join(["```text", _help(), "```\n", *lines])


GENERATED: dict[str, Callable[[], str]] = {
    "settings": settings,
    "commands": commands,
}


def _help(*command: str) -> str:
    output = io.StringIO()
    os.environ["COLUMNS"] = "90"
    with redirect_stdout(output), suppress(SystemExit):
        main([*command, "--help"])
    return output.getvalue().rstrip()


def on_files(files: Files, *, config: Any) -> Files:
    """Add the files from elsewhere in the repository."""
    for source, page in PROJECT.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in what is generated, and turn links for the site."""
    markdown = re.sub(r"<!-- generated: (\w+) -->", lambda it: GENERATED[it[1]](), markdown)
    here = page.file.src_uri
    source = {page: source for source, page in PROJECT.items()}.get(here, f"docs/{here}")
    return LINK.sub(lambda link: _on_site(link, source, here), markdown)


def _on_site(link: re.Match[str], source: str, here: str) -> str:
    """Return a link in the file `source`, for the page `here`."""
    name, path, anchor = link.groups()
    target = os.path.normpath(str(PurePosixPath(source).parent / path))
    page = PROJECT.get(target, target.removeprefix("docs/"))
    if page == target:  # neither a page nor in this folder
        return (
            name
            if name.startswith("`")
            else f"{name} (`{target}`)"
            if name != target
            else f"`{target}`"
        )
    return f"[{name}]({os.path.relpath(page, str(PurePosixPath(here).parent))}{anchor or ''})"
