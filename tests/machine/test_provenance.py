"""Digests of code, which decide what is redone, and the commit that produced a result."""

import subprocess
from pathlib import Path

import pytest

from mtdnn.config.dependencies import CODE
from mtdnn.machine import provenance
from mtdnn.machine.provenance import WITHOUT_EFFECT, code_digest, commit, environment

MODULE = '''"""Train."""

from mtdnn.machine import progress
from mtdnn.model import heads

EPOCHS = 2
"""How often."""
RATE = setting(3, "paper", description="how fast")


class Trainer:
    """Trains."""

    def train(self, steps):
        """Take steps."""
        if not steps:
            raise ValueError("there are no steps")
        return steps * EPOCHS  # once for each epoch
'''
HEADS = '''"""Heads."""


def head():
    from mtdnn.data.rows import read

    return read()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose training imports a head, which reads rows, and shows its progress."""
    folder = tmp_path / "package"
    sources = {
        "training/loop.py": MODULE,
        "model/heads.py": HEADS,
        "data/rows.py": "def read():\n    return 1\n",
        "machine/progress.py": "def show():\n    return 1\n",
        "cli/main.py": "from mtdnn.training import loop\n",
    }
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(source)
        (path.parent / "__init__.py").write_text('"""A part."""\n')
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    return folder


def change(path: Path, old: str, new: str) -> None:
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ('"""Train."""', '"""Train a model."""', False),
        ('"""Train."""\n', "", False),
        ('"""How often."""', '"""The number of passes."""', False),
        ('    """Trains."""\n', '    """One trains."""\n\n', False),
        ('        """Take steps."""\n', "", False),
        ("  # once for each epoch", "", False),
        ("steps * EPOCHS", "(steps\n            * EPOCHS)", False),
        ("EPOCHS = 2", "if TYPE_CHECKING:\n    from mtdnn.cli import main\n\nEPOCHS = 2", False),
        ('description="how fast"', 'description="learning rate"', False),
        ('"there are no steps"', 'f"{steps}: nothing to do"', False),
        ("EPOCHS = 2", "EPOCHS = 3", True),
        ('setting(3, "paper"', 'setting(4, "paper"', True),
        ("raise ValueError", "raise KeyError", True),
        ("if not steps", "if steps is None", True),
        ("steps * EPOCHS", "steps + EPOCHS", True),
        ("EPOCHS = 2", "from mtdnn.cli import main\n\nEPOCHS = 2", True),
        ("EPOCHS = 2", "if EPOCHS:\n    from mtdnn.cli import main\n\nEPOCHS = 2", True),
    ],
)
def test_only_code_changes_a_digest(package, old, new, differs):
    before = code_digest("training.loop")
    change(package / "training/loop.py", old, new)
    assert (code_digest("training.loop") != before) is differs


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("model/heads.py", True),
        ("data/rows.py", True),  # imported by the head, inside a function
        ("machine/progress.py", False),  # has no effect on a result
        ("cli/main.py", False),  # imports training, not the other way round
    ],
)
def test_code_that_is_imported_changes_a_digest(package, name, differs):
    before = code_digest("training.loop")
    path = package / name
    path.write_text(f"{path.read_text()}\nADDED = 1\n")
    assert (code_digest("training.loop") != before) is differs


def test_a_digest_covers_all_modules_in_any_order(package):
    both = code_digest("training.loop", "cli.main")
    assert both == code_digest("cli.main", "training.loop") == code_digest("cli.main")
    assert both != code_digest("training.loop")


def test_an_unknown_module_is_an_error(package):
    with pytest.raises(FileNotFoundError):
        code_digest("training.lop")


def test_modules_that_are_named_in_strings_exist():
    """A name of a module that has moved would otherwise silently have no effect."""
    named = WITHOUT_EFFECT.union(*CODE.values())
    paths = {name: provenance.PACKAGE.joinpath(*name.split(".")) for name in named}
    assert not [name for name, path in paths.items() if not path.with_suffix(".py").is_file()]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_says_whether_files_differ(package, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(package.parent))
    assert commit() is None  # no checkout
    git(package, "init")
    assert commit() is None  # no commit yet
    git(package, "add", ".")
    git(package, "commit", "-m", "All")
    git(package, "tag", "v1")
    clean = commit()
    assert len(clean) == 12 and int(clean, 16)
    change(package / "data/rows.py", "1", "2")
    assert commit() == f"{clean}+changes"


def test_the_commit_of_a_repository_around_an_installed_package_is_not_ours(package, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(package.parents[1]))
    around = package.parent
    (around / ".gitignore").write_text(f"{package.name}/\n")
    git(around, "init")
    git(around, "add", ".")
    git(around, "commit", "-m", "Somebody's own work")
    assert commit() is None


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_the_environment_names_the_versions_of_what_computes():
    found = environment()
    assert {"commit", "python", "platform", "torch", "transformers", "numpy"} <= set(found)
    assert found["python"].startswith("3.")
    assert all(found[package] for package in ("torch", "transformers", "tokenizers", "numpy"))
