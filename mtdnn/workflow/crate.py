"""A finished experiment as an RO-Crate, to be published or kept: `mtdnn crate`.

A crate is a folder or a zip file with `ro-crate-metadata.json`, which describes every file in it
(Soiland-Reyes et al. 2022, RO-Crate 1.2 specification). Here these are the settings, the digests,
tables, comparisons, statistics and figures, the scores and provenance of each run, and the
workflow. Texts of corpora stay out: so predictions, answers side by side and the report, too.
"""

import importlib.metadata
import mimetypes
import platform
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdnn import __version__
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import FEATURES, MANIFEST, Layout, RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_product, replacing, sha256
from mtdnn.tracking.content import run_folders
from mtdnn.workflow import checksums, shared

if TYPE_CHECKING:
    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

SPECIFICATION = "1.2"
"""Version of RO-Crate; the first one whose context has `sha256`."""

LICENCE = "https://spdx.org/licenses/MIT"

KINDS = {
    "experiment.yaml": "The settings of the experiment",
    "checksums.json": "SHA-256 of every finished file of the experiment, in the crate or not",
    "statistics.json": "Differences between rows, with intervals, tests and verdicts",
    "agreement.json": "The comparison of the tables with MLflow",
    "summary.md": "Scores, differences and verdicts",
    "tables": "Scores of a table's rows",
    "comparisons": "Differences between the rows of a table",
    "statistics": "Statistics of a table",
    "figures": "A figure",
}
"""What of an experiment's folder is packed: files and folders, with a description."""

RUN_FILES = {
    RunFolder.config: "Settings of the run",
    RunFolder.schedule: "The items in the batch of every step, by number",
    RunFolder.log: "Loss, learning rate and gradient norm of every step",
    RunFolder.description: "Provenance of the model, and the digests of its files",
    RunFolder.metrics: "Scores of the run, and their provenance",
}
MANIFESTS = {
    "encoders": (MANIFEST, "Origin and digests of an encoder"),
    "corpora": (MANIFEST, "Origin, numbers of rows and digests of a corpus"),
    "features": (FEATURES, "Settings and digests of a corpus's tokens"),
}
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", "datasets")
"""Packages whose versions a run's provenance records."""


def write(experiment: Experiment, out: Path, with_models: bool = False) -> None:
    """Write an RO-Crate of a finished experiment.

    Args:
        experiment: the experiment.
        out: the new folder, or the new file if it ends with `.zip`.
        with_models: whether to pack the trained models.

    Raises:
        MtdnnError: the experiment is not finished, one of its files has changed since, `out`
            exists, or the package rocrate is not installed.
    """
    layout = experiment.layout
    if out.exists():
        raise MtdnnError(f"{out}: exists already; choose another name")
    if not layout.checksums.exists():
        raise MtdnnError(
            f"{layout.checksums}: is missing: the experiment is not finished; run snakemake"
        )
    if wrong := list(checksums.check(experiment)):
        raise MtdnnError("\n".join(wrong))
    crate = _new_crate(experiment)
    packed = {file: _add(crate, file, *place) for file, place in _files(layout, with_models)}
    _add_workflow(crate)
    for folder in run_folders(layout):
        _add_action(crate, RunFolder(folder), packed)
    with replacing(out) as draft:
        if out.suffix == ".zip":
            crate.write_zip(draft)
        else:
            crate.write(draft)


def _new_crate(experiment: Experiment) -> "ROCrate":
    try:
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise MtdnnError(
            "mtdnn crate: needs the package rocrate; install it with pip install 'mtdnn[crate]'"
        ) from None
    crate = ROCrate(version=SPECIFICATION)
    crate.name = experiment.title
    crate.description = (
        f"The experiment {experiment.experiment}: multi-task fine-tuning of encoders, with "
        f"settings, scores, statistics, tables and figures. {experiment.notice or ''}".strip()
    )
    crate.license = _context(
        crate, LICENCE, "CreativeWork", name="MIT License", url="https://opensource.org/license/mit"
    )
    return crate


