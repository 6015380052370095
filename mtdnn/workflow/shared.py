"""Where the workflow's files are: next to the package in a checkout, inside it in a wheel."""

from pathlib import Path

from mtdnn.errors import MtdnnError

PACKAGE = Path(__file__).parents[1]


def folder(package: Path = PACKAGE) -> Path:
    """Return the folder that holds `workflow/`, `config/`, `envs/` and `results/published/`.

    Args:
        package: the folder of the package.
    """
    inside = package / "share"
    return inside if inside.is_dir() else package.parent


def snakefile() -> Path:
    """Return the path of the workflow's Snakefile.

    Raises:
        MtdnnError: it was not installed with the package.
    """
    found = folder() / "workflow" / "Snakefile"
    if not found.is_file():
        raise MtdnnError(f"{found}: no such file; install a wheel, or use a checkout")
    return found
