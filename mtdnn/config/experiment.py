"""An experiment: encoders, corpora, mixtures, tables and figures, read from one YAML file.

`load` and `parse` turn the YAML into an `Experiment` or fail with one line per mistake.
Nothing heavy is imported here: the Snakefile and the command line start with this module.
"""

import difflib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mtdnn.config.layout import Layout, RunId
from mtdnn.config.settings import (
    Closed,
    CorpusSettings,
    DecodingSettings,
    EncoderSettings,
    FeatureSettings,
    Name,
    RunSettings,
    ScheduleSettings,
    Seed,
    TrainingSettings,
)

VARIED = ("features", "schedule", "training", "decoding")
"""Parts of the settings that a variant may override."""

MOST_ROWS = 10_000


class Mixture(Closed):
    """A named set of corpora that train one model."""

    label: str = Field(description="name shown in tables and figures")
    corpora: list[Name] = Field(min_length=1, description="names of corpora")


class Variant(Closed):
    """A named override of settings; only the keys that differ are given."""

    label: str | None = Field(None, description="name shown in tables and figures")
    features: dict[str, Any] = Field({}, description="overrides of `features`")
    schedule: dict[str, Any] = Field({}, description="overrides of `schedule`")
    training: dict[str, Any] = Field({}, description="overrides of `training`")
    decoding: dict[str, Any] = Field({}, description="overrides of `decoding`")


QuestionType = Literal["how many", "how", "what", "when", "where", "which", "who", "why", "other"]


class WordCount(Closed):
    """A range of lengths in words, both ends included."""

    least: int = Field(0, ge=0, description="at least so many words")
    most: int | None = Field(None, ge=0, description="at most so many words")


class Slice(Closed):
    """The questions on which a score is computed: those for which every given key holds."""

    label: str = Field(description="name shown in tables and figures")
    split: Literal["dev", "held_out"] = Field("dev", description="the corpus's split")
    titles: list[str] = Field([], description="only questions of these articles; all when empty")
    exclude_titles: list[str] = Field([], description="not the questions of these articles")
    only: Literal["answerable", "unanswerable"] | None = Field(
        None, description="only questions with an answer, or without one"
    )
    question_types: list[QuestionType] = Field(
        [], description="only questions whose first interrogative is one of these; all when empty"
    )
    question_words: WordCount | None = Field(
        None, description="only questions of this length in words: {least: 1, most: 9}"
    )
    context_words: WordCount | None = Field(
        None, description="only questions about a context of this length"
    )
    answer_words: WordCount | None = Field(
        None, description="only answerable questions whose shortest gold answer has this length"
    )
    questions: int | None = Field(None, description="expected number; a difference is refused")
    answerable: int | None = Field(None, description="expected number with an answer")
    tune_threshold_on: Name | None = Field(
        None,
        description="another slice, on whose questions this one's null threshold is tuned; "
        "absent: the experiment's tune_threshold_on",
    )
    published: str | None = Field(
        None,
        description="`split` of the published numbers to set beside this slice; "
        "dev for the first slice when absent",
    )


class Row(Closed):
    """One row of a table: runs that differ in their seed only."""

    encoder: Name = Field(description="name of an encoder")
    mixture: Name = Field(description="name of a mixture")
    qa_weight: float = Field(1.0, gt=0, le=1, description="probability that a step is a QA step")
    variant: Name = Field("default", description="name of a variant")
    label: str | None = Field(None, description="name of the row; the mixture's when absent")


class Grid(Closed):
    """Rows for every combination of some values, in this order."""

    encoders: list[Name] = Field(min_length=1, description="names of encoders")
    mixtures: list[Name] = Field(min_length=1, description="names of mixtures")
    qa_weights: list[float] = Field(
        [], description="weights of the mixtures with auxiliary corpora; QA alone has 1.0"
    )
    variants: list[Name] = Field(["default"], min_length=1, description="names of variants")
    settings: dict[str, list[Any]] = Field(
        {},
        description="values of settings, by place: {training.learning_rate: [1e-5, 3e-5]}; "
        "each combination becomes a variant with a name of its own",
    )


class Table(Closed):
    """A table of scores, a row for each kind of run."""

    title: str = Field(description="shown above the table")
    slice: Name | None = Field(
        None, description="the slice on which it scores; the experiment's first when absent"
    )
    rows: list[Row] = Field([], description="its rows")
    grid: Grid | None = Field(None, description="more rows, for every combination of its values")


