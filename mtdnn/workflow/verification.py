"""Checks that the files of an experiment follow from each other.

Digests of encoders, corpora, features and models are computed again, scores from predictions, and
tables from scores; MLflow is asked whether it agrees; on demand, predictions are computed again
from the models. The experiment's folder is not changed.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mtdnn.config.dependencies import RunSteps, changed_sources, source_files
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import FEATURES, MANIFEST, STEPS, Layout, RunFolder
from mtdnn.config.loading import load, load_run
from mtdnn.data.corpora import fetching
from mtdnn.data.features import SPLITS
from mtdnn.data.logits import Logits
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_product
from mtdnn.tracking.content import run_folders
from mtdnn.training.fingerprint import Fingerprint, starts_elsewhere
from mtdnn.workflow import checksums
from mtdnn.workflow.damage import changed_files, wrong_answers
from mtdnn.workflow.differing import differences

# Null odds differ in their last digits from machine to machine.
ODDS_TOLERANCE = 1e-3
MAX_SHOWN_DIFFERENCES = 5

Check = Callable[[Path], Iterator[str]]


def experiment_in(folder: Path) -> Experiment:
    """Return the experiment whose results a folder holds, wherever that folder is now.

    Raises:
        MtdnnError: `experiment.yaml` is missing or mistaken, or the folder's name is not that of
            the experiment.
    """
    settings = Layout(folder).experiment
    if not settings.is_file():
        raise MtdnnError(
            f"{folder}: has no {settings.name}, so it is not the folder of an experiment's "
            "results, such as results/demo"
        )
    experiment = load(settings)
    if folder.absolute().name != experiment.experiment:
        raise MtdnnError(f"{folder}: holds the experiment {experiment.experiment!r}; rename it")
    return experiment.model_copy(update={"results": str(folder.absolute().parent)})


def verify(experiment: Experiment, predictions: bool = False, threads: int | None = None) -> None:
    """Check an experiment's folder, and print a line for each kind of file in it.

    Args:
        experiment: the experiment, as `experiment.yaml` in its folder describes it.
        predictions: whether to evaluate every model again, which takes as long as the first time.
        threads: CPU threads for that; all cores when absent.

    Raises:
        MtdnnError: a line for each file that does not follow from the others.
    """
    layout = experiment.layout
    runs = list(map(RunFolder, run_folders(layout)))
    trained = [run.path for run in runs if _is_trained(run)]
    scored = [run.path for run in runs if run.description.exists() and run.metrics.exists()]
    predicted = [run.path for run in runs if run.predictions.exists()]
    logged = [folder for folder in scored if RunFolder(folder).logged.exists()]
    with tempfile.TemporaryDirectory() as folder:
        recomputed = Recomputed(experiment, Path(folder))
        checks: dict[str, tuple[list[Path], Check]] = {
            "finished files": (
                [layout.checksums] if layout.checksums.exists() else [],
                lambda _: checksums.check(experiment),
            ),
            "encoders": (_matching(layout, layout.encoder("*")), _encoder),
            "corpora": (
                _matching(layout, layout.corpus("*")),
                lambda corpus: _corpus(experiment, corpus),
            ),
            "features": (
                _matching(layout, layout.features("*", "*", "*")),
                lambda features: _features(layout, features),
            ),
            "models": (trained, Models(experiment)),
            "answers": (predicted, lambda run: wrong_answers(layout, RunFolder(run))),
            "scores": (scored, recomputed.scores),
            "tables": (_matching(layout, layout.table("*", "md")), recomputed.table),
            "runs in MLflow": (logged, lambda run: _in_mlflow(experiment, run)),
        }
        if logits := _matching(layout, layout.logits("*/*/*/*/*", "*")):
            checks["teachers' logits"] = (logits, _logits)
        if predictions:
            checks["predictions"] = (scored, lambda run: recomputed.predictions(run, threads))
        problems = []
        for kind, (places, check) in checks.items():
            found = [list(_guarded(check, place)) for place in places]
            print(f"{kind}: {found.count([])} of {len(places)} correct", flush=True)
            problems += [line for lines in found for line in lines]
    if problems:
        raise MtdnnError("\n".join(dict.fromkeys(problems)))


def _is_trained(run: RunFolder) -> bool:
    """Return whether a run has a model, or had one from which it was scored."""
    return any(file.exists() for file in (run.description, run.predictions, run.metrics))


def _matching(layout: Layout, pattern: Path) -> list[Path]:
    """Return the paths below an experiment's folder that match a path with `*` in it, sorted.

    What a killed process left half-written is hidden, and no part of the experiment.
    """
    found = layout.root.glob(str(pattern.relative_to(layout.root)))
    return sorted(path for path in found if not path.name.startswith("."))


def _guarded(check: Check, place: Path) -> Iterator[str]:
    """Yield what a check finds; a missing or damaged file is a finding as well."""
    try:
        yield from check(place)
    except MtdnnError as error:
        yield from str(error).splitlines()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{place}: not readable: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


# --- digests ---------------------------------------------------------------------------------


def _encoder(folder: Path) -> Iterator[str]:
    manifest = read_product(folder / MANIFEST)
    yield from changed_files(folder, manifest["files"])
    if digest(manifest["files"]) != manifest["digest"]:
        yield f"{folder / MANIFEST}: digest: does not match its files"


def _corpus(experiment: Experiment, folder: Path) -> Iterator[str]:
    manifest = read_product(folder / MANIFEST)
    if folder.name in experiment.corpora:
        for file in changed_sources(experiment, folder.name):
            yield f"{file}: has changed since {folder} was read from it; run snakemake again"
        files = source_files(experiment, folder.name).values()
        gone = [str(file) for file in files if not file.exists()]
        if gone:
            print(f"corpora: {folder.name}: its source is no longer there: {gone[0]}", flush=True)
    splits = manifest["splits"]
    expected = {f"{split}.parquet": splits[split]["sha256"] for split in splits}
    damaged = list(changed_files(folder, expected))
    yield from damaged
    if not damaged:
        rows = {split: pq.read_table(folder / f"{split}.parquet").to_pylist() for split in splits}
        if fetching.rows_digest(rows) != manifest["digest"]:
            yield f"{folder / MANIFEST}: digest: does not match its rows"


def _features(layout: Layout, folder: Path) -> Iterator[str]:
    described = read_product(folder / FEATURES)
    encoder, _, corpus = folder.parts[-3:]
    splits = described["splits"]
    yield from changed_files(
        folder,
        {f"{split}.arrow": splits[split].get("sha256") for split in SPLITS if split in splits},
    )
    for key, origin in (
        ("corpus_digest", layout.corpus(corpus)),
        ("encoder_digest", layout.encoder(encoder)),
    ):
        if described[key] != read_product(origin / MANIFEST)["digest"]:
            yield f"{folder / FEATURES}: {key}: does not match {origin}"


def _logits(path: Path) -> Iterator[str]:
    Logits(path).check_unchanged()  # an error is a finding
    yield from ()


class Models:
    """Finds where a run's model is not what its description and the experiment's settings say."""

    def __init__(self, experiment: Experiment):
        self._layout, self._run_steps = experiment.layout, RunSteps(experiment)
        self._runs = {self._layout.run(run): run for run in experiment.runs()}

    def __call__(self, run: Path) -> Iterator[str]:
        """Yield a line for each thing that is wrong with a run's model."""
        place = RunFolder(run).description
        if not place.exists():
            yield f"{place}: is missing, though the run has scores; restore it, or {_retrain(run)}"
            return
        yield from _model(self._layout, run)
        trained = read_product(place).get("config_digest")
        if run in self._runs and trained != self._run_steps.settings(self._runs[run], "train"):
            yield f"{place}: was trained under other settings than the experiment's; retrain it"


