"""The layout of `results/`: the only place that names its files and folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import overload

MANIFEST = "manifest.json"
"""File in the folder of an encoder or a corpus: what it is, and the digests of its files."""

ENCODER_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)
"""The files of a pretrained encoder that are used; the first three are required."""

FEATURES = "features.json"
"""File in a folder of features: their encoder, corpus, settings, and the digests of its files."""

DESCRIPTION = "run.json"
"""File in the folder of a trained model: its provenance, and the digests of its files."""

WEIGHTS = ("model.safetensors", "heads.safetensors")
"""Files of a trained model: a plain one, of encoder and target's head; everything else."""


PAPER_WIDTHS = {"column": 3.3, "page": 6.9}
"""Widths in inches of figures for a paper: a column, and a page."""


@dataclass(frozen=True)
class RunId:
    """The identity of a run: encoder × mixture × weight × variant × seed."""

    encoder: str
    mixture: str
    weight: float
    variant: str
    seed: int

    @property
    def path(self) -> str:
        """The folder of the run below `runs/`, for instance `base/qa_sc/w0.8/default/seed1`."""
        return f"{self.row_path}/seed{self.seed}"

    @property
    def row_path(self) -> str:
        """The path without its seed: runs that share it make one row of a table."""
        return f"{self.encoder}/{self.mixture}/w{weight_text(self.weight)}/{self.variant}"


def weight_text(weight: float) -> str:
    """Return a weight as paths and tables show it: `0.8`, or `1.0` rather than `1`."""
    return f"{weight:g}" if weight % 1 else f"{weight:.1f}"


class RunFile:
    """A file of a run: its name if read from the class `RunFolder`, its path from an instance."""

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

    # Written before training: the resolved settings.
    config = RunFile("config.yaml")
    # Written by the steps, in the order of `STEPS`.
    schedule = RunFile("schedule.parquet")
    model = RunFile("model")
    description = RunFile(f"model/{DESCRIPTION}")
    log = RunFile("training.jsonl")
    predictions = RunFile("predictions.parquet")
    auxiliary = RunFile("auxiliary.parquet")
    metrics = RunFile("metrics.json")
    # Not products of a step: progress for MLflow, the reason why a step failed, the run's place in
    # MLflow, and the digests of the settings of imported steps.
    journal = RunFile("journal.jsonl")
    failure = RunFile("failure.json")
    logged = RunFile("mlflow.json")
    imported = RunFile("imported.json")

    def weights(self) -> list[Path]:
        """Return the files of the trained weights."""
        return [self.model / name for name in WEIGHTS]


STEPS = {
    "schedule": (RunFolder.schedule,),
    "train": (RunFolder.log, RunFolder.description),
    "evaluate": (RunFolder.predictions, RunFolder.auxiliary),
    "metrics": (RunFolder.metrics,),
}
"""The steps of a run in order, each with the files that exist once it is done."""


def outdated_by(step: str) -> list[str]:
    """Return the names of a run's files that no longer hold once `step` has new products."""
    steps = list(STEPS)
    later = steps[steps.index(step) + 1 :]
    return [RunFolder.failure, *(name for each in later for name in STEPS[each])]


@dataclass(frozen=True)
class Layout:
    """Paths of one experiment, all below its folder `results/{experiment}`."""

    root: Path

    @classmethod
    def of_run(cls, run: Path) -> "Layout":
        """Return the layout of the experiment to which a run's folder belongs."""
        return cls(Path(run).parents[5])

    @property
    def experiment(self) -> Path:
        """The resolved settings of the experiment."""
        return self.root / "experiment.yaml"

    def encoder(self, encoder: str) -> Path:
        """Return the folder with `MANIFEST`, config.json, model.safetensors, tokenizer.json."""
        return self.root / "encoders" / encoder

    def corpus(self, corpus: str) -> Path:
        """Return the folder with `MANIFEST`, train.parquet and dev.parquet, maybe others."""
        return self.root / "corpora" / corpus

    def features(self, encoder: str, variant: str, corpus: str) -> Path:
        """Return the folder with `FEATURES`, train.arrow and dev.arrow, maybe others."""
        return self.root / "features" / encoder / variant / corpus

    def run(self, run: RunId) -> Path:
        """Return the folder of a run; `RunFolder` names its files."""
        return self.root / "runs" / run.path

    def benchmark(self, step: str, run: str) -> Path:
        """Return Snakemake's file of the time and memory that a step of a run took."""
        return self.root / "logs" / "benchmarks" / step / f"{run}.tsv"

    def logits(self, run: str, corpus: str) -> Path:
        """Return the file of a run's logits for the training items of a corpus.

        Args:
            run: the path of the run, for instance `base/qa/w1.0/default/seed1`.
            corpus: the corpus.
        """
        return self.root / "logits" / run / f"{corpus}.safetensors"

    def lease(self, run: Path) -> Path:
        """The folder with which one process at a time holds the run in the folder `run`."""
        return self.root / "state" / "runs" / "-".join(run.parts[-5:])

    def state(self, fingerprint: str) -> Path:
        """Return the folder of a run's checkpoints, which exists until it is trained."""
        return self.root / "state" / fingerprint

    def table(self, table: str, suffix: str) -> Path:
        """Return the file of a table in one format: `md`, `csv`, `tex`, …"""
        return self.root / "tables" / f"{table}.{suffix}"

    def figure(self, figure: str, suffix: str, page: str = "") -> Path:
        """Return the file of a figure in one format (`svg`, `png`, …), for a page of a paper."""
        return self.root / "figures" / page / f"{figure}.{suffix}"

    def statistics(self, table: str) -> Path:
        """Return the file with the statistics of one table."""
        return self.root / "statistics" / f"{table}.json"

    def comparison(self, table: str, suffix: str) -> Path:
        """Return the file with the comparisons of a table's rows."""
        return self.root / "comparisons" / f"{table}.{suffix}"

    def page(self, page: str) -> Path:
        """Return the file with a page of the HTML report."""
        return self.root / "pages" / f"{page}.html"

    @property
    def all_statistics(self) -> Path:
        """The statistics of all tables together."""
        return self.root / "statistics.json"

    def cases(self, suffix: str) -> Path:
        """Return the file with the questions that mixtures answer differently: `json` or `md`."""
        return self.root / f"cases.{suffix}"

    @property
    def summary(self) -> Path:
        """The scores, differences and verdicts of all tables, in Markdown."""
        return self.root / "summary.md"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report.html"

    @property
    def store(self) -> Path:
        """The URI of MLflow's store, and the id of the experiment in it."""
        return self.root / "store.json"

    @property
    def contents(self) -> Path:
        """Cached digests of local source files."""
        return self.root / "state" / "contents.json"

    @property
    def checksums(self) -> Path:
        """Digests of all finished files."""
        return self.root / "checksums.json"

    @property
    def agreement(self) -> Path:
        """The result of comparing MLflow with the tables."""
        return self.root / "agreement.json"
