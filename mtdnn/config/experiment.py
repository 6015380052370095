"""An experiment: the encoders, corpora, mixtures, tables and figures that one YAML file describes.

`mtdnn.config.loading` reads the file. Nothing heavy is imported here, because the Snakefile and
the command line start with this module.
"""

import difflib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from mtdnn.config.anchors import wrong_anchor
from mtdnn.config.joint import wrong_joint_steps
from mtdnn.config.layout import Layout, RunId, weight_text
from mtdnn.config.phases import phases_of, uses_weight, wrong_phases, wrong_pruning
from mtdnn.config.settings import (
    BY_CORPUS,
    COLUMNS,
    FORMATS,
    LOG_LABELS,
    Anchor,
    Average,
    Closed,
    CorpusSettings,
    DecodingSettings,
    Distillation,
    EncoderSettings,
    EvaluationSplit,
    FeatureSettings,
    FilesCorpus,
    Name,
    RunSettings,
    ScheduleSettings,
    Seed,
    StartingRun,
    SyntheticCorpus,
    TrainingSettings,
    Weight,
    renamed,
)

Settings = TypeVar("Settings", bound=Closed)

VARIED = ("features", "schedule", "training", "decoding")
"""The parts of the settings that a variant may override."""

MAX_GRID_ROWS = 10_000

SIMILAR = 0.75
"""The least similarity of a name that is suggested, 0 to 1: that of words of four letters of which
two are exchanged. At difflib's 0.6, `absence` is similar to `sentence1`."""


RESERVED_NAMES = {
    *("all", "fetched", "cases", "encoder", "corpus", "features", "train", "logits", "evaluate"),
    *("metrics", "comparisons", "statistics", "table", "figure", "answers", "pages", "report"),
    *("store", "log", "agreement", "checksums", "loss", "draws", "effects", "interference"),
    *("tasks", "groups", "precision_recall", "thresholds", "runs", "settings"),
    *("gradients", "forgetting"),
}
"""Names of the workflow's rules, and of the figures and pages that every experiment has."""


class Mixture(Closed):
    """A named set of corpora that train one model."""

    label: str = Field(description="name shown in tables and figures")
    corpora: list[Name] = Field(min_length=1, description="names of corpora")
    target: Name | None = Field(
        None,
        description="the corpus whose scores count and whose batches define the epoch; by default "
        "the only corpus, or the only one of question answering",
    )

    @property
    def is_alone(self) -> bool:
        """Whether it has no auxiliary corpus."""
        return len(self.corpora) == 1

    def target_among(self, corpora: Mapping[str, CorpusSettings]) -> str | None:
        """Return the name of its target, given the settings of all corpora; None if unclear."""
        answering = [n for n in self.corpora if corpora[n].family == "question_answering"]
        candidates = [self.target] if self.target else answering
        if self.is_alone and not candidates:
            candidates = self.corpora
        return candidates[0] if len(candidates) == 1 else None


class Variant(Closed):
    """A named override of settings, with only the keys that differ."""

    label: str | None = Field(None, description="name shown in tables and figures")
    features: dict[str, Any] = Field({}, description="overrides of `features`")
    schedule: dict[str, Any] = Field({}, description="overrides of `schedule`")
    training: dict[str, Any] = Field({}, description="overrides of `training`")
    decoding: dict[str, Any] = Field({}, description="overrides of `decoding`")


QuestionType = Literal["how many", "how", "what", "when", "where", "which", "who", "why", "other"]


class WordCount(Closed):
    """A range of lengths in words, including both ends."""

    least: int = Field(0, ge=0, description="minimum number of words")
    most: int | None = Field(None, ge=0, description="maximum number of words")


class Slice(Closed):
    """The items on which a score is computed: those of a split that meet every given condition."""

    label: str = Field(description="name shown in tables and figures")
    corpus: Name | None = Field(
        None,
        description="name of a corpus of the target's family; by default the target itself. A run "
        "that was not trained on it predicts it with the head of its target",
    )
    split: EvaluationSplit = Field("dev", description="split of the corpus")
    titles: list[str] = Field(
        [],
        description="question answering, as all further conditions: only questions of these "
        "articles; by default of all",
    )
    exclude_titles: list[str] = Field([], description="no questions of these articles")
    only: Literal["answerable", "unanswerable"] | None = Field(
        None, description="only questions with an answer, or only those without one"
    )
    question_types: list[QuestionType] = Field(
        [], description="only questions whose first interrogative is one of these; by default all"
    )
    question_words: WordCount | None = Field(
        None, description="only questions of this length, for instance {least: 1, most: 9}"
    )
    context_words: WordCount | None = Field(
        None, description="only questions whose context has this length"
    )
    answer_words: WordCount | None = Field(
        None, description="only answerable questions whose shortest gold answer has this length"
    )
    questions: int | None = Field(
        None,
        description="expected number of questions or other items; a slice with another number is "
        "refused",
    )
    answerable: int | None = Field(None, description="expected number of questions with an answer")
    tune_threshold_on: Name | None = Field(
        None,
        description="another slice on which this one's null threshold is tuned; by default see "
        "the experiment's tune_threshold_on",
    )
    published: str | None = Field(
        None,
        description="`split` of the published numbers to show next to this slice; by default `dev` "
        "for the first slice and none for the others",
    )

    @property
    def conditions(self) -> list[str]:
        """The names of its conditions, all of which are about questions."""
        return [key for key in CONDITIONS if getattr(self, key) not in (None, [])]


CONDITIONS = (
    *("titles", "exclude_titles", "only", "question_types", "question_words", "context_words"),
    *("answer_words", "answerable", "tune_threshold_on"),
)
"""What a slice can ask of questions alone."""