def _model(layout: Layout, run: Path) -> Iterator[str]:
    files = RunFolder(run)
    place = files.description
    record, settings = read_product(place), load_run(files.config)
    yield from changed_files(files.model, record.get("files") or {})
    yield from changed_files(files.path, record.get("beside") or {})
    if not record.get("files"):
        yield f"{place}: files: has no digests of the model's files; {_retrain(run)}"
    if record.get("fingerprint") != Fingerprint.recorded(record).digest:
        yield f"{place}: fingerprint: does not match its parts"
    if record.get("config_digest") != digest(settings.determining()):
        yield (
            f"{place}: config_digest: does not match {files.config}; "
            "`mtdnn resolve` writes that again"
        )
    origins = {name: layout.corpus(name) for name in settings.corpora}
    found = {name: record["corpora"].get(name) for name in origins}
    origins["encoder"], found["encoder"] = layout.encoder(settings.encoder_name), record["encoder"]
    if starts_elsewhere(layout, settings, record):
        yield (
            f"{place}: start, teachers: do not match the runs from which it should start or learn; "
            f"{_retrain(run)}"
        )
    for name, origin in origins.items():
        manifest = origin / MANIFEST
        # An imported run may have come without them.
        if manifest.exists() and read_product(manifest)["digest"] != found[name]:
            yield f"{place}: {name}: does not match {manifest}; {_retrain(run)}"


def _retrain(run: Path) -> str:
    return f"retrain the run: `mtdnn train {run} --force`, then snakemake"


# --- recomputed files ------------------------------------------------------------------------