class Figure(Closed):
    """A table drawn as a figure."""

    title: str = Field(description="shown above the figure")
    table: Name = Field(description="the table that is drawn")
    x: Literal["qa_weight", "mixture"] = Field(description="what the horizontal axis shows")


class Experiment(Closed):
    """One experiment, complete and valid."""

    experiment: Name = Field(description="name; results go to results/{experiment}/")
    title: str = Field(description="shown above tables, figures and reports")
    notice: str | None = Field(
        None, description="shown wherever results are shown: reduced data, synthetic corpora, …"
    )
    results: str = Field("results", description="folder of all results")
    data_root: str = Field(
        ".", description="where relative roots of corpora start; MTDNN_DATA overrides it"
    )
    tracking_uri: str | None = Field(
        None, description="MLflow server or store; results/mlflow.db when absent"
    )
    tracking_live: bool = Field(
        True,
        description="deliver curves to MLflow while runs are being trained, by a process of "
        "low priority; else once all runs are scored",
    )
    lock: str | None = Field(
        None,
        description="file of resolved Hub revisions and digests; `NAME.lock.json` beside "
        "`NAME.yaml` when absent",
    )
    published: str | None = Field(
        None, description="CSV of published numbers to set beside the measured ones"
    )
    encoders: dict[Name, EncoderSettings] = Field(
        min_length=1, description="pretrained encoders by name"
    )
    corpora: dict[Name, CorpusSettings] = Field(min_length=1, description="corpora by name")
    mixtures: dict[Name, Mixture] = Field(min_length=1, description="sets of corpora by name")
    features: FeatureSettings = Field(FeatureSettings(), description="how text becomes token ids")
    schedule: ScheduleSettings = Field(
        ScheduleSettings(), description="which corpus gives the batch of each step"
    )
    training: TrainingSettings = Field(TrainingSettings(), description="how a run is trained")
    decoding: DecodingSettings = Field(
        DecodingSettings(), description="how answers are read off the span logits"
    )
    variants: dict[Name, Variant] = Field({}, description="named overrides of these settings")
    seeds: list[Seed] = Field(min_length=1, description="every row of every table is run with each")
    slices: dict[Name, Slice] = Field(
        min_length=1, description="the first one is the score that tables show"
    )
    tune_threshold_on: Literal["held_out"] | None = Field(
        None, description="split on which a null threshold is tuned, shown beside threshold 0"
    )
    tables: dict[Name, Table] = Field(min_length=1, description="tables by name")
    figures: dict[Name, Figure] = Field({}, description="figures by name")

    @model_validator(mode="after")
    def _grids_are_rows(self) -> "Experiment":
        """Write the grids out, so that whatever comes after sees rows and variants alone."""
        tables, variants = {}, dict(self.variants)
        for name, table in self.tables.items():
            rows = list(table.rows)
            if table.grid:
                rows += self._rows_of(table.grid, f"tables.{name}.grid", variants)
            if not rows:
                raise ValueError(f"tables.{name}: has neither rows nor a grid")
            tables[name] = table.model_copy(update={"rows": rows, "grid": None})
        self.__dict__.update(tables=tables, variants=variants)  # it is not in use yet
        return self

    def _rows_of(self, grid: Grid, place: str, variants: dict[str, Variant]) -> list[Row]:
        """The rows of a grid; the variants that they need are added to `variants`."""
        count = math.prod(len(values) for values in grid.settings.values())
        count *= len(grid.encoders) * len(grid.mixtures) * len(grid.variants)
        if count * max(1, len(grid.qa_weights)) > MOST_ROWS:
            raise ValueError(f"{place}: has more than {MOST_ROWS} combinations")
        rows = []
        for encoder, mixture in itertools.product(grid.encoders, grid.mixtures):
            _known(f"{place}.encoders", encoder, self.encoders)
            _known(f"{place}.mixtures", mixture, self.mixtures)
            alone = len(self.mixtures[mixture].corpora) == 1
            if not alone and not grid.qa_weights:
                raise ValueError(f"{place}.qa_weights: {mixture} needs at least one")
            for weight, base in itertools.product([1] if alone else grid.qa_weights, grid.variants):
                for values in itertools.product(*grid.settings.values()):
                    chosen = dict(zip(grid.settings, values, strict=True))
                    variant = _varied(base, chosen, place, variants)
                    rows.append(
                        Row(encoder=encoder, mixture=mixture, qa_weight=weight, variant=variant)
                    )
        return rows

    @field_validator("results")
    @classmethod
    def _usable_in_paths(cls, results: str) -> str:
        # Braces are wildcards to Snakemake, and `?` starts the options in the address of MLflow's
        # SQLite file. A leading dash makes the path an option of every command.
        if re.search(r"[{}?\x00-\x1f]|^-", results):
            raise ValueError("should be a path without a leading dash, line breaks and { } ?")
        return results

    @model_validator(mode="after")
    def _names_resolve(self) -> "Experiment":
        wrong = [*self._wrong_mixtures(), *self._wrong_slices(), *self._wrong_tables()]
        wrong += self._wrong_rest()
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _wrong_mixtures(self) -> Iterator[str]:
        for name, mixture in self.mixtures.items():
            unknown = list(_unknown(f"mixtures.{name}.corpora", mixture.corpora, self.corpora))
            yield from unknown
            if unknown:
                continue
            families = [self.corpora[corpus].family for corpus in mixture.corpora]
            if families.count("question_answering") != 1:
                yield (
                    f"mixtures.{name}: needs exactly one question_answering corpus, "
                    f"has {families.count('question_answering')}"
                )
            if len(set(mixture.corpora)) != len(mixture.corpora):
                yield f"mixtures.{name}: each corpus may stand only once"

    def _wrong_slices(self) -> Iterator[str]:
        for name, entry in self.slices.items():
            if entry.tune_threshold_on:
                place = f"slices.{name}.tune_threshold_on"
                yield from _unknown(place, [entry.tune_threshold_on], self.slices)
                if entry.tune_threshold_on == name:
                    yield f"{place}: a slice cannot be tuned on itself; name another"

    def _wrong_tables(self) -> Iterator[str]:
        for name, table in self.tables.items():
            if table.slice:
                yield from _unknown(f"tables.{name}.slice", [table.slice], self.slices)
            for index, row in enumerate(table.rows):
                yield from self._wrong_row(f"tables.{name}.rows.{index}", row)

    def _wrong_row(self, place: str, row: Row) -> Iterator[str]:
        unknown = [
            *_unknown(f"{place}.encoder", [row.encoder], self.encoders),
            *_unknown(f"{place}.mixture", [row.mixture], self.mixtures),
        ]
        if row.variant != "default":
            unknown += _unknown(f"{place}.variant", [row.variant], self.variants)
        yield from unknown
        if unknown:
            return
        alone = len(self.mixtures[row.mixture].corpora) == 1
        if alone and row.qa_weight != 1:
            yield (
                f"{place}.qa_weight: {row.mixture} has no auxiliary corpus, "
                f"so its QA weight is 1.0, not {row.qa_weight:g}"
            )
        if not alone and row.qa_weight == 1:
            yield (
                f"{place}.qa_weight: with 1.0 the auxiliary corpora of {row.mixture} "
                "are never drawn; give a weight below 1"
            )
        override = {} if row.variant == "default" else self.variants[row.variant].schedule
        if not alone and "steps_of_weight" in override:
            yield (
                f"{place}.variant: {row.variant} has schedule.steps_of_weight, which is "
                f"for question answering alone, not for {row.mixture}"
            )

    def _wrong_rest(self) -> Iterator[str]:
        if self.schedule.steps_of_weight:
            yield (
                "schedule.steps_of_weight: is for question answering alone; set it in a variant "
                "and name that in the rows concerned"
            )
        for name, figure in self.figures.items():
            yield from _unknown(f"figures.{name}.table", [figure.table], self.tables)
        held_out = any(corpus.held_out_titles for corpus in self.corpora.values())
        if self.tune_threshold_on and not held_out:
            yield "tune_threshold_on: held_out needs a corpus with held_out_titles"
        if "default" in self.variants:
            yield "variants.default: is the experiment's own settings; name it otherwise"
        if len(set(self.seeds)) != len(self.seeds):
            yield "seeds: each may stand only once"

    @property
    def layout(self) -> Layout:
        return Layout(Path(self.results) / self.experiment)

    @property
    def store_uri(self) -> str:
        """The MLflow store, always absolute: a relative one would depend on the caller's folder."""
        uri = self.tracking_uri or f"sqlite:///{Path(self.results) / 'mlflow.db'}"
        path = uri.removeprefix("sqlite:///")
        return uri if path == uri else f"sqlite:///{Path(path).absolute()}"

    def data_path(self, root: str | None) -> str:
        """A corpus's root: a URL as it is, a folder from `data_root` (or MTDNN_DATA) on."""
        if root and re.match(r"https?://", root):
            return root
        base = os.environ.get("MTDNN_DATA") or self.data_root
        return os.path.normpath(os.path.join(base, root or "."))

    def slice_of(self, table: str) -> str:
        """Name of the slice on which a table scores."""
        return self.tables[table].slice or next(iter(self.slices))

    def tuned_on(self, slice_name: str) -> str | None:
        """On what a slice's null threshold is tuned, for people; None if it is not."""
        other = self.slices[slice_name].tune_threshold_on
        if other:
            return self.slices[other].label
        return "held-out training questions" if self.tune_threshold_on else None

    def published_split(self, slice_name: str) -> str | None:
        """The split of the published numbers that belongs to a slice."""
        is_first = slice_name == next(iter(self.slices))
        return self.slices[slice_name].published or ("dev" if is_first else None)

    def runs_of(self, row: Row) -> list[RunId]:
        """The runs of a table's row, one for each seed."""
        return [
            RunId(row.encoder, row.mixture, row.qa_weight, row.variant, seed) for seed in self.seeds
        ]

    def runs(self) -> list[RunId]:
        """The fewest runs that fill all tables, in the order of their first use."""
        every = (
            run for table in self.tables.values() for row in table.rows for run in self.runs_of(row)
        )
        return list(dict.fromkeys(every))

    def features_variant(self, variant: str) -> str:
        """Name under which a variant's features are kept: `default` unless it changes them."""
        changes = variant != "default" and self.variants[variant].features
        return variant if changes else "default"

    def resolve(self, run: RunId) -> RunSettings:
        """Everything that determines `run`, overrides of its variant applied."""
        override = Variant() if run.variant == "default" else self.variants[run.variant]
        merged = {
            part: {**getattr(self, part).model_dump(), **getattr(override, part)} for part in VARIED
        }
        mixture = self.mixtures[run.mixture]
        return RunSettings(
            experiment=self.experiment,
            notice=self.notice,
            encoder_name=run.encoder,
            encoder=self.encoders[run.encoder],
            mixture=run.mixture,
            mixture_label=mixture.label,
            corpora={name: self.corpora[name] for name in mixture.corpora},
            qa_weight=run.qa_weight,
            variant=run.variant,
            seed=run.seed,
            features_variant=self.features_variant(run.variant),
            **merged,
        )


