"""Take in a run that was trained elsewhere, on a machine without Snakemake or MLflow."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdnn.config.dependencies import RunSteps
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import MANIFEST, STEPS, WEIGHTS, RunFolder, RunId
from mtdnn.config.loading import load_run
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_json, replacing, write_json, write_text
from mtdnn.training.fingerprint import Fingerprint, is_ours

TRAINED = (
    *STEPS["schedule"],
    *STEPS["train"],
    *(f"{RunFolder.model}/{name}" for name in ("config.json", *WEIGHTS, "tokenizer.json")),
)
MODEL_SUFFIXES = (".json", ".safetensors", ".txt")
EVALUATED = STEPS["evaluate"]


def import_run(experiment: Experiment, folder: Path) -> Path:
    """Verify the finished run in `folder`, put it in its place and log it to MLflow.

    The workflow then neither trains nor (if its predictions came along) evaluates it again,
    but always scores it here. Only a run with scores of its own is logged at once.

    Returns:
        The run's folder below `results/`.

    Raises:
        MtdnnError: one line for each thing that is missing or differs.
    """
    folder = Path(folder)
    settings = load_run(RunFolder(folder).config)
    run = _which(experiment, settings, folder)
    evaluated = any((folder / name).exists() for name in EVALUATED)
    wanted = TRAINED + EVALUATED if evaluated else TRAINED
    missing = [f"{folder / name}: no such file" for name in wanted if not (folder / name).is_file()]
    mistakes = [*_foreign_files(folder), *missing] or [
        *_other_settings(experiment.resolve(run), settings, RunFolder(folder).config, evaluated),
        *_broken_files(folder),
        *_other_origins(experiment, settings, RunFolder(folder).description),
    ]
    target = experiment.layout.run(run)
    if RunFolder(target).description.exists() and not target.samefile(folder):
        mistakes.append(f"{target}: holds a trained run already; delete it to import another")
    if mistakes:
        raise MtdnnError("\n".join(mistakes))

    with replacing(target) as draft:
        # The tokenizer's files differ from encoder to encoder, so the model comes whole.
        shutil.copytree(folder / "model", draft / "model")
        for name in (RunFolder.metrics, RunFolder.journal, *wanted):
            if (folder / name).exists():
                shutil.copyfile(folder / name, draft / name)
        write_text(RunFolder(draft).config, dump_yaml(experiment.resolve(run)))
        steps = ["train", "evaluate"] if evaluated else ["train"]
        digests = RunSteps(experiment)
        marks = {step: digests.settings(run, step) for step in steps}
        write_json(RunFolder(draft).imported, marks)
        _date(draft)
    if RunFolder(target).metrics.exists():
        from mtdnn.tracking import client, runs

        client.create_store(experiment)
        runs.log_run(experiment, target)
    return target


def _which(experiment: Experiment, settings: RunSettings, folder: Path) -> RunId:
    """The experiment's run that `settings` describe."""
    run = RunId(
        settings.encoder_name,
        settings.mixture,
        settings.qa_weight,
        settings.variant,
        settings.seed,
    )
    if run not in experiment.runs():
        raise MtdnnError(
            f"{RunFolder(folder).config}: is {run.path}, which no table of experiment "
            f"{experiment.experiment} needs; `mtdnn plan` lists its runs"
        )
    return run


def _foreign_files(folder: Path) -> Iterator[str]:
    """What no training of ours writes: links out of the folder, pickles, code."""
    for path in [folder / "model", *sorted(folder.glob("*")), *sorted(folder.glob("model/**/*"))]:
        if path.is_symlink():
            yield f"{path}: is a symbolic link; copy the run's own files"
        elif path.parent.name == "model" and path.suffix not in MODEL_SUFFIXES:
            yield f"{path}: is no file of a model ({', '.join(MODEL_SUFFIXES)}); remove it"


def _other_settings(
    ours: RunSettings, theirs: RunSettings, place: Path, evaluated: bool
) -> Iterator[str]:
    yield from _differences(ours.determining(), theirs.determining(), str(place), "")
    if evaluated:
        ours_decoding, theirs_decoding = ours.decoding.model_dump(), theirs.decoding.model_dump()
        yield from _differences(ours_decoding, theirs_decoding, str(place), "decoding.")


def _differences(ours: Any, theirs: Any, place: str, key: str) -> Iterator[str]:
    """One line for each value that differs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in {**ours, **theirs}:
            yield from _differences(ours.get(name), theirs.get(name), place, f"{key}{name}.")
    elif ours != theirs:
        yield f"{place}: {key.rstrip('.')}: is {theirs!r}, but {ours!r} in the experiment"


def _broken_files(folder: Path) -> Iterator[str]:
    """What is truncated, or does not fit together."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors import SafetensorError, safe_open

    for name in WEIGHTS:
        try:
            with safe_open(folder / "model" / name, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            yield f"{folder / 'model' / name}: not readable: {error}"
    lines = RunFolder(folder).log
    try:
        steps = pq.read_metadata(RunFolder(folder).schedule).num_rows
        logged = [json.loads(line)["step"] for line in lines.read_text("utf-8").splitlines()]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        yield f"{folder}: schedule.parquet or training.jsonl: not readable: {error}"
    else:
        if logged != list(range(steps)):
            yield f"{lines}: has {len(logged)} steps, but the schedule has {steps}"


def _other_origins(experiment: Experiment, settings: RunSettings, path: Path) -> Iterator[str]:
    """Where the fingerprint differs from what the run would have here."""
    record = read_json(path)
    theirs = Fingerprint.recorded(record)
    if record.get("fingerprint") != theirs.digest:
        yield f"{path}: fingerprint: is not that of its parts; the file was changed"
    if theirs.config_digest != digest(settings.determining()):
        yield f"{path}: config_digest: is not that of its config.yaml"
    if not is_ours(theirs.code):
        yield f"{path}: code: was trained with other code than this; use the same commit"
    layout, digests = experiment.layout, theirs.corpora or {}
    places = [
        (f"corpora.{name}", layout.corpus(name), digests.get(name)) for name in settings.corpora
    ]
    places.append(("encoder", layout.encoder(settings.encoder_name), theirs.encoder))
    for key, place, expected in places:
        manifest = place / MANIFEST
        if manifest.exists() and read_json(manifest)["digest"] != expected:
            yield f"{path}: {key}: differs from {manifest}; it was trained on something else"


def _date(folder: Path) -> None:
    """Give all files one date, so that none is newer than what was made from it.

    Scores are dated back: Snakemake has no record of them, so they are made anew here.
    """
    now = time.time()
    for path in folder.rglob("*"):
        os.utime(path, (1, 1) if path.name == RunFolder.metrics else (now, now))
