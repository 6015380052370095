"""Functions for the Snakefile: load and check the experiment, build the report, start delivery."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mtdnn.config.dependencies import is_local, source_files
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import MANIFEST, Layout
from mtdnn.config.loading import parse, with_lock
from mtdnn.config.settings import FilesEncoder
from mtdnn.config.yaml_files import read_yaml
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest


def load_experiment(mapping: Any, files: Iterable[Path]) -> Experiment:
    """Check the experiment that Snakemake merged from files and its command line.

    Args:
        mapping: the merged keys and values.
        files: the YAML files.

    Raises:
        MtdnnError: a line for each mistake and each missing input.
    """
    names = [os.path.relpath(file) for file in files]
    for name in names:
        read_yaml(name)  # refuses repeated keys, which Snakemake's own reader accepts
    experiment = with_lock(parse(mapping, where=" + ".join(names)), names[0])
    missing = sorted(missing_files(experiment))
    if missing:
        raise MtdnnError("\n".join(f"{names[0]}: {line}" for line in missing))
    return experiment


def missing_files(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each local folder or file that is needed but missing.

    Encoders and corpora need their sources until they are fetched; rows of other experiments need
    their results.
    """
    layout = experiment.layout
    for name, table in experiment.tables.items():
        for index, row in enumerate(table.rows):
            if row.origin and not Layout(Path(row.origin)).experiment.is_file():
                yield f"tables.{name}.rows.{index}.from: no results of an experiment: {row.origin}"
    local = [
        name
        for name in experiment.corpora_used()
        if is_local(experiment.corpora[name].source)
        and not (layout.corpus(name) / MANIFEST).exists()
    ]
    if local and not os.path.isdir(experiment.data_path(None)):
        yield (
            f"data_root: no such folder: {experiment.data_path(None)}; "
            "set it, or the environment variable MTDNN_DATA"
        )
        return
    for name in local:
        yield from _missing(f"corpora.{name}.source", [*source_files(experiment, name).values()])
    for name in {run.encoder for run in experiment.runs()}:
        source = experiment.encoders[name].source
        if (layout.encoder(name) / MANIFEST).exists():
            continue
        if isinstance(source, FilesEncoder) and not os.path.isdir(source.path):
            yield f"encoders.{name}.source.path: no such folder: {source.path}"


def report_command(experiment: Path, snakefile: str, reported: Iterable[Path], root: Path) -> str:
    """Return the shell command with which Snakemake writes the report.

    The report is written elsewhere and then moved, so it is never half-written. Snakemake takes a
    dollar sign in the draft's name for a variable, so that name is a plain one.

    Args:
        experiment: the experiment's YAML file.
        snakefile: the Snakefile.
        reported: the files that the report should hold.
        root: the experiment's folder.
    """
    report = Layout(root).report
    draft = f".snakemake/report-{digest(str(root))[:12]}.html"
    beside = shlex.quote(str(report.with_name(f".{report.name}")))
    files = " ".join(shlex.quote(str(file)) for file in reported)
    return (
        f"python -m snakemake {files} --snakefile {shlex.quote(str(snakefile))} "
        f"--configfile {shlex.quote(str(experiment))} --report {draft} "
        f"--nolock --cores 1 --workflow-profile none "
        f"&& mv {draft} {beside} && mv {beside} {shlex.quote(str(report))}"
    )


def start_delivery(experiment: Path, log: Path) -> None:
    """Start a process that keeps MLflow up to date until this process ends.

    Args:
        experiment: the experiment's YAML file.
        log: the file for the messages of the new process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mtdnn", "sync", str(experiment)]
    command += ["--follow", "--parent", str(os.getpid())]
    with open(log, "a", encoding="utf-8") as file:
        # In a new session, Ctrl-C does not end it before it has delivered how the runs ended.
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _missing(place: str, files: list[Path]) -> Iterator[str]:
    """Yield a line for each missing folder, and for each missing file in the other folders."""
    folders = {file.parent for file in files if not os.path.isdir(file.parent)}
    for folder in folders:
        yield f"{place}.root: no such folder: {folder}"
    for file in files:
        if file.parent not in folders and not os.path.isfile(file):
            yield f"{place}.splits: no such file: {file}"
