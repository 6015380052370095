"""Functions for the Snakefile: load and check the experiment, build the report, start delivery."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mtdnn.config.dependencies import is_local, source_files
from mtdnn.config.experiment import Experiment
from mtdnn.config.joint import missing_packages
from mtdnn.config.layout import MANIFEST, Layout
from mtdnn.config.loading import parse, with_lock
from mtdnn.config.places import naming_lines
from mtdnn.config.settings import FilesEncoder, TrainingSettings
from mtdnn.config.yaml_files import dump_yaml, read_yaml
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, write_text
from mtdnn.machine.progress import say
from mtdnn.workflow import shared


def load_experiment(mapping: Any, files: Iterable[Path]) -> Experiment:
    """Check the experiment that Snakemake merged from files and its command line.

    Args:
        mapping: the merged keys and values.
        files: the YAML files; none for a module whose settings are given in the Snakefile.

    Raises:
        MtdnnError: a line for each mistake and each missing input.
    """
    names = [os.path.relpath(file) for file in files]
    for name in names:
        read_yaml(name)  # refuses repeated keys, which Snakemake's own reader accepts
    where = " + ".join(names) or "config of the module"
    with naming_lines(names, where, mapping):
        experiment = parse(mapping, where)
        experiment = with_lock(experiment, names[0] if names else f"{experiment.experiment}.yaml")
        check_sources(experiment, where)
    return _with_published_numbers(experiment)


def _with_published_numbers(experiment: Experiment) -> Experiment:
    """Return the experiment with the workflow's own file of published numbers if none is here.

    So `config/paper.yaml` works from any folder.
    """
    name = experiment.published
    if name and not os.path.exists(name) and (shared.folder() / name).is_file():
        return experiment.model_copy(update={"published": str(shared.folder() / name)})
    return experiment


def check_sources(experiment: Experiment, where: str, encoders: bool = False) -> None:
    """Check that the local files of the corpora and encoders exist and are what they should be.

    Only the first rows of a corpus are read; what was fetched before is not looked at.

    Args:
        experiment: the experiment.
        where: the name of its file, for messages.
        encoders: whether to check what is in the folders of encoders, too, which takes seconds, and
            that the packages are installed that training needs, perhaps on another machine.

    Raises:
        MtdnnError: a line for each mistake.
    """
    wrong = [*sorted(missing_files(experiment)), *unreadable_corpora(experiment)]
    wrong += [*unusable_encoders(experiment), *packages_to_install(experiment)] if encoders else []
    if wrong:
        raise MtdnnError("\n".join(f"{where}: {line}" for line in wrong))


def keep_experiment(experiment: Experiment) -> None:
    """Write the experiment's settings where every step reads them, unless a call is at work here.

    For a workflow that imports this one as a module: Snakemake runs no `onstart` of a module. A
    call that is at work holds Snakemake's lock, and its steps keep their settings. Meanwhile
    Snakemake refuses another real call, and a dry run needs no file.
    """
    locks = Path(".snakemake/locks")
    if not (locks.is_dir() and any(locks.iterdir())):
        write_text(experiment.layout.experiment, dump_yaml(experiment))


def packages_to_install(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each variant in use that needs packages which are not installed."""
    for variant in dict.fromkeys(run.variant for run in experiment.runs()):
        settings = TrainingSettings.model_validate(experiment.settings_of(variant)["training"])
        if line := missing_packages(settings):
            yield line if variant == "default" else f"variants.{variant}.{line}"


def missing_files(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each local folder or file that is needed but missing.

    Encoders and corpora need their sources until they are fetched; rows of other experiments need
    their results.
    """
    for name, table in experiment.tables.items():
        for index, row in enumerate(table.rows):
            if row.origin and not Layout(Path(row.origin)).experiment.is_file():
                yield f"tables.{name}.rows.{index}.from: no results of an experiment: {row.origin}"
    local = _unfetched_corpora(experiment)
    if local and not os.path.isdir(experiment.data_path(None)):
        place = "MTDNN_DATA" if os.environ.get("MTDNN_DATA") else "data_root"
        yield (
            f"{place}: no such folder: {experiment.data_path(None)}; "
            "set it, or the environment variable MTDNN_DATA"
        )
        return
    for name in local:
        yield from _missing(f"corpora.{name}.source", [*source_files(experiment, name).values()])
    for name, path in _unfetched_encoders(experiment).items():
        if not os.path.isdir(path):
            yield f"encoders.{name}.source.path: no such folder: {path}"


def unreadable_corpora(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each mistake in the first rows of the local corpora that exist."""
    for name in _unfetched_corpora(experiment):
        files = source_files(experiment, name)
        if all(map(os.path.isfile, files.values())):
            from mtdnn.data.corpora.first_rows import mistakes  # which imports heavy libraries

            for line in mistakes(experiment.corpora[name], files):
                yield f"corpora.{name}.source{line}"


def unusable_encoders(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each local folder of an encoder that holds none."""
    from mtdnn.data.encoders import check_folder

    for name, path in _unfetched_encoders(experiment).items():
        try:
            if os.path.isdir(path):
                check_folder(Path(path))
        except MtdnnError as error:
            yield f"encoders.{name}.source.path: {error}"


def _unfetched_corpora(experiment: Experiment) -> list[str]:
    """Return the names of the local corpora that runs need and that were not fetched yet."""
    return [
        name
        for name in experiment.corpora_used()
        if is_local(experiment.corpora[name].source)
        and not (experiment.layout.corpus(name) / MANIFEST).exists()
    ]


def _unfetched_encoders(experiment: Experiment) -> dict[str, str]:
    """Return the folders of the local encoders that runs need and that were not fetched yet."""
    sources = {run.encoder: experiment.encoders[run.encoder].source for run in experiment.runs()}
    return {
        name: source.path
        for name, source in sources.items()
        if isinstance(source, FilesEncoder)
        and not (experiment.layout.encoder(name) / MANIFEST).exists()
    }


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
    style = Path(snakefile).parent / "report" / "style.css"
    styled = f"--report-stylesheet {shlex.quote(str(style))} " if style.is_file() else ""
    return (
        f"python -m snakemake {files} --snakefile {shlex.quote(str(snakefile))} "
        f"--configfile {shlex.quote(str(experiment))} --report {draft} {styled}"
        f"--nolock --cores 1 --workflow-profile none "
        f"&& mv {draft} {beside} && mv {beside} {shlex.quote(str(report))}"
    )


def date_back(root: Path) -> None:
    """Give files of an experiment that are dated in the future the present date, and say so.

    Snakemake takes an output that is older than an input for broken and removes it: a clock that
    once was ahead, or a copy from such a machine, would cost the result of a training.
    """
    now, ahead = time.time(), []
    for path in root.rglob("*"):
        # Another process may remove a file meanwhile; that of another user stays as it is.
        with suppress(OSError):
            if path.is_file() and path.stat().st_mtime > now:
                os.utime(path)
                ahead.append(path)
    if ahead:
        say(f"{ahead[0]}: is dated in the future, as are {len(ahead)} files in all; dated to now")


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
