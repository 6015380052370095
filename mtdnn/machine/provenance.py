"""The provenance of a result: the digest of its code, the commit, and package versions."""

import ast
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mtdnn.machine.files import digest

PACKAGE = Path(__file__).parents[1]

# Modules that display, report or wait, and cannot change a result.
WITHOUT_EFFECT = {
    "config.places",
    "errors",
    "machine.drafts",
    "machine.gpus",
    "machine.locking",
    "machine.progress",
    "machine.provenance",
    "training.journal",
}


def code_digest(*modules: str) -> str:
    """Return the digest of the code that `mtdnn.{module}` runs: its own and everything it imports.

    Only this package counts. Comments, docstrings, formatting, descriptions of settings and the
    messages of errors do not, so that a better explanation never retrains a model. Imports are read
    from the source; nothing is imported.

    Args:
        modules: names of modules without `mtdnn.`, for instance `training.loop`.

    Raises:
        FileNotFoundError: a module does not exist.
    """
    pending, seen = list(modules), {}
    while pending:
        module = pending.pop()
        if module in seen or module in WITHOUT_EFFECT:
            continue
        path = PACKAGE.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        imports, seen[module] = _read(path.read_text(encoding="utf-8"))
        pending += imports
    return digest(seen)[:16]


@cache
def _read(source: str) -> tuple[list[str], str]:
    """Return the modules of this package that a source imports, and its code as text."""
    tree = _Effective().visit(ast.parse(source))
    return _imported(tree), ast.dump(tree)


class _Effective(ast.NodeTransformer):
    """Remove what cannot change a result: texts for people, and what only type checkers read."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        return None if node.arg == "description" else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST | None:
        if isinstance(node.exc, ast.Call):  # the type of the error counts, not its text
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        # TYPE_CHECKING is false whenever the code runs: the code it guards cannot change a result.
        typed = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if typed and not node.orelse else self.generic_visit(node)


def _imported(tree: ast.Module) -> list[str]:
    """Return the modules of this package that `tree` imports, anywhere in it."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    inside = [name.removeprefix("mtdnn.") for name in names if name.startswith("mtdnn.")]
    return [name for name in inside if _is_module(name)]


def _is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def environment() -> dict[str, str | None]:
    """Return the commit and the versions of Python and of the packages that matter."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", "datasets", "mtdnn")
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in packages},
    }


def commit() -> str | None:
    """Return the commit of the checkout, with `+changes` if files differ; None outside git."""
    # A package that is installed inside somebody's own repository is no part of that.
    if not _git("ls-files", "."):
        return None
    return _git("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes")


def _git(*arguments: str) -> str | None:
    """Return what git says about the package; None if that is nothing, or there is no git."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