class OtherRow(Closed):
    """Another row of the same table, with the same encoder."""

    mixture: Name = Field(description="name of its mixture")
    weight: Weight = Field(1.0, description="its weight")
    variant: Name = Field("default", description="name of its variant")


class Row(Closed):
    """One row of a table: runs that differ only in their seed."""

    model_config = ConfigDict(populate_by_name=True)

    origin: str | None = Field(
        None,
        alias="from",
        description="folder of another experiment's results, for instance results/other, whose "
        "runs the row shows; they are read where they are, and never made. Names and labels are "
        "those of that experiment",
    )
    encoder: Name = Field(description="name of an encoder")
    mixture: Name = Field(description="name of a mixture")
    weight: Weight = Field(
        1.0,
        description="probability that a step is one of the mixture's target, for the policy "
        "weighted; left out for a corpus alone and for other policies",
    )
    variant: Name = Field("default", description="name of a variant")
    label: str | None = Field(None, description="label of the row; by default that of the mixture")
    against: OtherRow | None = Field(
        None,
        description="another row of the table with which this one is compared, too, for instance "
        "{mixture: qa_sc, weight: 0.8}, trained at once, for an average of runs",
    )

    _paper_names = renamed(qa_weight="weight")

    @property
    def compared_path(self) -> str | None:
        """The path of the row that `against` names."""
        other = self.against
        if not other:
            return None
        return RunId(self.encoder, other.mixture, other.weight, other.variant, 0).row_path

    @property
    def path(self) -> str:
        """The path that its runs share below `runs/`, for instance `base/qa_sc/w0.8/default`."""
        return RunId(self.encoder, self.mixture, self.weight, self.variant, 0).row_path


class Grid(Closed):
    """Rows for every combination of the given values."""

    encoders: list[Name] = Field(min_length=1, description="names of encoders")
    mixtures: list[Name] = Field(min_length=1, description="names of mixtures")
    weights: list[Weight] = Field(
        [],
        description="weights of the target in mixtures with auxiliary corpora; of a corpus alone "
        "and with policies other than weighted it is 1.0",
    )
    variants: list[Name] = Field(["default"], min_length=1, description="names of variants")
    settings: dict[str, list[Any]] = Field(
        {},
        description="values of settings, for instance {training.learning_rate: [1e-5, 3e-5]}; each "
        "combination becomes a variant with its own name",
    )

    _paper_names = renamed(qa_weights="weights")


class Table(Closed):
    """A table of scores; the runs of a row differ only in their seed."""

    title: str = Field(description="shown above the table")
    note: str | None = Field(
        None, description="shown below the table, for instance what others found before"
    )
    slice: Name | None = Field(
        None, description="slice on which the runs are scored; by default the first"
    )
    rows: list[Row] = Field([], description="rows of the table")
    grid: Grid | None = Field(
        None, description="further rows, one for every combination of some values"
    )

    @property
    def own_rows(self) -> list[Row]:
        """The rows whose runs belong to this experiment."""
        return [row for row in self.rows if not row.origin]


class Figure(Closed):
    """A figure that shows the scores of a table."""

    title: str = Field(description="shown above the figure")
    table: Name = Field(description="name of the table that it shows")
    x: Literal["weight", "mixture"] = Field(description="variable on the horizontal axis")

    @field_validator("x", mode="before")
    @classmethod
    def _paper_name(cls, x: Any) -> Any:
        return "weight" if x == "qa_weight" else x


REMOVABLE = ("encoders", "corpora", "mixtures", "variants", "slices", "tables", "figures")
"""What an experiment has by name."""