class Recomputed:
    """Repeats computations in a folder next to the experiment, and compares the files.

    Args:
        experiment: the experiment.
        folder: an empty folder.
    """

    def __init__(self, experiment: Experiment, folder: Path):
        self._experiment = experiment
        self._copy = experiment.model_copy(update={"results": str(folder)})
        self._root, self._copy_root = experiment.layout.root, self._copy.layout.root

    def _link(self, *names: str) -> None:
        """Link files or folders of the experiment into the copy."""
        self._copy_root.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (self._copy_root / name).exists() and (self._root / name).exists():
                os.symlink((self._root / name).absolute(), self._copy_root / name)

    def _run(self, run: Path, *names: str) -> Path:
        """Return a folder for a run in the copy, with links to some of the run's files.

        It is not below `runs/`, which may be a link to the experiment's own runs.
        """
        self._link("corpora", "features", "encoders")
        folder = self._copy_root / "recomputed" / run.relative_to(self._root / "runs")
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (folder / name).exists():
                os.symlink((run / name).absolute(), folder / name)
        return folder

    def scores(self, run: Path) -> Iterator[str]:
        """Yield where `metrics.json` differs from the scores of the run's predictions."""
        from mtdnn.evaluation import metrics

        folder = self._run(run, RunFolder.config, RunFolder.model, *STEPS["evaluate"])
        metrics.write(folder, self._copy)
        place = RunFolder(run).metrics
        found, expected = read_product(place), read_product(RunFolder(folder).metrics)
        for scores in (found, expected):
            scores.get("provenance", {}).pop("scored", None)  # when and by which commit
        for key, *values in differences(found, expected):
            shown = [json.dumps(value, ensure_ascii=False)[:60] for value in values]
            yield f"{place}: {key}: is {shown[0]}, but the predictions give {shown[1]}"

    def predictions(self, run: Path, threads: int | None) -> Iterator[str]:
        """Yield where predictions differ from those that the model gives now."""
        from mtdnn.evaluation.predictions import evaluate

        folder = self._run(run, RunFolder.config, RunFolder.model)
        for name in _KEYS:
            (folder / name).unlink(missing_ok=True)
        evaluate(folder, load_run(RunFolder(run).config), threads)
        for name, key in _KEYS.items():
            found, expected = _by_key(run / name, key), _by_key(folder / name, key)
            if found.keys() != expected.keys():
                yield f"{run / name}: has {len(found)} rows, but its model predicts {len(expected)}"
                continue
            differ = [key for key, row in found.items() if not _is_close(row, expected[key])]
            if differ:
                where = ", ".join(map(str, differ[:MAX_SHOWN_DIFFERENCES]))
                count = f"{len(differ)} of {len(found)}"
                yield f"{run / name}: {count} rows differ from what its model predicts: {where}"

    def table(self, table: Path) -> Iterator[str]:
        """Yield where a table's files differ from what the runs' scores give."""
        from mtdnn.reporting.products import write_gradients, write_interference, write_table

        # A table may read anything but the tables, which are written here.
        self._link(*(path.name for path in self._root.iterdir() if path.name != "tables"))
        if table.stem in self._copy.tables:
            write_table(self._copy, table.stem)
        elif table.stem == "interference":
            write_interference(self._copy)
        elif table.stem == "gradients":
            write_gradients(self._copy)
        else:
            yield f"{table}: is no longer a table of the experiment; delete it"
            return
        for suffix in ("md", "csv", "tex"):
            place = self._experiment.layout.table(table.stem, suffix)
            found = place.read_text(encoding="utf-8").splitlines()
            copy = self._copy.layout.table(table.stem, suffix)
            expected = copy.read_text(encoding="utf-8").splitlines()
            if found != expected:
                pairs = enumerate(zip(found, expected, strict=False), 1)
                end = min(len(found), len(expected)) + 1
                number = next((number for number, pair in pairs if pair[0] != pair[1]), end)
                yield f"{place}: line {number}: does not match {RunFolder.metrics}; rebuild it"


_KEYS = {
    RunFolder.predictions: ("corpus", "split", "id"),
    RunFolder.auxiliary: ("corpus", "split", "row"),
}
"""The columns by which rows of predictions are told apart."""


def _by_key(path: Path, key: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = pq.read_table(path).to_pylist()
    return {tuple(row[name] for name in key): row for row in rows}


def _is_close(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        math.isclose(value, other[name], rel_tol=ODDS_TOLERANCE, abs_tol=ODDS_TOLERANCE)
        if isinstance(value, float)
        else value == other[name]
        for name, value in row.items()
    )


def _in_mlflow(experiment: Experiment, run: Path) -> Iterator[str]:
    """Yield where MLflow disagrees with a run's scores."""
    from mtdnn.tracking import runs

    for record in filter(Path.exists, (RunFolder(run).logged, experiment.layout.store)):
        read_product(record)  # which the checksums leave out
    store = experiment.store_uri.removeprefix("sqlite:///")
    if store != experiment.store_uri and not os.path.exists(store):
        yield f"{store}: no such file, though {RunFolder(run).logged} says that it was logged"
        return
    for line in runs.differences(experiment, [run]):
        yield f"{line}; `mtdnn sync` delivers it"