def _files(layout: Layout, with_models: bool) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Yield the files of an experiment, each with its place in the crate and its description."""
    for name, description in KINDS.items():
        place = layout.root / name
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and not file.name.startswith("."):
                yield file, (str(file.relative_to(layout.root)), description)
    for folder, (name, description) in MANIFESTS.items():
        for file in sorted((layout.root / folder).rglob(name)):
            yield file, (str(file.relative_to(layout.root)), description)
    for run in map(RunFolder, run_folders(layout)):
        wanted = {run.path / name: description for name, description in RUN_FILES.items()}
        if with_models:
            models = (file for file in sorted(run.model.rglob("*")) if file.is_file())
            wanted = {**dict.fromkeys(models, "Trained model"), **wanted}
        for file, description in wanted.items():
            if file.is_file():
                yield file, (str(file.relative_to(layout.root)), description)


def _add(crate: "ROCrate", file: Path, place: str, description: str) -> "Entity":
    return crate.add_file(file, place, properties=_properties(file, place, description))


def _properties(file: Path, name: str, description: str) -> dict[str, Any]:
    known = {".yaml": "application/yaml", ".jsonl": "application/jsonl", ".md": "text/markdown"}
    known |= {".parquet": "application/vnd.apache.parquet", ".smk": "text/x-python"}
    encoding = known.get(file.suffix) or mimetypes.guess_type(file.name)[0]
    return {
        "name": name,
        "description": description,
        "contentSize": str(file.stat().st_size),
        "sha256": sha256(file),
        **({"encodingFormat": encoding} if encoding else {}),
    }


def _add_workflow(crate: "ROCrate") -> None:
    """Add the workflow's files, its licence and citation, and the software that runs it."""
    main, root = shared.snakefile(), shared.folder()
    snakemake = importlib.metadata.version("snakemake")
    place = "workflow/Snakefile"
    with warnings.catch_warnings():  # the profile of workflow crates is one version behind
        warnings.simplefilter("ignore")
        workflow = crate.add_workflow(
            main,
            place,
            properties=_properties(main, place, "From the settings to every table and figure"),
            main=True,
            lang="snakemake",
            lang_version=snakemake,
        )
    workflow["license"] = {"@id": LICENCE}
    workflow["version"] = __version__
    others = [*main.parent.glob("rules/*.smk"), *main.parent.glob("report/*.rst")]
    others += [root / "envs" / "requirements.lock", root / "LICENSE", root / "CITATION.cff"]
    descriptions = {"LICENSE": "Licence", "CITATION.cff": "How to cite the software and the paper"}
    for file in sorted(others):
        if file.is_file():
            description = descriptions.get(file.name, "Part of the workflow")
            _add(crate, file, str(file.relative_to(root)), description)


def _add_action(crate: "ROCrate", run: RunFolder, packed: dict[Path, "Entity"]) -> None:
    """Add how a run's model and scores were made: when, on what, and by which software."""
    if not run.metrics.exists():
        return
    metrics = read_product(run.metrics)
    origin = metrics.get("provenance", {})
    name = run.path.relative_to(Layout.of_run(run.path).root / "runs")
    made = (run.log, run.description, run.metrics)
    facts = [f"{key} {origin[key]}" for key in ("device", "precision", "threads") if key in origin]
    action = crate.add_action(
        _software(crate, origin),
        identifier=f"#{name}",
        object=[packed[file] for file in (run.config, run.schedule) if file in packed],
        result=[packed[file] for file in made if file in packed],
        properties={
            "name": f"Training and evaluation of {name}",
            "description": f"Fingerprint {metrics.get('fingerprint')}; {', '.join(facts)}",
            **_times(origin),
        },
    )
    crate.root_dataset.append_to("mentions", action)


def _software(crate: "ROCrate", origin: dict[str, Any]) -> list["Entity"]:
    """Return the software of a run by version; the same version is one entity."""
    commit = origin.get("commit")
    found = [
        _context(
            crate,
            f"#mtdnn-{commit or __version__}",
            "SoftwareApplication",
            name="mtdnn",
            version=origin.get("mtdnn") or __version__,
            **({"identifier": f"commit {commit}"} if commit else {}),
        )
    ]
    versions = {"python": origin.get("python") or platform.python_version()}
    versions |= {name: origin[name] for name in PACKAGES if origin.get(name)}
    found += [
        _context(crate, f"#{name}-{version}", "SoftwareApplication", name=name, version=version)
        for name, version in versions.items()
    ]
    return found


def _times(origin: dict[str, Any]) -> dict[str, str]:
    if "started" not in origin:
        return {}
    started = datetime.fromisoformat(origin["started"])
    ended = started + timedelta(seconds=origin.get("seconds") or 0)
    return {"startTime": started.isoformat(), "endTime": ended.isoformat()}


def _context(crate: "ROCrate", identifier: str, kind: str, /, **properties: Any) -> "Entity":
    """Return an entity that is no file, new or known already."""
    from rocrate.model.contextentity import ContextEntity

    known = crate.get(identifier)
    entity = ContextEntity(crate, identifier, properties={"@type": kind, **properties})
    return known or crate.add(entity)