class Experiment(Closed):
    """An experiment, complete and checked."""

    experiment: Name = Field(
        description="name of the experiment; its results go to results/{experiment}/"
    )
    title: str = Field(description="shown above tables, figures and reports")
    notice: str | None = Field(
        None, description="shown with all results, for instance that the corpora are synthetic"
    )
    results: str = Field("results", description="folder of all results")
    data_root: str = Field(
        ".", description="folder in which relative roots of corpora start; MTDNN_DATA overrides it"
    )
    tracking_uri: str | None = Field(
        None, description="URI of an MLflow server or store; by default results/mlflow.db"
    )
    tracking_live: bool = Field(
        True,
        description="deliver curves to MLflow during training, by a process of low priority; "
        "otherwise after all runs are scored",
    )
    tracking_models: Literal["reference", "upload", "register"] = Field(
        "reference",
        description="what MLflow gets of each trained model: `reference`, its place and digests; "
        "`upload`, also its weights, as a model of transformers; `register`, also a version of the "
        "registered model of its row",
    )
    lock: str | None = Field(
        None,
        description="file of resolved Hub revisions and digests; by default `NAME.lock.json` "
        "next to `NAME.yaml`",
    )
    published: str | None = Field(
        None, description="CSV file of published numbers to show next to the measured ones"
    )
    encoders: dict[Name, EncoderSettings] = Field(
        min_length=1, description="pretrained encoders by name"
    )
    corpora: dict[Name, CorpusSettings] = Field(min_length=1, description="corpora by name")
    mixtures: dict[Name, Mixture] = Field(min_length=1, description="sets of corpora by name")
    features: FeatureSettings = Field(FeatureSettings(), description="how text becomes token ids")
    schedule: ScheduleSettings = Field(
        ScheduleSettings(), description="from which corpus each step takes its batch"
    )
    training: TrainingSettings = Field(TrainingSettings(), description="how a run is trained")
    decoding: DecodingSettings = Field(
        DecodingSettings(), description="how answers are chosen from the span logits"
    )
    variants: dict[Name, Variant] = Field({}, description="overrides of these settings by name")
    seeds: list[Seed] = Field(
        min_length=1, description="each row of each table is run with every seed"
    )
    slices: dict[Name, Slice] = Field(
        {},
        description="sets of items to score, by name; tables show the first; by default the "
        "target's dev split",
    )
    evaluate_on: list[Name] = Field(
        [],
        description="further corpora of a target's family: each becomes a slice of the same name, "
        "on its test split if it has one, else on its dev split",
    )
    tune_threshold_on: Literal["held_out"] | None = Field(
        None,
        description="split on which null thresholds are tuned; tables then show scores at both the "
        "tuned threshold and 0",
    )
    tables: dict[Name, Table] = Field(min_length=1, description="tables by name")
    figures: dict[Name, Figure] = Field({}, description="figures by name")
    paper_figures: bool = Field(
        False,
        description="draw every figure for a paper, too: as PDF without title and small print, "
        "3.3 and 6.9 inches wide (figures/column/, figures/page/), with its caption as LaTeX",
    )

    @model_validator(mode="before")
    @classmethod
    def _nulls_remove(cls, mapping: Any) -> Any:
        """Leave out entries that are null: with them an overlay removes those of earlier files."""
        if not isinstance(mapping, dict):
            return mapping
        kept = dict(mapping)
        for name in REMOVABLE:
            if isinstance(entries := mapping.get(name), dict):
                kept[name] = {key: each for key, each in entries.items() if each is not None}
        return kept

    @model_validator(mode="after")
    def _grids_are_rows(self) -> "Experiment":
        """Expand the grids, so that all other code sees only rows and variants."""
        tables, variants = {}, dict(self.variants)
        for name, table in self.tables.items():
            rows = list(table.rows)
            if table.grid:
                rows += self._rows_of(table.grid, f"tables.{name}.grid", variants)
            if not rows:
                raise ValueError(f"tables.{name}: has neither rows nor a grid")
            tables[name] = table.model_copy(update={"rows": rows, "grid": None})
        self.__dict__.update(tables=tables, variants=variants)  # frozen, but not in use yet
        return self

    def _rows_of(self, grid: Grid, place: str, variants: dict[str, Variant]) -> list[Row]:
        """Return the rows of a grid; add the variants that they need to `variants`."""
        count = math.prod(len(values) for values in grid.settings.values())
        count *= len(grid.encoders) * len(grid.mixtures) * len(grid.variants)
        if count * max(1, len(grid.weights)) > MAX_GRID_ROWS:
            raise ValueError(f"{place}: has more than {MAX_GRID_ROWS} combinations")
        rows = []
        weights = list[float | None](grid.weights) or [None]
        for encoder, mixture in itertools.product(grid.encoders, grid.mixtures):
            _check_known(f"{place}.encoders", encoder, self.encoders)
            _check_known(f"{place}.mixtures", mixture, self.mixtures)
            for weight, base in itertools.product(weights, grid.variants):
                for values in itertools.product(*grid.settings.values()):
                    chosen = dict(zip(grid.settings, values, strict=True))
                    variant = _varied(base, chosen, place, variants)
                    override = variants.get(variant, Variant())
                    if not self._uses_weight(self.mixtures[mixture], override):
                        own = 1.0
                    elif weight is None:
                        raise ValueError(f"{place}.weights: {mixture} needs at least one")
                    else:
                        own = weight
                    rows.append(Row(encoder=encoder, mixture=mixture, weight=own, variant=variant))
        return list(dict.fromkeys(rows))

    @model_validator(mode="after")
    def _further_sets_are_slices(self) -> "Experiment":
        """Add the slices of `evaluate_on`, so that all other code sees only slices."""
        slices = dict(self.slices) or {"dev": Slice(label="dev")}
        for index, name in enumerate(self.evaluate_on):
            _check_known(f"evaluate_on.{index}", name, self.corpora)
            corpus = self.corpora[name]
            split: EvaluationSplit = "test" if "test" in corpus.splits else "dev"
            entry = Slice(label=corpus.label, corpus=name, split=split)
            if slices.setdefault(name, entry) != entry:
                raise ValueError(f"evaluate_on.{index}: {name} is the name of a slice; rename that")
        self.__dict__.update(slices=slices)  # frozen, but not in use yet
        return self

    @field_validator("results")
    @classmethod
    def _usable_in_paths(cls, results: str) -> str:
        # Braces are wildcards to Snakemake, and it misquotes a single quote or a backslash in the
        # scripts of a cluster's jobs. `?` starts the options in the address of MLflow's SQLite
        # file. A leading dash makes the path an option of every command.
        if re.search(r"[{}?'\\\x00-\x1f]|^-", results):
            raise ValueError("should be a path without a leading dash, line breaks and { } ? ' \\")
        return results

    @model_validator(mode="after")
    def _names_resolve(self) -> "Experiment":
        wrong = [
            *self._wrong_corpora(),
            *self._wrong_mixtures(),
            *self._wrong_slices(),
            *self._wrong_tables(),
            *self._wrong_settings(),
        ]
        wrong += [*self._wrong_labels(), *self._wrong_rest()]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _wrong_corpora(self) -> Iterator[str]:
        for name, corpus in self.corpora.items():
            source, place = corpus.source, f"corpora.{name}.source"
            for split in ("train", "dev"):
                if split not in corpus.splits:
                    remedy = "add it (dev may come from fractions)"
                    yield f"{place}.splits: {split} is missing; {remedy}"
            for split in corpus.fractions.keys() & corpus.published:
                yield f"corpora.{name}.fractions: {split} is a split of the source already"
            if isinstance(source, SyntheticCorpus):
                continue
            if isinstance(source, FilesCorpus) and source.format not in FORMATS[corpus.family]:
                yield (
                    f"{place}.format: {corpus.family} is read from "
                    f"{_either(FORMATS[corpus.family])}, not from {source.format}"
                )
            if isinstance(source, FilesCorpus) and not source.files:
                train, dev = (source.splits.get(split, []) for split in ("train", "dev"))
                for file in sorted({*train} & {*dev}):
                    yield (
                        f"{place}.splits: {file} is both train and dev; name another file, or "
                        "divide it by fractions"
                    )
            for column in source.columns:
                if column not in COLUMNS[corpus.family]:
                    yield (
                        f"{place}.columns: {corpus.family} has no column {column!r}"
                        f"{nearest(column, COLUMNS[corpus.family])}"
                    )

    def _wrong_mixtures(self) -> Iterator[str]:
        for name, mixture in self.mixtures.items():
            unknown = list(_unknown(f"mixtures.{name}.corpora", mixture.corpora, self.corpora))
            yield from unknown
            if unknown:
                continue
            target = mixture.target_among(self.corpora)
            if target is None:
                yield (
                    f"mixtures.{name}.target: is missing; name the corpus whose scores count, "
                    f"one of {', '.join(mixture.corpora)}"
                )
            elif target not in mixture.corpora:
                yield (
                    f"mixtures.{name}.target: {target!r} is not one of its corpora"
                    f"{nearest(target, mixture.corpora)}"
                )
            if len(set(mixture.corpora)) != len(mixture.corpora):
                yield f"mixtures.{name}: each corpus may occur only once"

    def _wrong_slices(self) -> Iterator[str]:
        for name, entry in self.slices.items():
            if entry.corpus and entry.corpus not in self.corpora:
                yield from _unknown(f"slices.{name}.corpus", [entry.corpus], self.corpora)
            else:
                yield from self._wrong_corpus_of(name, entry)
            if entry.tune_threshold_on:
                place = f"slices.{name}.tune_threshold_on"
                yield from _unknown(place, [entry.tune_threshold_on], self.slices)
                if entry.tune_threshold_on == name:
                    yield f"{place}: a slice cannot be tuned on itself; name another"

    def _wrong_corpus_of(self, name: str, entry: Slice) -> Iterator[str]:
        """Yield what a slice asks that the corpora to which it applies do not have."""
        used = [each for each in self._used_mixtures() if self.target_of(each)]
        if entry.corpus and used and not any(self.scored_corpus(each, name) for each in used):
            yield (
                f"slices.{name}.corpus: no mixture in a table has a target with the family and "
                f"labels of {entry.corpus}"
            )
        found = [entry.corpus] if entry.corpus else [self.target_of(each) for each in used]
        for corpus in dict.fromkeys(each for each in found if each in self.corpora):
            settings = self.corpora[corpus]
            if settings.family != "question_answering":
                for key in entry.conditions:
                    yield (
                        f"slices.{name}.{key}: is for question answering, and {corpus} is "
                        f"{settings.family}"
                    )
            if entry.split not in ("dev", *settings.splits):
                yield f"slices.{name}.split: {corpus} has no split {entry.split}"

    def _used_mixtures(self) -> list[str]:
        """Return the names of the mixtures of this experiment's own rows."""
        own = (row.mixture for table in self.tables.values() for row in table.own_rows)
        return [name for name in dict.fromkeys(own) if name in self.mixtures]

    def _wrong_tables(self) -> Iterator[str]:
        for name, table in self.tables.items():
            if table.slice:
                yield from _unknown(f"tables.{name}.slice", [table.slice], self.slices)
            for index, row in enumerate(table.rows):
                place = f"tables.{name}.rows.{index}"
                wrong = list(self._wrong_row(place, row))
                yield from wrong or self._wrong_sources(place, row)
                if row.compared_path not in {None, *(each.path for each in table.rows)}:
                    yield f"{place}.against: the table has no row {row.compared_path}; add it"

    def _wrong_row(self, place: str, row: Row) -> Iterator[str]:
        if row.origin:
            return
        unknown = [
            *_unknown(f"{place}.encoder", [row.encoder], self.encoders),
            *_unknown(f"{place}.mixture", [row.mixture], self.mixtures),
        ]
        if row.variant != "default":
            unknown += _unknown(f"{place}.variant", [row.variant], self.variants)
        yield from unknown
        if unknown:
            return
        mixture, override = self.mixtures[row.mixture], self.override(row.variant)
        alone = mixture.is_alone
        if alone and row.weight != 1:
            yield (
                f"{place}.weight: {row.mixture} has no auxiliary corpus, "
                f"so its weight is 1.0, not {row.weight:g}"
            )
        elif row.weight != 1 and not self._uses_weight(mixture, override):
            yield (
                f"{place}.weight: the schedule of variant {row.variant} does not use it, so it is "
                f"1.0, not {row.weight:g}; leave it out"
            )
        schedule, target = self._schedule(override), self._target(mixture)
        # Whether a wrong schedule needs a weight is unknown.
        if schedule and not alone and row.weight == 1 and self._uses_weight(mixture, override):
            yield (
                f"{place}.weight: with 1.0 the auxiliary corpora of {row.mixture} "
                "are never drawn; give a weight below 1"
            )
        lines: list[str] = []
        if schedule and target and not any(self._wrong_names("", schedule.model_dump())):
            lines += wrong_phases(schedule, mixture.corpora, row.mixture, target)
            lines += self._wrong_anchors(row, schedule, target)
        lines += self._wrong_teachers(row)
        training = self._training(override)
        if schedule and training:
            lines += wrong_joint_steps(schedule, training, mixture.corpora)
            lines += wrong_pruning(schedule, training)
        yield from (f"{place}.variant: {row.variant}: {line}" for line in lines)
        if not alone and "steps_of_weight" in override.schedule:
            yield (
                f"{place}.variant: {row.variant} has schedule.steps_of_weight, which is "
                f"for question answering alone, not for {row.mixture}"
            )

    def _wrong_sources(self, place: str, row: Row) -> Iterator[str]:
        """Yield a line for what is wrong with the runs that a row needs, or those that they do."""
        run = RunId(row.encoder, row.mixture, row.weight, row.variant, 0)
        where = f"{place}.variant: {row.variant}: training"
        for key, runs in self._needed_by(run).items():
            rows = [row.model_copy(update={"label": None})]
            yield from self._wrong_earlier(f"{where}.{key}", rows, runs)
        average = self._average(row.variant)
        mixtures = [self.mixtures.get(each.mixture) for each in average.of] if average else []
        if mixtures and all(mixtures):
            known = {name for mixture in mixtures if mixture for name in mixture.corpora}
            for corpus in self.mixtures[row.mixture].corpora:
                if corpus not in known:
                    has = f"{corpus}, which {row.mixture} has"
                    yield f"{where}.average.of: none of the runs has {has}"

    def _wrong_earlier(self, where: str, rows: list[Row], runs: Iterable[RunId]) -> Iterator[str]:
        """Yield a line for what is wrong with some runs that the last of `rows` needs.

        Each of the rows is needed by the one before.
        """
        for run in runs:
            earlier = Row(
                encoder=run.encoder, mixture=run.mixture, weight=run.weight, variant=run.variant
            )
            if wrong := list(self._wrong_row(where, earlier)):
                yield from wrong
            elif earlier in rows:
                yield f"{where}: the run would need itself first; name another mixture or variant"
            else:
                wrong = list(self._wrong_earlier(where, [*rows, earlier], self.sources_of(run)))
                yield from wrong
            if wrong or earlier in rows:
                return

    def _wrong_anchors(self, row: Row, schedule: ScheduleSettings, target: str) -> Iterator[str]:
        """Yield what is wrong with the anchor of a row, if it has one whose corpus is known."""
        anchor, start = self._anchor(row.variant), self._start(row.variant)
        if anchor is None or anchor.corpus not in (None, *self.corpora):
            return
        phases = phases_of(schedule, self.training, self.mixtures[row.mixture].corpora, target)
        if start is None:
            yield from wrong_anchor(anchor, phases, None)
        elif start.mixture in self.mixtures:
            corpora = self.mixtures[start.mixture].corpora
            yield from wrong_anchor(anchor, phases, (start.mixture, corpora))

    def _wrong_teachers(self, row: Row) -> Iterator[str]:
        """Yield what is wrong with the teachers of a row whose names are known."""
        distillation = self._distillation(row.variant)
        if distillation is None:
            return
        features = self.settings_of(row.variant)["features"]
        for corpus, teacher in distillation.teachers.items():
            place = f"training.distillation.teachers.{corpus}"
            variant = teacher.variant
            if corpus not in self.corpora:
                continue
            if corpus not in self.mixtures[row.mixture].corpora:
                yield f"{place}: {row.mixture} is not trained on {corpus}; leave it out"
            elif teacher.mixture not in self.mixtures or variant not in {"default", *self.variants}:
                continue
            elif corpus not in self.mixtures[teacher.mixture].corpora:
                yield f"{place}: {teacher.mixture} is not trained on {corpus}; name another mixture"
            elif self.settings_of(variant)["features"] != features:
                yield f"{place}: {variant} has other features, so its items are others"

    def _schedule(self, override: Variant) -> ScheduleSettings | None:
        """The schedule with a variant's overrides; None if they are wrong."""
        return _valid(ScheduleSettings, {**self.schedule.model_dump(), **override.schedule})

    def _training(self, override: Variant) -> TrainingSettings | None:
        """The settings of training with a variant's overrides; None if they are wrong."""
        return _valid(TrainingSettings, {**self.training.model_dump(), **override.training})

    def _target(self, mixture: Mixture) -> str | None:
        """The target of a mixture; None if it is unclear or a corpus unknown (loading says so)."""
        known = all(name in self.corpora for name in mixture.corpora)
        target = mixture.target_among(self.corpora) if known else None
        return target if target in mixture.corpora else None

    def _uses_weight(self, mixture: Mixture, override: Variant) -> bool:
        """Whether the target's weight matters to the runs of a mixture with a variant."""
        if override.training.get("average"):
            return False
        schedule, target = self._schedule(override), self._target(mixture)
        if mixture.is_alone or schedule is None or target is None:
            return not mixture.is_alone
        return uses_weight(phases_of(schedule, self.training, mixture.corpora, target))

    def _wrong_settings(self) -> Iterator[str]:
        """Yield a line for each unknown corpus in the experiment's settings or in a variant's."""
        overrides = {"": Variant(schedule=self.schedule.model_dump()), **self.variants}
        for name, override in overrides.items():
            place = f"variants.{name}." if name else ""
            training = {} if name else self.training.model_dump()
            training |= override.training
            for key in BY_CORPUS:
                values = training.get(key)
                if not isinstance(values, Mapping):
                    continue  # which loading reports
                yield from _unknown(f"{place}training.{key}", map(str, values), self.corpora)
                yield from (
                    f"{place}training.{key}.{corpus}: {LOG_LABELS} is for corpora with labels; "
                    "give a number"
                    for corpus, value in values.items()
                    if value == LOG_LABELS and not getattr(self.corpora.get(corpus), "labels", True)
                )
            yield from self._wrong_heads(f"{place}training.heads", training.get("heads"))
            yield from self._wrong_names(f"{place}schedule", override.schedule)
            if isinstance(corpus := _get(training.get("anchor"), "corpus"), str):
                yield from _unknown(f"{place}training.anchor.corpus", [corpus], self.corpora)
            teachers = _get(training.get("distillation"), "teachers")
            if isinstance(teachers, Mapping):
                where = f"{place}training.distillation.teachers"
                yield from _unknown(where, map(str, teachers), self.corpora)

    def _wrong_heads(self, place: str, heads: Any) -> Iterator[str]:
        """Yield a line for each corpus that cannot have the head that is given for it."""
        for name in heads if isinstance(heads, Mapping) else []:
            corpus = self.corpora.get(str(name))
            if corpus and corpus.family != "sequence_classification":
                yield f"{place}.{name}: is for sequence_classification, not for {corpus.family}"
            elif corpus and getattr(corpus.source, "recipe", None) == "cola":
                yield f"{place}.{name}: is for pairs of sentences, and cola has single ones"

    def _wrong_names(self, place: str, schedule: Mapping[str, Any]) -> Iterator[str]:
        """Yield a line for each unknown corpus in a schedule as it was written."""
        phases = schedule.get("phases") or []
        for number, phase in enumerate(phases if isinstance(phases, list) else []):
            if isinstance(phase, Mapping):
                yield from self._wrong_names(f"{place}.phases.{number}", phase)
        policy, corpora = schedule.get("policy"), schedule.get("corpora")
        for key, names in (("policy.caps", _get(policy, "caps")), ("corpora", corpora)):
            if isinstance(names, list | Mapping):
                yield from _unknown(f"{place}.{key}", map(str, names), self.corpora)

    def _wrong_labels(self) -> Iterator[str]:
        """Yield a line for each label that does not tell its owner from another one."""
        variants = {name: self.variant_label(name) for name in ("default", *self.variants)}
        kinds = {
            kind: {name: entry.label for name, entry in getattr(self, kind).items()}
            for kind in ("encoders", "corpora", "mixtures", "slices")
        }
        for kind, labels in (kinds | {"variants": variants}).items():
            owners: dict[str, str] = {}
            for name, label in labels.items():
                owner = owners.setdefault(" ".join(label.split()), name)
                if owner != name:
                    yield f"{kind}.{name}.label: is that of {owner}, too: {label!r}; choose another"

    def _wrong_rest(self) -> Iterator[str]:
        if self.training.average:
            yield "training.average: is for a variant, since it needs runs that are trained"
        if self.schedule.steps_of_weight:
            yield (
                "schedule.steps_of_weight: is for question answering alone; set it in a variant "
                "and use that in rows of question answering alone"
            )
        for kind, names in (("tables", self.tables), ("figures", self.figures)):
            for name in names:
                if name in RESERVED_NAMES:
                    yield f"{kind}.{name}: is a name that the workflow uses; choose another"
        for name in self.tables.keys() & self.figures.keys():
            yield f"figures.{name}: is the name of a table, too; choose another"
        for name, figure in self.figures.items():
            yield from _unknown(f"figures.{name}.table", [figure.table], self.tables)
        held_out = any(corpus.held_out_titles for corpus in self.corpora.values())
        if self.tune_threshold_on and not held_out:
            yield "tune_threshold_on: held_out needs a corpus with held_out_titles"
        targets = [self.target_of(name) for name in self._used_mixtures()]
        families = {self.corpora[name].family for name in targets if name}
        if self.tune_threshold_on and families and "question_answering" not in families:
            yield "tune_threshold_on: is for question answering, which is no row's target"
        if "default" in self.variants:
            yield "variants.default: this name means the experiment's own settings; choose another"
        if len(set(self.seeds)) != len(self.seeds):
            yield "seeds: each may occur only once"

    @property
    def layout(self) -> Layout:
        """The paths of its results."""
        return Layout(Path(self.results) / self.experiment)

    @property
    def store_uri(self) -> str:
        """The URI of the MLflow store, independent of the working directory."""
        uri = self.tracking_uri or f"sqlite:///{Path(self.results) / 'mlflow.db'}"
        path = uri.removeprefix("sqlite:///")
        return uri if path == uri else f"sqlite:///{Path(path).absolute()}"

    def data_path(self, root: str | None) -> str:
        """Return a corpus's root: a URL unchanged, a folder below `data_root` or MTDNN_DATA."""
        if root and re.match(r"https?://", root):
            return root
        base = os.environ.get("MTDNN_DATA") or self.data_root
        return os.path.normpath(os.path.join(base, root or "."))

    def slice_of(self, table: str) -> str:
        """Return the name of the slice on which a table scores its runs."""
        return self.tables[table].slice or next(iter(self.slices))

    def target_of(self, mixture: str) -> str | None:
        """Return the name of a mixture's target; None if it is unclear or unknown."""
        return self._target(self.mixtures[mixture])

    def scored_corpus(self, mixture: str, slice_name: str) -> str | None:
        """Return the corpus on which a slice scores a mixture's runs.

        None if they cannot be scored there: the corpus is of another family than their target, or
        has other labels and no head of its own; or the slice asks something about the targets of
        the tables and theirs is none of these, as a teacher's may be.
        """
        target, entry = self.target_of(mixture), self.slices[slice_name]
        if target is None:
            return None
        asks = entry.conditions or entry.questions is not None
        if asks and not entry.corpus and not self._is_target_of_a_table(target):
            return None
        corpus = entry.corpus or target
        ours, theirs = self.corpora[target], self.corpora[corpus]
        has_head = corpus in self.mixtures[mixture].corpora or ours.labels == theirs.labels
        return corpus if ours.family == theirs.family and has_head else None

    def _is_target_of_a_table(self, corpus: str) -> bool:
        # Asked for every run: it stops at the first row, rather than look at thousands.
        rows = (row for table in self.tables.values() for row in table.rows if not row.origin)
        return any(self.target_of(row.mixture) == corpus for row in rows)

    def corpora_of(self, mixture: str) -> list[str]:
        """Return the names of a mixture's corpora, then of those that its runs are scored on."""
        scored = (self.scored_corpus(mixture, name) for name in self.slices)
        return list(dict.fromkeys([*self.mixtures[mixture].corpora, *filter(None, scored)]))

    def corpora_used(self) -> list[str]:
        """Return the names of all corpora that its runs are trained or scored on."""
        mixtures = dict.fromkeys(run.mixture for run in self.runs())
        return list(dict.fromkeys(n for mixture in mixtures for n in self.corpora_of(mixture)))

    def tuned_on(self, slice_name: str) -> str | None:
        """Return the label of what a slice's null threshold is tuned on, or None."""
        found = (self.scored_corpus(mixture, slice_name) for mixture in self.mixtures)
        if "question_answering" not in {self.corpora[each].family for each in found if each}:
            return None
        other = self.slices[slice_name].tune_threshold_on
        if other:
            return self.slices[other].label
        return "held-out training questions" if self.tune_threshold_on else None

    def published_split(self, slice_name: str) -> str | None:
        """Return the split of the published numbers that belongs to a slice, or None."""
        is_first = slice_name == next(iter(self.slices))
        return self.slices[slice_name].published or ("dev" if is_first else None)

    def runs_of(self, row: Row) -> list[RunId]:
        """Return the runs of a table's row, one for each seed.

        An average of runs with given seeds is one run: it would be the same for every seed.
        """
        average = self._average(row.variant)
        seeds = self.seeds[:1] if average and average.is_fixed else self.seeds
        return [RunId(row.encoder, row.mixture, row.weight, row.variant, seed) for seed in seeds]

    def runs(self) -> list[RunId]:
        """Return the fewest runs that fill all tables, in the order of their first use.

        A run comes before those that start with its encoder, average it or learn from it.
        """
        every: dict[RunId, None] = {}

        def add(run: RunId) -> None:
            for source in self.sources_of(run) if run not in every else ():
                add(source)
            every[run] = None

        for table in self.tables.values():
            for run in (run for row in table.own_rows for run in self.runs_of(row)):
                add(run)
        return list(every)

    def start_of(self, run: RunId) -> RunId | None:
        """Return the run with whose trained encoder a run starts; None for the pretrained one."""
        start = self._start(run.variant)
        return start.of(run.encoder, run.seed) if start else None

    def is_average(self, run: RunId) -> bool:
        """Return whether a run is an average of others, which trains nothing."""
        return self._average(run.variant) is not None

    def sources_of(self, run: RunId) -> list[RunId]:
        """Return the trained runs that a run starts with, averages or learns from."""
        return list(dict.fromkeys(r for runs in self._needed_by(run).values() for r in runs))

    def teachers_of(self, run: RunId) -> dict[str, RunId]:
        """Return the runs whose predictions a run learns, by the corpus that they teach."""
        distillation = self._distillation(run.variant)
        given = distillation.teachers if distillation else {}
        return {name: teacher.of(run.encoder, run.seed) for name, teacher in given.items()}

    def _needed_by(self, run: RunId) -> dict[str, list[RunId]]:
        """The trained runs that a run needs, by the setting of training that names them."""
        if average := self._average(run.variant):
            return {"average": average.runs(run.encoder, run.seed)}
        start, teachers = self.start_of(run), self.teachers_of(run)
        return {
            "start_from": [start] if start else [],
            **{f"distillation.teachers.{name}": [each] for name, each in teachers.items()},
        }

    def _average(self, variant: str) -> Average | None:
        """What runs of a variant average; None if that is wrong."""
        return _valid(Average, self.override(variant).training.get("average"))

    def _start(self, variant: str) -> StartingRun | None:
        """What runs of a variant start from; None if that is wrong."""
        return _valid(StartingRun, self._training_setting(variant, "start_from"))

    def _distillation(self, variant: str) -> Distillation | None:
        """What runs of a variant learn from; None if that is wrong."""
        return _valid(Distillation, self._training_setting(variant, "distillation"))

    def _anchor(self, variant: str) -> Anchor | None:
        """The anchor of runs of a variant; None if that is wrong."""
        return _valid(Anchor, self._training_setting(variant, "anchor"))

    def _training_setting(self, variant: str, key: str) -> Any:
        return self.override(variant).training.get(key, getattr(self.training, key))

    def override(self, variant: str) -> Variant:
        """Return what a variant overrides; nothing for `default`."""
        return Variant() if variant == "default" else self.variants[variant]

    def features_variant(self, variant: str) -> str:
        """Return the variant whose features a variant uses: itself or `default`."""
        return variant if self.override(variant).features else "default"

    def settings_of(self, variant: str) -> dict[str, dict[str, Any]]:
        """Return the parts in `VARIED` with the overrides of a variant applied."""
        override = self.override(variant)
        return {
            part: {**getattr(self, part).model_dump(), **getattr(override, part)} for part in VARIED
        }

    def shown_weight(self, row: Row) -> str:
        """Return a row's weight as tables show it: `0.8`, or a dash where it has no meaning."""
        mixture = self.mixtures[row.mixture]
        has_one = mixture.is_alone or self._uses_weight(mixture, self.override(row.variant))
        return weight_text(row.weight) if has_one else "–"

    def variant_label(self, variant: str) -> str:
        """Return the name of a variant in tables and figures."""
        return self.override(variant).label or variant

    def row_label(self, row: Row) -> str:
        """Return the first column of a table's row: its own label, or its mixture's."""
        return row.label or self.mixtures[row.mixture].label

    def long_row_label(self, row: Row) -> str:
        """Return a row's name in a sentence: label, weight and, unless labelled, variant."""
        parts = [self.row_label(row) + ("" if row.weight == 1 else f" at w {row.weight:g}")]
        parts += [] if row.variant == "default" or row.label else [self.variant_label(row.variant)]
        return ", ".join(parts)

    def run_label(self, run: RunId, seed: bool = False) -> str:
        """Return a run's name among all runs: its mixture, and whatever else tells it apart.

        Args:
            run: one of the experiment's runs.
            seed: whether to name its seed too, if the experiment has several.
        """
        mixture = self.mixtures[run.mixture]
        parts = [mixture.label]
        parts += [] if run.weight == 1 else [f"w {run.weight:g}"]
        if len({row.encoder for table in self.tables.values() for row in table.own_rows}) > 1:
            parts.append(self.encoders[run.encoder].label)
        parts += [] if run.variant == "default" else [self.variant_label(run.variant)]
        parts += [f"seed {run.seed}"] if seed and len(self.seeds) > 1 else []
        return ", ".join(parts)

    def resolve(self, run: RunId) -> RunSettings:
        """Return everything that determines a run, with the overrides of its variant applied."""
        mixture = self.mixtures[run.mixture]
        target = mixture.target_among(self.corpora)
        evaluated: dict[str, list[EvaluationSplit]] = {}
        for name, entry in self.slices.items():
            corpus = self.scored_corpus(run.mixture, name)
            always = ["dev"] if corpus in mixture.corpora else []
            always += ["held_out"] if corpus == target else []
            if corpus and entry.split not in [*always, *evaluated.get(corpus, [])]:
                evaluated.setdefault(corpus, []).append(entry.split)
        return RunSettings(
            experiment=self.experiment,
            notice=self.notice,
            encoder_name=run.encoder,
            encoder=self.encoders[run.encoder],
            mixture=run.mixture,
            mixture_label=mixture.label,
            target=target,
            corpora={name: self.corpora[name] for name in mixture.corpora},
            scored={n: self.corpora[n] for n in evaluated if n not in mixture.corpora},
            evaluated=evaluated,
            weight=run.weight,
            variant=run.variant,
            seed=run.seed,
            features_variant=self.features_variant(run.variant),
            **self.settings_of(run.variant),
        )


