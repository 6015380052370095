"""Imports a run that was trained elsewhere, on a machine without Snakemake or MLflow."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdnn.config.dependencies import RunSteps
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import MANIFEST, STEPS, WEIGHTS, RunFolder, RunId
from mtdnn.config.loading import validate
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml, read_yaml
from mtdnn.data.tokenizer_trial import try_tokenizer
from mtdnn.errors import MtdnnError
from mtdnn.machine.drafts import clock
from mtdnn.machine.files import digest, read_json, replacing, sha256, write_json, write_text
from mtdnn.training.fingerprint import Fingerprint, is_ours, starts_elsewhere
from mtdnn.workflow.damage import changed_files, wrong_answers
from mtdnn.workflow.differing import differences
from mtdnn.workflow.running import held

TOKENIZER = "tokenizer.json"
TRAINED_FILES = (
    *STEPS["schedule"],
    *STEPS["train"],
    *(f"{RunFolder.model}/{name}" for name in ("config.json", *WEIGHTS, TOKENIZER)),
)
MODEL_SUFFIXES = (".json", ".safetensors", ".txt")
EVALUATED_FILES = STEPS["evaluate"]


def import_run(experiment: Experiment, folder: Path) -> Path:
    """Verify a finished run, copy it to its place below `results/` and log it to MLflow.

    The workflow then does not train the run again, nor evaluate it if it has predictions. Scores
    that come with a run are ignored: it is scored here, now if its corpora are here, else by the
    workflow. The import can be repeated, for instance when MLflow did not answer.

    Args:
        experiment: the experiment that needs the run.
        folder: the run's folder; any local folder.

    Returns:
        The run's folder below `results/`.

    Raises:
        MtdnnError: a line for each file that is missing, each value that differs, and so on;
            nothing was copied.
    """
    folder = Path(folder)
    files = RunFolder(folder)
    settings = validate(RunSettings, read_yaml(files.config), str(files.config))
    run = _run_of(experiment, settings, files.config)
    is_evaluated = any((folder / name).exists() for name in EVALUATED_FILES)
    required = TRAINED_FILES + EVALUATED_FILES if is_evaluated else TRAINED_FILES
    problems = [*_foreign_files(folder), *_missing_files(folder, required)]
    if not problems:
        record = _record_of(files.description)
        problems += _other_settings(experiment.resolve(run), settings, files.config, is_evaluated)
        problems += _damaged_files(experiment, files, record)
        problems += _other_origins(experiment, settings, files.description, record)
    target = RunFolder(experiment.layout.run(run))
    if problems:
        raise MtdnnError("\n".join(problems))
    with held(target.path, "the run is being imported"):
        is_there = target.description.exists()
        if is_there and sha256(target.description) != sha256(files.description):
            raise MtdnnError(
                f"{target.path}: already holds a trained run; delete it to import another"
            )
        if not is_there:
            _copy(experiment, run, folder, required)
    if target.metrics.exists():
        from mtdnn.tracking import client, runs

        client.create_store(experiment)
        runs.log_run(experiment, target.path)
    return target.path


def _copy(experiment: Experiment, run: RunId, folder: Path, required: tuple[str, ...]) -> None:
    """Copy a verified run to its place, all of it or nothing."""
    with replacing(experiment.layout.run(run)) as draft:
        # The whole folder, because the tokenizer's files differ from encoder to encoder.
        model = [f"{RunFolder.model}/{name}" for name in os.listdir(folder / RunFolder.model)]
        (draft / RunFolder.model).mkdir(parents=True)
        for name in {RunFolder.journal, *required, *model}:
            if (folder / name).exists():
                shutil.copyfile(folder / name, draft / name)  # without its permissions
        files, run_steps = RunFolder(draft), RunSteps(experiment)
        write_text(files.config, dump_yaml(experiment.resolve(run)))
        steps = ["train", "evaluate"] if files.predictions.exists() else ["train"]
        write_json(files.imported, {step: run_steps.settings(run, step) for step in steps})
        if files.predictions.exists() and _can_score(experiment, run):
            from mtdnn.evaluation import metrics

            metrics.write(draft, experiment)
        _set_dates(draft)


def _can_score(experiment: Experiment, run: RunId) -> bool:
    """Return whether the corpora on which a run is scored are here."""
    corpora = experiment.corpora_of(run.mixture)
    return all((experiment.layout.corpus(name) / MANIFEST).exists() for name in corpora)


def _run_of(experiment: Experiment, settings: RunSettings, place: Path) -> RunId:
    """Return the experiment's run with these settings, which were read from `place`."""
    run = settings.id
    if run not in experiment.runs():
        raise MtdnnError(
            f"{place}: is {run.path}, which no table of experiment "
            f"{experiment.experiment} needs; `mtdnn plan` lists the runs that it needs"
        )
    return run


def _foreign_files(folder: Path) -> Iterator[str]:
    """Yield a line for each file that training never writes: symbolic links, pickles, code."""
    model = folder / RunFolder.model
    for path in [model, *sorted(folder.glob("*")), *sorted(model.glob("**/*"))]:
        if path.is_symlink():
            yield f"{path}: is a symbolic link; copy the run's own files"
        elif model in path.parents and path.suffix not in MODEL_SUFFIXES:
            yield f"{path}: is not a file of a model ({', '.join(MODEL_SUFFIXES)}); remove it"


