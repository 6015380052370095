"""Where everything lies below `results/`: the one place that knows names of files and folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import overload

MANIFEST = "manifest.json"
"""In the folder of an encoder or a corpus: what it is, and the digests of its files."""

FEATURES = "features.json"
"""In a folder of features: what they were made from and with, and the digests of their files."""

DESCRIPTION = "run.json"
"""In the folder of a trained model: what made it, and the digests of its files."""

WEIGHTS = ("model.safetensors", "heads.safetensors")
"""In the folder of a trained model: the encoder with its question-answering head, and the rest."""


@dataclass(frozen=True)
class RunId:
    """encoder × mixture × QA weight × variant × seed."""

    encoder: str
    mixture: str
    qa_weight: float
    variant: str
    seed: int

    @property
    def path(self) -> str:
        """The folder of the run below `runs/`, for instance `base/qa_sc/w0.8/default/seed1`."""
        return f"{self.row_path}/seed{self.seed}"

    @property
    def row_path(self) -> str:
        """The path without its seed: runs that share it make one row of a table."""
        return f"{self.encoder}/{self.mixture}/w{weight_text(self.qa_weight)}/{self.variant}"


def weight_text(qa_weight: float) -> str:
    """Return a QA weight as paths and tables show it: `0.8`, or `1.0` rather than `1`."""
    return f"{qa_weight:g}" if qa_weight % 1 else f"{qa_weight:.1f}"


class RunFile:
    """A file of a run: its name when read from the class `RunFolder`, its path from an instance."""

    def __init__(self, name: str):
        self._name = name

    @overload
    def __get__(self, folder: None, owner: type) -> str: ...
    @overload
    def __get__(self, folder: "RunFolder", owner: type) -> Path: ...
    def __get__(self, folder: "RunFolder | None", owner: type) -> str | Path:
        return self._name if folder is None else folder.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run and every file in it."""

    path: Path

    # Before training: the resolved settings.
    config = RunFile("config.yaml")
    # Made by the steps, in the order of `STEPS`.
    schedule = RunFile("schedule.parquet")
    model = RunFile("model")
    description = RunFile(f"model/{DESCRIPTION}")
    log = RunFile("training.jsonl")
    predictions = RunFile("predictions.parquet")
    auxiliary = RunFile("auxiliary.parquet")
    metrics = RunFile("metrics.json")
    # Beside the products: progress for MLflow, why a step failed, where MLflow has the run, and
    # the digests of the settings of steps that were done elsewhere.
    journal = RunFile("journal.jsonl")
    failure = RunFile("failure.json")
    logged = RunFile("mlflow.json")
    imported = RunFile("imported.json")

    def weights(self) -> list[Path]:
        """The files of the trained weights."""
        return [self.model / name for name in WEIGHTS]

    def products_from(self, step: str) -> list[Path]:
        """What `step` and the steps after it make."""
        steps = list(STEPS)
        later = steps[steps.index(step) :]
        return [self.path / name for each in later for name in STEPS[each]]


STEPS = {
    "schedule": (RunFolder.schedule,),
    "train": (RunFolder.log, RunFolder.description),
    "evaluate": (RunFolder.predictions, RunFolder.auxiliary),
    "metrics": (RunFolder.metrics,),
}
"""The steps of a run in order, each with the files by which it is known to be done."""


@dataclass(frozen=True)
class Layout:
    """Paths of one experiment: `results/{experiment}/…`."""

    root: Path

    @classmethod
    def of_run(cls, run: Path) -> "Layout":
        """The layout of the experiment to which a run's folder belongs."""
        return cls(Path(run).parents[5])

    @property
    def experiment(self) -> Path:
        return self.root / "experiment.yaml"

    def encoder(self, encoder: str) -> Path:
        """Folder with config.json, model.safetensors, tokenizer.json, manifest.json."""
        return self.root / "encoders" / encoder

    def corpus(self, corpus: str) -> Path:
        """Folder with train.parquet, dev.parquet, held_out.parquet (if any), manifest.json."""
        return self.root / "corpora" / corpus

    def features(self, encoder: str, variant: str, corpus: str) -> Path:
        """Folder with train.arrow, dev.arrow, held_out.arrow (if any), features.json."""
        return self.root / "features" / encoder / variant / corpus

    def run(self, run: RunId) -> Path:
        return self.root / "runs" / run.path

    def state(self, fingerprint: str) -> Path:
        """Folder of a run's checkpoints while it is being trained."""
        return self.root / "state" / fingerprint

    def table(self, table: str, suffix: str) -> Path:
        return self.root / "tables" / f"{table}.{suffix}"

    def figure(self, figure: str, suffix: str) -> Path:
        return self.root / "figures" / f"{figure}.{suffix}"

    def statistics(self, table: str) -> Path:
        """The entry of one table in `statistics.json`."""
        return self.root / "statistics" / f"{table}.json"

    def comparison(self, table: str, suffix: str) -> Path:
        """The comparisons of a table's rows, for people."""
        return self.root / "comparisons" / f"{table}.{suffix}"

    def page(self, page: str) -> Path:
        """A page of the HTML report."""
        return self.root / "pages" / f"{page}.html"

    @property
    def all_statistics(self) -> Path:
        """The entries of all tables together."""
        return self.root / "statistics.json"

    def cases(self, suffix: str) -> Path:
        """Questions that mixtures answer differently; `json` for pages, `md` for people."""
        return self.root / f"cases.{suffix}"

    @property
    def summary(self) -> Path:
        return self.root / "summary.md"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def store(self) -> Path:
        """Where MLflow's store is, and the experiment's id there."""
        return self.root / "store.json"

    @property
    def agreement(self) -> Path:
        """What MLflow and the tables were found to agree on."""
        return self.root / "agreement.json"
