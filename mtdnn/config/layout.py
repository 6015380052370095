"""Where everything lies below `results/`; the one place that knows the folder names."""

from dataclasses import dataclass
from pathlib import Path


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
        """The run's folder below `runs/`, for instance `base/qa_sc/w0.8/default/seed1`."""
        weight = f"w{self.qa_weight:g}" if self.qa_weight % 1 else f"w{self.qa_weight:.1f}"
        return f"{self.encoder}/{self.mixture}/{weight}/{self.variant}/seed{self.seed}"


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