def _varied(base: str, chosen: dict[str, Any], place: str, variants: dict[str, Variant]) -> str:
    """Name of the variant that is `base` with the chosen settings; it is added where it is new."""
    if not chosen:
        return base
    among = {"default": Variant(), **variants}
    _known(f"{place}.variants", base, among)
    known = among[base]
    parts = {part: dict(getattr(known, part)) for part in VARIED}
    words = [] if base == "default" else [known.label or base]
    names = [] if base == "default" else [base]
    for path, value in chosen.items():
        part, _, key = path.partition(".")
        if part not in VARIED or not key:
            raise ValueError(
                f"{place}.settings: {path!r} is no place of a setting, as training.epochs is"
            )
        parts[part][key] = value
        words.append(f"{key.replace('_', ' ')} {value}")
        names.append(f"{key}_{value}".lower())
    name = re.sub(r"[^a-z0-9_.-]", "_", "-".join(names))
    label = ", ".join(words)
    variants[name] = Variant(label=label, **parts)
    return name


def _known(place: str, name: str, among: Mapping[str, Any]) -> None:
    for line in _unknown(place, [name], among):
        raise ValueError(line)


def _unknown(place: str, names: Iterable[str], among: Mapping[str, Any]) -> Iterator[str]:
    """A line for each name that is not among those that there are."""
    for name in names:
        if name not in among:
            yield f"{place}: unknown name {name!r}{nearest(name, among)}"


def nearest(name: str, among: Mapping[str, Any] | list[str]) -> str:
    if not among:
        return "; there is none yet"
    close = difflib.get_close_matches(name, list(among), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(among)}"
