"""What the Snakefile asks: which settings and code each step depends on, and what is missing.

A step is done again when its digests change, so they hold what matters to its result and
nothing else: a new title or figure never retrains a model. Imports nothing heavy.
"""

import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.settings import FilesCorpus
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_json
from mtdnn.machine.provenance import code_digest

CODE = {
    "encoder": ("data.encoders",),
    "corpus": ("data.corpora.fetching",),
    "features": ("data.tokenising",),
    "train": ("training.loop", "data.tokenising"),
    "evaluate": ("evaluation.predictions", "data.tokenising"),
    "metrics": ("evaluation.metrics",),
    "comparisons": ("statistics.records", "reporting.comparisons"),
    "reporting": ("reporting.products",),
    "log": ("tracking.delivery",),
    "agreement": ("tracking.agreement",),
}
"""The modules of the package whose code, with all that they import, determines a step's result."""


def code_of(step: str) -> str:
    """Digest of the code that determines a step's result."""
    return code_digest(*CODE[step])


def source_files(experiment: Experiment, corpus: str) -> list[Path]:
    """The local files of a corpus with source `files`."""
    source = experiment.corpora[corpus].source
    names = [name for split in source.splits.values() for name in split]
    names += [source.dev_ids] if source.dev_ids else []
    return [Path(experiment.data_path(source.root), name) for name in names]


def encoder_settings(experiment: Experiment, encoder: str) -> str:
    """Digest of what determines an encoder's files."""
    return digest(experiment.encoders[encoder].model_dump(mode="json", exclude={"label"}))


def corpus_settings(experiment: Experiment, corpus: str) -> str:
    """Digest of what determines a corpus's rows.

    Local files count by name and size, not by place: a mirror that was moved retrains nothing.
    """
    settings = experiment.corpora[corpus]
    if not is_local(settings.source):
        return digest(settings.model_dump(mode="json", exclude={"label"}))
    values = settings.model_dump(mode="json", exclude={"label": True, "source": {"root"}})
    files = source_files(experiment, corpus)
    return digest([values, {file.name: file.stat().st_size for file in files}])


def features_settings(experiment: Experiment, variant: str) -> str:
    """Digest of how text becomes tokens in a variant of the features."""
    return digest(experiment.settings_of(variant)["features"])


class RunSteps:
    """What the steps of an experiment's runs ask for, also of thousands at once.

    Runs that differ in nothing but their seed share all that is worked out.
    """

    def __init__(self, experiment: Experiment):
        self._experiment, self._layout = experiment, experiment.layout
        self._known: dict[RunId, dict[str, Any]] = {}

    def settings(self, run: RunId, step: str) -> str:
        """Digest of the settings that matter to `step` of a run: `train`, `evaluate`, `metrics`.

        `train` (and the schedule) knows nothing of decoding, `evaluate` does, and `metrics` also
        knows the slices and every word that is shown.
        """
        known = self._of(run)
        determining = {**known["determining"], "seed": run.seed}
        if step == "train":
            return digest(determining)
        if step == "evaluate":
            return digest([determining, known["decoding"]])
        return digest([{**known["everything"], "seed": run.seed}, self._slices])

    def gpus(self, run: RunId) -> int:
        """How many GPUs train a run together."""
        return self._of(run)["gpus"]

    def imported(self, run: RunId) -> list[str]:
        """The steps of a run that were done elsewhere and taken in by `mtdnn import`.

        Snakemake has no record of them, so it cannot notice that their settings changed.

        Raises:
            MtdnnError: the experiment's settings are no longer those under which they were done.
        """
        files = RunFolder(self._layout.run(run))
        if not files.imported.exists():
            return []
        products = {"train": files.description, "evaluate": files.predictions}
        recorded = {
            step: settings
            for step, settings in read_json(files.imported).items()
            if products[step].exists()
        }
        for step, settings in recorded.items():
            if settings != self.settings(run, step):
                raise MtdnnError(
                    f"{products[step]}: was imported, and the experiment's settings have "
                    f"changed since; change them back, or delete this file to {step} the run here"
                )
        return list(recorded)

    @cached_property
    def _slices(self) -> dict[str, Any]:
        return self._experiment.model_dump(mode="json", include={"slices", "tune_threshold_on"})

    def _of(self, run: RunId) -> dict[str, Any]:
        like = replace(run, seed=0)
        if like not in self._known:
            settings = self._experiment.resolve(run)
            self._known[like] = {
                "determining": settings.determining(),
                "decoding": settings.decoding.model_dump(),
                "everything": settings.model_dump(mode="json"),
                "gpus": settings.training.gpus,
            }
        return self._known[like]


def is_local(source: Any) -> bool:
    return isinstance(source, FilesCorpus) and not re.match(r"https?://", source.root or "")