def _missing_files(folder: Path, required: tuple[str, ...]) -> Iterator[str]:
    for name in required:
        if not (folder / name).is_file():
            yield f"{folder / name}: no such file"


def _other_settings(
    ours: RunSettings, theirs: RunSettings, place: Path, is_evaluated: bool
) -> Iterator[str]:
    """Yield a line for each setting that matters to the run's files and differs.

    Args:
        ours: the settings in the experiment.
        theirs: the settings in the run's folder.
        place: the file that holds the latter.
        is_evaluated: whether the run has predictions, to which decoding and the splits to predict
            matter as well.
    """
    expected_settings, found = ours.determining(), theirs.determining()
    if is_evaluated:
        expected_settings |= {"decoding": ours.decoding.model_dump(), "evaluated": ours.evaluated}
        found |= {"decoding": theirs.decoding.model_dump(), "evaluated": theirs.evaluated}
    for key, value, expected in differences(found, expected_settings):
        yield f"{place}: {key}: is {value!r}, but {expected!r} in the experiment"


def _record_of(path: Path) -> dict[str, Any]:
    """Return the content of a run's description, whose parts have the types that training writes.

    Raises:
        MtdnnError: it is something else.
    """
    record = read_json(path)
    types = {"files": dict, "beside": dict, "corpora": dict, "code": str}
    parts = record if isinstance(record, dict) else dict.fromkeys(types, record)
    for key, kind in types.items():
        if not isinstance(parts.get(key) or kind(), kind):
            raise MtdnnError(f"{path}: {key}: is not what training writes; retrain the run")
    return parts


def _damaged_files(
    experiment: Experiment, files: RunFolder, record: dict[str, Any]
) -> Iterator[str]:
    """Yield a line for each file that is damaged, was changed or does not fit the others."""
    digests, beside = record.get("files") or {}, record.get("beside") or {}
    if not digests or not beside:
        yield f"{files.description}: files: has no digests of the run's files; retrain the run"
    changed = [*changed_files(files.model, digests), *changed_files(files.path, beside)]
    yield from changed
    if not changed:
        yield from _broken_files(files)
    if files.predictions.exists():
        yield from wrong_answers(experiment.layout, files)


def _broken_files(files: RunFolder) -> Iterator[str]:
    """Yield a line for each file that is truncated or does not fit the others."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors import SafetensorError, safe_open

    for path in files.weights():
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            yield f"{path}: not readable: {error}"
    try:
        try_tokenizer(files.model / TOKENIZER, str(files.model / TOKENIZER))
    except MtdnnError as error:
        yield str(error)
    try:
        steps = pq.read_table(files.schedule, columns=["step"])["step"].to_pylist()
        logged = [json.loads(line)["step"] for line in files.log.read_text("utf-8").splitlines()]
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        RecursionError,
    ) as error:
        yield f"{files.path}: {RunFolder.schedule} or {RunFolder.log}: not readable: {error}"
    else:
        if logged != steps:
            yield (
                f"{files.log}: has other steps than {RunFolder.schedule} ({len(logged)} against "
                f"{len(steps)}); retrain the run"
            )


def _other_origins(
    experiment: Experiment, settings: RunSettings, path: Path, record: dict[str, Any]
) -> Iterator[str]:
    """Yield a line for each part of a run's fingerprint that differs from what it would be here.

    Paths that were turned off or on (MTDNN_PLAIN, MTDNN_TRIAL) make no difference.

    Args:
        experiment: the experiment that needs the run.
        settings: the run's settings.
        path: its description.
        record: what that says.
    """
    theirs = Fingerprint.recorded(record)
    if record.get("fingerprint") != theirs.digest:
        yield f"{path}: fingerprint: does not match its parts; the file was changed after training"
    if theirs.config_digest != digest(settings.determining()):
        yield f"{path}: config_digest: does not match its {RunFolder.config}"
    if not is_ours(theirs.code):
        yield f"{path}: code: the run was trained by other code; use the same commit"
    layout, digests = experiment.layout, theirs.corpora or {}
    if starts_elsewhere(layout, settings, record):
        yield (
            f"{path}: start, teachers: do not match the runs from which it should start or learn; "
            "retrain the run"
        )
    places = [
        (f"corpora.{name}", layout.corpus(name), digests.get(name)) for name in settings.corpora
    ]
    places.append(("encoder", layout.encoder(settings.encoder_name), theirs.encoder))
    for key, place, expected in places:
        manifest = place / MANIFEST
        if manifest.exists() and read_json(manifest)["digest"] != expected:
            yield f"{path}: {key}: does not match {manifest}; the run was trained on something else"


def _set_dates(folder: Path) -> None:
    """Give all files the same date, so that none is newer than what follows from it.

    Scores get an old date, because Snakemake has no record of them and must redo them.
    """
    now = clock(folder)  # not this machine's: other files have the dates of the disk's server
    for path in folder.rglob("*"):
        os.utime(path, (1, 1) if path.name == RunFolder.metrics else (now, now))
