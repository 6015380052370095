"""What the Snakefile asks: which settings and code each step depends on, and what is missing.

A step is done again when its digests change, so they hold what matters to its result and
nothing else: a new title or figure never retrains a model. Imports nothing heavy.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mtdnn.config.experiment import Experiment, parse, read_yaml, with_lock
from mtdnn.config.layout import RunId
from mtdnn.config.settings import FilesCorpus, FilesEncoder
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_json

IMPORTED = "imported.json"
"""File in the folder of an imported run: a digest of the settings of each step done elsewhere."""

PRODUCT = {"train": "model/run.json", "evaluate": "predictions.parquet"}
"""By which file of a run's folder it is known that a step was done."""


def load_experiment(mapping: Any, files: Iterable[Path]) -> Experiment:
    """The experiment that Snakemake merged from `files` and its command line, checked.

    Raises:
        MtdnnError: one line for each mistake, and for each input that is not there.
    """
    names = [os.path.relpath(file) for file in files]
    for name in names:
        read_yaml(name)  # repeated keys, which Snakemake's own reader lets pass
    experiment = with_lock(parse(mapping, where=" + ".join(names)), names[0])
    missing = sorted(missing_files(experiment))
    if missing:
        raise MtdnnError("\n".join(f"{names[0]}: {line}" for line in missing))
    return experiment


def missing_files(experiment: Experiment) -> Iterator[str]:
    """A line for each local folder or file that an encoder or a corpus needs and lacks."""
    used = {name for run in experiment.runs() for name in experiment.mixtures[run.mixture].corpora}
    local = [name for name in used if _is_local(experiment.corpora[name].source)]
    if local and not os.path.isdir(experiment.data_path(None)):
        yield (
            f"data_root: no such folder: {experiment.data_path(None)}; "
            "set it, or the environment variable MTDNN_DATA"
        )
        return
    for name in local:
        yield from _missing(f"corpora.{name}.source", source_files(experiment, name))
    for name in {run.encoder for run in experiment.runs()}:
        source = experiment.encoders[name].source
        if isinstance(source, FilesEncoder) and not os.path.isdir(source.path):
            yield f"encoders.{name}.source.path: no such folder: {source.path}"


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
    if not _is_local(settings.source):
        return digest(settings.model_dump(mode="json", exclude={"label"}))
    values = settings.model_dump(mode="json", exclude={"label": True, "source": {"root"}})
    files = source_files(experiment, corpus)
    return digest([values, {file.name: file.stat().st_size for file in files}])


def features_settings(experiment: Experiment, variant: str) -> str:
    """Digest of how text becomes tokens in a variant of the features."""
    override = {} if variant == "default" else experiment.variants[variant].features
    return digest({**experiment.features.model_dump(), **override})


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
        folder = self._layout.run(run)
        if not os.path.exists(folder / IMPORTED):
            return []
        recorded = {
            step: settings
            for step, settings in read_json(folder / IMPORTED).items()
            if (folder / PRODUCT[step]).exists()
        }
        for step, settings in recorded.items():
            if settings != self.settings(run, step):
                raise MtdnnError(
                    f"{folder / PRODUCT[step]}: was imported, and the experiment's settings have "
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


def report_command(experiment: Path, snakefile: str, reported: Iterable[Path], root: Path) -> str:
    """Shell command that lets Snakemake put `reported` files into `{root}/report.html`.

    It is written beside its place and moved there, so that it is never half written.
    """
    draft = root / ".report.html"
    files = " ".join(shlex.quote(str(file)) for file in reported)
    return (
        f"python -m snakemake {files} --snakefile {shlex.quote(str(snakefile))} "
        f"--configfile {shlex.quote(str(experiment))} --report {shlex.quote(str(draft))} "
        f"--nolock --cores 1 --workflow-profile none "
        f"&& mv {shlex.quote(str(draft))} {shlex.quote(str(root / 'report.html'))}"
    )


def start_delivery(experiment: Path, log: Path) -> None:
    """Have a process of its own bring MLflow up to date until this one ends, however it ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mtdnn", "sync", str(experiment)]
    command += ["--follow", "--parent", str(os.getpid())]
    with open(log, "a", encoding="utf-8") as file:
        # In a session of its own, Ctrl-C does not end it before the runs have said how they ended.
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def count_gpus() -> int:
    """NVIDIA GPUs that may be used, without the seconds that importing torch takes."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return present if allowed is None else min(present, len(allowed.split(",")) if allowed else 0)


def _missing(place: str, files: list[Path]) -> Iterator[str]:
    folders = {file.parent for file in files if not os.path.isdir(file.parent)}
    for folder in folders:
        yield f"{place}.root: no such folder: {folder}"
    for file in files:
        if file.parent not in folders and not os.path.isfile(file):
            yield f"{place}.splits: no such file: {file}"


def _is_local(source: Any) -> bool:
    return isinstance(source, FilesCorpus) and not re.match(r"https?://", source.root or "")
