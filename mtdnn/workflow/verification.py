"""Does what lies in an experiment's folder follow from what it says it follows from?

Digests of encoders, corpora, features and models are computed again; scores are computed
again from predictions, and tables from scores; MLflow is asked whether it agrees; on demand,
predictions are made again from the models. Nothing in the folder is written.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mtdnn.config.dependencies import RunSteps
from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import FEATURES, MANIFEST, STEPS, Layout, RunFolder
from mtdnn.config.loading import load_run
from mtdnn.data.corpora import fetching
from mtdnn.data.features import SPLITS
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_json, sha256
from mtdnn.training.fingerprint import Fingerprint

# Null odds differ in their last digits from machine to machine.
ODDS_TOLERANCE = 1e-3
MOST_SHOWN = 5

Check = Callable[[Path], Iterator[str]]


def verify(experiment: Experiment, predictions: bool = False, threads: int | None = None) -> None:
    """Check an experiment's folder and print a line for each kind of thing in it.

    Args:
        experiment: as `results/{experiment}/experiment.yaml` has it.
        predictions: also evaluate every model again; takes as long as evaluation did.
        threads: CPU threads for that; all cores when absent.

    Raises:
        MtdnnError: a line for each thing that does not follow.
    """
    layout = experiment.layout
    runs = sorted(path.parent for path in layout.root.glob("runs/*/*/*/*/*/config.yaml"))
    trained = [run for run in runs if RunFolder(run).description.exists()]
    scored = [run for run in trained if RunFolder(run).metrics.exists()]
    with tempfile.TemporaryDirectory() as room:
        again = Again(experiment, Path(room))
        parts: dict[str, tuple[list[Path], Check]] = {
            "encoders": (_folders(layout.encoder("*")), _encoder),
            "corpora": (_folders(layout.corpus("*")), _corpus),
            "features": (_folders(layout.features("*", "*", "*")), lambda f: _features(layout, f)),
            "models": (trained, Models(experiment)),
            "scores": (scored, again.scores),
            "tables": (_folders(layout.table("*", "md")), again.table),
            "runs in MLflow": (
                [run for run in scored if RunFolder(run).logged.exists()],
                lambda run: _in_mlflow(experiment, run),
            ),
        }
        if predictions:
            parts["predictions"] = (scored, lambda run: again.predictions(run, threads))
        wrong = []
        for kind, (places, check) in parts.items():
            found = [list(_guarded(check, place)) for place in places]
            print(f"{kind}: {found.count([])} of {len(places)} as they should be", flush=True)
            wrong += [line for lines in found for line in lines]
    if wrong:
        raise MtdnnError("\n".join(wrong))


def _folders(pattern: Path) -> list[Path]:
    """What matches a path with `*` in it."""
    parts = pattern.parts
    first = next(index for index, part in enumerate(parts) if "*" in part)
    return sorted(Path(*parts[:first]).glob("/".join(parts[first:])))


def _guarded(check: Check, place: Path) -> Iterator[str]:
    """What a check finds; a file that is missing or damaged is a finding as well."""
    try:
        yield from check(place)
    except MtdnnError as error:
        yield from str(error).splitlines()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{place}: not readable: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


# --- digests ---------------------------------------------------------------------------------


def _encoder(folder: Path) -> Iterator[str]:
    manifest = read_json(folder / MANIFEST)
    yield from _files(folder, manifest["files"])
    if digest(manifest["files"]) != manifest["digest"]:
        yield f"{folder / MANIFEST}: digest: is not that of its files"


def _corpus(folder: Path) -> Iterator[str]:
    manifest = read_json(folder / MANIFEST)
    splits = manifest["splits"]
    expected = {f"{split}.parquet": splits[split]["sha256"] for split in splits}
    damaged = list(_files(folder, expected))
    yield from damaged
    if not damaged:
        rows = {split: pq.read_table(folder / f"{split}.parquet").to_pylist() for split in splits}
        if fetching.rows_digest(rows) != manifest["digest"]:
            yield f"{folder / MANIFEST}: digest: is not that of its rows"


def _features(layout: Layout, folder: Path) -> Iterator[str]:
    described = read_json(folder / FEATURES)
    encoder, _, corpus = folder.parts[-3:]
    splits = described["splits"]
    yield from _files(
        folder,
        {f"{split}.arrow": splits[split].get("sha256") for split in SPLITS if split in splits},
    )
    for key, origin in (
        ("corpus_digest", layout.corpus(corpus)),
        ("encoder_digest", layout.encoder(encoder)),
    ):
        if described[key] != read_json(origin / MANIFEST)["digest"]:
            yield f"{folder / FEATURES}: {key}: is not that of {origin}"


class Models:
    """Finds where a run's model is not what its record and the experiment's settings say."""

    def __init__(self, experiment: Experiment):
        self._layout, self._asked = experiment.layout, RunSteps(experiment)
        self._runs = {self._layout.run(run): run for run in experiment.runs()}

    def __call__(self, run: Path) -> Iterator[str]:
        yield from _model(self._layout, run)
        place = RunFolder(run).description
        trained = read_json(place).get("config_digest")
        if run in self._runs and trained != self._asked.settings(self._runs[run], "train"):
            yield f"{place}: was trained under other settings than the experiment's; train it again"


def _model(layout: Layout, run: Path) -> Iterator[str]:
    place = RunFolder(run).description
    record, settings = read_json(place), load_run(RunFolder(run).config)
    yield from _files(run / "model", record.get("files") or {})
    if not record.get("files"):
        yield f"{place}: files: has no digests of the model's files; train the run again"
    if record.get("fingerprint") != Fingerprint.recorded(record).digest:
        yield f"{place}: fingerprint: is not that of its parts"
    if record.get("config_digest") != digest(settings.determining()):
        yield f"{place}: config_digest: is not that of {RunFolder(run).config}"
    origins = {name: layout.corpus(name) for name in settings.corpora}
    found = {name: record["corpora"].get(name) for name in origins}
    origins["encoder"], found["encoder"] = layout.encoder(settings.encoder_name), record["encoder"]
    for name, origin in origins.items():
        manifest = origin / MANIFEST
        # A run that was trained elsewhere may have come without them.
        if manifest.exists() and read_json(manifest)["digest"] != found[name]:
            yield f"{place}: {name}: was another one than {origin} holds"


def _files(folder: Path, digests: dict[str, str | None]) -> Iterator[str]:
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: no such file"
        elif sha256(path) != expected:
            yield f"{path}: is not the file that was written: its sha256 differs"


# --- what was computed -----------------------------------------------------------------------


class Again:
    """The same computations once more, beside the experiment: results in a room of their own.

    Args:
        experiment: the experiment.
        room: an empty folder.
    """

    def __init__(self, experiment: Experiment, room: Path):
        self._experiment = experiment
        self._copy = experiment.model_copy(update={"results": str(room)})
        self._root, self._here = experiment.layout.root, self._copy.layout.root

    def _link(self, *names: str) -> None:
        """Have folders of the experiment here as well."""
        self._here.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (self._here / name).exists() and (self._root / name).exists():
                os.symlink((self._root / name).absolute(), self._here / name)

    def _run(self, run: Path, *products: str) -> Path:
        """A folder for a run here, with some of its files."""
        self._link("corpora", "features", "encoders")
        here = self._here / "again" / run.relative_to(self._root / "runs")
        here.mkdir(parents=True, exist_ok=True)
        for name in products:
            if not (here / name).exists():
                os.symlink((run / name).absolute(), here / name)
        return here

    def scores(self, run: Path) -> Iterator[str]:
        """Where `metrics.json` differs from the scores of the run's predictions."""
        from mtdnn.evaluation import metrics

        made = (RunFolder.config, RunFolder.model, *STEPS["evaluate"])
        here = self._run(run, *made)
        metrics.write(here, self._copy)
        found, expected = read_json(RunFolder(run).metrics), read_json(RunFolder(here).metrics)
        for each in (found, expected):
            each.get("provenance", {}).pop("scored", None)  # when and by which commit
        yield from _differences(found, expected, str(RunFolder(run).metrics), "")

    def predictions(self, run: Path, threads: int | None) -> Iterator[str]:
        """Where predictions differ from those that the model makes now."""
        from mtdnn.evaluation.predictions import evaluate

        here = self._run(run, RunFolder.config, RunFolder.model)
        for name in _PREDICTED:
            (here / name).unlink(missing_ok=True)
        evaluate(here, load_run(RunFolder(run).config), threads)
        for name, key in _PREDICTED.items():
            rows = [_by_key(folder / name, key) for folder in (run, here)]
            if rows[0].keys() != rows[1].keys():
                yield f"{run / name}: holds {len(rows[0])} rows, its model gives {len(rows[1])}"
                continue
            differ = [key for key, row in rows[0].items() if not _alike(row, rows[1][key])]
            if differ:
                where = ", ".join(map(str, differ[:MOST_SHOWN]))
                count = f"{len(differ)} of {len(rows[0])}"
                yield f"{run / name}: {count} differ from its model: {where}"

    def table(self, table: Path) -> Iterator[str]:
        """Where a table's files differ from what the runs' scores give."""
        from mtdnn.reporting.products import write_interference, write_table

        # Whatever else a table may show; the tables themselves are made here.
        self._link(*(path.name for path in self._root.iterdir() if path.name != "tables"))
        if table.stem in self._copy.tables:
            write_table(self._copy, table.stem)
        elif table.stem == "interference":
            write_interference(self._copy)
        else:
            yield f"{table}: is no table of the experiment any more; delete it"
            return
        for suffix in ("md", "csv", "tex"):
            found = self._experiment.layout.table(table.stem, suffix)
            expected = self._copy.layout.table(table.stem, suffix).read_text(encoding="utf-8")
            lines = found.read_text(encoding="utf-8").splitlines(), expected.splitlines()
            if lines[0] != lines[1]:
                number = next(
                    (
                        n
                        for n, pair in enumerate(zip(*lines, strict=False), 1)
                        if pair[0] != pair[1]
                    ),
                    min(map(len, lines)) + 1,
                )
                yield f"{found}: line {number}: is not what metrics.json gives; make it again"


