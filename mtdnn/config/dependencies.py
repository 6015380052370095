"""The settings and the code on which the result of each step depends, as digests.

Snakemake redoes a step when its digests change. They cover what can change its result and nothing
else: a new title or figure never retrains a model. Imports nothing heavy.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import ENCODER_FILES, MANIFEST, RunFolder, RunId
from mtdnn.config.settings import FilesCorpus, FilesEncoder, HubCorpus, SyntheticCorpus
from mtdnn.errors import MtdnnError
from mtdnn.machine.contents import content_digests
from mtdnn.machine.files import digest, read_product
from mtdnn.machine.provenance import code_digest

CODE = {
    "encoder": ("data.encoders",),
    "corpus": ("data.corpora.fetching",),
    "features": ("data.tokenising",),
    "train": ("training.loop", "data.tokenising"),
    "logits": ("evaluation.teaching", "data.tokenising"),
    "evaluate": ("evaluation.predictions", "data.tokenising"),
    "metrics": ("evaluation.metrics",),
    "comparisons": ("statistics.records", "reporting.comparisons"),
    "reporting": ("reporting.products",),
    "log": ("tracking.delivery",),
    "agreement": ("tracking.agreement",),
}
"""For each step, the modules that determine its result, together with all that they import."""


def code_of(step: str) -> str:
    """Return the digest of the code that determines a step's result."""
    return code_digest(*CODE[step])


def source_files(experiment: Experiment, corpus: str) -> dict[str, Path]:
    """Return the local files of a corpus by their names in its settings.

    There are none unless its source is a local folder.
    """
    source = experiment.corpora[corpus].source
    if not is_local(source):
        return {}
    return {name: Path(experiment.data_path(source.root), name) for name in source.names}


def encoder_settings(experiment: Experiment, encoder: str) -> str:
    """Return the digest of what determines an encoder's files.

    A local folder counts by the content of its files, not by its place.
    """
    settings = experiment.encoders[encoder]
    if not isinstance(settings.source, FilesEncoder):
        return digest(settings.model_dump(mode="json", exclude={"label"}))
    values = settings.model_dump(mode="json", exclude={"label": True, "source": {"path"}})
    files = {name: Path(settings.source.path, name) for name in ENCODER_FILES}
    return digest([values, _source_digests(experiment, files, experiment.layout.encoder(encoder))])


def corpus_settings(experiment: Experiment, corpus: str) -> str:
    """Return the digest of what determines a corpus's rows.

    Local files count by their content, not by their folder: moving a mirror retrains nothing.
    """
    settings = experiment.corpora[corpus]
    if not is_local(settings.source):
        return digest(settings.model_dump(mode="json", exclude={"label", "metrics"}))
    shown = {"label": True, "metrics": True}
    values = settings.model_dump(mode="json", exclude={**shown, "source": {"root"}})
    files = source_files(experiment, corpus)
    return digest([values, _source_digests(experiment, files, experiment.layout.corpus(corpus))])


def changed_sources(experiment: Experiment, corpus: str) -> list[Path]:
    """Return the local files of a fetched corpus that have changed since it was read from them."""
    files = {n: f for n, f in source_files(experiment, corpus).items() if f.is_file()}
    recorded = _recorded_sources(experiment.layout.corpus(corpus))
    digests = content_digests(files.values(), experiment.layout.contents)
    return [f for name, f in files.items() if digests[f] != recorded.get(name, digests[f])]


def _source_digests(
    experiment: Experiment, files: dict[str, Path], fetched: Path
) -> dict[str, str]:
    """Return the digests of source files; of those that are gone, as they were when fetched."""
    present = [file for file in files.values() if file.is_file()]
    digests = content_digests(present, experiment.layout.contents)
    recorded = {} if len(present) == len(files) else _recorded_sources(fetched)
    found = {name: digests.get(file) or recorded.get(name) for name, file in files.items()}
    return {name: value for name, value in found.items() if value}


def _recorded_sources(fetched: Path) -> dict[str, str]:
    """Return the digests of the files from which an encoder or a corpus was fetched, by name."""
    manifest = fetched / MANIFEST
    source = read_product(manifest).get("source") if manifest.exists() else None
    return dict(source.get("sha256") or {}) if isinstance(source, dict) else {}


def features_settings(experiment: Experiment, variant: str) -> str:
    """Return the digest of the settings by which a variant turns text into tokens."""
    return digest(experiment.settings_of(variant)["features"])


@dataclass(frozen=True)
class _Resolved:
    """The settings of all runs that differ only in their seed, by what depends on them."""

    determining: dict[str, Any]
    decoding: dict[str, Any]
    evaluated: dict[str, Any]
    everything: dict[str, Any]
    gpus: int


class RunSteps:
    """Digests of the settings on which the steps of an experiment's runs depend.

    Fast for thousands of runs: those that differ only in their seed are resolved once.
    """

    def __init__(self, experiment: Experiment):
        self._experiment, self._layout = experiment, experiment.layout
        self._resolved: dict[RunId, _Resolved] = {}

    def settings(self, run: RunId, step: str) -> str:
        """Return the digest of the settings that matter to `train`, `evaluate` or `metrics`.

        `train` (and the schedule) does not depend on decoding. `evaluate` does, and on the splits
        that slices need. `metrics` also depends on the slices and on every label.
        """
        settings = self._resolve(run)
        determining = {**settings.determining, "seed": run.seed}
        if step == "train":
            return digest(determining)
        if step == "evaluate":
            return digest([determining, settings.decoding, settings.evaluated])
        return digest([{**settings.everything, "seed": run.seed}, self._slices])

    def gpus(self, run: RunId) -> int:
        """Return the number of GPUs that train a run together."""
        return self._resolve(run).gpus

    def imported(self, run: RunId) -> list[str]:
        """Return the steps of a run that were done elsewhere and added by `mtdnn import`.

        Snakemake has no record of them and so cannot notice that their settings have changed.

        Raises:
            MtdnnError: the experiment's settings have changed since the run was imported.
        """
        files = RunFolder(self._layout.run(run))
        if not files.imported.exists():
            return []
        products = {"train": files.description, "evaluate": files.predictions}
        recorded = {
            step: settings
            for step, settings in read_product(files.imported).items()
            if products[step].exists()
        }
        for step, settings in recorded.items():
            if settings != self.settings(run, step):
                raise MtdnnError(
                    f"{products[step]}: imported, but the experiment's settings have "
                    f"changed since; change them back, or delete this file to {step} the run here"
                )
        return list(recorded)

    @cached_property
    def _slices(self) -> dict[str, Any]:
        return self._experiment.model_dump(mode="json", include={"slices", "tune_threshold_on"})

    def _resolve(self, run: RunId) -> _Resolved:
        seedless = replace(run, seed=0)
        if seedless not in self._resolved:
            settings = self._experiment.resolve(run)
            self._resolved[seedless] = _Resolved(
                determining=settings.determining(),
                decoding=settings.decoding.model_dump(),
                evaluated=settings.evaluated,
                everything=settings.model_dump(mode="json"),
                gpus=settings.training.gpus,
            )
        return self._resolved[seedless]


def is_local(source: HubCorpus | FilesCorpus | SyntheticCorpus) -> TypeGuard[FilesCorpus]:
    """Return whether a corpus is read from a local folder."""
    return isinstance(source, FilesCorpus) and not re.match(r"https?://", source.root or "")