def _varied(base: str, chosen: dict[str, Any], place: str, variants: dict[str, Variant]) -> str:
    """Add the variant that is `base` with the chosen settings to `variants`; return its name."""
    if not chosen:
        return base
    known = {"default": Variant(), **variants}
    _check_known(f"{place}.variants", base, known)
    parts = {part: dict(getattr(known[base], part)) for part in VARIED}
    words = [] if base == "default" else [known[base].label or base]
    names = [] if base == "default" else [base]
    for path, value in chosen.items():
        part, _, key = path.partition(".")
        if part not in VARIED or not key:
            raise ValueError(
                f"{place}.settings: {path!r} is not a setting; write, for instance, training.epochs"
            )
        parts[part][key] = value
        # `precision` is a setting of training and of decoding.
        called = f"{part}_{key}" if _is_ambiguous(key) else key
        said = " ".join(map(str, value.values())) if isinstance(value, dict) else value
        words.append(f"{called.replace('_', ' ')} {said}")
        names.append(f"{called}_{said}".lower())
    name = re.sub(r"[^a-z0-9_.-]", "_", "-".join(names))
    variant = Variant(label=", ".join(words), **parts)
    if variants.setdefault(name, variant) != variant:
        raise ValueError(f"{place}: needs a variant {name}, but that is another one; rename it")
    return name


