"""The splits on which a run was trained and scored, as MLflow's datasets; no row is read."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import MANIFEST
from mtdnn.config.settings import HubCorpus, RunSettings
from mtdnn.data.corpora.rows import SCHEMAS
from mtdnn.machine.files import digest
from mtdnn.tracking.client import Dataset, DatasetInput, InputTag
from mtdnn.tracking.content import read_optional_json, scores

CONTEXT = "mlflow.data.context"
DIGEST_CHARACTERS = 12
"""Characters of a digest that MLflow shows next to a name; a tag of the run has the whole digest of
each corpus."""


class Split(NamedTuple):
    """A split of a corpus."""

    corpus: str
    name: str

    @property
    def title(self) -> str:
        """Its name in MLflow."""
        return f"{self.corpus}/{self.name}"


class Datasets:
    """The datasets of one run.

    Args:
        experiment: the experiment.
        settings: the run's settings.
        digests: digest of each corpus with which the run was trained and scored.
        metrics: the run's scores; empty before it is scored.
    """

    def __init__(
        self,
        experiment: Experiment,
        settings: RunSettings,
        digests: Mapping[str, str],
        metrics: Mapping[str, Any],
    ):
        self._settings, self._metrics = settings, metrics
        # Scores may be older than the settings, and of a corpus that is no longer among them.
        self._corpora = {**settings.corpora, **settings.scored}
        names = {split.corpus for split in self._splits()}
        self._manifests = {
            name: read_optional_json(experiment.layout.corpus(name) / MANIFEST) for name in names
        }
        self._digests = {
            name: digests.get(name) or manifest.get("digest") or "unknown"
            for name, manifest in self._manifests.items()
        }

    def inputs(self) -> list[DatasetInput]:
        """Return what the run was trained on, and then what it was scored on.

        A split of both kinds is listed once, with both tags.
        """
        contexts: dict[Split, list[str]] = {}
        for split in self._trained():
            contexts.setdefault(split, []).append("training")
        for split in self._scored():
            if "evaluation" not in contexts.setdefault(split, []):
                contexts[split].append("evaluation")
        return [
            DatasetInput(self._dataset(split), [InputTag(CONTEXT, ", ".join(found))])
            for split, found in contexts.items()
        ]

    def of_scores(self) -> dict[str, tuple[str, str]]:
        """Return name and digest of the dataset behind each score."""
        found = {}
        slices = self._metrics.get("slices", {})
        first = next(iter(slices), "")
        for name in scores(dict(self._metrics)):
            kind, *rest = name.split("/")
            if kind == "auxiliary":
                split: Split | None = Split(rest[0], "dev")
            else:
                split = _split_of(slices.get(rest[0] if kind == "slices" else first, {}))
            if split and split.corpus in self._corpora:
                found[name] = (split.title, self._digest(split))
        return found

    def _splits(self) -> Iterator[Split]:
        yield from self._trained()
        yield from self._scored()

    def _trained(self) -> Iterable[Split]:
        return (Split(name, "train") for name in self._settings.corpora)

    def _scored(self) -> Iterator[Split]:
        slices = map(_split_of, self._metrics.get("slices", {}).values())
        auxiliary = (Split(name, "dev") for name in self._metrics.get("auxiliary", {}))
        for split in (*slices, *auxiliary):
            if split and split.corpus in self._corpora:
                yield split

    def _digest(self, split: Split) -> str:
        """The digest of a split; of a corpus that was fetched anew, it follows from the run's."""
        whole, manifest = self._digests[split.corpus], self._manifests[split.corpus]
        known = manifest.get("splits", {}).get(split.name, {}).get("sha256")
        if not known or manifest.get("digest") != whole:
            known = digest([whole, split.name])
        return str(known)[:DIGEST_CHARACTERS]

    def _dataset(self, split: Split) -> Dataset:
        corpus = self._corpora[split.corpus]
        manifest = self._manifests[split.corpus]
        source = manifest.get("source") or corpus.source.model_dump(mode="json", exclude_none=True)
        kind: str = corpus.source.kind
        if isinstance(corpus.source, HubCorpus):  # as MLflow knows it, which then shows a link
            kind, source = "hf", {"path": corpus.source.repo, **source}
        rows = manifest.get("splits", {}).get(split.name, {}).get("rows")
        profile = {"num_rows": rows, "family": corpus.family, "label": corpus.label}
        return Dataset(
            name=split.title,
            digest=self._digest(split),
            source_type=kind,
            source=json.dumps(source),
            schema=json.dumps({"mlflow_colspec": columns(SCHEMAS[corpus.family])}),
            profile=json.dumps({key: value for key, value in profile.items() if value is not None}),
        )


def _split_of(numbers: Mapping[str, Any]) -> Split | None:
    """The split of a slice's numbers; None if it is not measurable, or was scored long ago."""
    return Split(numbers["corpus"], numbers["split"]) if numbers.get("corpus") else None


def columns(schema: pa.Schema) -> list[dict[str, Any]]:
    """Return a schema's columns as MLflow writes them."""
    return [{"name": field.name, **_type(field.type), "required": True} for field in schema]


def _type(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"type": "array", "items": _type(kind.value_type)}
    if pa.types.is_integer(kind):
        return {"type": "integer"}
    return {"type": "double" if pa.types.is_floating(kind) else "string"}
