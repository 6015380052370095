"""The digest of every finished file of an experiment, so that damage is found and named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import DESCRIPTION, FEATURES, MANIFEST, Layout, RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_product, sha256, write_json

# Folders of work in progress, files that hold their own digest, and the settings, which every call
# of Snakemake rewrites.
_UNSEALED = ("logs", "state", "rates", "logits", "experiment.yaml")


def write(experiment: Experiment) -> None:
    """Record the digests of all finished files in `checksums.json`.

    Weights, corpora and features are left out: their digests are in a file next to them, which is
    recorded.
    """
    layout = experiment.layout
    files = sorted(_files(layout))
    write_json(
        layout.checksums, {str(file.relative_to(layout.root)): sha256(file) for file in files}
    )


def check(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each recorded file that is missing or has changed since."""
    layout = experiment.layout
    recorded = read_product(layout.checksums)
    if not isinstance(recorded, dict):
        raise MtdnnError(f"{layout.checksums}: is not a list of digests; run snakemake again")
    for name, expected in recorded.items():
        file = layout.root / name
        if not file.is_file():
            yield f"{file}: is missing; run snakemake again"
        elif sha256(file) != expected:
            yield f"{file}: has changed since it was written; delete it and run snakemake again"


def _files(layout: Layout) -> Iterator[Path]:
    root, described = layout.root, set[Path]()
    for name in (MANIFEST, FEATURES, DESCRIPTION):
        for description in root.rglob(name):
            described |= {description.parent / file for file in _described_in(description)}
    for file in root.rglob("*"):
        place = file.relative_to(root)
        hidden = any(part.startswith(".") for part in place.parts)
        # Where MLflow has a run changes with each new server; `mtdnn verify` asks the server.
        is_delivery = file == layout.store or file.name == RunFolder.logged
        unsealed = hidden or is_delivery or place.parts[0] in _UNSEALED or file == layout.checksums
        if not unsealed and file.is_file() and file not in described:
            yield file


def _described_in(description: Path) -> list[str]:
    """Names of the files whose digests a manifest holds."""
    content: Any = read_product(description)
    suffix = "parquet" if description.name == MANIFEST else "arrow"
    return [
        *content.get("files", {}),
        *(f"{split}.{suffix}" for split in content.get("splits", {})),
    ]