_PREDICTED = {RunFolder.predictions: ("split", "id"), RunFolder.auxiliary: ("corpus", "row")}


def _by_key(path: Path, key: tuple[str, ...]) -> dict[tuple, dict[str, Any]]:
    rows = pq.read_table(path).to_pylist()
    return {tuple(row[name] for name in key): row for row in rows}


def _alike(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        math.isclose(value, other[name], rel_tol=ODDS_TOLERANCE, abs_tol=ODDS_TOLERANCE)
        if isinstance(value, float)
        else value == other[name]
        for name, value in row.items()
    )


def _differences(found: Any, expected: Any, place: str, key: str) -> Iterator[str]:
    """One line for each value that differs."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in {**found, **expected}:
            yield from _differences(
                found.get(name), expected.get(name), place, f"{key}.{name}".lstrip(".")
            )
    elif found != expected:
        values = [json.dumps(value, ensure_ascii=False)[:60] for value in (found, expected)]
        yield f"{place}: {key}: is {values[0]}, but the predictions give {values[1]}"


def _in_mlflow(experiment: Experiment, run: Path) -> Iterator[str]:
    from mtdnn.tracking.runs import agrees

    store = experiment.store_uri.removeprefix("sqlite:///")
    if store != experiment.store_uri and not os.path.exists(store):
        yield f"{store}: no such file, though {RunFolder(run).logged} says that it was logged"
        return
    yield from agrees(experiment, run)