def _valid(model: type[Settings], given: Any) -> Settings | None:
    """Return settings; None if there are none, or wrong ones, which loading reports."""
    try:
        return model.model_validate(given) if given else None
    except ValidationError:
        return None


def _get(mapping: Any, key: str) -> Any:
    """The value of a key, or None in anything but a mapping with that key."""
    return mapping.get(key) if isinstance(mapping, Mapping) else None


def _is_ambiguous(key: str) -> bool:
    """Whether more than one part of the settings has this key."""
    settings = (FeatureSettings, ScheduleSettings, TrainingSettings, DecodingSettings)
    return sum(key in part.model_fields for part in settings) > 1


def _check_known(place: str, name: str, known: Mapping[str, Any]) -> None:
    for line in _unknown(place, [name], known):
        raise ValueError(line)


def _unknown(place: str, names: Iterable[str], known: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each name that is not known."""
    for name in names:
        if name not in known:
            yield f"{place}: unknown name {name!r}{nearest(name, known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the most similar one, or all."""
    known = list(known)
    if not known:
        return "; none is defined"
    return meant(name, known) or f"; known are {', '.join(known)}"


def meant(name: str, known: Sequence[str]) -> str:
    """Return the end of a message that suggests the most similar name; empty without one."""
    similar = difflib.get_close_matches(name, known, n=len(known), cutoff=SIMILAR)
    if not similar:
        return ""

    def similarity(other: str) -> float:
        return difflib.SequenceMatcher(None, other, name).ratio()

    # Of equally similar ones the first is meant: sentence1, not sentence2.
    best = max(sorted(similar, key=known.index), key=similarity)
    return f"; did you mean {best!r}?"


def _either(names: Iterable[str]) -> str:
    """Return "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
