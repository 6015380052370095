"""What made a result: digests of code, settings and data, versions and commit."""

import ast
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mtdnn.machine.files import digest

PACKAGE = Path(__file__).parents[1]

# Modules that show, report or wait, but cannot change a result.
_WITHOUT_EFFECT = {
    "errors",
    "machine.gpus",
    "machine.locking",
    "machine.progress",
    "machine.provenance",
    "training.journal",
}


def code_digest(*modules: str) -> str:
    """Digest of the code that `mtdnn.{module}` runs: itself and all of `mtdnn` that it imports.

    Comments, docstrings and formatting do not count, so that explaining a function
    better never retrains a model. Imports are followed statically; nothing is imported.
    """
    pending, seen = list(modules), {}
    while pending:
        module = pending.pop()
        if module in seen or module in _WITHOUT_EFFECT:
            continue
        path = PACKAGE.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        imports, seen[module] = _read(path.read_text(encoding="utf-8"))
        pending += imports
    return digest(seen)[:16]


@cache
def _read(source: str) -> tuple[list[str], str]:
    """What a module imports of this package, and what of it counts."""
    tree = ast.parse(source)
    return _imported(tree), ast.dump(_without_docstrings(tree))


def _imported(tree: ast.Module) -> list[str]:
    """Modules of this package named by any import statement in `tree`."""
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


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = body[1:]
    return tree


def environment() -> dict[str, str | None]:
    """Commit and versions under which this process runs."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", "datasets", "mtdnn")
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in packages},
    }


def commit() -> str | None:
    """The checkout's commit, with `+changes` when files differ from it; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"],
            cwd=PACKAGE,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
